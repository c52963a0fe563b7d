"""What is left of a gradient at each lag."""

from __future__ import annotations

import numpy as np

from throughtime.records import Floats, Integers, LagProfile

_HELD = 1 << 20  # differences that are sorted at a time


def lag_profile(
    log10_pairs: Floats, sources: Integers | None = None, *, log10_start: Floats | None = None, most: int | None = None
) -> LagProfile:
    """Quartiles, over sources t and sequences, of log10 C(t, t−τ) − log10 C(t, t), for τ from 0 to `most`.

    `log10_pairs` (N, T, B) has a row for each source, the steps `sources` (N,) (every step if None). `log10_start`
    (N, B) stands for log10 C(t, t) where the pairs are those of one part of the state alone. Pairs that were not
    measured (NaN), and sources without a direct gradient, do not count.
    """
    N, T, B = log10_pairs.shape
    steps = np.arange(T) if sources is None else np.asarray(sources)
    start = log10_pairs[np.arange(N), steps] if log10_start is None else log10_start
    counted = np.isfinite(start)
    rows = np.flatnonzero(counted.any(axis=1))
    longest = T - 1 if most is None else min(most, T - 1)
    found = np.full((longest + 1, 3), np.nan)
    pairs = np.zeros(longest + 1, dtype=np.int64)
    size = max(1, _HELD // max(1, len(rows) * B))
    for first in range(0, longest + 1 if rows.size else 0, size):
        lags = np.arange(first, min(first + size, longest + 1))
        at = steps[rows] - lags[:, None]
        with np.errstate(invalid="ignore"):
            left = log10_pairs[rows, np.maximum(at, 0)] - start[rows]
        left[(at < 0)[..., None] | ~counted[rows]] = np.nan
        ascending = np.sort(left.reshape(len(lags), -1), axis=1)  # NaN last
        pairs[lags] = (~np.isnan(ascending)).sum(1)
        found[lags] = _quartiles(ascending, pairs[lags])
    lower, median, upper = found.T
    return LagProfile(np.arange(longest + 1), median, lower, upper, pairs)


def quartiles(values: Floats) -> Floats:
    """Quartiles of values that may be −inf (a true zero); one that falls between a zero and a number is −inf."""
    return np.asarray(_quartiles(np.sort(values)[None], np.array([len(values)]))[0])


def _quartiles(ascending: Floats, counts: Integers) -> Floats:
    """The same for the first `counts` values of each row; NaN where there are none."""
    at = np.maximum(counts - 1, 0)[:, None] * np.array([0.25, 0.5, 0.75])
    under = at.astype(np.int64)
    low = np.take_along_axis(ascending, under, 1)
    high = np.take_along_axis(ascending, np.minimum(under + 1, np.maximum(counts - 1, 0)[:, None]), 1)
    with np.errstate(invalid="ignore"):
        found = np.where(np.isneginf(low), low, low + (high - low) * (at - under))
    return np.asarray(np.where(counts[:, None] > 0, found, np.nan))


def medians(values: Floats) -> Floats:
    """The median along the last axis, NaN left out; −inf may be among them; NaN where nothing was measured."""
    counts = (~np.isnan(values)).sum(-1)
    ascending = np.sort(values, axis=-1)  # NaN last
    middle = [np.take_along_axis(ascending, np.maximum(at, 0)[..., None], -1)[..., 0] for at in
              ((counts - 1) // 2, counts // 2)]  # fmt: skip
    return np.where(counts > 0, (middle[0] + middle[1]) / 2, np.nan)
