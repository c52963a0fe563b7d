"""Through which ports the gradient travelled.

Dimensions: L lags, M excursions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from throughtime.records.arrays import Floats, Integers


@dataclass(frozen=True, eq=False)
class PathRecord:
    """What is left of a gradient along families of paths (MEASURES 11); medians of log10 C − log10 C(t, t)."""

    lags: Integers  # (L,) τ, steps
    whole: Floats  # (L,) along every path
    only: Mapping[str, Floats]  # port -> (L,) along paths that take this port at every step
    without: Mapping[str, Floats]  # port -> (L,) along paths that never take this port
    carousel: str | None  # the port that excursions leave; None: the cell has none, and no excursions
    excursions: Floats | None  # (M + 1, L) along paths that leave the carousel exactly m times
    pairs: int  # sources and sequences behind each median
    dtype: str
    seconds: float


@dataclass(frozen=True, eq=False)
class CarouselRecord:
    """The lectures' two paths, and whether keeping is fair (MEASURES 10, 14); medians of log10 to ‖δ_t‖."""

    lags: Integers  # (L,) τ, steps
    t0: Floats  # (L,) along the carousel alone
    t1: Floats | None  # (L,) along the output gate's loop alone; None: the cell has no output gate
    t1_bound: Floats | None  # (L,) its bound
    kept_forward: Floats  # (L,) the share of s_k left in s_t
    kept_backward: Floats  # (L,) the share of the gradient at s_t left at s_k along the carousel
    dtype: str
    seconds: float
