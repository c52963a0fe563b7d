"""A study that was killed before or after anything it does to the disk ends as if it had not been."""

from __future__ import annotations

import gc
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.test_records import same
from tests.view.test_measured import measurement
from throughtime import history
from throughtime.disk import write_whole
from throughtime.errors import InputError
from throughtime.inspection.folder import keep, read_measurement
from throughtime.records import FlowRecord, read
from throughtime.study import run as study
from throughtime.study.folder import Folder
from throughtime.study.plan import parse_cells
from throughtime.view import report

pytestmark = pytest.mark.usefixtures("quick_looks")

CALLS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir")


class Killed(BaseException):
    """What stands for the end of the process: nothing reaches the disk after it."""


class Disk:
    """Counts what is done to the disk, and ends the process before or after the call of one number."""

    def __init__(self, monkeypatch, stop: int | None, *, after: bool, exchange: bool) -> None:
        self.done, self.dead = 0, False
        self.stop, self.after = stop, after
        for name in CALLS:
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        if not exchange:
            monkeypatch.setattr("throughtime.disk._exchanged", lambda one, other: False)

    def counted(self, call):
        def instead(*words, **named):
            if self.dead or (self.done == self.stop and not self.after):
                self.dead = True
                raise Killed
            given = call(*words, **named)
            if self.done == self.stop:
                self.dead = True
                raise Killed
            self.done += 1
            return given

        return instead


@pytest.fixture
def plan(tmp_path, rng):
    y = np.arange(40) % 2
    np.savez(tmp_path / "signs.npz", x=rng.normal(size=(40, 3, 1)).astype(np.float32), y=y)

    def prepared(seed=3):
        return study.prepare(
            str(tmp_path / "signs.npz"), parse_cells("rnn"), {}, {"hidden": 2, "layers": 2},
            {"epochs": 2, "batch_size": 8}, seed=seed, device="cpu", trackers=(), command="throughtime train",
        )  # fmt: skip

    return prepared


def begin(plan, folder: Folder, *, overwrite: bool = False) -> None:
    origin, dataset = plan
    with folder.begin(origin, overwrite=overwrite):
        train(origin, dataset, folder)


def go_on(folder: Folder) -> None:
    with folder.go_on():
        train(*study.reopen(folder), folder)


def train(origin, dataset, folder: Folder) -> None:
    assert not [e for e in study.run(origin, dataset, folder) if isinstance(e, study.Failed)]
    report(folder.read_study(), folder.report, overwrite=True)


