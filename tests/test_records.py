"""Records go to a file and come back the same; what is no record is refused."""

import dataclasses
import json

import numpy as np
import pytest

from tests.view import studies
from throughtime.errors import InputError
from throughtime.records import FlowRecord, LagProfile, Study, Update, decode, encode, read, write


def same(a, b):
    if dataclasses.is_dataclass(a):
        names = [f.name for f in dataclasses.fields(a)]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def test_a_study_comes_back_the_same(tmp_path):
    study = studies.reviews()
    write(study, tmp_path / "study.npz")
    assert same(read(Study, tmp_path / "study.npz"), study)
    assert [p.name for p in tmp_path.iterdir()] == ["study.npz"], "nothing half-written is left beside it"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0.1, 5.0])
def test_numbers_that_are_not_finite_are_plain_json(value):
    update = Update(1, 0, 8, value, 1.0, False, None, 0.1, 0.2)
    text = json.dumps(encode(update, {}), allow_nan=False)
    assert same(decode(Update, json.loads(text), {}), update)


def test_unknown_fields_are_passed_over():
    update = Update(1, 0, 8, 1.0, 1.0, False, None, 0.1, 0.2)
    assert decode(Update, encode(update, {}) | {"later": 1}, {}) == update


def test_what_is_no_record_is_refused(tmp_path):
    flow = studies.reviews().runs[0].flows[0]
    path = tmp_path / "flow.npz"
    write(flow, path)
    with pytest.raises(InputError, match="holds a FlowRecord"):
        read(Study, path)
    whole = path.read_bytes()
    inside = whole.index(b"PK", 4) - 20  # of the first array's compressed bytes
    flipped = whole[:inside] + bytes([whole[inside] ^ 255]) + whole[inside + 1 :]
    for damaged in (b"", whole[:100], flipped, whole[: len(whole) // 2], b"PK\x03\x04" + bytes(50)):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            read(FlowRecord, path)
    np.savez(path, record=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="damaged"):
        read(FlowRecord, path)
    with pytest.raises(InputError, match="no such file"):
        read(FlowRecord, tmp_path / "absent.npz")


def test_horizon_and_half_life_by_hand():
    lags = np.arange(5)
    median = np.log10([1.0, 0.6, 0.4, 0.02, 0.005])
    profile = LagProfile(lags, median, median, median, lags)
    assert (profile.horizon(), profile.horizon(0.5), profile.half_life(), profile.longest()) == (3, 1, 2, 4)
    nothing = np.full(5, np.nan)
    empty = LagProfile(lags, nothing, nothing, nothing, lags)
    assert (empty.horizon(), empty.half_life(), empty.longest()) == (None, None, 0)
    vanished = np.array([0.0, -np.inf, -np.inf, -np.inf, -np.inf])
    gone = LagProfile(lags, vanished, vanished, vanished, lags)
    assert (gone.horizon(), gone.half_life(), gone.longest()) == (0, 1, 4)
