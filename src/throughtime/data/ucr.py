"""Series with a label each, as the archives of time series keep them: `.ts`, `.arff`, and tables with a series a row.

Dimensions: N series, T steps of the longest, I values a step.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from throughtime.data.files import File
from throughtime.data.tables import GAPS, Table, numbers, texts
from throughtime.errors import InputError

ENDINGS = (".ts", ".arff")
FITS = ("label", "header", "decimal", "drop", "split", "standardise")  # of tables
WIDE = 8  # columns of a table from which on a row may be a whole series
_MISSING = (*GAPS, "?")

Arrays = dict[str, NDArray[np.generic]]
Row = tuple[int, list[list[str]], str | None]  # its number in the file, its dimensions' cells, its answer


def read(file: File) -> Arrays:
    """The arrays x (N, T, I), lengths (N,), and y (N,) where the series are labelled, of a `.ts` or `.arff` file.

    Raises InputError with the row for what cannot be read so.
    """
    rows = list(_ts(file) if file.ending == ".ts" else _arff(file))
    if not rows:
        raise InputError(f"{file.name}: no series stands under @data; give a file with data in it.")
    series = [_steps(file.name, number, cells) for number, cells, _ in rows]
    width = len(rows[0][1])
    for number, cells, _ in rows:
        if len(cells) != width:
            raise InputError(
                f"{file.name}, row {number}: {len(cells)} dimensions, where the first series has {width}; mend the row."
            )
    x = np.zeros((len(rows), max(map(len, series)), width))
    for at, steps in enumerate(series):
        x[at, : len(steps)] = steps
    found: Arrays = {"x": x, "lengths": np.array([len(steps) for steps in series], dtype=np.int64)}
    answers = [answer for *_, answer in rows if answer is not None]
    if answers:
        found["y"] = np.array(answers)
        if file.ending == ".ts" and _said(file, "targetlabel")[:1] == ["true"]:
            found["y"] = _numbers_of(file.name, rows)
    return found


def _steps(name: str, number: int, dimensions: list[list[str]]) -> NDArray[np.float64]:
    """One series (T, I), without the missing steps at its end, by which short ones are filled up."""
    sizes = {len(cells) for cells in dimensions}
    if len(sizes) > 1:
        raise InputError(
            f"{name}, row {number}: its dimensions have {', '.join(map(str, sorted(sizes)))} steps; give each as many."
        )
    values = np.array([[_number(name, number, cell) for cell in cells] for cells in dimensions]).T
    missing = np.isnan(values).all(axis=1)
    values = values[: len(missing) - int(np.argmin(missing[::-1]))] if not missing.all() else values[:0]
    if not len(values) or np.isnan(values).any():
        at = f"step {int(np.argmax(np.isnan(values).any(axis=1)))}" if len(values) else "every step"
        raise InputError(f"{name}, row {number}: {at} has a missing value; fill the gap or drop the row.")
    return values


def _number(name: str, row: int, cell: str) -> float:
    cell = cell.strip()
    if cell.lower() in _MISSING:
        return np.nan
    try:
        return float(cell)
    except ValueError:
        if cell.startswith("("):
            raise InputError(
                f'{name}, row {row}: "{cell[:30]}" holds a time stamp; series with time stamps are not read: write the '
                "values alone."
            ) from None
        raise InputError(f'{name}, row {row}: "{cell[:30]}" is no number; mend or drop the row.') from None


def _lines(file: File) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers."""
    for number, line in enumerate(file.text().split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith(("#", "%")):
            yield number, line.strip()


def _said(file: File, key: str) -> list[str]:
    """What a `.ts` file's header says of a key: the words behind it, lower case the first; none if it is not there."""
    for _, line in _lines(file):
        words = line.split()
        if words[0].lower() == "@data":
            return []
        if words[0].lower() == f"@{key}" and len(words) > 1:
            return [words[1].lower(), *words[2:]]
    return []


def _numbers_of(name: str, rows: Sequence[Row]) -> NDArray[np.float64]:
    found = np.array([_number(name, number, answer or "") for number, _, answer in rows])
    if np.isnan(found).any():
        raise InputError(
            f"{name}, row {rows[int(np.argmax(np.isnan(found)))][0]}: the target is missing; drop the row."
        )
    return found


def _ts(file: File) -> Iterator[Row]:
    labelled, *classes = _said(file, "classlabel") or [""]
    target = (_said(file, "targetlabel") or [""])[0]
    if _said(file, "timestamps")[:1] == ["true"]:
        raise InputError(
            f"{file.name}: @timeStamps true: series with time stamps are not read; write the values alone."
        )
    begun = False
    for number, line in _lines(file):
        if line.startswith("@"):
            begun = begun or line.lower().split()[0] == "@data"
            continue
        if not begun:
            raise InputError(f'{file.name}, row {number}: "{line[:30]}" stands before @data; mend the header.')
        if not labelled and not target:
            raise InputError(
                f"{file.name}, row {number}: the header does not say whether the series are labelled; put @classLabel "
                "true with the labels before @data, @targetLabel true, or @classLabel false."
            )
        *parts, last = line.split(":")
        if "true" not in (labelled, target):
            parts, answer = [*parts, last], None
        elif not parts:
            raise InputError(f"{file.name}, row {number}: no label stands behind a colon; mend the row.")
        else:
            answer = last.strip()
            if not answer or (classes and answer not in classes):
                raise InputError(
                    f'{file.name}, row {number}: the label "{answer}" is not one of those that @classLabel names '
                    f"({', '.join(classes[:8])}); mend one of the two."
                )
        yield number, [part.split(",") for part in parts], answer


def _arff(file: File) -> Iterator[Row]:
    """Numeric attributes as the steps of a series, or one relational attribute with a dimension a line."""
    kinds: list[str] = []
    inside = begun = False  # whether a relational attribute's own are being declared; whether data have begun
    for number, line in _lines(file):
        if begun:
            yield _arff_row(file.name, number, line, kinds)
            continue
        word = line.lower().split()[0]
        if word == "@data":
            begun = True
            if kinds.count("names") > 1 or kinds.count("relational") > 1:
                raise InputError(f"{file.name}: more than one attribute holds names or relations; keep one label.")
        elif word == "@attribute":
            found = re.fullmatch(r"\S+\s+(?:'[^']*'|\"[^\"]*\"|\S+)\s+(.+)", line)
            kind = found[1].lower() if found else ""
            if kind.startswith("{"):
                kind = "names"
            elif kind.split()[:1] not in (["numeric"], ["real"], ["integer"], ["relational"]):
                raise InputError(
                    f'{file.name}, row {number}: an attribute of kind "{kind}" is not read; save the table as .csv.'
                )
            if not inside:
                kinds.append(kind)
            inside = inside or kind == "relational"
        elif word == "@end":
            inside = False
        elif word != "@relation":
            raise InputError(f'{file.name}, row {number}: "{line[:30]}" is not understood; mend the header.')


def _arff_row(name: str, number: int, line: str, kinds: list[str]) -> Row:
    cells = next(csv.reader([line], quotechar="'" if "'" in line else '"', skipinitialspace=True))
    if line.startswith("{") or len(cells) != len(kinds):
        raise InputError(
            f"{name}, row {number}: {len(cells)} values, where {len(kinds)} attributes are declared; mend the row "
            "(sparse rows are not read)."
        )
    answer = cells.pop(kinds.index("names")).strip() if "names" in kinds else None
    if answer in ("?", ""):
        raise InputError(f"{name}, row {number}: the label is missing; drop the row.")
    return number, [part.split(",") for part in cells[0].split("\\n")] if "relational" in kinds else [cells], answer


# -- tables with a series a row


def label_column(table: Table) -> str | None:
    """The column of labels of a table whose rows look like whole series, or None if they do not.

    They do if there are many columns, all of numbers, without names or with names that count up, beside a first or
    last one that holds few different values, whole numbers or words.
    """
    names = table.frame.columns
    if len(names) <= WIDE or table.frame.height < 2:
        return None
    for name, others in ((names[0], names[1:]), (names[-1], names[:-1])):
        if not table.headless and not _count_up(others):
            continue
        values, stray = numbers(table.frame[name])
        whole = bool(stray.all()) or bool((values == np.round(values)).all())
        distinct = table.frame[name].n_unique()
        if whole and 2 <= distinct <= max(2, table.frame.height // 2) and _all_numbers(table, others):
            return name
    return None


def fits(table: Table, label: str) -> bool:
    """Whether a table with this label could hold a series a row: many columns, all others of numbers."""
    others = [name for name in table.frame.columns if name != label]
    return len(others) >= WIDE and label in table.frame.columns and _all_numbers(table, others)


def _count_up(names: Sequence[str]) -> bool:
    """Whether names are numbers one after another, or end in such behind one common beginning."""
    found = [re.fullmatch(r"(.*?)(\d+)", name.strip()) for name in names]
    if not all(found) or len({each[1] for each in found if each}) != 1:
        return False
    return bool((np.diff([int(each[2]) for each in found if each]) == 1).all())


def _all_numbers(table: Table, names: Sequence[str]) -> bool:
    return not any(numbers(table.frame[name])[1].any() for name in names)


def rows_of(table: Table, label: str | None) -> Arrays:
    """The arrays of a table whose every row is a series: its cells in the order of columns, the label apart.

    Missing cells at the end of a row make it shorter. Raises InputError with the row for what is no number.
    """
    names = [name for name in table.frame.columns if name != label]
    columns = []
    for name in names:
        values, stray = numbers(table.frame[name])
        if stray.any():
            at = int(np.argmax(stray))
            raise InputError(
                f'{table.where(at)}: "{name}" says "{texts(table.frame[name])[at]}", which is no number; to read each '
                "row as a series, all columns but the label must be numbers: --drop what is not."
            )
        columns.append(values)
    x = np.stack(columns, axis=1)
    there = ~np.isnan(x)
    lengths = np.where(there.any(axis=1), x.shape[1] - np.argmax(there[:, ::-1], axis=1), 0)
    wrong = ~there & (np.arange(x.shape[1]) < np.maximum(lengths, 1)[:, None])
    if wrong.any():
        at, column = (int(i) for i in np.argwhere(wrong)[0])
        raise InputError(f'{table.where(at)}: "{names[column]}" is empty; fill the gap or drop the row.')
    found: Arrays = {"x": np.nan_to_num(x)[..., None], "lengths": lengths.astype(np.int64)}
    if label is not None:
        said = texts(table.column(label, "--label"))
        if "" in said:
            raise InputError(f'{table.where(said.index(""))}: label "{label}" is empty; name it or drop the row.')
        values, stray = numbers(table.frame[label])
        whole = not stray.any() and bool((values == np.round(values)).all())
        found["y"] = np.array([f"{value:.0f}" for value in values] if whole else said)
    return found
