"""Windows and lanes cover a series, answer with the next row, and copy nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from throughtime.data.streams import Series
from throughtime.errors import InputError


def series(ends=(50,), length=7, answered=None):
    x = torch.arange(ends[-1])
    return Series(x, x, lambda steps: tuple(map(str, steps.tolist())), length, ends, answered)


@given(rows=st.integers(2, 200), length=st.integers(1, 70), data=st.data())
@settings(max_examples=60, deadline=None)
def test_windows_cover_every_step_once(rows, length, data):
    windows = series((rows,)).windows(length)
    batch = windows.batch(range(len(windows)))
    inside = torch.arange(batch.x.shape[0])[:, None] < batch.lengths
    assert sorted(batch.x[inside].tolist()) == list(range(rows - 1))
    assert torch.equal(batch.y[inside], batch.x[inside] + 1)
    chosen = data.draw(st.lists(st.integers(0, len(windows) - 1), min_size=1, max_size=5))
    some = windows.batch(chosen)
    for place, index in enumerate(chosen):
        steps = int(some.lengths[place])
        assert torch.equal(some.x[:steps, place], batch.x[:steps, index])
        assert steps == windows.lengths()[index]
        assert windows.words(index) == tuple(str(v) for v in some.x[:steps, place].tolist())


@given(rows=st.integers(2, 200), data=st.data())
@settings(max_examples=60, deadline=None)
def test_lanes_are_equal_contiguous_stretches(rows, data):
    count = data.draw(st.integers(1, rows - 1))
    lanes = series((rows,)).lanes(count)
    batch = lanes.batch(range(count))
    each = (rows - 1) // count
    assert batch.x.shape == (each, count)
    assert torch.equal(batch.x.T.reshape(-1), torch.arange(each * count))
    assert torch.equal(batch.y, batch.x + 1)


def test_lanes_and_neighbouring_windows_are_views():
    x = torch.randn(1_000_001, 3)
    stream = Series(x, x, lambda steps: (), 100, (len(x),))
    for split in (stream.lanes(8), stream.windows(125_000)):
        batch = split.batch(range(8))
        assert batch.x.shape == (125_000, 8, 3)
        assert (
            batch.x.untyped_storage().data_ptr()
            == batch.y.untyped_storage().data_ptr()
            == x.untyped_storage().data_ptr()
        )
        window = batch.window(500, 700)
        assert window.x.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        assert torch.equal(window.x[:, 2], x[250_500:250_700])
        assert torch.equal(window.y[:, 2], x[250_501:250_701])


def test_windows_stay_inside_their_series_and_boundaries_never_count():
    answered = torch.ones(30, dtype=torch.bool)
    answered[10] = False  # the first row of the second series
    stream = series((10, 30), 4, answered)
    for index in range(len(stream)):
        rows = [int(word) for word in stream.words(index)]
        assert rows[-1] + 1 < 10 or rows[0] >= 10
    assert int(stream.batch(range(len(stream))).counted.sum()) == 9 + 19
    lanes = stream.lanes(2).batch([0, 1])
    assert not lanes.counted[9, 0]
    assert int(lanes.counted.sum()) == 27


def test_a_window_without_an_answer_that_counts_is_left_out():
    answered = torch.ones(21, dtype=torch.bool)
    answered[6:11] = False
    windows = series((21,), 5, answered).windows(5)
    assert [int(windows.words(i)[0]) for i in range(len(windows))] == [0, 10, 15]


def test_the_default_is_windows():
    stream = series()
    windows = stream.windows(7)
    assert len(stream) == len(windows) == 7
    assert stream.lengths().tolist() == windows.lengths().tolist()
    assert torch.equal(stream.batch([2]).x, windows.batch([2]).x)


def test_what_cannot_be_cut():
    with pytest.raises(InputError, match="50 lanes cannot be cut from a series of 49 steps"):
        series().lanes(50)
    with pytest.raises(InputError, match="a window of 0 steps"):
        series().windows(0)
