"""The gradient of the weights, term by term of the lag.

Dimensions: L lags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from throughtime.records.arrays import Floats, Integers


@dataclass(frozen=True, eq=False)
class ParameterCredit:
    """Σ_t δ_t P(t, t−τ) ∂⁺z_{t−τ}/∂θ for each lag τ; over all lags these terms add up to dL/dθ (MEASURES 7)."""

    cell: str
    lags: Integers  # (L,) τ, steps, ascending from 0 without gaps
    log10_terms: Mapping[str, Floats]  # parameter -> (L,) log10 2-norm of the term of each lag
    log10_rest: Mapping[str, Floats]  # parameter -> (L,) log10 ‖terms of lags over τ together‖ / ‖dL/dθ‖
    log10_whole: Mapping[str, float]  # parameter -> log10 ‖dL/dθ‖
    dtype: str
    seconds: float
