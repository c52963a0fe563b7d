"""The copying problem: ten symbols, a long blank, then a sign to repeat them in their order.

Source: Hochreiter and Schmidhuber 1997; Arjovsky, Shah and Bengio 2016, section 4.1.
"""

from __future__ import annotations

import math

import numpy as np

from throughtime.data.dataset import Dataset
from throughtime.data.draws import Draws
from throughtime.data.generated import FITS, Sample, Task, dataset
from throughtime.data.options import Options
from throughtime.records import DataCard

LAG = 50
SYMBOLS, RECALLED = 8, 10
BLANK, GO = 0, SYMBOLS + 1  # token numbers; 1 to 8 are the symbols


class Copying(Task):
    """T + 20 steps for T blanks: 10 symbols, T − 1 blanks, the sign to start, 10 blanks over which to answer.

    Every step has an answer and counts: a blank for the first T + 10, then the symbols.
    """

    name = "copy"
    each_step = True
    vocabulary = ("_", *"abcdefgh", ">")

    def __init__(self, blanks: int) -> None:
        self.blanks = blanks

    @property
    def longest(self) -> int:
        """T + 20."""
        return self.blanks + 2 * RECALLED

    def sample(self, length: int, draws: Draws) -> Sample:
        """Tokens (T + 20,) and the class of each step (T + 20,): 0 a blank, 1 to 8 a symbol."""
        symbols = 1 + draws.below(SYMBOLS, RECALLED)
        x = np.full(length, BLANK, dtype=np.int64)
        y = np.full(length, BLANK, dtype=np.int64)
        x[:RECALLED] = y[-RECALLED:] = symbols
        x[-RECALLED - 1] = GO
        return x, y

    def card(self, sizes: dict[str, int], lengths: tuple[int, int, int], digest: str) -> DataCard:
        """Baseline: sure of the blanks, blind among the symbols: 10 ln 8 / (T + 20) nats a step."""
        return DataCard(
            name=self.name,
            kind="next",
            step="symbol",
            tokens=True,
            inputs=len(self.vocabulary),
            outputs=SYMBOLS + 1,
            labels=self.vocabulary[: SYMBOLS + 1],
            metric="nats",
            baseline=RECALLED * math.log(SYMBOLS) / self.longest,
            baseline_is="blanks where they belong, then any of 8 symbols: 10 ln 8 / (T + 20), the mean of all steps",
            lag=self.blanks + RECALLED,
            sizes=sizes,
            lengths=lengths,
            digest=digest,
            notes=(
                f"{self.blanks} blanks: each symbol is to be repeated {self.blanks + RECALLED} steps after it was seen",
            ),
        )


def load(options: Options) -> Dataset:
    """Sequences with `lag` blanks."""
    options.refuse_all_but(FITS, Copying.name)
    lag = options.at_least("lag", 1, LAG)
    return dataset(Copying(lag), lag, options)
