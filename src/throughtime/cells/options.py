"""What a cell can be asked for, read off its constructor.

An option is a keyword of `__init__`; its annotation says what it may be: `Literal["a", "b"]`, `bool`, or a kind
of value such as `int`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from throughtime.errors import CellError

COMMON = ("bias", "device", "dtype")  # every cell takes these; they are not choices between equations
_PASSED_ON = "options"  # how a subclass tells Cell what was chosen


@dataclass(frozen=True)
class Option:
    """One thing a person can choose about a cell."""

    name: str
    default: Any
    choices: tuple[Any, ...]  # empty: any value of the default's kind

    def __str__(self) -> str:
        others = [str(choice) for choice in self.choices if choice != self.default]
        return f"{self.name}={'|'.join([str(self.default), *others])}"


def options_of(cls: type) -> tuple[Option, ...]:
    """The options of a cell's class, in the order its constructor has them."""
    constructor: Any = cls.__init__  # type: ignore[misc]
    try:
        hints = get_type_hints(constructor)
    except NameError:  # a user's cell whose annotations exist for the type checker alone
        hints = {}
    return tuple(
        Option(parameter.name, parameter.default, _choices(hints.get(parameter.name)))
        for parameter in inspect.signature(constructor).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in (*COMMON, _PASSED_ON)
    )


def _choices(hint: Any) -> tuple[Any, ...]:
    if hint is bool:
        return (True, False)
    return get_args(hint) if get_origin(hint) is Literal else ()


def check(name: str, cls: type, given: Mapping[str, Any]) -> None:
    """Raise CellError if a cell has no such option, or the option cannot have that value."""
    options = {option.name: option for option in options_of(cls)}
    for key, value in given.items():
        if key in COMMON:
            continue
        if key not in options:
            there = ", ".join(options) or "none"
            raise CellError(f'cell "{name}" has no option "{key}"; its options: {there}')
        choices = options[key].choices
        if choices and not any(value is choice or (type(value) is str and value == choice) for choice in choices):
            raise CellError(f'cell "{name}": {key} is one of {", ".join(map(repr, choices))}; got {value!r}')
