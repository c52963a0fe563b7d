"""The gradient of the weights, term by term of the lag.

Dimensions: L lags.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from throughtime.records.arrays import Count, Duration, Floats, Integers

RECURRENT = "weight_hh"


@dataclass(frozen=True, eq=False)
class ParameterCredit:
    """Σ_t δ_t P(t, t−τ) ∂⁺z_{t−τ}/∂θ for each lag τ; over all lags these terms add up to dL/dθ."""

    cell: str
    lags: Annotated[Integers, "L"]  # (L,) τ, steps, ascending from 0
    log10_terms: Mapping[str, Annotated[Floats, "L"]]  # parameter -> (L,) log10 2-norm of the term of each lag
    log10_rest: Mapping[
        str, Annotated[Floats, "L"]
    ]  # parameter -> (L,) log10 ‖terms of lags over τ together‖ / ‖dL/dθ‖
    log10_whole: Mapping[str, float]  # parameter -> log10 ‖dL/dθ‖
    sequences: Count  # whose gradient this is
    dtype: str
    seconds: Duration

    @property
    def lead(self) -> str:
        """The parameter that stands for all: the recurrent weights, where there are any."""
        return RECURRENT if RECURRENT in self.log10_whole else next(iter(self.log10_whole))

    def left_out(self, parameter: str, back: int) -> float | None:
        """The share of dL/dθ that is left out where every step looks back so many steps, at the next lag measured.

        None: lags as long as that were not measured, or dL/dθ is 0.
        """
        there = np.flatnonzero(self.lags >= back)
        rest = float(self.log10_rest[parameter][there[0]]) if there.size else math.nan
        return None if math.isnan(rest) else 10.0**rest

    def look_back(self, parameter: str, share: float = 0.01) -> int | None:
        """The fewest steps to look back, of the lags measured, from which on at most `share` of dL/dθ is left out.

        A truncation window that looks back τ steps keeps the lags 0..τ. None: more than was measured, or dL/dθ is 0.
        """
        rest = self.log10_rest[parameter]
        if not len(rest) or not bool(rest[-1] <= math.log10(share)):
            return None
        over = np.flatnonzero(~(rest <= math.log10(share)))
        return int(self.lags[over[-1] + 1]) if over.size else int(self.lags[0])
