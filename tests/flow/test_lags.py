"""Lag profiles by hand."""

from __future__ import annotations

import numpy as np

from tests.tolerances import near
from throughtime.flow.lags import lag_profile, medians, quartiles

ZERO, NONE = -np.inf, np.nan


def test_a_profile_by_hand() -> None:
    """Three steps, two sequences: at lag 1 there are −1, −3, −0.2, −4 below the start; at lag 2 −2 and a true zero."""
    pairs = np.full((3, 3, 2), ZERO)
    pairs[0, 0] = [1.0, 2.0]
    pairs[1, 1], pairs[1, 0] = [0.0, 5.0], [-1.0, 2.0]
    pairs[2, 2], pairs[2, 1], pairs[2, 0] = [3.0, -1.0], [2.8, -5.0], [1.0, ZERO]
    profile = lag_profile(pairs)
    assert profile.lags.tolist() == [0, 1, 2]
    assert profile.pairs.tolist() == [6, 4, 2]
    near(profile.median, [0.0, -2.0, ZERO])
    near(profile.lower[:2], [0.0, -3.25])
    near(profile.upper[:2], [0.0, -0.8])
    assert np.isneginf([profile.lower[2], profile.upper[2]]).all()
    assert profile.horizon(0.01) == 1
    assert profile.horizon(0.5) == 0
    assert profile.half_life() == 1
    assert profile.longest() == 2


def test_sources_without_a_gradient_and_pairs_not_measured_do_not_count() -> None:
    pairs = np.array([[[0.0, ZERO], [ZERO, ZERO]], [[NONE, -1.0], [0.0, 0.0]]])
    profile = lag_profile(pairs)
    assert profile.pairs.tolist() == [3, 1]
    assert profile.median.tolist() == [0.0, -1.0]


def test_what_was_never_measured_is_no_number() -> None:
    profile = lag_profile(np.full((2, 2, 1), NONE))
    assert np.isnan(profile.median).all()
    assert profile.horizon() is None
    assert profile.half_life() is None


def test_a_profile_of_some_sources_and_of_one_part() -> None:
    pairs = np.array([[[-2.0], [-1.0], [ZERO]]])
    profile = lag_profile(pairs, np.array([1]), log10_start=np.array([[0.5]]), most=5)
    near(profile.median[:2], [-1.5, -2.5])
    assert profile.pairs.tolist() == [1, 1, 0]


def test_quartiles_with_zeros_among_them() -> None:
    assert quartiles(np.array([ZERO, ZERO, 1.0, 2.0, 3.0])).tolist() == [ZERO, 1.0, 2.0]
    assert quartiles(np.array([ZERO, 1.0])).tolist() == [ZERO, ZERO, ZERO]
    values = np.random.default_rng(0).normal(size=101)
    assert np.allclose(quartiles(values), np.quantile(values, (0.25, 0.5, 0.75)), rtol=1e-14)


def test_medians_leave_out_what_was_not_measured() -> None:
    values = np.array([[1.0, NONE, 5.0, 3.0], [ZERO, NONE, ZERO, 1.0], [ZERO, 1.0, NONE, NONE], [NONE] * 4])
    assert np.array_equal(medians(values), [3.0, ZERO, ZERO, NONE], equal_nan=True)
