"""Reads a table as the one that a forecast was trained on, and says what time the rows after it will have.

Dimensions: N rows of a series, T steps read, I columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from throughtime.data import clocks, files, numerals, tables
from throughtime.data.inputs import missing
from throughtime.data.options import Options
from throughtime.data.tables import Table, listed, numbers, texts
from throughtime.errors import InputError
from throughtime.records.preparation import Preparation

_MONTHS = (1, 3, 12)  # steps that are not of one length in seconds


@dataclass(frozen=True, eq=False)
class Series:
    """One series as the net reads it."""

    name: str  # as its column says; empty where there is but one
    x: Tensor  # (T, I)
    times: tuple[str | int, ...]  # of the rows after it; or their numbers, where there is no column of time


@dataclass(frozen=True, eq=False)
class Ahead:
    """All series of a table."""

    series: tuple[Series, ...]
    series_column: str
    time_column: str
    notes: tuple[str, ...]


def ahead(source: str, prepared: Preparation, steps: int) -> Ahead:
    """The series of a table, in the order of time, for a forecast of `steps` rows.

    Raises InputError, naming the file and row where there is one, for a column that is not there or a cell that is
    no number (a gap too, unless the training data's gaps were filled).
    """
    table = _table(source, prepared)
    missing(table, prepared.columns, "the net reads")
    missing(table, [name for name in (prepared.series, prepared.time) if name], "orders the rows")
    which = texts(table.frame[prepared.series]) if prepared.series else [""] * table.frame.height
    clock = _seconds(table, prepared) if prepared.time else None
    x = np.stack([_numbers(table, name, prepared) for name in prepared.columns], axis=1)
    found = []
    for name in dict.fromkeys(which):
        rows = np.flatnonzero(np.array([each == name for each in which]))
        if clock is not None:
            rows = rows[np.argsort(clock[rows], kind="stable")]
        values = _filled(x[rows], np.array(prepared.mean))
        scaled = (values - np.array(prepared.mean)) / np.array(prepared.deviation)
        times = (
            _times(table.frame[prepared.time], None if clock is None else clock[rows], steps) if prepared.time else ()
        )
        found.append(Series(name, torch.from_numpy(scaled.astype(np.float32)), times or tuple(range(1, steps + 1))))
    used = {*prepared.columns, prepared.series, prepared.time}
    others = [name for name in table.frame.columns if name not in used]
    notes = [f"columns that the net does not read: {listed(others)}"] if others else []
    holes = int(np.isnan(x).sum())
    if holes:
        notes.append(f"{holes:,} gaps filled with the value before them, as in training")
    return Ahead(tuple(found), prepared.series, prepared.time, tuple(notes))


def _table(source: str, prepared: Preparation) -> Table:
    file = files.read(Path(source))
    if file.ending not in tables.known():
        raise InputError(f"{file.name}: this net reads a table of numbers; give a .csv, .tsv, .jsonl or .parquet file.")
    named = [name for name in (*prepared.columns, prepared.series, prepared.time) if name]
    unnamed = all(re.fullmatch(r"column \d+", name) for name in named)
    table = tables.read(file, not unnamed if file.ending in tables.HEADED else None)
    numeric = [name for name in prepared.columns if name in table.frame.columns]
    options = Options(decimal=prepared.decimal or None)
    plain = numerals.plainly(replace(table, frame=table.frame.select(numeric), notes=()), options)
    return replace(table, frame=table.frame.with_columns(plain.frame.get_columns()))


def _seconds(table: Table, prepared: Preparation) -> NDArray[np.float64]:
    options = Options(time=prepared.time, series=prepared.series or None, date_format=prepared.date_format or None)
    clock = clocks.find(table, options)
    assert clock is not None, "a column that is asked for is found, or refused"
    return clock.seconds


def _numbers(table: Table, name: str, prepared: Preparation) -> NDArray[np.float64]:
    found, stray = numbers(table.frame[name])
    if stray.any():
        at = int(np.flatnonzero(stray)[0])
        raise InputError(
            f'{table.where(at)}: "{name}" says "{table.frame[name][at]}", which is no number; mend the row.'
        )
    if np.isnan(found).any() and not prepared.gaps:
        at = int(np.flatnonzero(np.isnan(found))[0])
        raise InputError(
            f'{table.where(at)}: "{name}" has a gap, and the training data had none; fill it in the file, or train '
            "with --gaps previous."
        )
    return found


def _filled(values: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each gap holds the last value before it, or the training mean where there is none."""
    known = np.where(np.isnan(values), -1, np.arange(len(values))[:, None])
    last = np.maximum.accumulate(known, axis=0)
    return np.where(last >= 0, np.take_along_axis(values, np.maximum(last, 0), axis=0), mean)


def _times(column: pl.Series, clock: NDArray[np.float64] | None, steps: int) -> tuple[str | int, ...]:
    """The times of the next rows, as far apart as rows usually are."""
    assert clock is not None
    if len(clock) < 2:  # nobody knows how far apart rows are
        return tuple(f"+{k}" for k in range(1, steps + 1))
    usual = float(np.median(np.diff(clock)))
    if column.dtype.is_numeric():
        after = clock[-1] + usual * np.arange(1, steps + 1)
        return tuple(int(value) if float(value).is_integer() else f"{value:g}" for value in after.tolist())
    moments = [datetime.fromtimestamp(0, UTC) + timedelta(seconds=second) for second in clock[-3:].tolist()]
    last = moments[-1]
    months = next((m for m in _MONTHS if all(_later(a, m) == b for a, b in pairwise(moments))), 0)
    after_last = [
        _later(last, months * k) if months else last + timedelta(seconds=usual * k) for k in range(1, steps + 1)
    ]
    if column.dtype == pl.String and column.str.contains(r"^\s*\d{4}-\d{2}\s*$").all():
        return tuple(moment.strftime("%Y-%m") for moment in after_last)
    plain = all(moment.time() == last.time() == datetime.min.time() for moment in (*moments, *after_last))
    return tuple(moment.strftime("%Y-%m-%d" if plain else "%Y-%m-%d %H:%M:%S") for moment in after_last)


def _later(moment: datetime, months: int) -> datetime:
    """So many calendar months later, on the same day, or the month's last."""
    month = moment.month - 1 + months
    year, month = moment.year + month // 12, month % 12 + 1
    for day in range(moment.day, 27, -1):
        try:
            return moment.replace(year=year, month=month, day=day)
        except ValueError:
            continue
    return moment.replace(year=year, month=month)
