"""How a state is stretched and shrunk on the way.

Dimensions: B sequences, S the whole state, n exponents or singular values, L lags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from throughtime.records.arrays import Count, Duration, Floats, Integers


@dataclass(frozen=True, eq=False)
class LyapunovRecord:
    """Lyapunov exponents of the whole state along given inputs, in nats per step."""

    cell: str
    exponents: Annotated[
        Floats, "n"
    ]  # (n,) largest first, means over sequences; −inf: lost altogether; NaN: too faint to tell
    error: Annotated[Floats, "n"]  # (n,) standard error, estimated from stretches of the sequence
    check: float  # the largest one again, from two neighbouring trajectories; NaN: they met
    transient: Count  # steps left out at the start
    spacing: Count  # steps between two factorings, at most
    steps: Count  # steps averaged over, of the longest sequence
    sequences: Count  # longer than the transient
    dtype: str
    seconds: Duration


@dataclass(frozen=True, eq=False)
class SingularRecord:
    """Singular values of P(t, t−τ), t each sequence's last step; directions of the longest lag."""

    cell: str
    lags: Annotated[Integers, "L"]  # (L,) τ, steps
    log10_values: Annotated[
        Floats, "L S"
    ]  # (L, S) largest first, medians over sequences; −inf: a true zero; NaN: too faint
    stretched: Annotated[
        Floats, "S"
    ]  # (S,) of the first sequence at its longest lag: the old state's direction that is kept best
    into: Annotated[Floats, "S"]  # (S,) where that direction is taken to
    sequences: Count
    dtype: str
    seconds: Duration
