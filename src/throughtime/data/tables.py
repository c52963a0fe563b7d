"""Tables from files, read by polars, and what their columns hold.

Rows are counted as a person sees them: in a CSV or TSV file with a header the header is row 1; in JSONL and Parquet
the first record is row 1.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from throughtime.data.files import File
from throughtime.data.options import Decimal
from throughtime.errors import InputError

GAPS = ("", "na", "n/a", "nan", "-nan", "null", "none", "#n/a")  # how files write "not known", in lower case
HEADED = (".csv", ".tsv")  # whose first row may name the columns
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, eq=False)
class Table:
    """A table as read; its columns may be text or numbers."""

    name: str
    frame: pl.DataFrame
    first_row: int  # the number of the first record, as a person counts
    digest: str
    notes: tuple[str, ...] = ()
    headless: bool = False  # whether its columns have no names of their own
    decimal: Decimal | None = None  # the mark that its numbers had, once they are written plainly
    kept: tuple[int, ...] = ()  # where rows were skipped: which record each one is

    def where(self, index: int) -> str:
        """A record's place, as errors name it."""
        return f"{self.name}, row {self.first_row + (self.kept[index] if self.kept else index)}"

    def without(self, bad: NDArray[np.bool_]) -> Table:
        """The table without some rows (N,), and a note that says which."""
        if not bad.any():
            return self
        kept = tuple(np.flatnonzero(~bad).tolist())
        if not kept:
            raise InputError(f"{self.name}: no row can be used; give other columns or another file.")
        places = ", ".join(self.where(int(at)).rpartition(" ")[2] for at in np.flatnonzero(bad)[:10])
        more = ", ..." if bad.sum() > 10 else ""
        note = f"{bad.sum():,} rows that cannot be used skipped, as asked: row {places}{more}"
        return replace(self, frame=self.frame[list(kept)], notes=(*self.notes, note), kept=kept)

    def column(self, name: str, asked_by: str) -> pl.Series:
        """A column by name; raises InputError listing the columns if there is none of that name."""
        if name not in self.frame.columns:
            raise InputError(
                f'{self.name}: there is no column "{name}" (asked for by {asked_by}); the columns are '
                f"{listed(self.frame.columns)}."
            )
        return self.frame[name]


def listed(names: list[str], most: int = 12) -> str:
    """Names for a sentence, the first few of many."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f'"{name}"' for name in names[:most]) + rest


def texts(column: pl.Series) -> list[str]:
    """The cells as text without outer spaces; "" where there is nothing."""
    if column.dtype in (pl.List, pl.Struct, pl.Array, pl.Object, pl.Binary):
        return [""] * len(column)
    return column.cast(pl.String).fill_null("").str.strip_chars().to_list()


def numbers(column: pl.Series) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The cells as numbers, NaN where there is none, and which cells hold something that is no number at all."""
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        found = column.cast(pl.Float64).fill_null(np.nan).to_numpy().astype(np.float64)
        return found, np.zeros(len(column), dtype=bool)
    if column.dtype != pl.String:
        return np.full(len(column), np.nan), np.ones(len(column), dtype=bool)
    cells = column.str.strip_chars()
    found = cells.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy().astype(np.float64)
    gap = cells.fill_null("").str.to_lowercase().is_in(GAPS).to_numpy()
    return found, np.isnan(found) & ~gap


def read(file: File, header: bool | None = None) -> Table:
    """A table from a CSV, TSV, JSON, JSONL or Parquet file; `header` says whether its first row names the columns.

    Raises InputError, with the row where there is one, if the file cannot be read as what its ending says.
    """
    if header is not None and file.ending not in (".csv", ".tsv"):
        raise InputError(f"--header does not fit {file.name}: only .csv and .tsv files have a first row of names.")
    return _delimited(file, header) if file.ending in HEADED else _READERS[file.ending](file)


def known() -> tuple[str, ...]:
    """The endings that `read` reads."""
    return (*HEADED, *_READERS)


