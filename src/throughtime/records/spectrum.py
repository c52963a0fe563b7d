"""How a state is stretched and shrunk on the way.

Dimensions: B sequences, S the whole state, n exponents or singular values, L lags.
"""

from __future__ import annotations

from dataclasses import dataclass

from throughtime.records.arrays import Floats, Integers


@dataclass(frozen=True, eq=False)
class LyapunovRecord:
    """Lyapunov exponents of the whole state along given inputs, in nats per step."""

    cell: str
    exponents: Floats  # (n,) largest first, means over sequences; −inf: lost altogether; NaN: too faint to tell
    error: Floats  # (n,) standard error, estimated from stretches of the sequence
    check: float  # the largest one again, from two neighbouring trajectories; NaN: they met
    transient: int  # steps left out at the start
    spacing: int  # steps between two factorings, at most
    steps: int  # steps averaged over, of the longest sequence
    sequences: int  # longer than the transient
    dtype: str
    seconds: float


@dataclass(frozen=True, eq=False)
class SingularRecord:
    """Singular values of P(t, t−τ), t each sequence's last step; directions of the longest lag."""

    cell: str
    lags: Integers  # (L,) τ, steps
    log10_values: Floats  # (L, S) largest first, medians over sequences; −inf: a true zero; NaN: too faint
    stretched: Floats  # (S,) of the first sequence at its longest lag: the old state's direction that is kept best
    into: Floats  # (S,) where that direction is taken to
    sequences: int
    dtype: str
    seconds: float
