"""What is left of a gradient at each lag (MEASURES 6)."""

from __future__ import annotations

import numpy as np

from throughtime.records import Floats, Integers, LagProfile


def lag_profile(
    log10_pairs: Floats, sources: Integers | None = None, *, log10_start: Floats | None = None, most: int | None = None
) -> LagProfile:
    """Quartiles, over sources t and sequences, of log10 C(t, t−τ) − log10 C(t, t), for τ from 0 to `most`.

    `log10_pairs` (N, T, B) has a row for each source, the steps `sources` (N,) (every step if None). `log10_start`
    (N, B) stands for log10 C(t, t) where the pairs are those of one part of the state alone. Pairs that were not
    measured (NaN), and sources without a direct gradient, do not count.
    """
    N, T, _ = log10_pairs.shape
    steps = np.arange(T) if sources is None else np.asarray(sources)
    start = log10_pairs[np.arange(N), steps] if log10_start is None else log10_start
    counted = np.isfinite(start)
    rows = np.flatnonzero(counted.any(axis=1))
    longest = T - 1 if most is None else min(most, T - 1)
    quartiles = np.full((3, longest + 1), np.nan)
    pairs = np.zeros(longest + 1, dtype=np.int64)
    for lag in range(longest + 1):
        some = rows[steps[rows] >= lag]
        with np.errstate(invalid="ignore"):
            left = log10_pairs[some, steps[some] - lag] - start[some]
        left = left[counted[some] & ~np.isnan(left)]
        pairs[lag] = left.size
        if left.size:
            quartiles[:, lag] = quantiles(left)
    return LagProfile(np.arange(longest + 1), quartiles[1], quartiles[0], quartiles[2], pairs)


def quantiles(values: Floats, shares: tuple[float, ...] = (0.25, 0.5, 0.75)) -> Floats:
    """Quantiles of values that may be −inf (a true zero); one that falls between a zero and a number is −inf."""
    ascending = np.sort(values)
    at = (len(values) - 1) * np.asarray(shares)
    under = at.astype(np.int64)
    low, high = ascending[under], ascending[np.minimum(under + 1, len(values) - 1)]
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(low), low, low + (high - low) * (at - under))


def medians(values: Floats) -> Floats:
    """The median along the last axis, NaN left out; −inf may be among them; NaN where nothing was measured."""
    counts = (~np.isnan(values)).sum(-1)
    ascending = np.sort(values, axis=-1)  # NaN last
    middle = [np.take_along_axis(ascending, np.maximum(at, 0)[..., None], -1)[..., 0] for at in
              ((counts - 1) // 2, counts // 2)]  # fmt: skip
    return np.where(counts > 0, (middle[0] + middle[1]) / 2, np.nan)
