"""Dates and times as files write them, read as seconds since 1970 by one form for the whole column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAME = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_WEEKDAY = r"(?i)^(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?,?\s+"
_CLOCK = r"(?:(?:[T\s]|,\s*)\s*(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*([AaPp][Mm])?)?"
_ZONE = r"\s*(Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?$"
_NUMERIC = r"^(\d{1,4})([-/.])(\d{1,2})[-/.](\d{1,4})" + _CLOCK + _ZONE
_DAY_NAMED = rf"(?i)^(\d{{1,2}})(?:st|nd|rd|th)?[\s\-/.]+({_NAME})[\s\-/,]+(\d{{4}})"
_MONTH_NAMED = rf"(?i)^({_NAME})[\s\-]+(\d{{1,2}})(?:st|nd|rd|th)?,?[\s\-]+(\d{{4}})"


@dataclass(frozen=True, eq=False)
class Dates:
    """A column read as dates."""

    seconds: Floats  # since 1970 in UTC, NaN where a cell holds no date
    form: str  # how the dates were read, in words; empty where there is only one way
    question: str = ""  # why the form cannot be told, where it cannot; `seconds` then hold no answer
    format: str = ""  # the strptime format that reads the same, where there was a choice


def read(column: pl.Series, format: str | None = None) -> Dates | None:
    """A column's dates, or None if it is no column of dates: under nine of ten cells could be one.

    Day-first or month-first is decided by the whole column; dates with dots are day-first, as nobody writes them
    otherwise. With a `format` (of strptime) nothing is decided.
    """
    if column.dtype in (pl.Date, pl.Datetime):
        return Dates(_seconds(column.cast(pl.Datetime("us"))), "")
    if column.dtype != pl.String or not len(column):
        return None
    cells = column.str.strip_chars()
    if format is not None:
        return _by_format(cells, format)
    cells = cells.set(cells.str.len_chars() == 0, None)
    plain = _spelled_in_numbers(cells)
    there = len(plain) - plain.null_count()
    if not there:
        return None
    parts = plain.str.extract_groups(_NUMERIC).struct.unnest()
    parts.columns = ["a", "mark", "b", "c", "hour", "minute", "second", "fraction", "half", "zone"]
    found = int(parts["a"].is_not_null().sum())
    if found < 0.9 * there:
        return None
    a, b, c = (parts[name].cast(pl.Int64) for name in "abc")
    wide = parts["a"].str.len_chars() == 4
    year_first = bool(wide.fill_null(True).all())
    if not year_first and wide.fill_null(False).any():
        return Dates(np.full(len(cells), np.nan), "", "some dates begin with the year and others end with it")
    if year_first:
        return Dates(_stamps(parts, a, b, c), "")
    if (parts["c"].str.len_chars() != 4).fill_null(False).any():
        return Dates(np.full(len(cells), np.nan), "", "the years have two digits")
    first, second = (max(each.drop_nulls().to_list(), default=0) for each in (a, b))
    mark = parts["mark"].drop_nulls()[0]
    if first > 12 and second > 12:
        return Dates(np.full(len(cells), np.nan), "", "some can only be day/month and others only month/day")
    if first <= 12 and second <= 12 and mark != "." and not (a == b).fill_null(True).all():
        return Dates(np.full(len(cells), np.nan), "", "they could be day/month or month/day in every row")
    day_first = first > 12 or (second <= 12 and mark == ".")
    day, month = (a, b) if day_first else (b, a)
    form = f"%d{mark}%m{mark}%Y" if day_first else f"%m{mark}%d{mark}%Y"
    return Dates(_stamps(parts, c, month, day), "day first" if day_first else "month first", "", form)


def _by_format(cells: pl.Series, format: str) -> Dates:
    whole = cells.str.strptime(pl.Datetime("us"), format, strict=False)
    if whole.null_count() == len(cells):  # a format of the date alone reads the date of a date with a time
        day = cells.str.replace(r"[T\s,]+\d{1,2}:.*$", "").str.strptime(pl.Datetime("us"), format, strict=False)
        clock = ("2000-01-01 " + cells.str.extract(r"(\d{1,2}:.*)$", 1)).fill_null("2000-01-01")
        parts = clock.str.extract_groups(_NUMERIC).struct.unnest()
        parts.columns = ["a", "mark", "b", "c", "hour", "minute", "second", "fraction", "half", "zone"]
        a, b, c = (parts[name].cast(pl.Int64) for name in "abc")
        return Dates(_seconds(day) + _stamps(parts, a, b, c) - 946_684_800.0, f"as {format}", "", format)
    return Dates(_seconds(whole), f"as {format}", "", format)


def _spelled_in_numbers(cells: pl.Series) -> pl.Series:
    """Month names, 20200131 and 2020-01 as year, month and day in numbers."""
    cells = cells.str.replace(_WEEKDAY, "")
    cells = cells.str.replace(r"^(\d{4})(\d{2})(\d{2})(?:$|([T\s]))", "$1-$2-$3$4")
    cells = cells.str.replace(r"^(\d{4})[-/](\d{1,2})$", "$1-$2-01")
    cells = cells.str.replace(r"^(\d{4}-\d{2}-\d{2}T)(\d{2})(\d{2})(\d{2})(\D.*)?$", "$1$2:$3:$4$5")
    if cells.str.contains(rf"(?i){_NAME}").any():
        cells = cells.str.replace(_DAY_NAMED, "$3-$2-$1").str.replace(_MONTH_NAMED, "$3-$1-$2")
        cells = cells.str.replace(rf"(?i)^({_NAME})[\s\-]+(\d{{4}})$", "$2-$1-01")
        for number, name in enumerate(_MONTHS, start=1):
            cells = cells.str.replace(rf"(?i)^(\d{{4}})-{name}[a-z]*\.?-", f"${{1}}-{number}-")
    return cells


def _stamps(parts: pl.DataFrame, year: pl.Series, month: pl.Series, day: pl.Series) -> Floats:
    def number(name: str) -> pl.Series:
        return parts[name].cast(pl.Int64, strict=False).fill_null(0)

    half = parts["half"].str.to_lowercase().fill_null("")
    hour = number("hour")
    hour = (
        hour + ((half == "pm") & (hour < 12)).cast(pl.Int64) * 12 - ((half == "am") & (hour == 12)).cast(pl.Int64) * 12
    )
    date = (
        year.cast(pl.String).str.zfill(4)
        + "-"
        + month.cast(pl.String).str.zfill(2)
        + "-"
        + day.cast(pl.String).str.zfill(2)
    )
    days = _seconds(date.str.strptime(pl.Datetime("us"), "%Y-%m-%d", strict=False))
    fraction = ("0." + parts["fraction"]).cast(pl.Float64, strict=False).fill_null(0.0)
    minute, second = number("minute"), number("second")
    zone = parts["zone"].str.replace(r"^[A-Za-z]+$", "+0000").str.replace(":", "").fill_null("+0000")
    sign = (zone.str.slice(0, 1) == "-").cast(pl.Int64) * -2 + 1
    shift = sign * (
        zone.str.slice(1, 2).cast(pl.Int64, strict=False).fill_null(0) * 3600
        + zone.str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0) * 60
    )
    seconds = days + (hour * 3600 + minute * 60 + second - shift).cast(pl.Float64).to_numpy() + fraction.to_numpy()
    wrong = ((hour > 24) | (minute > 59) | (second > 60)).to_numpy()
    return np.asarray(np.where(wrong, np.nan, seconds), dtype=np.float64)


def _seconds(stamps: pl.Series) -> Floats:
    micros = stamps.dt.timestamp("us").cast(pl.Float64)
    return (micros.fill_null(np.nan).to_numpy() / 1e6).astype(np.float64)
