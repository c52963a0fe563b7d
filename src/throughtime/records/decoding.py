"""Plain values back into records: types, ranges, and sizes that belong together. The one place that trusts no file."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


def decode(kind: Any, value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Plain values, as `encode` made them, back into `kind`. Unknown fields are ignored: old readers read new files.

    Raises ValueError, naming the field, for whatever is not of the type, the range or the size it must be.
    """
    try:
        record = msgspec.convert(_whole(value, arrays), kind, dec_hook=_array)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise ValueError(f"{where.strip('.`') or 'the record'}: {what.replace('`', '').lower()}") from None
    _fit(record, "", {})
    return record


def _whole(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """With the arrays, and the numbers that JSON does not know, where they belong."""
    if isinstance(value, list):
        return [_whole(inner, arrays) for inner in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$array"}:
        name = value["$array"]
        if not isinstance(name, str) or name not in arrays:
            raise ValueError(f"the array {str(name)!r} is missing")
        return arrays[name]
    if set(value) == {"$float"}:
        if value["$float"] not in ("nan", "inf", "-inf"):
            raise ValueError(f"{str(value['$float'])!r} is no number")
        return float(value["$float"])
    return {key: _whole(inner, arrays) for key, inner in value.items()}


def _array(kind: Any, value: Any) -> Any:
    """An array of the kind of numbers that belongs there; for what msgspec does not know by itself."""
    wanted = typing.get_args(typing.get_args(kind)[1])[0]
    number = typing.get_origin(wanted) or wanted
    if not isinstance(value, np.ndarray):
        raise ValueError(f"expected an array, got {type(value).__name__}")
    if not issubclass(value.dtype.type, number):
        raise ValueError(f"expected an array of {number.__name__} numbers, got {value.dtype}")
    return value


# -- sizes


def _fit(value: Any, where: str, sizes: dict[str, int], shape: str = "") -> None:
    """Raise ValueError unless the sizes of a value, and of all in it, are those of their letters."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for name, inside in _letters(type(value)).items():
            inner = getattr(value, name)
            _fit(inner, f"{where}.{name}".lstrip("."), _within(inner, sizes), inside)
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _fit(inner, f"{where}[{key!r}]", _within(inner, sizes), shape)
        return
    if isinstance(value, tuple) and not shape:
        for place, inner in enumerate(value):
            _fit(inner, f"{where}[{place}]", _within(inner, sizes))
        return
    if shape and value is not None:
        there = value.shape if isinstance(value, np.ndarray) else (value if isinstance(value, int) else len(value),)
        letters = shape.split()
        if len(there) != len(letters):
            raise ValueError(f"{where}: has {len(there)} dimensions, not {len(letters)}")
        for letter, size in zip(letters, there, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"{where}: its size {letter} is {size}, where others have {sizes[letter]}")


def _within(value: Any, sizes: dict[str, int]) -> dict[str, int]:
    """A record inside another knows its letters, but does not teach it new ones."""
    return dict(sizes) if dataclasses.is_dataclass(value) else sizes


@cache
def _letters(kind: Any) -> dict[str, str]:
    """Field -> the letters of its sizes; those with letters first, so that records inside know them."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {field.name: _shape(hints[field.name]) for field in dataclasses.fields(kind)}
    return dict(sorted(found.items(), key=lambda one: not one[1]))


def _shape(hint: Any) -> str:
    """The letters in an annotation, wherever in it they stand."""
    for note in getattr(hint, "__metadata__", ()):
        if isinstance(note, str) and re.fullmatch(r"\w( \w)*", note):
            return note
    return next(filter(None, map(_shape, typing.get_args(hint))), "")
