"""A study's folder: who may write in it, what of it may be removed, and what is said of what is missing."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.view.test_measured import measurement
from throughtime import disk, history
from throughtime.cli.session import _Interrupt
from throughtime.errors import InputError, ThroughtimeError, TrainingError
from throughtime.inspection.folder import keep
from throughtime.study import run as study
from throughtime.study import surroundings
from throughtime.study.folder import Folder
from throughtime.study.plan import parse_cells
from throughtime.view import report

pytestmark = pytest.mark.usefixtures("quick_looks")


@pytest.fixture
def source(tmp_path, rng):
    x = rng.normal(size=(40, 3, 1)).astype(np.float32)
    np.savez(tmp_path / "signs.npz", x=x, y=np.arange(40) % 2)
    return str(tmp_path / "signs.npz")


def prepared(source, **settings):
    usual = {"epochs": 2, "batch_size": 8}
    return study.prepare(
        source, parse_cells("rnn"), {}, {"hidden": 2, "layers": 2}, usual | settings,
        seed=3, device="cpu", trackers=(), command="throughtime train",
    )  # fmt: skip


def trained(source, path, **settings) -> Folder:
    origin, dataset = prepared(source, **settings)
    folder = Folder(path)
    with folder.begin(origin):
        list(study.run(origin, dataset, folder))
    report(folder.read_study(), folder.report)
    return folder


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


# -- one process at a time

WAYS = {
    "out": lambda folder, origin: folder.begin(origin),
    "overwrite": lambda folder, origin: folder.begin(origin, overwrite=True),
    "resume": lambda folder, origin: folder.go_on(),
}


@pytest.mark.parametrize("second", WAYS)
@pytest.mark.parametrize("first", WAYS)
def test_of_two_that_want_one_folder_one_is_refused(first, second, source, tmp_path):
    folder = Folder(tmp_path / "here")
    origin, _ = prepared(source)
    if first != "out":
        folder.begin(origin).close()
    with WAYS[first](folder, origin):
        before = contents(folder.path)
        with pytest.raises(ThroughtimeError, match=r"another process is training|exists already"):
            WAYS[second](Folder(tmp_path / "here"), replace(origin, title="another"))
        assert contents(folder.path) == before
        assert folder.read_origin().title == origin.title
    if second != "out":
        WAYS[second](folder, origin).close()  # and then the folder is free
    assert not list(tmp_path.glob(".here*"))


def test_a_run_that_is_trained_from_elsewhere_is_not_removed(source, tmp_path):
    folder = trained(source, tmp_path / "here")
    before = contents(folder.path)
    with disk.lock(folder.path / "rnn"), pytest.raises(TrainingError, match="another process is training"):
        folder.begin(prepared(source)[0], overwrite=True)
    assert contents(folder.path) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, to have two processes at one moment")
def test_two_processes_at_one_moment_and_one_wins(source, tmp_path):
    folder = Folder(tmp_path / "here")
    origin, _ = prepared(source)
    folder.begin(origin).close()
    for turn in range(10):
        starts = time.monotonic() + 0.05
        children = []
        for name in ("one", "two"):
            child = os.fork()
            if child == 0:
                try:
                    while time.monotonic() < starts:
                        pass
                    with folder.begin(replace(origin, title=f"{name} {turn}"), overwrite=True):
                        time.sleep(0.2)
                except TrainingError:
                    os._exit(2)
                except BaseException:
                    os._exit(3)
                os._exit(0)
            children.append(child)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert sorted(statuses) == [0, 2]
        assert folder.read_origin().title == f"{('one', 'two')[statuses.index(0)]} {turn}"
        assert not list(tmp_path.glob(".here*"))


# -- what may be removed


def beside(folder: Path) -> dict[str, Path]:
    """What a person may have put into a study's folder: name -> file."""
    return {
        "notes": folder / "notes.md",
        "data": folder / "signs.npz",
        "in a run": folder / "rnn" / "notes.md",
        "weights": folder / "mine" / "best.safetensors",
        "records": folder / "rnn" / "flows" / "mine.npz",
        "a checkpoint": folder / "rnn" / "checkpoints" / "000000000008" / "notes.md",
        "another study": folder / "inside" / "study.json",
        "a hidden file": folder / ".env",
    }


@pytest.mark.parametrize("what", beside(Path()))
def test_a_study_with_anything_else_in_it_is_not_replaced(what, source, tmp_path):
    folder = trained(source, tmp_path / "here")
    file = beside(folder.path)[what]
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    before = contents(folder.path)
    with pytest.raises(InputError, match=r"also holds .*, which is not of the study in it, so it is not replaced"):
        folder.begin(prepared(source)[0], overwrite=True)
    assert contents(folder.path) == before


