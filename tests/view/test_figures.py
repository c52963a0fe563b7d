"""Figures as data: nothing a number can be is lost, no text gets out of its place, no spike is thinned away."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughtime.view.figures import Axis, Lines, Series, block, value
from throughtime.view.markup import escape, joined, tag, text
from throughtime.view.thin import blocks, curve, lines, row, widest


def test_zero_overflow_and_gaps_are_told_apart():
    assert value(-math.inf, "log10") == "zero"
    assert value(math.inf, "log10") == "over"
    assert value(math.nan, "log10") is None
    assert value(-3000.123456, "log10") == -3000.1
    assert value(0.0, "linear") == 0.0


@given(st.text())
def test_no_text_gets_out_of_its_data_block(anything):
    figure = Lines(title=anything, note=anything, file="x", x=Axis("x"), y=Axis(anything), series=())
    written = block(figure)
    assert not set("<>&\u2028\u2029") & set(written)
    # Pictures are XML too, so what XML 1.0 has no place for (section 2.2) is replaced.
    xml = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
    assert json.loads(written)["title"] == xml.sub("\ufffd", anything)


def test_a_download_is_named_by_letters_and_digits():
    figure = Lines(title="t", note="n", file="../a b</script>", x=Axis("x"), y=Axis("y"), series=())
    assert json.loads(block(figure))["file"] == "a-b-script"


@given(st.text())
def test_text_is_escaped_unless_it_is_markup(anything):
    written = tag("p", anything, title=anything)
    for character in ("<", ">", '"'):
        assert written.count(character) == {"<": 2, ">": 2, '"': 2}[character]
    assert escape(tag("b", "x")) == "<b>x</b>"
    assert text("{} is {}", "<", tag("b", "&")) == "&lt; is <b>&amp;</b>"
    assert joined(["a", "b", "<"]) == "a, b and &lt;"


def test_a_spike_survives_thinning():
    y = np.ones(5000)
    y[3333] = 1e9
    x, median, low, high = curve(range(5000), y)
    assert len(x) <= 150
    figure = Lines(
        title="t", note="n", file="f", x=Axis("x"), y=Axis("y"), series=(Series("s", "c0", x, median, low, high),)
    )
    assert lines(figure) is figure
    assert high.max() == 1e9
    assert set(median) == {1.0}
    assert low.min() == 1.0
    y[100] = np.nan
    assert np.isnan(curve(range(5000), y)[3]).any()


def test_short_curves_are_left_as_they_are():
    x, median, low, high = curve([1, 2, 3], [4, 5, 6])
    assert list(x) == [1, 2, 3]
    assert list(median) == list(low) == list(high) == [4, 5, 6]


def test_blocks_keep_the_largest_pair_and_only_the_lower_triangle(rng):
    T = 50
    pairs = rng.standard_normal((T, T))
    pairs[np.triu_indices(T, 1)] = 99.0
    pairs[30, 10] = 7.0
    rows, width = blocks(pairs, 16)
    assert width == 4
    assert [len(r) for r in rows] == list(range(1, 14))
    assert max(float(r.max()) for r in rows) == 7.0
    assert rows[30 // 4][10 // 4] == 7.0
    whole, one = blocks(pairs, 64)
    assert one == 1
    assert np.array_equal(np.concatenate(whole), pairs[np.tril_indices(T)])


def test_blocks_know_gaps_and_zeros():
    pairs = np.full((4, 4), np.nan)
    pairs[2, 0], pairs[3, 3] = -np.inf, 1.0
    rows, _ = blocks(pairs, 2)
    assert np.isnan(rows[0][0])
    assert np.isneginf(rows[1][0])
    assert rows[1][1] == 1.0


def test_a_long_row_keeps_its_largest():
    values = np.array([-np.inf, -np.inf, 1.0, np.nan, np.nan, np.nan])
    assert np.array_equal(row(values, 2), [-np.inf, 1.0, np.nan], equal_nan=True)


def test_all_maps_together_keep_to_the_limit():
    for panels in (1, 2, 6, 20):
        side = widest(2000, panels, 13_000)
        assert panels * side * side / 2 <= 13_000 or side == 8


def test_long_lines_keep_their_ends_and_say_so():
    x = list(range(1001))
    figure = Lines(title="t", note="n.", file="f", x=Axis("x"), y=Axis("y"), series=(Series("s", "c0", x, x),))
    thinned = lines(figure)
    assert len(thinned.series[0].x) <= 152
    assert (thinned.series[0].x[0], thinned.series[0].x[-1]) == (0, 1000)
    assert "One point in 9 is shown." in thinned.note
    assert lines(thinned) is thinned or len(lines(thinned).series[0].x) <= 152


@pytest.mark.parametrize("points", [150, 10])
def test_short_lines_stay(points):
    figure = Lines(
        title="t", note="n.", file="f", x=Axis("x"), y=Axis("y"), series=(Series("s", "c0", range(10), range(10)),)
    )
    assert lines(figure, points) is figure