def holds(folder: Path) -> dict[str, object]:
    """What is in a folder, by name; times, which no two runs share, left out."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".npz":
            flow = read(FlowRecord, path)
            found[name] = (flow.moment, flow.update, flow.layer, flow.loss)
        elif path.suffix == ".safetensors":
            found[name] = {key: value.tolist() for key, value in load_file(path).items()}
        elif path.name == history.NAME:
            past = history.read(path)
            found[name] = ([replace(update, seconds=0.0) for update in past.updates], past.evaluations, past.torn)
        elif path.name in ("run.json", "latest"):
            found[name] = path.read_text()
        else:
            found[name] = None
    return found


def count(monkeypatch, work, *, exchange: bool) -> int:
    with monkeypatch.context() as patched:
        disk = Disk(patched, None, after=False, exchange=exchange)
        work()
    return disk.done


def kill(monkeypatch, stop: int, work, *, after: bool, exchange: bool = True) -> None:
    with monkeypatch.context() as patched:
        disk = Disk(patched, stop, after=after, exchange=exchange)
        with suppress(Killed):
            work()
        assert disk.dead
        gc.collect()  # what a process holds goes with it


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_study_killed_at_any_call_ends_as_the_undisturbed_one(after, plan, tmp_path, monkeypatch):
    made = plan()
    calls = count(monkeypatch, lambda: begin(made, Folder(tmp_path / "whole")), exchange=True)
    whole = holds(tmp_path / "whole")
    assert len([name for name in whole if name.endswith(".npz")]) == 2 * 6
    assert calls > 80
    for stop in points(calls):
        folder = Folder(tmp_path / f"cut-{stop}")
        kill(monkeypatch, stop, lambda folder=folder: begin(made, folder), after=after)
        if (folder.path / "study.json").is_file():
            go_on(folder)
        else:
            begin(made, folder)
        assert holds(folder.path) == whole, f"killed at call {stop}"


def points(calls: int) -> range:
    """Which calls to be killed at: all of them where THROUGHTIME_KILLS=all, else some from start to end."""
    return range(calls) if os.environ.get("THROUGHTIME_KILLS") == "all" else range(0, calls, max(1, calls // 6))


@pytest.mark.repeats
@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "renamed twice"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_overwriting_study_killed_at_any_call_leaves_the_old_or_the_new_whole(
    after, exchange, plan, tmp_path, monkeypatch
):
    old, new = plan(seed=3), plan(seed=4)
    begin(old, Folder(tmp_path / "old"))
    wanted = holds(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "here")
    again = Folder(tmp_path / "here")
    calls = count(monkeypatch, lambda: again.begin(new[0], overwrite=True).close(), exchange=exchange)
    assert sorted(holds(again.path)) == [".training.lock", "study.json"]
    seen = set()
    for stop in range(calls):
        here = Folder(tmp_path / f"cut-{stop}")
        shutil.copytree(tmp_path / "old", here.path)
        kill(monkeypatch, stop, lambda here=here: here.begin(new[0], overwrite=True), after=after, exchange=exchange)
        seed = here.read_origin().plan.seed  # as `report`, `measure` and `--resume` begin
        seen.add(seed)
        if seed == 3:
            assert holds(here.path) == wanted, f"killed at call {stop}"
            here.begin(new[0], overwrite=True).close()
        else:
            here.go_on().close()
        assert sorted(holds(here.path)) == [".training.lock", "study.json"], f"killed at call {stop}"
        assert here.read_origin() == new[0]
        assert not list(tmp_path.glob(".cut-*")), "nothing is left beside it"
    assert seen == {3, 4}


@pytest.mark.repeats
@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "renamed twice"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_overwriting_measurement_killed_at_any_call_leaves_the_old_or_the_new_whole(
    after, exchange, tmp_path, monkeypatch
):
    old = measurement()
    new = replace(old, title="the new one")
    path = tmp_path / "here"
    keep(old, path)
    calls = count(monkeypatch, lambda: keep(new, path, overwrite=True), exchange=exchange)
    chosen = {*list(points(calls))[::3], *range(calls - 7, calls)}  # the last calls are those that replace
    seen = set()
    for stop in sorted(chosen):
        keep(old, path, overwrite=True)
        kill(monkeypatch, stop, lambda: keep(new, path, overwrite=True), after=after, exchange=exchange)
        found = read_measurement(path)
        seen.add(found.title)
        assert same(found, old if found.title == old.title else new)
        keep(new, path, overwrite=True)
        assert same(read_measurement(path), new)
        assert [p.name for p in tmp_path.iterdir()] == ["here"], "nothing is left beside it"
    assert seen == {old.title, new.title}


def test_a_folder_killed_while_its_plan_is_written_is_begun_again(plan, tmp_path, monkeypatch):
    made, folder = plan(), Folder(tmp_path / "here")
    kill(monkeypatch, 2, lambda: begin(made, folder), after=True)
    assert sorted(p.name for p in folder.path.iterdir()) == [".study.json.writing", ".training.lock"]
    with pytest.raises(InputError, match=r"study\.json: no such file"):
        folder.go_on()
    folder.begin(made[0]).close()
    assert folder.read_origin() == made[0]
    assert not list(folder.path.glob(".*.writing"))


def test_what_a_power_cut_may_take_is_brought_to_the_disk_first(plan, tmp_path, monkeypatch):
    """Every folder that is made is synced in the folder above it before a checkpoint counts."""
    synced, made = set(), set()
    real_sync, real_mkdir, real_replace = os.fsync, os.mkdir, os.replace

    def sync(handle):
        synced.add(os.readlink(f"/proc/self/fd/{handle}"))
        real_sync(handle)

    def mkdir(path, *words, **named):
        real_mkdir(path, *words, **named)
        made.add(str(path))

    def replaced(source, target, **named):
        real_replace(source, target, **named)
        if Path(target).name == "latest":
            assert {str(Path(path).parent) for path in made} <= synced

    for name, instead in (("fsync", sync), ("mkdir", mkdir), ("replace", replaced)):
        monkeypatch.setattr(os, name, instead)
    begin(plan(), Folder(tmp_path / "here"))
    assert len(made) > 5


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_predictions_are_the_old_file_or_the_new_one_after_a_kill(after, tmp_path, monkeypatch) -> None:
    place, old, new = tmp_path / "p.csv", b"row,prediction\n1,old\n", b"row,prediction\n1,new\n"
    seen = set()
    for stop in range(20):
        place.write_bytes(old)
        with monkeypatch.context() as patched, suppress(Killed):
            disk = Disk(patched, stop, after=after, exchange=True)
            write_whole(place, new)
        assert place.read_bytes() in (old, new)
        seen.add(place.read_bytes())
        if not disk.dead:
            break
        write_whole(place, new)  # whoever runs it again
        assert place.read_bytes() == new
        assert [path.name for path in tmp_path.iterdir()] == ["p.csv"], "nothing is left over"
    assert seen == {old, new}