def labelled_lines(file: File) -> Table | None:
    """A text file whose lines are a text, a tab and a label, as a table; None if it is something else.

    It is taken for one if most lines are so; the label of a line without a tab is empty.
    """
    lines = [line.removesuffix("\r") for line in file.text().rstrip("\r\n").split("\n")]
    pairs = [line.rpartition("\t") for line in lines]
    labels = {label.strip() for _, tab, label in pairs if tab}
    if sum(line.count("\t") == 1 for line in lines) <= len(lines) / 2 or len(labels) > max(2, len(lines) // 4):
        return None
    frame = pl.DataFrame(
        {
            "text": [text if tab else label for text, tab, label in pairs],
            "label": [label if tab else "" for _, tab, label in pairs],
        }
    )
    return Table(file.name, frame, 1, file.digest, ('no header: each line read as a "text", a tab, a "label"',))


# -- formats


def _delimited(file: File, header: bool | None) -> Table:
    text, told = file.text(), 0
    separator, quote = _dialect(text, file.ending)
    said = re.match(r'"?sep=(.)"?\r?\n', text)
    if said:  # a line that Excel writes for itself
        separator, text, told = said[1], text[said.end() :], 1
    try:
        frame = pl.read_csv(text.encode(), has_header=False, infer_schema=False, separator=separator, quote_char=quote)
    except pl.exceptions.PolarsError as error:
        raise _misshapen(file, text, separator, quote, error) from None
    empty = frame.select(pl.all_horizontal(pl.all().is_null())).to_series().to_numpy()
    frame = frame.head(int(np.flatnonzero(~empty)[-1]) + 1 if not empty.all() else 0)
    if not frame.height:
        raise InputError(f"{file.name}: the file holds only blank lines; give one with data in it.")
    notes: tuple[str, ...] = ()
    if told:
        notes = (f'the first line says that "{separator}" stands between cells',)
    head = [(cell or "").strip() for cell in frame.row(0)]
    if not any(head):
        raise InputError(f"{file.name}, row 1: the row is blank; the first row names the columns, or holds data.")
    body, first = frame.slice(1), 2 + told
    same = _same_as(head, body)
    headless = header is False or (header is None and _is_data(file.name, head, body, same))
    if headless:
        head, body, first = [f"column {i}" for i in range(1, len(head) + 1)], frame, 1 + told
        notes += (f"no header: the first row is data, the columns are called {listed(head)}",)
    elif same.all(axis=1).any():
        raise InputError(
            f"{file.name}, row {int(np.flatnonzero(same.all(axis=1))[0]) + 2}: the header stands here again; are "
            "these several files put together? Remove the row."
        )
    names = [name or f"column {i}" for i, name in enumerate(head, start=1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f'{file.name}, row 1: two columns are called "{twice}"; rename one of them.')
    if not body.height:
        raise InputError(f"{file.name}: there is a header but no row under it; give a file with data in it.")
    body.columns = names
    return Table(file.name, body, first, file.digest, notes, headless)


def _dialect(text: str, ending: str) -> tuple[str, str | None]:
    """The separator, and the quote if cells are quoted. A stray quote in a TSV file must not swallow rows."""
    if ending != ".tsv":
        first = re.sub(r'"[^"]*"', "", text.split("\n", 1)[0])
        return max((",", ";", "\t"), key=first.count), '"'
    opened = re.findall(r'(?:^|\t)"[^\t\n]*', text, re.MULTILINE)
    closed = all(re.fullmatch(r'\t?"(?:[^"]|"")*"\r?', cell) for cell in opened)
    return "\t", '"' if opened and closed else None


def _same_as(head: list[str], body: pl.DataFrame) -> NDArray[np.bool_]:
    """(rows, columns): where a cell under the first row says the same as the first row."""
    same = [
        (body[column].str.strip_chars() == name).fill_null(False).to_numpy() for column, name in _paired(head, body)
    ]
    return np.stack(same, axis=1)


def _paired(head: list[str], body: pl.DataFrame) -> list[tuple[str, str]]:
    return list(zip(body.columns, head, strict=True))


def _is_data(name: str, head: list[str], body: pl.DataFrame, same: NDArray[np.bool_]) -> bool:
    """Whether the first row is no header; raises InputError where it could be either."""
    if not body.height:
        return all(_NUMBER.fullmatch(cell) for cell in head)
    question = InputError(
        f"{name}, row 1: {listed(head)} could name the columns or be the first row of data; which is it? Pass "
        "--header or --no-header."
    )
    if all(_NUMBER.fullmatch(cell) or cell.lower() in GAPS for cell in head) and any(head):
        if not _counts_up(head):
            return True
        # Some tools head a table without names 0, 1, 2, ...; years head one that has them. Rows that count up
        # themselves are another matter.
        like = sum(_counts_up([(cell or "").strip() for cell in row]) for row in body.head(50).iter_rows())
        if not like and (head[0] in ("0", "1") or all(re.fullmatch(r"(1[5-9]|2[01])\d\d", cell) for cell in head)):
            return False
        raise question
    again = same.all(axis=1).sum()
    if not any(each and count >= 2 and count > again for each, count in zip(head, same.sum(axis=0), strict=True)):
        return False
    as_value = as_name = False
    for (column, cell), times in zip(_paired(head, body), same.sum(axis=0), strict=True):
        if times >= 2 or not cell:
            continue
        cells = body[column].drop_nulls().str.strip_chars()
        _, stray = numbers(cells)
        if len(cells) and not stray.any():
            fits = bool(_NUMBER.fullmatch(cell))
        else:
            size = cells.str.len_chars().quantile(0.1) or 0
            if cells.n_unique() <= len(cells) / 2 and not _NUMBER.fullmatch(cell):
                continue
            if size < 8:
                continue
            fits = len(cell) >= size
        as_value, as_name = as_value or fits, as_name or not fits
    if as_value == as_name:
        raise question
    return as_value


def _counts_up(cells: list[str]) -> bool:
    if len(cells) < 2 or not all(re.fullmatch(r"\d{1,9}", cell) for cell in cells):
        return False
    return all(int(b) - int(a) == 1 for a, b in pairwise(cells))


def _misshapen(file: File, text: str, separator: str, quote: str | None, error: Exception) -> InputError:
    """Which row a table broke at; polars does not say."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    lines = io.StringIO(text, newline="")
    reader = (
        csv.reader(lines, delimiter=separator, strict=True)
        if quote
        else csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    )
    width: int | None = None
    row = 0
    try:
        for row, cells in enumerate(reader, start=1):
            if width is None:
                width = len(cells)
            elif len(cells) > width:
                return InputError(
                    f"{file.name}, row {row}: {len(cells)} cells, where row 1 has {width}; quote a cell that holds "
                    "the separator, or drop the row."
                )
    except csv.Error as found:
        return InputError(f"{file.name}, row {row + 1}: a quote is not closed as it should be ({found}); mend the row.")
    return InputError(f"{file.name}: cannot be read as a table ({str(error).splitlines()[0]}); check its quotes.")


def _jsonl(file: File) -> Table:
    rows: list[dict[str, object]] = []
    for number, line in enumerate(file.text().split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file.name}, row {number}: not JSON ({error}); mend or drop the row.") from None
        if not isinstance(record, dict):
            raise InputError(f"{file.name}, row {number}: not a JSON object with named values; mend or drop the row.")
        if len(rows) != number - 1:
            raise InputError(f"{file.name}, row {len(rows) + 1}: the line is blank; remove it.")
        rows.append({name: _cell(value) for name, value in record.items()})
    if not rows:
        raise InputError(f"{file.name}: the file holds only blank lines; give one with data in it.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: pl.Series(name, [row.get(name) for row in rows], dtype=pl.String) for name in names}
    return Table(file.name, pl.DataFrame(columns), 1, file.digest)


def _json(file: File) -> Table:
    """An array of objects, or an object of arrays."""
    try:
        found = json.loads(file.text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file.name}: not JSON ({error}); if each line is an object, call it .jsonl.") from None
    if isinstance(found, dict) and found and all(isinstance(value, list) for value in found.values()):
        if len({len(value) for value in found.values()}) != 1:
            raise InputError(f"{file.name}: its arrays are of different lengths; give every column as many values.")
        found = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    if not isinstance(found, list) or not found or not all(isinstance(row, dict) for row in found):
        raise InputError(
            f"{file.name}: neither an array of objects nor an object of arrays; convert it, for example with: "
            f"jq -c '.[]' {file.name} > data.jsonl."
        )
    names = list(dict.fromkeys(name for row in found for name in row))
    columns = {name: pl.Series(name, [_cell(row.get(name)) for row in found], dtype=pl.String) for name in names}
    return Table(file.name, pl.DataFrame(columns), 1, file.digest)


def _cell(value: object) -> str | None:
    """A JSON value as the text a CSV file would hold; nested values hold nothing a sequence could use."""
    if value is None or isinstance(value, dict | list):
        return None
    return value if isinstance(value, str) else json.dumps(value)


def _parquet(file: File) -> Table:
    try:
        frame = pl.read_parquet(io.BytesIO(file.data))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:  # a panic is polars' own fault
        reason = str(error).splitlines()[0]
        raise InputError(f"{file.name}: this Parquet file is damaged ({reason}); fetch it again.") from None
    if not frame.height:
        raise InputError(f"{file.name}: the table has no row; give a file with data in it.")
    return Table(file.name, frame, 1, file.digest)


def _excel(file: File) -> Table:
    """The one sheet of an Excel file."""
    try:
        found = pl.read_excel(io.BytesIO(file.data), sheet_id=0, raise_if_empty=False)
    except ImportError:
        raise InputError(
            f"{file.name}: reading Excel files takes a library; type: pip install 'throughtime[excel]', or save the "
            "sheet as .csv."
        ) from None
    except Exception as error:  # the reader has errors of its own, known only where it is installed
        reason = str(error).splitlines()[0]
        raise InputError(f"{file.name}: this Excel file cannot be read ({reason}); save the sheet as .csv.") from None
    sheets = {name: frame for name, frame in found.items() if frame.height}
    if len(sheets) != 1:
        held = f"{len(sheets)} sheets with data ({listed(list(sheets))})" if sheets else "no sheet with data"
        raise InputError(f"{file.name}: the file holds {held}; save the one to be read as .csv.")
    (name, frame), *_ = sheets.items()
    if all(_NUMBER.fullmatch(each) for each in frame.columns) and not _counts_up(frame.columns):
        raise InputError(
            f"{file.name}, row 1: {listed(frame.columns)} could name the columns or be data; save the sheet as .csv "
            "and pass --header or --no-header."
        )
    note = (f'sheet "{name}"',) if len(found) > 1 else ()
    return Table(file.name, frame, 2, file.digest, note)


def numeric_lines(file: File) -> Table | None:
    """A text file whose every line holds several numbers, or numbers alone, as a table without names; None otherwise.

    Raises InputError if the lines do not hold equally many.
    """
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(file.text().split("\n"), start=1):
        cells = re.split(r"\s*[,;\t]\s*|\s+", line.strip())
        if cells == [""]:
            continue
        if not all(_NUMBER.fullmatch(cell) or cell.lower() in GAPS[1:] for cell in cells):
            return None
        rows.append((number, cells))
    if len(rows) < 2:
        return None
    width = len(rows[0][1])
    for number, cells in rows:
        if len(cells) != width:
            raise InputError(f"{file.name}, row {number}: {len(cells)} numbers, where row {rows[0][0]} has {width}.")
    names = [f"column {i}" for i in range(1, width + 1)]
    frame = pl.DataFrame([cells for _, cells in rows], schema=dict.fromkeys(names, pl.String), orient="row")
    return Table(file.name, frame, rows[0][0], file.digest, (f"no header: {width} numbers a line",), headless=True)


_READERS: dict[str, Callable[[File], Table]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".parquet": _parquet,
    ".xlsx": _excel,
}
