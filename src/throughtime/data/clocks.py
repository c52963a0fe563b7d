"""The column of a table that says when: found, read as seconds, and checked."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from throughtime.data.options import Options
from throughtime.data.tables import Table, numbers, texts
from throughtime.errors import InputError

Floats = NDArray[np.float64]

_DATES = ("%Y-%m-%d", "%Y-%m", "%Y/%m/%d", "%d.%m.%Y", "%Y%m%d")
_TIMES = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y/%m/%d %H:%M")


def find(table: Table, options: Options) -> tuple[str | None, Floats | None]:
    """The column of time, asked for or found, and its values as numbers (seconds, where they are dates)."""
    if options.time is not None:
        column = table.column(options.time, "--time")
        clock = _as_clock(column)
        if clock is None:
            clock, _ = numbers(column)
        if np.isnan(clock).any():
            at = int(np.flatnonzero(np.isnan(clock))[0])
            raise InputError(
                f'{table.where(at)}: time "{options.time}" says "{texts(column)[at]}", which is neither a date nor a '
                "number; mend or drop the row."
            )
        return options.time, clock
    for name in table.frame.columns:
        if name != options.series and not table.frame[name].dtype.is_numeric():
            clock = _as_clock(table.frame[name])
            if clock is not None and not np.isnan(clock).any():
                return name, clock
    return None, None


def _as_clock(column: pl.Series) -> Floats | None:
    """Seconds since 1970, NaN where a cell is no date; None if the column does not begin with one."""
    if column.dtype.is_temporal() and column.dtype in (pl.Date, pl.Datetime):
        stamps = column.cast(pl.Datetime("us"))
        return _seconds(stamps)
    if column.dtype != pl.String:
        return None
    cells = column.str.strip_chars().str.strip_suffix("Z")
    for form in (*_DATES, *_TIMES):
        text, pattern = (cells + "-01", "%Y-%m-%d") if form == "%Y-%m" else (cells, form)
        if form == "%Y%m%d":
            text = cells.str.replace(r"^(\d{4})(\d{2})(\d{2})$", "$1-$2-$3")
            pattern = "%Y-%m-%d"
        head = text.head(1).str.strptime(pl.Datetime("us"), pattern, strict=False)
        if head.null_count() == 0:
            return _seconds(text.str.strptime(pl.Datetime("us"), pattern, strict=False))
    return None


def _seconds(stamps: pl.Series) -> Floats:
    micros = stamps.dt.timestamp("us").cast(pl.Float64)
    return (micros.fill_null(np.nan).to_numpy() / 1e6).astype(np.float64)


def check(
    table: Table,
    time: str,
    clock: Floats,
    which: NDArray[np.int64],
    order: NDArray[np.int64],
    runs: tuple[tuple[str, int, int], ...],
) -> list[str]:
    """Notes on the order of rows and on uneven steps; raises InputError if one time comes twice in a series.

    `which` (N,) is the series of each record, `order` (N,) the records series after series, by time.
    """
    ordered = clock[order]
    jumps = np.concatenate([np.diff(ordered[a:b]) for _, a, b in runs])
    if (jumps == 0).any():
        same = which[order][:-1] == which[order][1:]
        at = int(np.flatnonzero((np.diff(ordered) == 0) & same)[0]) + 1
        raise InputError(
            f'{table.where(int(order[at]))}: time "{time}" says "{texts(table.frame[time])[int(order[at])]}" a second '
            "time; if there are several series, name their column with --series, or pass another --time."
        )
    notes = [f'rows in the order of "{time}"' + ("" if (np.diff(order) == 1).all() else ", which is not the file's")]
    if len(jumps) and jumps.max() > 1.5 * np.median(jumps):
        uneven = int((jumps > 1.5 * np.median(jumps)).sum())
        notes.append(f'"{time}" jumps {uneven:,} times by more than one and a half of its usual step; left as it is')
    return notes
