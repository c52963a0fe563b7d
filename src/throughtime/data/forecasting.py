"""A table of numbers, one row a step: a series whose next row is to be predicted.

Dimensions: N rows, I columns, O predicted columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from throughtime.data import clocks, dates, numerals, several
from throughtime.data.answers import LARGEST, moments
from throughtime.data.assembly import sizes, spread
from throughtime.data.dataset import Dataset
from throughtime.data.draws import Shares, checked
from throughtime.data.options import Decimal, Options
from throughtime.data.streams import Series, window_length
from throughtime.data.tables import Table, listed, numbers, texts
from throughtime.errors import InputError
from throughtime.records import DataCard
from throughtime.records.preparation import Preparation

FITS = (
    "target",
    "series",
    "time",
    "date_format",
    "decimal",
    "header",
    "drop",
    "gaps",
    "max_length",
    "split",
    "standardise",
    "skip_bad_rows",
)
SENTINELS = (-200.0, -999.0, -9999.0, -99999.0, -99.0, 999.0, 9999.0, 99999.0)  # how files also write "not known"
_FEW = 0.05  # words for each number of a column, under which they are faults
_LEAST = 2  # rows a split needs of each series: one to read and one to predict

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Rows:
    """The numbers of a table in order: series after series, each by time."""

    names: tuple[str, ...]  # (I,)
    x: Floats  # (N, I), NaN at a gap
    place: NDArray[np.int64]  # (N,) which record of the table each row is
    runs: tuple[tuple[str, int, int], ...]  # (series, first row, row behind its last)
    notes: tuple[str, ...]
    clock: clocks.Clock | None
    decimal: Decimal | None


def load(table: Table, options: Options) -> Dataset:
    """Forecasting: every step is answered by the next row (or by its `target` columns).

    The earliest rows of each series train, the latest test. Values are standardised by the training rows.
    Raises InputError for a gap (unless `gaps` says how to fill it), an infinite number, or a series too short.
    """
    options.refuse_all_but(FITS, f"{table.name}, read as a series of numbers")
    shares = checked(options.split)
    if options.skip_bad_rows:
        table = table.without(_bad(table, options))
    rows = _filled_openly(table, _ordered(table, options), options)
    targets = _targets(table, rows, options)
    parts = [_cut(run, shares, table.name) for run in rows.runs]
    x, gap = rows.x, np.isnan(rows.x)
    train = np.concatenate([np.arange(*part[0]) for part in parts])
    unknown = [name for name, holes in zip(rows.names, gap[train].all(axis=0), strict=True) if holes]
    if unknown:
        raise InputError(
            f"{table.name}: no training row has a value of {listed(unknown)}; take the column out of the file."
        )
    mean, deviation = moments(x[train])
    x = _carried(x, rows.runs, mean)
    standardise = options.standardise is not False
    scaled = ((x - mean) / deviation if standardise else x).astype(np.float32)
    if not standardise:
        mean, deviation = np.zeros_like(mean), np.ones_like(deviation)
    constant = [name for name, column in zip(rows.names, x[train].T, strict=True) if (column == column[0]).all()]

    if len(constant) == len(rows.names):
        raise InputError(
            f"{table.name}: no column varies in the training rows ({listed(constant)}); there is nothing to predict."
        )
    marks = _sentinels(rows)
    tenths = 10.0 ** np.ceil(4 - np.log10(deviation))  # float32 holds no finer differences

    def spell(steps: Tensor) -> tuple[str, ...]:
        original = np.round((steps.double().numpy() * deviation + mean) * tenths) / tenths + 0.0
        return tuple(" ".join(f"{value:.6g}" for value in step) for step in original.tolist())

    every = targets == list(range(len(rows.names)))
    length = options.at_least("max_length", 1, window_length(min(b - a for (a, b), *_ in parts)))

    def series(split: int) -> Series:
        pieces = [np.arange(*part[split]) for part in parts]
        at = np.concatenate(pieces)
        first = np.cumsum([0, *(len(piece) for piece in pieces)])
        answered = np.array(np.logical_not(gap[at][:, targets]).all(axis=1), dtype=bool)
        answered[first[1:-1]] = False
        x_NI = torch.from_numpy(scaled[at])
        y_NO = x_NI if every else x_NI[:, targets].contiguous()
        counted = None if answered.all() else torch.from_numpy(answered)
        if not answered[1:].any():
            raise InputError(
                f"{table.name}: every row to be predicted in the {('training', 'validation', 'test')[split]} split has "
                "a gap; name other columns with --target, or give more rows."
            )
        return Series(x_NI, y_NO, spell, length, first[1:].tolist(), counted)

    splits = series(0), series(1), series(2)
    baseline, baseline_is = _obvious(splits[0], splits[2], targets)
    names = tuple(rows.names[i] for i in targets)
    notes = (
        *rows.notes,
        f"reads {listed(list(rows.names))}; predicts the next row's {listed(list(names))}",
        "the earliest rows of each series train, the latest test",
        *(["values standardised by the training rows: an error of 1 is their variance"] if standardise else []),
        *marks,
        *([f"never varies in training: {listed(constant)}"] if constant else []),
        f"as separate samples: windows of {length} steps",
    )
    card = DataCard(
        name=table.name,
        kind="next",
        step="row",
        tokens=False,
        inputs=len(rows.names),
        outputs=len(targets),
        labels=names,
        metric="mse",
        baseline=baseline,
        baseline_is=baseline_is,
        lag=None,
        sizes=sizes(*splits),
        lengths=spread(*splits),
        digest=table.digest,
        notes=notes,
    )
    prepared = Preparation(
        "rows",
        answer=names,
        columns=rows.names,
        series=options.series or "",
        time="" if rows.clock is None else rows.clock.name,
        date_format="" if rows.clock is None else rows.clock.format or "",
        decimal=rows.decimal or "",
        gaps=options.gaps if options.gaps == "previous" else "",
        mean=tuple(mean.tolist()),
        deviation=tuple(deviation.tolist()),
        answer_mean=tuple(mean[targets].tolist()),
        answer_deviation=tuple(deviation[targets].tolist()),
    )
    return Dataset(card, *splits, answers_each_step=True, continues=True, prepared=prepared)


def _sentinels(rows: _Rows) -> tuple[str, ...]:
    """Notes on values that come often and lie far from all others, as marks for "not known" do; and on huge ones."""
    notes = []
    for name, column in zip(rows.names, rows.x.T, strict=True):
        there = column[np.isfinite(column)]
        for mark in SENTINELS:
            rest = there[there != mark]
            times = len(there) - len(rest)
            if times < 2 or not len(rest) or rest.min() <= mark <= rest.max():
                continue
            if min(abs(rest.min() - mark), abs(rest.max() - mark)) > max(10.0, 0.5 * (rest.max() - rest.min())):
                notes.append(
                    f'"{name}" is {mark:g} in {times:,} rows, far from all else in it: if that means "not known", '
                    "empty these cells; as it is they are read as numbers"
                )
        if len(there) and np.abs(there).max() >= 1e12:
            notes.append(f'"{name}" reaches {np.abs(there).max():.3g}: an error of its size hides all others')
    return tuple(notes)


def _obvious(train: Series, test: Series, targets: list[int]) -> tuple[float, str]:
    """The better of two guesses, by its squared error on the test split: the last value, the training mean."""
    truth = test.y[1:].double()
    counted = torch.ones(len(truth), dtype=torch.bool) if test.answered is None else test.answered[1:]
    last = (truth - test.x[:-1][:, targets].double())[counted].square().mean()
    mean = (truth - train.y.double().mean(dim=0))[counted].square().mean()
    if last <= mean:
        return float(last), "the next row is like the last one; scored on the test split"
    return float(mean), "always the mean of the training rows; scored on the test split"


def _targets(table: Table, rows: _Rows, options: Options) -> list[int]:
    asked = (options.target,) if isinstance(options.target, str) else options.target or rows.names
    for name in asked:
        table.column(name, "--target")
        if name not in rows.names:
            raise InputError(
                f'{table.name}: --target "{name}" is not a column of numbers that is read; name one of '
                f"{listed(list(rows.names))}."
            )
    return [rows.names.index(name) for name in dict.fromkeys(asked)]


# -- which columns, in which order


def _bad(table: Table, options: Options) -> NDArray[np.bool_]:
    """Which rows (N,) have no date where nearly all have one, no number where nearly all have one, or no series."""
    bad = np.zeros(table.frame.height, dtype=bool)
    for name in table.frame.columns:
        column = table.frame[name]
        if name == options.series:
            bad |= np.array([not cell for cell in texts(column)])
            continue
        read = None if column.dtype.is_numeric() else dates.read(column, options.date_format)
        if read is not None:
            unread = np.isnan(read.seconds)
            bad |= unread if not read.question and not unread.all() else False
            continue
        found, stray = numbers(column)
        if stray.sum() < _FEW * np.isfinite(found).sum():
            bad |= stray
    return bad


def _ordered(table: Table, options: Options) -> _Rows:
    frame = table.frame
    notes: list[str] = []
    series = texts(table.column(options.series, "--series")) if options.series else [""] * frame.height
    if options.series and "" in series:
        raise InputError(
            f'{table.where(series.index(""))}: series "{options.series}" is empty; name it or drop the row.'
        )
    clock = clocks.find(table, options)
    table = numerals.plainly(table, options)
    frame = table.frame
    notes += table.notes
    leave = {options.series, *(clock.columns if clock else ())}
    if options.series is None:
        several.refuse_unnamed(table, clock is not None, leave | set(options.targets))
    asked = options.targets
    counters: list[str] = []
    names: list[str] = []
    columns: list[Floats] = []
    for name in frame.columns:
        if name in leave:
            continue
        found, stray = numbers(frame[name])
        if stray.any():
            at = int(np.flatnonzero(stray)[0])
            if name in asked:
                raise InputError(
                    f'{table.where(at)}: "{name}" says "{frame[name][at]}", which is no number; mend the row.'
                )
            # A few words among many numbers are a fault in the file; a column of words is another kind of column.
            if stray.sum() < _FEW * np.isfinite(found).sum():
                raise InputError(
                    f'{table.where(at)}: "{name}" says "{frame[name][at]}", which is no number, though most of the '
                    "column is; mend or empty the cell, or pass --skip-bad-rows."
                )
            cells = texts(frame[name])
            if frame[name].dtype == pl.String and len(set(cells)) == 1:
                notes.append(f'column "{name}" left out: it says "{cells[0]}" in every row')
                continue
            raise _undecided(table, name, options)
        if np.isnan(found).all():
            notes.append(f'column "{name}" left out: it is empty')
        elif frame.width > 1 and name not in asked and _counts(found):
            counters.append(name)
            notes.append(f'column "{name}" left out: it only counts the rows')
        else:
            names.append(name)
            columns.append(found)
    if not names and counters:
        raise InputError(
            f"{table.name}: {listed(counters)} only count the rows, one up each, and no other column holds numbers; is "
            "one of them to be predicted? Pass --target COLUMN."
        )
    if not names:
        raise InputError(
            f"{table.name}: no usable column: none holds numbers to predict, nor texts with labels; the columns are "
            f"{listed(frame.columns)}."
        )
    x = np.stack(columns, axis=1)
    ids = {name: i for i, name in enumerate(dict.fromkeys(series))}
    which = np.array([ids[name] for name in series], dtype=np.int64)
    order = np.lexsort((clock.seconds, which)) if clock is not None else np.argsort(which, kind="stable")
    ends = np.cumsum(np.bincount(which, minlength=len(ids))).tolist()
    runs = tuple((name, a, b) for name, (a, b) in zip(ids, pairwise([0, *ends]), strict=True))
    if clock is not None:
        notes += clocks.check(table, clock, which, order, runs)
    else:
        notes.append("no column says when: the rows are taken in the file's order, the first as the earliest")
    if options.series:
        notes.append(f'{len(runs):,} series, told apart by "{options.series}"')
    return _Rows(tuple(names), x[order], order.astype(np.int64), runs, tuple(notes), clock, table.decimal)


def _counts(found: Floats) -> bool:
    """Whether a column of numbers only counts the rows."""
    return len(found) > 2 and bool((np.diff(found) == 1).all() and (found == np.round(found)).all())


def _undecided(table: Table, name: str, options: Options) -> InputError:
    """The one question about a column of words beside numbers."""
    others = [each for each in table.frame.columns if each != name]
    cell = next((cell for cell in texts(table.frame[name]) if cell), "")
    shown = f'"{cell}"' if cell else "lists or records"
    text = f'--text "{name}" --label "{others[-1]}" (texts with labels), ' if len(others) == 1 and cell else ""
    if len(others) > 1 and cell:
        text = f'--text "{name}" with --label COLUMN (texts with labels), '
    series = "" if options.series or not cell else f'--series "{name}" (several series), '
    return InputError(
        f'{table.name}: column "{name}" holds {shown}, no numbers; what is it for? Pass {text}{series}or '
        f'--drop "{name}" to leave it out.'
    )


# -- gaps


def _filled_openly(table: Table, rows: _Rows, options: Options) -> _Rows:
    """The rows with a note on their gaps; raises InputError for the first gap unless it is to be filled."""
    large = np.abs(rows.x) > LARGEST
    if large.any():
        at, column = (int(i) for i in np.argwhere(large)[0])
        raise InputError(
            f'{table.where(int(rows.place[at]))}: "{rows.names[column]}" is {rows.x[at, column]}, beyond '
            f"{LARGEST:.0e}; mend or empty the cell."
        )
    gap = np.isnan(rows.x)
    if options.gaps not in (None, "refuse", "previous"):
        raise InputError(f'--gaps "{options.gaps}" is not known; pass refuse or previous.')
    if not gap.any():
        return rows
    holes = {name: int(n) for name, n in zip(rows.names, gap.sum(axis=0), strict=True) if n}
    told = ", ".join(f'"{name}" {n:,}' for name, n in holes.items())
    if options.gaps != "previous":
        at = int(np.argmin(np.where(gap.any(axis=1), rows.place, len(rows.place))))
        name = rows.names[int(np.flatnonzero(gap[at])[0])]
        raise InputError(
            f'{table.where(int(rows.place[at]))}: "{name}" has a gap (gaps by column: {told}). Fill them in the file, '
            "or pass --gaps previous: a gap takes the value before it, and filled rows are never counted as answers."
        )
    note = (
        f"gaps filled with the value before them (at the start: the training mean), and not counted as answers: {told}"
    )
    return replace(rows, notes=(*rows.notes, note))


def _carried(x: Floats, runs: tuple[tuple[str, int, int], ...], mean: Floats) -> Floats:
    """Numbers (N, I) with each gap holding the last value before it in its series, or the mean where there is none."""
    if not np.isnan(x).any():
        return x
    filled = x.copy()
    for _, start, stop in runs:
        block = filled[start:stop]
        known = np.where(np.isnan(block), -1, np.arange(stop - start)[:, None])
        last = np.maximum.accumulate(known, axis=0)
        block[:] = np.where(last >= 0, np.take_along_axis(block, np.maximum(last, 0), axis=0), mean)
    return filled


# -- splits


def _cut(run: tuple[str, int, int], shares: Shares, name: str) -> list[tuple[int, int]]:
    """Where a series' train, valid and test rows begin and end."""
    series, start, stop = run
    rows = stop - start
    valid, test = (max(_LEAST, round(share * rows)) for share in shares[1:])
    if rows - valid - test < _LEAST:
        which = f'series "{series}" has' if series else "there is" if rows == 1 else "there are"
        raise InputError(
            f"{name}: {which} {rows} row{'s' if rows != 1 else ''}, too short to predict: train, valid and test need "
            f"at least {_LEAST} rows each."
        )
    middle, late = stop - valid - test, stop - test
    return [(start, middle), (middle, late), (late, stop)]
