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


def paired(ours: Callable[[], object], peer: Callable[[], object], *, repeats: int = 15, warmup: int = 3) -> Paired:
    """Time both in rounds of ours, peer, peer, ours, so that a machine that slows down slows both.

    Each round gives one ratio, of its two times each: who comes second finds warm what the first left behind, and in
    a round each is second once. The median of the rounds' ratios is what is reported.
    """
    for _ in range(warmup):
        ours()
        peer()
    times: list[tuple[float, float]] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(repeats):
            gc.collect()
            first, second = _seconds(ours), _seconds(peer)
            third, fourth = _seconds(peer), _seconds(ours)
            times.append(((first + fourth) / 2, (second + third) / 2))
    finally:
        if collecting:
            gc.enable()
    ratios = [a / b for a, b in times]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if repeats > 1 else ratios * 3
    return Paired(statistics.median(a for a, _ in times), statistics.median(b for _, b in times), middle, low, high)


def _seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start
