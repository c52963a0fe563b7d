"""What stands in a study's files may be anything: a report is drawn from it, or refused in one sentence."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from throughtime.diagnosis import diagnose
from throughtime.errors import InputError, ThroughtimeError
from throughtime.study import run as study
from throughtime.study.folder import Folder
from throughtime.study.plan import parse_cells
from throughtime.view.report import page
from throughtime.view.subject import subject

VALUES = (None, 0.5, [1, "a"], [], 10**19, -3, "odd", {"$float": "nan"}, {"$float": "odd"}, {"$array": "odd"}, {})
ARRAYS = (None, 0.5, [1.0, 2.0], np.ones(3, complex), 10**19, np.zeros((0, 2)), np.array(["a"]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A small study of two cells, measured whole."""
    folder = tmp_path_factory.mktemp("trust")
    rng = np.random.default_rng(0)
    np.savez(folder / "signs.npz", x=rng.normal(size=(40, 6, 1)).astype(np.float32), y=np.arange(40) % 2)
    origin, dataset = study.prepare(
        str(folder / "signs.npz"), parse_cells("rnn,lstm"), {}, {"hidden": 3}, {"epochs": 1, "batch_size": 8},
        seed=0, device="cpu", trackers=(), command="throughtime compare signs.npz",
    )  # fmt: skip
    place = Folder(folder / "study")
    with place.begin(origin):
        list(study.run(origin, dataset, place))
    return place.path


def drawn(folder: Path) -> str:
    """What `throughtime report` does, without the file; the sentence if it is refused."""
    try:
        records = Folder(folder).read_study()
        page(subject(records))
        diagnose(records.runs[0])
    except ThroughtimeError as error:
        return str(error)
    return ""


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value, containers included."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from leaves(inner, (*path, place))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return changed


def sample(what: list[Any]) -> list[Any]:
    """So many as THROUGHTIME_MUTATIONS says, else some, always the same ones."""
    return [
        what[int(at)]
        for at in np.random.default_rng(5).permutation(len(what))[: int(os.environ.get("THROUGHTIME_MUTATIONS", 25))]
    ]


@pytest.mark.parametrize("name", ["study.json", "lstm/run.json"])
def test_a_changed_value_in_json_is_drawn_or_refused(name, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "here")
    file = tmp_path / "here" / name
    held = json.loads(file.read_text())
    for path, new in sample([(path, new) for path in leaves(held) for new in VALUES]):
        file.write_text(json.dumps(put(held, path, new)))
        try:
            told = drawn(tmp_path / "here")
        except Exception as error:
            raise AssertionError(f"{path} = {new!r}: {error!r}") from error
        assert "\n" not in told
        assert not told or name.rpartition("/")[2] in told or "no run has begun" in told, (path, new, told)


@pytest.mark.parametrize("moment", ["0-before", "2-after"])
def test_a_changed_value_in_a_record_is_drawn_or_refused(moment, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "here")
    file = next((tmp_path / "here" / "lstm" / "flows").glob(f"{moment}-*.npz"))
    with np.load(file) as held:
        arrays = dict(held)
    record = json.loads(bytes(arrays.pop("record")))
    inside = [(path, new) for path in leaves(record) for new in VALUES]
    beside = [(key, new) for key in arrays for new in ARRAYS]
    for where, new in sample(inside) + sample(beside):
        changed = put(record, where, new) if isinstance(where, tuple) else record
        others = arrays | ({} if isinstance(where, tuple) else {where: np.asarray(0.0 if new is None else new)})
        if new is None and not isinstance(where, tuple):
            del others[where]
        save(file, changed, others)
        try:
            told = drawn(tmp_path / "here")
        except Exception as error:
            raise AssertionError(f"{where} = {new!r}: {error!r}") from error
        assert "\n" not in told
        assert not told or file.name in told, (where, new, told)


def save(file: Path, record: Any, arrays: dict[str, Any]) -> None:
    content = io.BytesIO()
    np.savez(content, record=np.frombuffer(json.dumps(record).encode(), np.uint8), **arrays)
    file.write_bytes(content.getvalue())


REFUSED = {
    "a text for a number": (("plan", "seed"), "3", r"study\.json: cannot be read \(plan\.seed: expected int, got str"),
    "a number out of range": (("data", "lengths", 0), 10**19, r"data\.lengths\[0\]"),
    "no finite number": (("data", "baseline"), {"$float": "inf"}, r"the baseline is a finite number, not inf"),
    "a word that is none": (("data", "kind"), "regresion", r"data\.kind: invalid enum value 'regresion'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_value_is_refused_with_its_file_and_field(name, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "here")
    file = tmp_path / "here" / "study.json"
    path, new, words = REFUSED[name]
    file.write_text(json.dumps(put(json.loads(file.read_text()), path, new)))
    with pytest.raises(InputError, match=words):
        Folder(tmp_path / "here").read_study()


def test_arrays_of_sizes_that_do_not_belong_together_are_refused(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "here")
    file = next((tmp_path / "here" / "lstm" / "flows").glob("2-after-*.npz"))
    with np.load(file) as held:
        arrays = dict(held)
    record = json.loads(bytes(arrays.pop("record")))
    save(file, record, arrays | {"/direct": arrays["/direct"][1:]})
    assert "direct: its size T is 5, where others have 6" in drawn(tmp_path / "here")
    save(file, put(record, ("record", "T"), 7), arrays)
    assert "its size T is 6, where others have 7" in drawn(tmp_path / "here")
    save(file, record, arrays | {"/lags/median": arrays["/lags/median"].astype(complex)})
    assert "lags.median: expected an array of floating numbers, got complex128" in drawn(tmp_path / "here")
