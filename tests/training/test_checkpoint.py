"""Checkpoints: whole or not there, wherever writing stops; damage is seen."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import throughtime as tt
from throughtime.errors import CheckpointError
from throughtime.training.checkpoint import Checkpoints, to_bytes
from throughtime.training.snapshot import Identity


class Crash(BaseException):
    """The machine stops here: nothing after it is run."""


def write(path: Path, update: int) -> None:
    state = {"update": update, "loss": 0.1 * update}
    tensors = {"weights": {"w": torch.full((3,), float(update))}, "training": {"m": torch.arange(update)}}
    Checkpoints(path).write(update, state, tensors)


def holds(path: Path) -> int | None:
    stored = Checkpoints(path).newest()
    if stored is None:
        return None
    update = int(stored.state["update"])
    assert stored.state["loss"] == 0.1 * update
    assert torch.equal(stored.tensors["weights"]["w"], torch.full((3,), float(update)))
    assert torch.equal(stored.tensors["training"]["m"], torch.arange(update))
    return update


def test_the_newest_and_the_one_before_stay(tmp_path: Path) -> None:
    assert holds(tmp_path / "none") is None
    for update in (3, 10, 200):
        write(tmp_path, update)
        assert holds(tmp_path) == update
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000000010", "000000000200", "latest"]
    assert (tmp_path / "latest").read_text() == "000000000200"
    write(tmp_path, 200)
    assert holds(tmp_path) == 200


STOPS = ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "mkdir"), (shutil, "rmtree"))


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_wherever_writing_stops_a_whole_one_is_there(
    before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = 0
    for stop in range(1, 60):
        path, calls = tmp_path / str(stop), 0
        for update in range(1, before + 1):
            write(path, update)
        with monkeypatch.context() as patched:

            def stopping(real: Callable[..., Any]) -> Callable[..., Any]:
                def call(*args: Any, **kwargs: Any) -> Any:
                    nonlocal calls
                    calls += 1
                    if calls == stop:  # noqa: B023
                        raise Crash
                    return real(*args, **kwargs)

                return call

            for module, name in STOPS:
                patched.setattr(module, name, stopping(getattr(module, name)))
            try:
                write(path, before + 1)
            except Crash:
                reached = stop
            else:
                break
        found = holds(path)
        assert found in ({None, 1} if before == 0 else {before, before + 1})
        write(path, before + 1)  # as the resumed run does, whatever is left over
        assert holds(path) == before + 1
        write(path, before + 2)
        assert holds(path) == before + 2
        assert not list(path.glob(".writing-*"))
    assert reached >= 10


FILES = ("weights.safetensors", "training.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_a_damaged_one_is_seen_and_the_one_before_used(file: str, damage: str, tmp_path: Path) -> None:
    write(tmp_path, 5)
    write(tmp_path, 9)
    path = tmp_path / "000000000009" / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    assert holds(tmp_path) == 5
    (note,) = Checkpoints(tmp_path).newest().notes
    assert "000000000009: this checkpoint is damaged" in note
    write(tmp_path, 7)  # the run goes on from 5
    assert holds(tmp_path) == 7
    assert not (tmp_path / "000000000009").exists()


@pytest.mark.parametrize("name", ["../outside", "/outside"])
def test_a_manifest_cannot_name_what_lies_outside(name: str, tmp_path: Path) -> None:
    write(tmp_path, 5)
    write(tmp_path, 9)
    (tmp_path / "outside").write_bytes(b"secret")
    manifest = tmp_path / "000000000009" / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["files"][name] = hashlib.sha256(b"secret").hexdigest()
    manifest.write_text(json.dumps(content))
    assert holds(tmp_path) == 5
    assert "is no file of it" in Checkpoints(tmp_path).newest().notes[0]


def test_all_damaged_is_one_clear_error(tmp_path: Path) -> None:
    for update in (1, 2):
        write(tmp_path, update)
        (tmp_path / f"{update:012d}" / "state.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="every checkpoint in it is damaged"):
        Checkpoints(tmp_path).newest()


def test_a_full_disk_is_one_clear_error_and_the_one_before_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)
    with monkeypatch.context() as patched:

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            write(tmp_path, 2)
    assert holds(tmp_path) == 1


def test_tensors_that_share_memory_are_written_each_by_itself() -> None:
    together = torch.arange(6.0)
    from safetensors.torch import load

    back = load(to_bytes({"a": together[:4], "b": together[2:], "c": together.view(2, 3).T}))
    assert torch.equal(back["a"], together[:4])
    assert torch.equal(back["b"], together[2:])
    assert torch.equal(back["c"], together.view(2, 3).T)


def test_a_checkpoint_of_a_newer_version_is_named_as_such_and_kept(tmp_path: Path) -> None:
    write(tmp_path, 3)
    write(tmp_path, 10)
    manifest = tmp_path / "000000000010" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    with pytest.raises(
        CheckpointError, match="has format 99, and this throughtime reads up to 1; a newer one wrote it"
    ):
        Checkpoints(tmp_path).newest()
    assert manifest.exists()


def test_a_checkpoint_of_another_net_names_the_first_parameter_that_differs() -> None:
    card = tt.data.load("copy", lag=5, samples=20).card

    def identity(**shape: int) -> Identity:
        return Identity.of(tt.Net.build(card, "lstm", hidden=8, **shape), tt.Settings(), 0, card)

    identity(embedding=4).check(identity(embedding=4), "here")
    says = r"this checkpoint is of one with embedding.weight of shape \(\d+, 5\), and the model is one with "
    with pytest.raises(CheckpointError, match=says + r"embedding.weight of shape \(\d+, 4\); resume"):
        identity(embedding=4).check(identity(embedding=5), "here")
