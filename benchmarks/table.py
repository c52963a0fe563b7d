"""What every comparison answers, and how two things are timed fairly."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True)
class Row:
    """One line of the table: ours beside a peer's, on the same work, in one run."""

    comparison: str  # what is done
    size: str  # on how much
    ours: float  # in `unit`
    peer: float  # in `unit`
    peer_name: str
    unit: str  # "ms", "s", "MiB", ...
    ratio: float  # ours / peer: under 1 is better than the peer
    note: str = ""  # the spread of the ratio, the limit that is promised


@dataclass(frozen=True)
class Paired:
    """Two things timed in turns."""

    ours: float  # seconds, median
    peer: float  # seconds, median
    ratio: float  # median of the rounds' ratios
    low: float  # first quartile of those ratios
    high: float  # third quartile

    def row(self, comparison: str, size: str, peer_name: str, *, limit: float | None = None) -> Row:
        """The line for the table, in milliseconds; `limit` is the largest ratio that is promised."""
        promised = "" if limit is None else f", at most {limit:g}"
        note = f"{self.low:.2f} to {self.high:.2f}{promised}"
        return Row(comparison, size, self.ours * 1e3, self.peer * 1e3, peer_name, "ms", self.ratio, note)


ROUND = "abbabaab"  # a: ours, b: the peer; in it, and after a b, each follows itself once and the other three times


def paired(
    ours: Callable[[], object], peer: Callable[[], object], *, repeats: int = 8, warmup: int = 3, order: str = ROUND
) -> Paired:
    """Time both in turns, in rounds of four times each, so that a machine that slows down slows both.

    What runs finds warm or cold what the one before it left behind; a round's order gives both the same neighbours.
    Each round gives one ratio, of the sums of its times; the median of the rounds' ratios is what is reported. `order`
    is for a shorter round, where one takes seconds.
    """
    for _ in range(warmup):
        ours()
        peer()
    rounds: list[dict[str, float]] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(repeats):
            gc.collect()
            peer()
            spent = {"a": 0.0, "b": 0.0}
            for who in order:
                spent[who] += _seconds(ours if who == "a" else peer)
            rounds.append(spent)
    finally:
        if collecting:
            gc.enable()
    ratios = [spent["a"] / spent["b"] for spent in rounds]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if repeats > 1 else ratios * 3
    each = order.count("a")
    mine, theirs = (statistics.median(spent[who] / each for spent in rounds) for who in "ab")
    return Paired(mine, theirs, middle, low, high)


def _seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start
