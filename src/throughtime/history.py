"""A run's history: append-only lines, each whole or ignored. No torch here.

Each line is one JSON object: `{"event": "update", ...}`, `{"event": "evaluation", ...}` or
`{"event": "resumed", "update": n}`. After "resumed n" every earlier line of a later update is superseded: the run
went on from update n. A line that a crash tore, or that is no such object, is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from throughtime.disk import sync_folder
from throughtime.errors import InputError
from throughtime.records import Evaluation, Update, decode, encode

NAME = "events.jsonl"

_KINDS: dict[str, type[Update] | type[Evaluation]] = {"update": Update, "evaluation": Evaluation}


@dataclass(frozen=True)
class Past:
    """What a history holds once superseded lines are dropped, in order."""

    updates: tuple[Update, ...]
    evaluations: tuple[Evaluation, ...]
    resumed: tuple[int, ...] = ()  # after which updates the run was taken up again
    torn: int = 0  # lines that cannot be read, beside those that a kill tore: the run went on from before them

    def until(self, update: int) -> Past:
        """What it holds up to an update."""
        return Past(
            tuple(one for one in self.updates if one.update <= update),
            tuple(one for one in self.evaluations if one.update <= update),
            self.resumed,
            self.torn,
        )

    def lost(self, reached: int) -> str:
        """What is missing of a run that has come to update `reached`, in a sentence; empty if nothing is."""
        last = max([reached, *(update.update for update in self.updates[-1:])])
        there = len({update.update for update in self.updates})
        if there < last:
            return f"{NAME} holds {there:,} of its {last:,} updates, the others are lost; its curves are not whole."
        if self.torn:
            lines = "1 line" if self.torn == 1 else f"{self.torn:,} lines"
            return f"{lines} of {NAME} cannot be read; its curves may not be whole."
        return ""


def read(path: Path) -> Past:
    """Read a history; an absent file is an empty one.

    Raises InputError if the file cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file and its rights.") from error
    updates: list[Update] = []
    evaluations: list[Evaluation] = []
    resumed: list[int] = []
    torn, suspect = 0, False
    for line in lines:
        event = _parse(line)
        torn += suspect and not isinstance(event, int)
        suspect = event is None and bool(line.strip())  # unless a kill tore it: it is the last, or the run was resumed
        match event:
            case Update():
                updates.append(event)
            case Evaluation():
                evaluations.append(event)
            case int():
                resumed.append(event)
                while updates and updates[-1].update > event:
                    updates.pop()
                while evaluations and evaluations[-1].update > event:
                    evaluations.pop()
            case None:
                pass
    return Past(tuple(updates), tuple(evaluations), tuple(resumed), torn)


def _parse(line: bytes) -> Update | Evaluation | int | None:
    try:
        value = json.loads(line)
        if value["event"] == "resumed":
            return int(value["update"])
        event: Update | Evaluation = decode(_KINDS[value["event"]], value, {})
    except (ValueError, KeyError, TypeError):
        return None
    return event


class Writer:
    """Appends to a history. Lines reach the file at `flush` and the disk at `sync`, always whole and in order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _told(path):
            self._file = open(path, "ab")  # noqa: SIM115 (closed by close)
            sync_folder(path.parent)
            if self._file.tell() and not _ends_whole(path):
                self._file.write(b"\n")  # the torn line stays alone and is ignored

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def add(self, event: Update | Evaluation) -> None:
        """Append an event."""
        name = "update" if isinstance(event, Update) else "evaluation"
        self._line({"event": name, **encode(event, {})})

    def resume(self, update: int) -> None:
        """Say that the run goes on after `update`: later lines so far are superseded."""
        self._line({"event": "resumed", "update": update})
        self.sync()

    def flush(self) -> None:
        """Let readers see every line so far. Raises InputError if it cannot be written."""
        with _told(self._path):
            self._file.flush()

    def sync(self) -> None:
        """Bring every line so far to the disk. Raises InputError if it cannot be written."""
        with _told(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Bring every line to the disk and close the file. Raises InputError if it cannot be written."""
        if not self._file.closed:
            try:
                self.sync()
            finally:
                with suppress(OSError):  # what could not be written is told already
                    self._file.close()

    def _line(self, value: dict[str, Any]) -> None:
        with _told(self._path):
            self._file.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: the history cannot be written ({error.strerror or error}); make room or check the disk, then go "
            "on from the last checkpoint (resume)."
        ) from error


def _ends_whole(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
