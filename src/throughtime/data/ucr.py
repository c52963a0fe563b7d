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
from throughtime.data.tables import GAPS, Table, listed, numbers, texts
from throughtime.errors import InputError

ENDINGS = (".ts", ".arff")
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
        if file.ending == ".ts" and _said(file, "targetlabel"):
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
    """What a `.ts` file's header says of a key, where it is true: the words behind "true"."""
    for _, line in _lines(file):
        words = line.split()
        if words[0].lower() == "@data":
            return []
        if words[0].lower() == f"@{key}" and len(words) > 1 and words[1].lower() == "true":
            return words[1:]
    return []


def _numbers_of(name: str, rows: Sequence[Row]) -> NDArray[np.float64]:
    found = np.array([_number(name, number, answer or "") for number, _, answer in rows])
    if np.isnan(found).any():
        raise InputError(f"{name}, row {rows[int(np.argmax(np.isnan(found)))][0]}: the target is missing; drop the row.")
    return found


def _ts(file: File) -> Iterator[Row]:
    classes, target = _said(file, "classlabel")[1:], bool(_said(file, "targetlabel"))
    if _said(file, "timestamps"):
        raise InputError(f"{file.name}: @timeStamps true: series with time stamps are not read; write the values alone.")
    unlabelled = not target and not _said(file, "classlabel")
    begun = False
    for number, line in _lines(file):
        if line.startswith("@"):
            begun = begun or line.lower().split()[0] == "@data"
            continue
        if not begun:
            raise InputError(f'{file.name}, row {number}: "{line[:30]}" stands before @data; mend the header.')
        *parts, last = line.split(":")
        if unlabelled:
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
    kinds: list[tuple[str, str]] = []
    relational = begun = False
    for number, line in _lines(file):
        if begun:
            cells = next(csv.reader([line], quotechar="'" if "'" in line else '"', skipinitialspace=True))
            places = [(name, kind) for name, kind in kinds if kind != "inside"]
            if line.startswith("{") or len(cells) != len(places):
                raise InputError(
                    f"{file.name}, row {number}: {len(cells)} values, where {len(places)} attributes are declared; mend "
                    "the row (sparse rows are not read)."
                )
            label = next((at for at, (_, kind) in enumerate(places) if kind == "names"), None)
            answer = None if label is None else cells.pop(label).strip()
            if answer == "?" or answer == "":
                raise InputError(f"{file.name}, row {number}: the label is missing; drop the row.")
            yield number, [part.split(",") for part in cells[0].split("\\n")] if relational else [cells], answer
            continue
        found = re.fullmatch(r"@attribute\s+('[^']*'|\"[^\"]*\"|\S+)\s+(.+)", line, re.IGNORECASE)
        if line.lower().startswith("@data"):
            begun = True
            if sum(kind == "names" for _, kind in kinds) > 1:
                named = [name for name, kind in kinds if kind == "names"]
                raise InputError(f"{file.name}: attributes {listed(named)} all hold names; keep the label alone.")
        elif found:
            kind = found[2].strip().lower()
            inside = relational and not any(kind == "end" for _, kind in kinds)
            if kind == "relational":
                relational = True
                kinds.append((found[1], "relational"))
            elif kind.startswith("{") or kind in ("numeric", "real", "integer"):
                kinds.append((found[1], "inside" if inside else "names" if kind.startswith("{") else "number"))
            else:
                raise InputError(
                    f"{file.name}, row {number}: an attribute of kind {kind} is not read; save the table as .csv."
                )
        elif line.lower().startswith("@end") and relational:
            kinds = [each for each in kinds if each[1] != "inside"]
            kinds = [(name, kind) for name, kind in kinds]
            relational_done = ("", "end")
            kinds.append(relational_done)
        elif not line.lower().startswith("@relation"):
            raise InputError(f'{file.name}, row {number}: "{line[:30]}" is not understood; mend the header.')
