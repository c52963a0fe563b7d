"""Signs that a table holds several series though nobody named the column that tells them apart."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from throughtime.data.tables import Table, numbers
from throughtime.errors import InputError

_CALENDAR = re.compile(r"year|month|week|day|hour|minute|second|quarter|season|jahr|monat|tag|stunde", re.IGNORECASE)
_IDENTITY = re.compile(
    r"(^|[^a-z])(id|ids|store|shop|branch|site|station|sensor|machine|engine|unit|item|product|sku|customer|user|"
    r"patient|subject|person|device|group|series|region|country|city|ticker|symbol)([^a-z]|$)",
    re.IGNORECASE,
)
_COUNTER = re.compile(r"t|time|step|index|idx|tick|cycle|row|timestep|time_step|date", re.IGNORECASE)
_FEW = 3  # rows of a series at least


def refuse_unnamed(table: Table, by_time: bool, leave: set[str | None]) -> None:
    """Raise InputError if a column of numbers looks like the name of several series; `leave` is not looked at.

    `by_time`: whether another column says when, no two rows alike; then only a column's name can make it a suspect.
    """
    for name in table.frame.columns:
        if name in leave:
            continue
        found, stray = numbers(table.frame[name])
        if stray.any() or np.isnan(found).any() or (found != np.round(found)).any():
            continue
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
        if not by_time and _COUNTER.fullmatch(words) and (np.diff(found) < 0).any() and _restarts(found):
            at = int(np.argmax(np.diff(found) < 0)) + 1
            raise InputError(
                f'{table.where(at)}: "{name}" starts again; are these several series? Pass --series COLUMN with the '
                f'column that tells them apart, --time "{name}" if it orders the rows, or --drop "{name}".'
            )
        _, which, times = np.unique(found, return_inverse=True, return_counts=True)
        if len(times) < 2 or times.min() < _FEW or _CALENDAR.search(words):
            continue
        if _IDENTITY.search(words) or (
            not by_time and (_in_blocks(which, len(times)) or _in_turn(table, which, len(times)))
        ):
            raise InputError(
                f'{table.name}: does "{name}", with {len(times):,} different values, tell several series apart? Pass '
                f'--series "{name}" if it does, or --series "" if all rows are one series.'
            )


def _restarts(found: NDArray[np.float64]) -> bool:
    """Whether numbers go up and now and then fall back to where they began."""
    falls = np.flatnonzero(np.diff(found) < 0) + 1
    return len(falls) <= len(found) / _FEW and bool((found[falls] <= found[0]).all())


def _in_blocks(which: NDArray[np.intp], count: int) -> bool:
    """Whether equal values all stand together."""
    return int((np.diff(which) != 0).sum()) + 1 == count


def _in_turn(table: Table, which: NDArray[np.intp], count: int) -> bool:
    """Whether the values take turns, each once in every round, and some column goes on from round to round.

    It does if it changes far less from round to round than from row to row.
    """
    if len(np.unique(which[:count])) != count or (which[count:] != which[:-count]).any():
        return False
    for name in table.frame.columns:
        found, stray = numbers(table.frame[name])
        if stray.any() or np.isnan(found).any() or len(np.unique(found)) <= count:
            continue
        if np.abs(found[count:] - found[:-count]).mean() < 0.5 * np.abs(np.diff(found)).mean():
            return True
    return False
