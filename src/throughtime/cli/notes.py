"""What the engines say while a verb works, as lines of the command: one cannot serve, a kernel is compiled."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from throughtime.cli import terminal
from throughtime.errors import EngineWarning

if TYPE_CHECKING:
    from throughtime.records import Measurement, Study


def take(*, quiet: bool = False) -> None:
    """Have the engines' warnings, and unless `quiet` word of what they compile, come as notes on stderr."""
    warnings.showwarning = _show
    log = logging.getLogger("throughtime.compiling")
    log.addHandler(_COMPILING)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False


def tell(records: Study | Measurement) -> None:
    """Say on stderr what of the runs' records is lost: curves would look whole without a word."""
    for run in getattr(records, "runs", ()):
        for note in run.notes:
            _note(f"{run.label}: {note}")


def say(told: Iterable[str]) -> None:
    """Sentences as notes on stderr, also where progress is not shown."""
    for sentence in told:
        _note(sentence)


class _Begun(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Say what is begun; that it has ended shows by itself."""
        if getattr(record, "begun", False):
            _note(record.getMessage())


_COMPILING = _Begun()


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, EngineWarning):
        _note(str(message))
    else:
        (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))


def _note(message: str) -> None:
    terminal.say(f"note: {message}", error=True)
