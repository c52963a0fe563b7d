"""The one front door: a file, a name or a hub's dataset becomes splits to learn from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike
from os.path import exists
from pathlib import Path

from throughtime.data import (
    adding,
    arrays,
    characters,
    copying,
    digits,
    files,
    forecasting,
    hub,
    idx,
    jane,
    numerals,
    order,
    reviews,
    tables,
    ucr,
)
from throughtime.data.dataset import Dataset
from throughtime.data.options import Decimal, Gaps, Options
from throughtime.data.tables import Table
from throughtime.errors import InputError
from throughtime.records.preparation import Preparation

_NAMED: dict[str, Callable[[Options], Dataset]] = {
    "digits": digits.load,
    "adding": adding.load,
    "copy": copying.load,
    "order": order.load,
    "jane": jane.load,
}


_ARCHIVED = re.compile(r"_(TRAIN|TEST)\.")  # the names that the UCR archive gives to tables of a series a row
_FIRST, _WIDEST = 8, 60  # steps of a sample that are shown, and characters of each
_CONVERTERS = {  # ending -> what to type
    ".xls": """python -c 'import pandas; pandas.read_excel("FILE").to_csv("data.csv", index=False)'""",
}


def known() -> tuple[str, ...]:
    """The names that `load` makes or holds itself, without a file."""
    return tuple(_NAMED)


def load(
    source: str | PathLike[str],
    *,
    seed: int = 0,
    text: str | None = None,
    label: str | None = None,
    target: str | Sequence[str] | None = None,
    series: str | None = None,
    time: str | None = None,
    date_format: str | None = None,
    decimal: Decimal | None = None,
    header: bool | None = None,
    drop: str | Sequence[str] | None = None,
    gaps: Gaps | None = None,
    max_length: int | None = None,
    vocabulary: int | None = None,
    minimum_count: int | None = None,
    lag: int | None = None,
    samples: int | None = None,
    split: tuple[float, float, float] | None = None,
    standardise: bool | None = None,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Sequences to learn from, split into train, valid and test; the same on every machine for the same seed.

    `source` is one of

    - a table (`.csv`, `.tsv`, `.json`, `.jsonl`, `.parquet`, `.xlsx`; also `.gz`, alone in a `.zip`, or "-", a
      CSV from standard input) with texts and
      labels, or lines of text, tab, label in a `.txt` file: classification over words.
      `text` and `label` name the columns where they are not plain to
      see; `target` in place of `label` names numbers to predict. Takes `max_length` (the last words kept, 256),
      `vocabulary` (words known, 10,000), `minimum_count` (times a word must occur in training, 2), `split`,
      `standardise` (of a target), `skip_bad_rows`.
    - a table of numbers, one row a step: forecasting of the next row, or of its `target` columns. `series` names the
      column that tells several series apart ("": there is one), `time` the one that orders rows (found by itself if it
      holds dates);
      `date_format` how its dates are written ("%d/%m/%Y"), where the column leaves it open.
      `gaps` "refuse" (default) or "previous" (filled with the value before, never counted as an answer). Takes
      `max_length` (of windows, steps), `split`, `standardise` (on).
    - a table of numbers, one series a row with its `label`; also `.ts` and `.arff` of the time series archives:
      classification of series. Takes `split`, `standardise` (on).
    - of any table `header` says whether its first row names the columns, `decimal` whether a "point" or a "comma"
      marks decimals, and `drop` names columns to leave out; each is asked for where the file leaves it open.
    - plain text (`.txt`): language modelling by character. Takes `max_length` (of windows, 128), `vocabulary`,
      `minimum_count`, `split`.
    - `.npz` with x (N, T, I), y and perhaps lengths: classification or regression. Takes `split`, `standardise` (on).
    - images in MNIST's idx format, their labels beside them. Takes `split`.
    - "digits": scikit-learn's, pixel by pixel. Takes `split`.
    - "adding", "copy", "order", "jane": tasks with a known `lag` (100, 50, 100, 50 steps), `samples` (10,000) to
      train and a tenth as many each to validate and test.
    - "hub:NAME" or "hub:NAME:CONFIGURATION": a table from the hub; needs `datasets`, and a network.

    `split` gives the shares of train, valid and test (0.8, 0.1, 0.1). A file of the name of a task is read as
    "./adding". Raises InputError, naming the file and row where there is one, for whatever cannot be used, an
    argument that does not fit the source included.

    >>> import throughtime as tt
    >>> data = tt.data.load("adding", lag=20)
    >>> data.train.batch([0, 1]).x.shape, round(data.card.baseline, 3)
    (torch.Size([20, 2, 2]), 0.167)
    """
    options = Options(
        seed=seed,
        text=text,
        label=label,
        target=target if target is None or isinstance(target, str) else tuple(target),
        series=series,
        time=time,
        date_format=date_format,
        decimal=decimal,
        header=header,
        drop=drop if drop is None or isinstance(drop, str) else tuple(drop),
        gaps=gaps,
        max_length=max_length,
        vocabulary=vocabulary,
        minimum_count=minimum_count,
        lag=lag,
        samples=samples,
        split=split,
        standardise=standardise,
        skip_bad_rows=skip_bad_rows,
    )
    if isinstance(source, str) and source in _NAMED:
        return _NAMED[source](options)
    return _begun(_read(source, options))


