"""Checkpoints: folders that are whole or not there, whatever happens while they are written.

    checkpoints/000000000120/   manifest.json (SHA-256 of each file), state.json, *.safetensors
    checkpoints/latest          the name of the newest; it moves last, and with it the checkpoint counts

A checkpoint is written beside its place under a temporary name, each file is brought to the disk, then the manifest,
then the folder; it is renamed, the parent is brought to the disk, and `latest` is replaced. The one before stays.
safetensors alone renames but does not bring to the disk. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from throughtime.disk import make_folder, sweep, sync_folder, write_through, write_whole
from throughtime.errors import CheckpointError, InputError

Tensors = Mapping[str, Tensor]

FORMAT = 1
KEPT = 2  # the newest, and the one before in case the disk damages the newest


@dataclass(frozen=True)
class Stored:
    """What a checkpoint holds."""

    state: Mapping[str, Any]  # plain JSON values
    tensors: Mapping[str, dict[str, Tensor]]  # file name without its ending -> tensors, on the CPU
    notes: tuple[str, ...] = ()  # what was damaged and passed over, in sentences


class Checkpoints:
    """The checkpoints of one run. Only one process may write (see `lock`)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exist(self) -> bool:
        """Whether there is any, whole or damaged."""
        return bool(self._names())

    def write(self, update: int, state: Mapping[str, Any], tensors: Mapping[str, Tensors]) -> None:
        """Write the checkpoint after `update`; once this returns, it is on the disk and counts.

        Raises CheckpointError if it cannot be written; the one before still counts then.
        """
        contents = {"state.json": json.dumps(state).encode()}
        contents |= {f"{name}.safetensors": to_bytes(held) for name, held in tensors.items()}
        manifest = {"format": FORMAT, "files": {name: _digest(content) for name, content in contents.items()}}
        place = self.path / f"{update:012d}"
        beside = self.path / f".writing-{place.name}"
        try:
            make_folder(self.path)
            if self._latest() == place.name and _holds(place, manifest):
                return  # saved twice: replacing it by itself could only lose it
            self._sweep()
            beside.mkdir()
            for name, content in contents.items():
                write_through(beside / name, content)
            write_through(beside / "manifest.json", json.dumps(manifest, indent=1).encode())
            sync_folder(beside)
            if place.exists():  # damaged, or of a future that is superseded: the run went on from one before it
                shutil.rmtree(place)
            os.rename(beside, place)
            sync_folder(self.path)
            write_whole(self.path / "latest", place.name.encode())
            self._drop(place.name)
        except (OSError, InputError) as error:
            raise CheckpointError(
                f"{place}: the checkpoint cannot be written ({error}); make room or check "
                "the rights, then resume: the one before it is whole."
            ) from error

    def tidy(self) -> None:
        """Do what a kill may have left undone: the newest one counts, and what is beside those kept is gone.

        Raises CheckpointError if something cannot be written or removed.
        """
        names = self._names()
        try:
            self._sweep()
            if not names:
                return
            if self._latest() not in names:  # killed before the first one counted; it is whole, by its name
                write_whole(self.path / "latest", names[-1].encode())
            self._drop(self._latest())
        except (OSError, InputError) as error:
            raise CheckpointError(
                f"{self.path}: the checkpoints cannot be written ({error}); check the rights, then go on."
            ) from error

    def _sweep(self) -> None:
        sweep((self.path,))
        for leftover in self.path.glob(".writing-*"):
            shutil.rmtree(leftover)

    def _drop(self, latest: str) -> None:
        """Remove those of a future that is superseded, and those older than are kept."""
        superseded = [name for name in self._names() if name > latest]
        older = [name for name in self._names() if name <= latest][:-KEPT]
        for name in (*superseded, *older):
            shutil.rmtree(self.path / name)

    def newest(self) -> Stored | None:
        """The newest whole checkpoint, with a note for each damaged one passed over; None if there never was one.

        Raises CheckpointError if there are some and all are damaged.
        """
        names = self._names()
        if not names:
            return None
        latest = self._latest()
        counting = [name for name in names if name <= latest] if latest in names else names
        notes: list[str] = []
        for name in reversed(counting):
            try:
                state, tensors = _read(self.path / name)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
                notes.append(f"{self.path / name}: this checkpoint is damaged ({error}); the one before it is used.")
                continue
            return Stored(state, tensors, tuple(notes))
        raise CheckpointError(
            f"{self.path}: every checkpoint in it is damaged ({notes[0]}) Restore one from a backup, or train anew in "
            "another folder."
        )

    def _names(self) -> list[str]:
        return sorted(p.name for p in self.path.glob("[0-9]*") if p.is_dir()) if self.path.is_dir() else []

    def _latest(self) -> str:
        try:
            return (self.path / "latest").read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            return ""


def to_bytes(tensors: Tensors) -> bytes:
    """Tensors in the safetensors format, each by itself, whatever memory they share."""
    return tensors_to_bytes({name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()})


def _holds(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is whole and is this one."""
    try:
        same: bool = json.loads((folder / "manifest.json").read_bytes()) == manifest
        return same and all(
            _digest((folder / name).read_bytes()) == wanted for name, wanted in manifest["files"].items()
        )
    except (OSError, ValueError):
        return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(folder: Path) -> tuple[Mapping[str, Any], dict[str, dict[str, Tensor]]]:
    """A checkpoint's files, checked against its manifest; ValueError, OSError and their like if it is damaged."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    if manifest["format"] > FORMAT:
        raise CheckpointError(
            f"{folder}: this checkpoint has format {manifest['format']}, and this throughtime reads up to {FORMAT}; a "
            "newer one wrote it, so go on with that, or train in another folder."
        )
    outside = [name for name in manifest["files"] if name != Path(name).name]
    if outside:
        raise ValueError(f"the manifest names {outside[0]!r}, which is no file of it")
    contents = {name: (folder / name).read_bytes() for name in manifest["files"]}
    for name, content in contents.items():
        if _digest(content) != manifest["files"][name]:
            raise ValueError(f"{name} does not have the SHA-256 of the manifest")
    state = json.loads(contents.pop("state.json"))
    return state, {Path(name).stem: tensors_from_bytes(content) for name, content in contents.items()}
