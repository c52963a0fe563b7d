"""A watch that begins and ends with somebody else's training, and says when there is something new to log."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import nn

from throughtime.flow.credit import Derivative
from throughtime.microscope.watcher import Watch, watch


class Following:
    """What the callbacks share; the arguments are those of `tt.watch`.

    `flow` is the watch, with all its records, from the beginning of the training on, also after its end; None in every
    process but the main one.
    """

    def __init__(
        self,
        *,
        every: int | Callable[[int], bool] = 50,
        derivative: Derivative = "boundary",
        thorough: bool = False,
        sequences: int | None = 4,
        lag: int | None = None,
    ) -> None:
        self.flow: Watch | None = None
        self._every = every
        self._derivative: Derivative = derivative
        self._thorough = thorough
        self._sequences = sequences
        self._lag = lag
        self._on = False
        self._logged = -1  # the step whose numbers went to the logger last

    def begin(self, model: nn.Module) -> None:
        """Watch a model; if there is nothing in it to watch, the training goes on with a warning."""
        self.end(quietly=True)
        flow = watch(
            model,
            every=self._every,
            derivative=self._derivative,
            thorough=self._thorough,
            sequences=self._sequences,
            lag=self._lag,
        )
        self.flow, self._on, self._logged = flow.start(), True, -1

    def fresh(self) -> dict[str, float]:
        """The numbers of a step that was measured and not logged yet; nothing otherwise."""
        records = self.flow.records if self.flow is not None else ()
        if self.flow is None or not records or records[0].update == self._logged:
            return {}
        self._logged = records[0].update
        return self.flow.scalars()

    def end(self, *, quietly: bool = False) -> None:
        """Take the hooks off; warn of what could not be watched, unless there is an error to look at already."""
        if self.flow is None or not self._on:
            return
        self._on = False
        self.flow.stop()
        for sentence in () if quietly else self.flow.left_out:
            warnings.warn(sentence, stacklevel=2)
