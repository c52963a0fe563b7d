"""Columns of numbers as people write them: decimal commas, separators of thousands, true and false."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from throughtime.data.options import Decimal, Options
from throughtime.data.tables import GAPS, Table
from throughtime.errors import InputError

_MARKS: tuple[Decimal, ...] = ("point", "comma")
_SPACED = r"^[+-]?\d{1,3}(?:[ \u00a0\u202f'’]\d{3})+(?:[.,]\d+)?$"
_GROUPED = {"point": r"^[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?$", "comma": r"^[+-]?[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+)?$"}
_PLAIN = {
    "point": r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$",
    "comma": r"^[+-]?(?:\d+,?\d*|,\d+)(?:[eE][+-]?\d+)?$",
}
_WHOLE = r"^[+-]?\d+$"


def plainly(table: Table, options: Options) -> Table:
    """The table with every column of numbers written plainly; columns of anything else are as they were.

    One mark serves the whole table. Raises InputError where its columns leave open which.
    """
    columns = {name: _cells(table.frame[name]) for name in table.frame.columns}
    numeric = {name: cells for name, cells in columns.items() if cells is not None}
    mark, notes = options.decimal, []
    if mark is None:
        sure: dict[Decimal, str] = {}
        for name, cells in numeric.items():
            fits = [each for each in _MARKS if _fits(cells, each).all()]
            if len(fits) == 1:
                sure.setdefault(fits[0], name)
        if len(sure) > 1:
            raise _open(table, sure["comma"], f'"{sure["point"]}" has decimal points and this column decimal commas')
        mark = next(iter(sure), None)
        for name, cells in numeric.items():
            doubtful = _doubtful(cells)
            # Another column settles it, but only where it has decimals itself.
            if doubtful is not None and (mark is None or not _decimals(numeric[sure[mark]], mark)):
                raise _open(table, name, f'"{doubtful}" could be a thousand and more, or have three decimals')
        mark = mark or "point"
    written = []
    for name, cells in numeric.items():
        if not _fits(cells, mark).all():
            continue
        away, point = (",", ".") if mark == "point" else (".", ",")
        grouped = cells.str.contains(_GROUPED[mark]) | cells.str.contains(_SPACED)
        bare = cells.str.replace_all(r"[ \u00a0\u202f'’]", "").str.replace_all(away, "", literal=True)
        plain = (
            pl.select(pl.when(grouped).then(bare).otherwise(cells)).to_series().str.replace(point, ".", literal=True)
        )
        if not (plain == cells).fill_null(True).all():
            how = "decimal commas" if mark == "comma" else "thousands set apart"
            notes.append(f'"{name}" read with {how}: "{cells.filter((plain != cells).fill_null(False))[0]}" is '
                         f"{plain.filter((plain != cells).fill_null(False))[0]}")  # fmt: skip
        written.append(plain.alias(name))
    for name in table.frame.columns:
        truth = _truths(table.frame[name])
        if truth is not None:
            written.append(truth)
            notes.append(f'"{name}" read as 1 for true and 0 for false')
    return replace(table, frame=table.frame.with_columns(written), notes=(*table.notes, *notes), decimal=mark)


def _open(table: Table, name: str, why: str) -> InputError:
    return InputError(
        f'{table.name}: numbers in "{name}": {why}; which mark stands before the decimals? Pass --decimal point or '
        f'--decimal comma (or --drop "{name}").'
    )


def _cells(column: pl.Series) -> pl.Series | None:
    """A text column's cells, null at gaps, if all of them are numbers of one kind or another."""
    if column.dtype != pl.String:
        return None
    cells = column.str.strip_chars()
    cells = cells.set(cells.str.to_lowercase().is_in(GAPS).fill_null(False), None)
    if cells.null_count() == len(cells) or not (_fits(cells, "point") | _fits(cells, "comma")).all():
        return None
    return cells


def _fits(cells: pl.Series, mark: str) -> pl.Series:
    one = cells.str.contains(_PLAIN[mark]) | cells.str.contains(_GROUPED[mark]) | cells.str.contains(_SPACED)
    return one.fill_null(True)


def _decimals(cells: pl.Series, mark: str) -> bool:
    point = "." if mark == "point" else ","
    return bool(cells.str.contains(point, literal=True).fill_null(False).any())


def _doubtful(cells: pl.Series) -> str | None:
    """A cell such as "1.293" that could be read both ways, where its column does not say which."""
    either = cells.str.contains(r"^[+-]?[1-9]\d{0,2}[.,]\d{3}$").fill_null(False)
    if not either.any():
        return None
    others = cells.filter(~either).drop_nulls()
    comma = cells.filter(either).str.contains(",", literal=True)
    if comma.any():
        return None if not others.str.contains(_WHOLE).all() else str(cells.filter(either)[0])
    # Three decimals everywhere are decimals; whole numbers under a thousand among them are what thousands look like.
    whole = others.str.contains(_WHOLE)
    if len(others) and whole.all():
        return str(cells.filter(either)[0])
    return None


def _truths(column: pl.Series) -> pl.Series | None:
    if column.dtype != pl.String:
        return None
    cells = column.str.strip_chars().str.to_lowercase()
    cells = cells.set(cells.is_in(GAPS).fill_null(False), None)
    if cells.null_count() == len(cells) or not cells.is_in(["true", "false"]).fill_null(True).all():
        return None
    return (cells == "true").cast(pl.Float64).alias(column.name)