def test_links_a_page_of_somebody_s_and_the_folder_one_is_in_are_not_removed(source, tmp_path, monkeypatch):
    folder = trained(source, tmp_path / "here")
    origin, _ = prepared(source)
    (tmp_path / "elsewhere").mkdir()
    (folder.path / "rnn" / "flows" / "2-after-000000008-x.npz").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"also holds rnn/flows/2-after-000000008-x\.npz"):
        folder.begin(origin, overwrite=True)
    (folder.path / "rnn" / "flows" / "2-after-000000008-x.npz").unlink()
    drawn = folder.report.read_bytes()
    folder.report.write_text("<h1>mine</h1>")
    with pytest.raises(InputError, match=r"also holds report\.html"):
        folder.begin(origin, overwrite=True)
    folder.report.write_bytes(drawn)
    monkeypatch.chdir(folder.path / "rnn")
    for place in (Folder(Path("..")), folder):
        with pytest.raises(InputError, match="is the folder you are in, so it is not replaced"):
            place.begin(origin, overwrite=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder.path)
    Folder(Path("link")).begin(replace(origin, title="new"), overwrite=True).close()
    assert folder.read_origin().title == "new"
    assert (tmp_path / "link").is_symlink()


def test_a_plan_that_cannot_be_read_keeps_its_folder(source, tmp_path):
    folder = trained(source, tmp_path / "here")
    (folder.path / "study.json").write_text("{}")
    with pytest.raises(InputError, match="is not replaced, as it cannot be told what in it is of a study"):
        folder.begin(prepared(source)[0], overwrite=True)
    assert (folder.path / "rnn" / "best.safetensors").exists()


