"""The column of a table that says when: found, read as seconds, and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from throughtime.data import dates
from throughtime.data.options import Options
from throughtime.data.tables import Table, listed, numbers, texts
from throughtime.errors import InputError

Floats = NDArray[np.float64]

_CALLED = re.compile(
    r"(?i)(^|[_\s-])(date|time|datetime|timestamp|datum|zeit|dt|ts|epoch|unix|when)([_\s(-]|$)|(date|time)$"
)
_OF_DAY = r"^\d{1,2}[:.]\d{2}(?:[:.]\d{2}(?:[.,]\d+)?)?\s*(?:[AaPp][Mm])?$"
_SECONDS = (1e8, 5e9)  # of 1973 to 2128: numbers that can be seconds since 1970


@dataclass(frozen=True, eq=False)
class Clock:
    """The time of every record."""

    columns: tuple[str, ...]  # one, or a column of dates and one of times of day
    seconds: Floats  # (N,)
    notes: tuple[str, ...] = ()
    format: str | None = None  # the strptime format that reads its dates, where there was a choice

    @property
    def name(self) -> str:
        """The column that errors and notes name."""
        return self.columns[0]


def find(table: Table, options: Options) -> Clock | None:
    """The time, asked for or found, in seconds where it is a date; None if no column says when.

    Raises InputError where a column is nearly all dates, or is called date or time, and cannot be read.
    """
    frame = table.frame
    if options.time is not None:
        return _asked(table, options.time, options)
    found: list[Clock] = []
    for name in frame.columns:
        if name == options.series or name in options.dropped or name in options.targets:
            continue
        column = frame[name]
        if not column.dtype.is_temporal() and not bool(numbers(column)[1].any()):
            clock = _epoch(table, name)
        else:
            clock = _dated(table, name, options)
        if clock is not None:
            found.append(clock)
    if len(found) > 1:
        raise InputError(
            f"{table.name}: columns {listed([clock.name for clock in found])} all say when; which one orders the rows? "
            "Pass --time COLUMN, and --drop the others."
        )
    return found[0] if found else None


def _asked(table: Table, name: str, options: Options) -> Clock:
    column = table.column(name, "--time")
    clock = _epoch(table, name) or _dated(table, name, options)
    if clock is None:
        seconds, _ = numbers(column)
        if np.isnan(seconds).any():
            at = int(np.flatnonzero(np.isnan(seconds))[0])
            raise InputError(
                f'{table.where(at)}: time "{name}" says "{texts(column)[at]}", which is neither a date nor a '
                "number; mend or drop the row, or pass --date-format."
            )
        clock = Clock((name,), seconds)
    return clock


def _epoch(table: Table, name: str) -> Clock | None:
    """A column of whole numbers as seconds (or thousandths, millionths) since 1970, if it is one."""
    column = table.frame[name]
    if column.dtype.is_temporal():
        return None
    value, stray = numbers(column)
    if stray.any() or np.isnan(value).any() or not len(value) or (value != np.round(value)).any():
        return None
    if (
        _CALLED.search(name)
        and column.dtype == pl.String
        and column.str.strip_chars().str.contains(r"^(19|20)\d{6}$").all()
    ):
        read = dates.read(column)
        return Clock((name,), read.seconds) if read is not None and not np.isnan(read.seconds).any() else None
    steps = np.diff(value)
    regular = len(steps) > 2 and abs(steps[0]) > 1 and bool((steps == steps[0]).all())
    if not _CALLED.search(name) and not regular:
        return None
    for unit, size in (("seconds", 1.0), ("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9)):
        if _SECONDS[0] * size <= value.min() and value.max() <= _SECONDS[1] * size:
            return Clock((name,), value / size, (f'"{name}" read as {unit} since 1970',))
    return None


def _dated(table: Table, name: str, options: Options) -> Clock | None:
    column = table.frame[name]
    read = dates.read(column, options.date_format)
    called = _CALLED.search(name) is not None
    if options.date_format is not None and read is not None and np.isnan(read.seconds).all():
        if not called:
            return None
        raise InputError(
            f'{table.where(0)}: "{name}" says "{texts(column)[0]}", which is not written as --date-format '
            f'"{options.date_format}"; pass the format that its dates have.'
        )
    if read is None:
        cells = [cell for cell in texts(column) if cell]
        if called and cells and not (column.dtype == pl.String and _times_of_day(column)):
            raise InputError(
                f'{table.name}: column "{name}" is called a time but "{cells[0]}" is read as none; how is it written? '
                f'Pass --date-format (such as "%d/%m/%Y %H:%M"), or --drop "{name}" to leave it out.'
            )
        return None
    if read.question:
        raise InputError(
            f'{table.name}: dates in "{name}", such as "{next(c for c in texts(column) if c)}": {read.question}; how '
            'are they written? Pass --date-format "%d/%m/%Y" (day first), "%m/%d/%Y" (month first) or another.'
        )
    if np.isnan(read.seconds).any():
        at = int(np.flatnonzero(np.isnan(read.seconds))[0])
        raise InputError(
            f'{table.where(at)}: "{name}" says "{texts(column)[at]}", which is no date, though most of the column is; '
            f'mend the row, pass --skip-bad-rows, or --drop "{name}" to keep the file\'s order.'
        )
    notes: tuple[str, ...] = (f'dates of "{name}" read {read.form}',) if read.form else ()
    columns: tuple[str, ...] = (name,)
    seconds = read.seconds
    if not (seconds % 86400).any():
        beside = [n for n in table.frame.columns if n != name and _times_of_day(table.frame[n])]
        if len(beside) == 1:
            columns, seconds = (name, beside[0]), seconds + _day_seconds(table, beside[0])
            notes += (f'time of day from "{beside[0]}"',)
    return Clock(columns, seconds, notes, read.format or None)


def _times_of_day(column: pl.Series) -> bool:
    if column.dtype == pl.Time:
        return column.null_count() == 0
    return column.dtype == pl.String and bool(
        column.str.strip_chars().str.contains(_OF_DAY).fill_null(False).all()
        and column.str.contains(":|\\..*\\.").any()
    )


def _day_seconds(table: Table, name: str) -> Floats:
    column = table.frame[name]
    if column.dtype == pl.Time:
        return (column.cast(pl.Int64).to_numpy() / 1e9).astype(np.float64)
    clock = column.str.strip_chars().str.replace(r"^(\d{1,2})\.(\d{2})(?:\.(\d{2}))?", "$1:$2:$3").str.strip_suffix(":")
    read = dates.read("1970-01-01 " + clock)
    if read is None or np.isnan(read.seconds).any():
        raise InputError(f'{table.name}: "{name}" holds times of day that cannot be read; mend them, or --drop it.')
    return read.seconds


def check(
    table: Table,
    clock: Clock,
    which: NDArray[np.int64],
    order: NDArray[np.int64],
    runs: tuple[tuple[str, int, int], ...],
) -> list[str]:
    """Notes on the order of rows and on uneven steps; raises InputError if one time comes twice in a series.

    `which` (N,) is the series of each record, `order` (N,) the records series after series, by time.
    """
    time, ordered = clock.name, clock.seconds[order]
    jumps = np.concatenate([np.diff(ordered[a:b]) for _, a, b in runs])
    if (jumps == 0).any():
        same = which[order][:-1] == which[order][1:]
        at = int(np.flatnonzero((np.diff(ordered) == 0) & same)[0]) + 1
        raise InputError(
            f'{table.where(int(order[at]))}: time "{time}" says "{texts(table.frame[time])[int(order[at])]}" a second '
            "time; if there are several series, name their column with --series, or pass another --time."
        )
    notes = [
        *clock.notes,
        f'rows in the order of "{time}"' + ("" if (np.diff(order) == 1).all() else ", which is not the file's"),
    ]
    if len(jumps) and jumps.max() > 1.5 * np.median(jumps):
        uneven = int((jumps > 1.5 * np.median(jumps)).sum())
        notes.append(f'"{time}" jumps {uneven:,} times by more than one and a half of its usual step; left as it is')
    return notes
