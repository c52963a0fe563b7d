"""The gradient through time in Lightning's logger, as a callback."""

from __future__ import annotations

from typing import Any

from throughtime.errors import InputError
from throughtime.integrations.following import Following

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    raise InputError(
        'throughtime.integrations.lightning needs Lightning; install it with: pip install "throughtime[lightning]".'
    ) from None


class FlowCallback(Following, Callback):  # type: ignore[misc]
    """`Trainer(callbacks=[FlowCallback(every=50)])`: `flow/LAYER/horizon` and more in every logger of the trainer.

    Arguments as in `tt.watch`. What the training computes stays bitwise the same. Of several processes the main one
    measures. A module without a recurrent layer is trained all the same, with a warning.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch."""
        if trainer.is_global_zero:
            self.begin(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log a step that was measured, at the step at which Lightning's own callbacks log."""
        if found := self.fresh():
            for logger in trainer.loggers:
                logger.log_metrics(found, step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop watching."""
        self.end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self.end(quietly=True)
