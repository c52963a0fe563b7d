"""What is left of a gradient, by pair of steps and by lag.

Dimensions: T steps, B sequences, L lags, N sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from throughtime.records.arrays import Duration, Floats, Integers


@dataclass(frozen=True, eq=False)
class LagProfile:
    """What survives of a gradient at each lag: quartiles over steps and sequences of log10 C(t,t−τ) − log10 C(t,t).

    Only pairs with a direct gradient at t (C(t,t) > 0) count.
    """

    lags: Annotated[Integers, "L"]  # (L,) τ, steps, ascending from 0
    median: Annotated[Floats, "L"]  # (L,) log10; −inf: exactly zero; NaN: not measured
    lower: Annotated[Floats, "L"]  # (L,) first quartile
    upper: Annotated[Floats, "L"]  # (L,) third quartile
    pairs: Annotated[Integers, "L"]  # (L,) how many pairs (t, sequence) stand behind each

    def horizon(self, share: float = 0.01) -> int | None:
        """The largest lag at which the median still is at least `share`; None if nothing was measured."""
        reached = self.lags[self.median >= math.log10(share)]
        return int(reached[-1]) if reached.size else None

    def half_life(self) -> int | None:
        """The first lag at which the median is under 1/2; None if it never is."""
        fallen = self.lags[self.median < math.log10(0.5)]
        return int(fallen[0]) if fallen.size else None

    def decay(self) -> float | None:
        """Steps in which the median halves behind lag 1, on average down to 1% of what lag 1 has left.

        The first step back pays once for what lies between the output and the state, an LSTM's output gate for
        example; from there on it is the state that fades. None: it grows, or nothing is left at lag 1 or 2.
        """
        there = np.flatnonzero((self.lags >= 1) & np.isfinite(self.median))
        if there.size < 2 or self.lags[there[0]] != 1:
            return None
        fallen = np.flatnonzero(self.median[there] < self.median[there[0]] - 2.0)
        last = there[fallen[0]] if fallen.size else there[-1]
        lost = float(self.median[there[0]] - self.median[last])
        return float(self.lags[last] - 1) * math.log10(2.0) / lost if lost > 0 else None

    def longest(self) -> int:
        """The largest lag that was measured; a horizon equal to it is a lower bound."""
        measured = self.lags[~np.isnan(self.median)]
        return int(measured[-1]) if measured.size else 0


@dataclass(frozen=True, eq=False)
class CreditRecord:
    """All-pairs credit of one layer: how much of what step t put out reached the state at k."""

    cell: str
    parts: tuple[str, ...]
    derivative: Literal["boundary", "node"]  # parts held apart, or with the inner path from one part to another
    log10_pairs: Annotated[
        Floats, "N T B"
    ]  # (T, T, B), (N, T, B) with `sources`: log10 C(t, k); −inf for k > t and zeros, NaN unmeasured
    log10_direct: Annotated[Floats, "T B"]  # (T, B) log10 ‖δ_t‖
    log10_adjoint: Annotated[Floats, "T B"]  # (T, B) log10 ‖a_k‖, a_k = Σ_t g(t, k)
    log10_parts: Mapping[str, Annotated[Floats, "N T B"]]  # part -> (T, T, B), the same by part of the state at k
    lags: LagProfile
    dtype: str
    seconds: Duration
    sources: Integers | None = None  # (N,) the steps t that were measured; None: every step

    @property
    def pairs(self) -> Floats:
        """C(t, k), (T, T, B): norms, 0 for k > t (and where 10**log10 underflows)."""
        return np.asarray(10.0**self.log10_pairs)