def _read(source: str | PathLike[str], options: Options) -> Dataset:
    """What is not made by rule: files, and the hub's tables."""
    name = str(source)
    if name.startswith(hub.PREFIX):
        return _table(hub.read(name), options)
    path = Path(source)
    if name != files.STANDARD_INPUT and not path.suffix and not exists(path):
        raise InputError(f'"{name}" is no file, and no name known here ({", ".join(_NAMED)}); check the spelling.')
    if idx.fits(path):
        return idx.load(path, options)
    file = files.read(path)
    if file.ending in tables.known():
        return _table(tables.read(file, options.header), options)
    if file.ending in arrays.ENDINGS:
        return arrays.load(file, options)
    if file.ending == ".txt":
        table = tables.numeric_lines(file)
        if table is not None:
            if ucr.label_column(table) is None:
                raise InputError(
                    f"{file.name}: every line holds numbers; to read them as a table, a line a step, call the file "
                    ".csv; a text to be read by character has other signs too."
                )
            return _table(table, options)
        lines = tables.labelled_lines(file)
        return characters.load(file, options) if lines is None else reviews.load(lines, options)
    if file.ending in _CONVERTERS:
        raise InputError(f"{file.name}: {file.ending} is not read; convert it first: {_CONVERTERS[file.ending]}.")
    ending = f"files ending in {file.ending}" if file.ending else "files without an ending"
    raise InputError(
        f"{file.name}: {ending} are not read; unpack or convert it to .csv, .tsv, .jsonl, .parquet, .txt or .npz "
        "(x, y and lengths)."
    )


def _begun(dataset: Dataset) -> Dataset:
    """The same, with a note on how its first training sample begins."""
    words = dataset.train.words(0)
    begins = " | ".join(word if len(word) <= _WIDEST else f"{word[:_WIDEST]}..." for word in words[:_FIRST])
    note = f"the first training sample begins, {dataset.card.step} by {dataset.card.step}: {begins}"
    return replace(dataset, card=replace(dataset.card, notes=(*dataset.card.notes, note)))


def _table(table: Table, options: Options) -> Dataset:
    """A table as texts with answers if it holds texts or was asked for so, else as a series of numbers."""
    for name in options.dropped:
        table.column(name, "--drop")
    if options.drop is not None:
        frame = table.frame.drop(options.dropped)
        if not frame.width:
            raise InputError(f"{table.name}: --drop leaves no column; keep at least one.")
        told = f"left out, as asked: {tables.listed(list(options.dropped))}"
        table = replace(table, frame=frame, notes=(*table.notes, told))
    asked = options.asked()
    forecast = asked & {"series", "time", "gaps", "date_format"}
    if not asked & {"text", "target"} and not forecast:
        label = ucr.label_column(table)
        if options.label is not None and not reviews.prose(table) and ucr.fits(table, options.label):
            return _series_in_rows(table, options.label, options)
        if label is not None and options.label is None:
            if not _ARCHIVED.search(table.name):
                raise InputError(
                    f'{table.name}: is each row a whole series with its label in "{label}", or one step of a series? '
                    f'Pass --label "{label}" for the first, or name what is to be forecast as --target COLUMN.'
                )
            return _series_in_rows(table, label, options)
    if asked & {"text", "label"}:
        return reviews.load(table, options)
    if forecast:
        return forecasting.load(table, options)
    return reviews.load(table, options) if reviews.prose(table) else forecasting.load(table, options)


def _series_in_rows(table: Table, label: str, options: Options) -> Dataset:
    """A table whose every row is a series with a label."""
    options.refuse_all_but(ucr.FITS, f"{table.name}, read as a series a row")
    table = numerals.plainly(table, options)
    steps = tuple(name for name in table.frame.columns if name != label)
    note = f'each row is a series of {len(steps)} steps, "{steps[0]}" to "{steps[-1]}"; its label is in "{label}"'
    prepared = Preparation("arrays", answer=(label,), columns=steps, decimal=table.decimal or "")
    arrays_ = ucr.rows_of(table, label)
    return arrays.labelled(table.name, table.digest, arrays_, options, prepared, (*table.notes, note))