def test_a_measurement_with_anything_else_in_it_is_not_replaced(tmp_path, monkeypatch):
    keep(measurement(), tmp_path / "here")
    for name in ("notes.md", "flows/mine.npz"):
        (tmp_path / "here" / name).write_text("mine")
        with pytest.raises(InputError, match=f"also holds {name}, which is not of the measurement in it"):
            keep(measurement(), tmp_path / "here", overwrite=True)
        (tmp_path / "here" / name).unlink()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="is the folder you are in"):
        keep(measurement(), Path.cwd(), overwrite=True)
    monkeypatch.chdir(tmp_path)
    with disk.lock(tmp_path / "here"), pytest.raises(TrainingError, match="another process"):
        keep(measurement(), tmp_path / "here", overwrite=True)
    keep(replace(measurement(), title="new"), tmp_path / "here", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


# -- what is missing is said


@pytest.mark.parametrize("how", ["gone", "empty", "cut", "torn"])
def test_a_history_that_is_not_whole_is_said(how, source, tmp_path, caplog):
    origin, dataset = prepared(source)
    folder, asked = Folder(tmp_path / "here"), 0

    def stop():
        nonlocal asked
        asked += 1
        return asked == 5

    with folder.begin(origin):
        list(study.run(origin, dataset, folder, stop=stop))
    file = folder.path / "rnn" / history.NAME
    assert folder.read_study().runs[0].notes == ()
    lines = file.read_bytes().splitlines(keepends=True)
    damaged = {"empty": b"", "cut": b"".join(lines[:2]), "torn": lines[0] + lines[1][:20] + b"\n" + b"".join(lines[2:])}
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(damaged[how])
    there = {"gone": 0, "empty": 0, "cut": 2, "torn": 4}[how]
    said = f"events.jsonl holds {there} of its 5 updates, the others are lost; its curves are not whole."
    assert folder.read_study().runs[0].notes == (said,)
    with folder.go_on():
        events = list(study.run(*study.reopen(folder), folder))
    assert said in next(event for event in events if isinstance(event, study.Started)).notes[0]
    assert said in caplog.text
    note = f"events.jsonl holds {there + 3} of its 8 updates, the others are lost; its curves are not whole."
    assert folder.read_study().runs[0].notes == (note,)
    assert note in report(folder.read_study(), tmp_path / "page.html").read_text()


def test_a_run_that_a_kill_tore_is_whole(tmp_path):
    lost = history.Past((), ()).lost(0)
    assert lost == ""
    file = tmp_path / history.NAME
    file.write_bytes(b'{"event":"upd')
    with history.Writer(file) as writer:
        writer.resume(0)
    assert history.read(file).torn == 0
    file.write_bytes(b'{"event":"upd\n' + file.read_bytes())
    assert history.read(file).lost(0) == "1 line of events.jsonl cannot be read; its curves may not be whole."


def test_a_run_that_failed_stays_failed(source, tmp_path):
    origin, dataset = prepared(source, rate=1e38, clip=None)
    folder = Folder(tmp_path / "here")
    with folder.begin(origin):
        first = [e for e in study.run(origin, dataset, folder) if isinstance(e, study.Failed)]
    with folder.go_on():
        again = list(study.run(*study.reopen(folder), folder))
    assert first
    assert again == first


def test_other_versions_are_said_and_all_are_named(source, tmp_path, monkeypatch):
    origin, dataset = prepared(source)
    folder = Folder(tmp_path / "here")
    with folder.begin(origin):
        list(study.run(origin, dataset, folder, stop=lambda: True))
    assert study.continued(origin, folder) == (origin, ())
    here = surroundings.versions()
    monkeypatch.setattr(surroundings, "versions", lambda: here | {"torch": "99.1"})
    with folder.go_on():
        found, dataset = study.reopen(folder)
        found, told = study.continued(found, folder)
        assert told == (
            f"{folder.path} was trained with torch {here['torch']} (here 99.1); it goes on, but its numbers may differ "
            "from here on.",
        )
        assert study.continued(found, folder) == (found, ()), "said once"
        list(study.run(found, dataset, folder))
    assert folder.read_study().versions == here | {"torch": f"{here['torch']}, then 99.1"}
    monkeypatch.setattr(surroundings, "versions", lambda: here | {"torch": "99.2"})
    assert study.continued(found, folder) == (found, ()), "nothing is left to train"


def test_a_source_is_found_from_any_folder_and_where_the_project_went(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    origin, _ = prepared("signs.npz")
    assert (origin.plan.source, origin.plan.base) == ("signs.npz", str(tmp_path))
    folder = Folder(tmp_path / "here")
    folder.begin(origin).close()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert study.reopen(folder)[0] == origin
    (tmp_path / "signs.npz").rename(tmp_path / "other" / "signs.npz")
    assert study.reopen(folder)[0] == origin
    assert prepared("./signs.npz")[0].plan.base == str(tmp_path / "other")


# -- Ctrl-C


def test_ctrl_c_ends_a_measurement_at_once_and_it_is_made_up_for(source, tmp_path, monkeypatch):
    from rich.console import Console

    from throughtime.study import eyes

    whole = trained(source, tmp_path / "whole")
    probe, moments = eyes.probe, {"before": 0, "during": 2, "after": 8}
    origin, dataset = prepared(source)
    for moment, update in moments.items():
        folder = Folder(tmp_path / moment)

        def interrupted(net, batch, *, wanted=(moment, update), **rest):
            if (rest["moment"], rest["update"], rest["layer"]) == (*wanted, 1):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(30)
            return probe(net, batch, **rest)

        monkeypatch.setattr(eyes, "probe", interrupted)
        began = time.monotonic()
        last = None
        interrupt = _Interrupt(Console(quiet=True))
        with folder.begin(origin), interrupt:
            for last in study.run(origin, dataset, folder, stop=interrupt.asked):
                interrupt.looking(isinstance(last, study.Looking))
        assert time.monotonic() - began < 25
        assert last == study.Interrupted(origin.plan.trials[0].choice, update)
        monkeypatch.setattr(eyes, "probe", probe)
        with folder.go_on():
            list(study.run(*study.reopen(folder), folder))
        names = [sorted(p.name for p in (f.path / "rnn" / "flows").iterdir()) for f in (folder, whole)]
        assert names[0] == names[1]


def test_the_size_of_a_run_is_told_before_anything_is_measured(source, tmp_path):
    origin, dataset = prepared(source)
    folder = Folder(tmp_path / "here")
    events = []
    for event in study.run(origin, dataset, folder):
        events.append(event)
        if isinstance(event, study.Looking):
            break
    assert [type(event) for event in events] == [study.Started, study.Looking]
    assert (events[0].updates, events[1].layers) == (8, 2)


def test_a_disk_that_fails_under_the_history_is_one_sentence(source, tmp_path, monkeypatch, recwarn):
    origin, dataset = prepared(source)
    folder = Folder(tmp_path / "here")
    real = os.fsync

    def failing(handle):
        if os.readlink(f"/proc/self/fd/{handle}").endswith(history.NAME):
            raise OSError(5, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", failing)
    with folder.begin(origin), pytest.raises(InputError, match=r"events\.jsonl: the history cannot be written \(Input"):
        list(study.run(origin, dataset, folder))
    monkeypatch.undo()
    with folder.go_on():
        list(study.run(*study.reopen(folder), folder))
    assert folder.read_study().runs[0].notes == ()
