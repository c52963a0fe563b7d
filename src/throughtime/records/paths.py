"""Through which ports the gradient travelled.

Dimensions: L lags, M excursions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from throughtime.records.arrays import Duration, Floats, Integers


@dataclass(frozen=True, eq=False)
class PathRecord:
    """What is left of a gradient along families of paths; medians of log10 C − log10 C(t, t).

    The derivative is that of the boundary: the parts of the state are held apart.
    """

    lags: Annotated[Integers, "L"]  # (L,) τ, steps
    whole: Annotated[Floats, "L"]  # (L,) along every path
    only: Mapping[str, Annotated[Floats, "L"]]  # port -> (L,) along paths that take this port at every step
    without: Mapping[str, Annotated[Floats, "L"]]  # port -> (L,) along paths that never take this port
    carousel: str | None  # the port that excursions leave; None: the cell has none, and no excursions
    excursions: Annotated[Floats, "M L"] | None  # (M + 1, L) along paths that leave the carousel exactly m times
    pairs: Annotated[Integers, "L"]  # (L,) sources and sequences behind each median
    dtype: str
    seconds: Duration


@dataclass(frozen=True, eq=False)
class CarouselRecord:
    """The lectures' two paths, and whether keeping is fair; medians of log10.

    t0 is a gradient at the node s_k, t1 one at the node h_k; both, and the bound, are ratios to ‖δ_t‖. What is kept is
    a mean over units.
    """

    lags: Annotated[Integers, "L"]  # (L,) τ, steps
    t0: Annotated[Floats, "L"]  # (L,) along the carousel alone
    t1: Annotated[Floats, "L"] | None  # (L,) along the output gate's loop alone; None: the cell has no output gate
    t1_bound: (
        Annotated[Floats, "L"] | None
    )  # (L,) its bound (‖K‖ ‖W_o‖)^τ; None: no output gate, or its loop is of another form
    kept_forward: Annotated[Floats, "L"] | None  # (L,) the share of s_k left in s_t; None: the carousel mixes units
    kept_backward: Annotated[Floats, "L"] | None  # (L,) the share of the gradient at s_t left at s_k along the carousel
    pairs: Annotated[Integers, "L"]  # (L,) sources and sequences behind each median
    dtype: str
    seconds: Duration
