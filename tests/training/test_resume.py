"""A run that was interrupted, at any moment and in any way, ends bitwise as if it had not been."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training import runs
from throughtime import history
from throughtime.errors import CheckpointError, TrainingError


@pytest.mark.parametrize("kind", ["full", "uneven"])
def test_a_run_repeats_itself_bitwise(kind: str, tmp_path: Path) -> None:
    results = []
    for name in ("a", "b"):
        training = runs.begin(kind, tmp_path / name)
        torch.manual_seed(len(results))  # what others draw does not matter
        for _ in training:
            torch.rand(3)
            training.net.eval()
        results.append(runs.outcome(tmp_path / name, training))
    assert runs.same(*results)


@pytest.mark.parametrize("kind", runs.KINDS)
def test_left_after_every_few_updates_and_resumed(kind: str, tmp_path: Path) -> None:
    whole = runs.begin(kind, tmp_path / "whole")
    updates = list(whole)
    assert whole.stopped
    here, saved = tmp_path / "parts", False
    for left in range(1, 200):
        training = runs.begin(kind, here, resume=True)
        if training.stopped:
            break
        for _, _update in zip(range(1 + left % 4), training, strict=False):
            pass
        if left % 2 or not saved:
            training.save()  # between, the last one that was due has to do
            saved = True
        training.close()
    assert [runs.timeless(u) for u in updates] == [
        runs.timeless(u) for u in history.read(here / "events.jsonl").updates
    ]
    assert runs.same(runs.outcome(here, training), runs.outcome(tmp_path / "whole", whole))
    assert (training.evaluations, training.best, training.done) == (whole.evaluations, whole.best, whole.done)
    for name in ("best", "last"):
        ours, theirs = (load_file(place / f"{name}.safetensors") for place in (here, tmp_path / "whole"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert list(training) == []
    training.restore_best()
    whole.restore_best()
    assert training.evaluate("test") == whole.evaluate("test")


def in_a_child(work: Callable[[], None]) -> int:
    """Run in a forked process (torch is loaded already); returns its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, to kill a process that has torch loaded")
@pytest.mark.parametrize("kind", ["full", "truncated"])
def test_killed_at_random_moments(kind: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def work(folder: Path) -> Callable[[], None]:
        def to_the_end() -> None:
            for _ in runs.begin(kind, folder, resume=True):
                pass

        return to_the_end

    started = time.monotonic()
    assert os.waitpid(in_a_child(work(whole)), 0)[1] == 0
    span = time.monotonic() - started
    pick, kills, ended = random.Random(7), 0, 0
    for _ in range(200):
        child = in_a_child(work(killed))
        time.sleep(pick.uniform(0.0, 1.0) * span / 4)
        os.kill(child, signal.SIGKILL)
        died = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        kills += died
        if not died:  # it came to its end before: begin anew, until there were kills enough
            ended += 1
            check(kind, whole, killed)
            killed = tmp_path / f"killed{ended}"
        if kills >= 20:
            break
    assert kills >= 20
    assert os.waitpid(in_a_child(work(killed)), 0)[1] == 0
    check(kind, whole, killed)


def check(kind: str, whole: Path, other: Path) -> None:
    a, b = (history.read(folder / "events.jsonl") for folder in (whole, other))
    assert [runs.timeless(u) for u in a.updates] == [runs.timeless(u) for u in b.updates]
    assert a.evaluations == b.evaluations
    for name in ("best", "last"):
        ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in (whole, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not list((other / "checkpoints").glob(".writing-*"))
    runs.begin(kind, other, resume=True).close()  # nobody holds the folder


def test_a_folder_with_a_run_is_not_taken_without_being_asked(tmp_path: Path) -> None:
    list(runs.begin("full", tmp_path))
    before = (tmp_path / "events.jsonl").read_bytes()
    with pytest.raises(TrainingError, match="holds a run already"):
        runs.begin("full", tmp_path)
    assert (tmp_path / "events.jsonl").read_bytes() == before
    assert runs.begin("full", tmp_path, resume=True).stopped


def test_two_cannot_train_in_one_folder(tmp_path: Path) -> None:
    first = runs.begin("full", tmp_path)
    next(first)
    with pytest.raises(TrainingError, match="another process is training"):
        runs.begin("full", tmp_path, resume=True)
    first.close()
    second = runs.begin("full", tmp_path, resume=True)
    second.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cell": "gru"}, 'checkpoint is of cell "lstm".* and the model is cell "gru"'),
        ({"hidden": 7}, "with 6 units in 2 layers, and the model is .* with 7 units"),
        ({"dropout": 0.1}, "begun with dropout=0.3, not 0.1"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_in_one_line(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    training = runs.begin("full", tmp_path)
    next(training)
    training.save()
    training.close()
    with pytest.raises(CheckpointError, match=words) as caught:
        runs.begin("full", tmp_path, resume=True, **changes)
    assert "\n" not in str(caught.value)
    runs.begin("full", tmp_path, resume=True).close()  # and the folder is free again


def test_other_settings_seed_or_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = runs.begin("full", tmp_path)
    next(training)
    training.save()
    training.close()
    make, model, settings = runs.KINDS["full"]
    from dataclasses import replace

    monkeypatch.setitem(runs.KINDS, "full", (make, model, replace(settings, rate=0.5)))
    with pytest.raises(CheckpointError, match=r"begun with rate=0\.01, not 0\.5"):
        runs.begin("full", tmp_path, resume=True)
