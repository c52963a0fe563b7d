"""Random numbers and splits are the same everywhere; the known answers were written down once and stay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughtime.data.draws import SHARES, Draws, checked, cut
from throughtime.errors import InputError

KEYS = [5342343504762994820, 3398035549802507682]
BELOW = [8, 6, 3, 1, 7, 6, 2, 4]
TESTED = [8, 11]


def test_the_stream_never_changes():
    assert Draws(0, "adding", "train", 0).keys(2).tolist() == KEYS
    assert Draws(0, "split").below(10, 8).tolist() == BELOW


def test_one_is_the_first_of_below():
    for limit in (1, 2, 7, 1000):
        assert Draws(3, "x").one(limit) == Draws(3, "x").below(limit, 1)[0]


def test_purposes_and_seeds_give_unlike_streams():
    streams = [Draws(s, *p).keys(4).tolist() for s in (0, 1) for p in ((), ("a",), ("a", 1), ("a", "1"))]
    assert len({tuple(each) for each in streams}) == len(streams)


def test_uniform_numbers_are_uniform():
    found = Draws(1, "test").uniform(20_000)
    assert found.min() >= 0
    assert found.max() < 1
    counts = np.histogram(found, bins=10, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


@given(
    groups=st.lists(st.integers(0, 5), min_size=1, max_size=300),
    shares=st.tuples(*[st.floats(0.05, 1.0)] * 3),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=60, deadline=None)
def test_a_cut_keeps_every_row_once_and_the_shares(groups, shares, seed):
    fractions = checked(shares)
    codes = np.array(groups, dtype=np.int64)
    rows = cut(codes, fractions, seed)
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(groups)))
    for share, each in zip(fractions, rows, strict=True):
        assert abs(len(each) - share * len(groups)) <= 1.5
        assert (np.diff(each) > 0).all()
        for group in set(groups):
            expected = share * (codes == group).sum()
            assert abs((codes[each] == group).sum() - expected) <= 3


def test_a_cut_depends_on_the_seed_alone():
    codes = np.arange(100) % 3
    assert [each.tolist() for each in cut(codes, SHARES, 5)] == [each.tolist() for each in cut(codes, SHARES, 5)]
    assert cut(codes, SHARES, 5)[2].tolist() != cut(codes, SHARES, 6)[2].tolist()
    assert cut(np.zeros(20, dtype=np.int64), SHARES, 0)[2].tolist() == TESTED


@pytest.mark.parametrize("shares", [(1.0, 0.0, 0.0), (0.5, 0.5), (0.8, -0.1, 0.3), (float("nan"), 1.0, 1.0)])
def test_shares_that_cannot_be_used(shares):
    with pytest.raises(InputError, match="three positive shares"):
        checked(shares)
