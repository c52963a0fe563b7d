"""The gradient through time in the logs of the Hugging Face Trainer, as a callback."""

from __future__ import annotations

from typing import Any

from torch import nn

from throughtime.errors import InputError
from throughtime.integrations.following import Following

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError:
    raise InputError(
        "throughtime.integrations.transformers needs transformers; install it with: "
        'pip install "throughtime[transformers]".'
    ) from None


class FlowCallback(Following, TrainerCallback):  # type: ignore[misc]
    """`trainer.add_callback(FlowCallback(trainer, every=50))`: `flow/LAYER/horizon` and more by `trainer.log`.

    They go where the trainer reports to, and into `trainer.state.log_history`. Further arguments as in `tt.watch`.
    What the training computes stays bitwise the same. Of several processes the main one measures. A model
    without a recurrent layer is trained all the same, with a warning.
    """

    def __init__(self, trainer: Trainer, **options: Any) -> None:
        super().__init__(**options)
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **_: Any
    ) -> None:
        """Begin to watch."""
        if state.is_world_process_zero:
            self.begin(model)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Log a step that was measured."""
        if found := self.fresh():
            wanted = control.should_log  # whether the trainer is about to log its loss; any log takes that wish back
            self._trainer.log(found)
            control.should_log = wanted

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop watching."""
        self.end()
