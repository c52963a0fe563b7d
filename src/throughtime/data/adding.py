"""The adding problem: the sum of two marked numbers among many.

Source: Hochreiter and Schmidhuber 1997, experiment 4, in the form of Arjovsky, Shah and Bengio 2016: one mark in
each half of the sequence.
"""

from __future__ import annotations

import numpy as np

from throughtime.data.dataset import Dataset
from throughtime.data.draws import Draws
from throughtime.data.generated import FITS, Sample, Task, dataset
from throughtime.data.options import Options
from throughtime.records import DataCard

LAG = 100


class Adding(Task):
    """T steps of (a number in [0, 1), a mark 0 or 1); the answer is the sum of the two marked numbers."""

    name = "adding"

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @property
    def longest(self) -> int:
        """T."""
        return self.steps

    def sample(self, length: int, draws: Draws) -> Sample:
        """Steps (T, 2) and the sum (1,)."""
        half = length // 2
        marks = draws.one(half), half + draws.one(length - half)
        x = np.zeros((length, 2), dtype=np.float32)
        x[:, 0] = draws.uniform(length)
        x[marks, 1] = 1
        return x, x[marks, 0].sum(keepdims=True)

    def card(self, sizes: dict[str, int], lengths: tuple[int, int, int], digest: str) -> DataCard:
        """Baseline: always 1, whose expected squared error is the variance of the sum, 1/6."""
        return DataCard(
            name=self.name,
            kind="regression",
            step="number",
            tokens=False,
            inputs=2,
            outputs=1,
            labels=("sum",),
            metric="mse",
            baseline=1 / 6,
            baseline_is="always 1, the expected sum; its expected squared error is 1/6",
            lag=self.steps - 1,
            sizes=sizes,
            lengths=lengths,
            digest=digest,
            notes=("the first mark lies in the first half, the second in the second",),
        )


def load(options: Options) -> Dataset:
    """Sequences of `lag` steps."""
    options.refuse_all_but(FITS, Adding.name)
    lag = options.at_least("lag", 2, LAG)
    return dataset(Adding(lag), lag, options)
