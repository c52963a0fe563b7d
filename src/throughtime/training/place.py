"""Where a run keeps what must survive it: history, checkpoints, weights; held by one process at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from throughtime import history
from throughtime.disk import lock, make_folder, sweep, write_whole
from throughtime.errors import InputError, TrainingError
from throughtime.records import Evaluation, Update
from throughtime.training.checkpoint import Checkpoints, Stored, Tensors, to_bytes

FLUSH = 1.0  # seconds after which readers of the history see a line, at the latest with the next one

_log = logging.getLogger("throughtime")


class Place:
    """A run's folder. Every process may read it; only the one that `leads` writes, and holds the lock."""

    def __init__(self, path: Path, leads: bool, resume: bool) -> None:
        self.path = path
        self._leads = leads
        self._lock: FileLock | None = None
        self._writer: history.Writer | None = None
        self._checkpoints = Checkpoints(path / "checkpoints")
        self._flushed = time.monotonic()
        if not leads:
            return
        try:
            make_folder(path)
        except OSError as error:
            raise TrainingError(f"{path}: cannot be made ({error.strerror}); choose another folder.") from error
        self._lock = lock(path)
        if not resume and (self._checkpoints.exist() or (path / history.NAME).exists()):
            self.release()
            raise TrainingError(f"{path}: holds a run already; go on with it by resume=True, or choose another folder.")

    def newest(self) -> Stored | None:
        """The newest whole checkpoint.

        Raises CheckpointError if there are some and all are damaged.
        """
        return self._checkpoints.newest()

    def begin(self, update: int) -> tuple[tuple[Evaluation, ...], tuple[str, ...]]:
        """Go on with the history after `update`; returns the evaluations so far, and what is lost of it, in words."""
        past = history.read(self.path / history.NAME).until(update)
        lost = past.lost(update)
        if self._leads:
            sweep((self.path,))
            self._checkpoints.tidy()
            self._writer = history.Writer(self.path / history.NAME)
            if (self.path / history.NAME).stat().st_size:
                self._writer.resume(update)
        return past.evaluations, (f"{self.path}: {lost}",) if lost else ()

    def note(self, event: Update | Evaluation) -> None:
        """Append an event to the history."""
        if self._writer is not None:
            self._writer.add(event)
            if time.monotonic() - self._flushed > FLUSH:
                self._writer.flush()
                self._flushed = time.monotonic()

    def checkpoint(self, update: int, state: Mapping[str, Any], tensors: Mapping[str, Tensors]) -> None:
        """Write a checkpoint, and before it the history that led to it.

        Raises CheckpointError if it cannot be written.
        """
        if self._leads:
            if self._writer is None:
                raise TrainingError(f"{self.path}: this training was closed; begin again with resume=True to go on.")
            self._writer.sync()
            self._checkpoints.write(update, state, tensors)

    def weights(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """Write `NAME.safetensors`, whole or not at all.

        Raises InputError if it cannot be written.
        """
        if self._leads:
            write_whole(self.path / f"{name}.safetensors", to_bytes(weights))

    def release(self) -> None:
        """Bring the history to the disk and let others in."""
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        finally:
            if self._lock is not None:
                self._lock.release()

    def __del__(self) -> None:
        try:
            self.release()
        except InputError as error:  # nobody is left to raise it to
            _log.warning(error)
