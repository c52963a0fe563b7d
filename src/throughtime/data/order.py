"""Temporal order: in which order two relevant symbols came, far apart among distractors.

Source: Hochreiter and Schmidhuber 1997, experiment 6a.
"""

from __future__ import annotations

import math

import numpy as np

from throughtime.data.dataset import Dataset
from throughtime.data.draws import Draws
from throughtime.data.generated import FITS, Sample, Task, dataset
from throughtime.data.options import Options
from throughtime.records import DataCard

LAG = 100
_LEAST = 10  # steps: a tenth of them is the room for the first symbol


class Order(Task):
    """T steps: a sign to begin, distractors, a sign to end; two of the distractors give way to an X or a Y.

    The first stands between 0.1 T and 0.2 T, the second between 0.5 T and 0.6 T. Four classes: XX, XY, YX, YY.
    """

    name = "order"
    vocabulary = ("begin", "end", "a", "b", "c", "d", "X", "Y")
    _distractor, _relevant = 2, 6  # the first token of each kind

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @property
    def longest(self) -> int:
        """T."""
        return self.steps

    def sample(self, length: int, draws: Draws) -> Sample:
        """Tokens (T,) and the class ()."""
        room = length // 10
        first, second = room + draws.one(room), length // 2 + draws.one(room)
        which = draws.below(2, 2)
        x = self._distractor + draws.below(4, length)
        x[0], x[-1] = 0, 1
        x[[first, second]] = self._relevant + which
        return x, np.asarray(2 * which[0] + which[1])

    def card(self, sizes: dict[str, int], lengths: tuple[int, int, int], digest: str) -> DataCard:
        """Baseline: four equally likely classes, ln 4 nats."""
        return DataCard(
            name=self.name,
            kind="classification",
            step="symbol",
            tokens=True,
            inputs=len(self.vocabulary),
            outputs=4,
            labels=("XX", "XY", "YX", "YY"),
            metric="nats",
            baseline=math.log(4),
            baseline_is="all four orders equally likely: ln 4",
            lag=self.steps - 1 - self.steps // 10,
            sizes=sizes,
            lengths=lengths,
            digest=digest,
            notes=("the lag is that of the first relevant symbol to the end, at its longest",),
        )


def load(options: Options) -> Dataset:
    """Sequences of `lag` steps."""
    options.refuse_all_but(FITS, Order.name)
    lag = options.at_least("lag", _LEAST, LAG)
    return dataset(Order(lag), lag, options)
