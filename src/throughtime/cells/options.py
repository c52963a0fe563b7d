"""What a cell can be asked for, read off its constructor.

An option is a keyword of `__init__`; its annotation says what it may be: `Literal["a", "b"]`, `bool`, or a kind
of value such as `int`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from throughtime.errors import CellError

COMMON = ("bias", "device", "dtype")  # every cell takes these; they are not choices between equations
_PLAIN = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
_PASSED_ON = "options"  # how a subclass tells Cell what was chosen


@dataclass(frozen=True)
class Option:
    """One thing a person can choose about a cell."""

    name: str
    default: Any
    choices: tuple[Any, ...]  # empty: any value of its kinds
    kinds: tuple[type, ...] = ()  # among bool, int, float, str and NoneType; empty: any value at all

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
        Option(
            parameter.name,
            parameter.default,
            _choices(hints.get(parameter.name)),
            _kinds(hints.get(parameter.name), parameter.default),
        )
        for parameter in inspect.signature(constructor).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in (*COMMON, _PASSED_ON)
    )


def _choices(hint: Any) -> tuple[Any, ...]:
    if hint is bool:
        return (True, False)
    return get_args(hint) if get_origin(hint) is Literal else ()


def _kinds(hint: Any, default: Any) -> tuple[type, ...]:
    """The plain kinds of value that an annotation names; without one, the default's."""
    if hint is None and default is None:
        return ()
    kinds = get_args(hint) or (type(default) if hint is None else hint,)
    return kinds if all(kind in (*_PLAIN, NoneType) for kind in kinds) else ()


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
        return True
    return type(value) in kinds


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
        kinds = options[key].kinds
        if kinds and not choices and not _fits(value, kinds):
            wanted = " or ".join(_PLAIN.get(kind, "None") for kind in kinds)
            raise CellError(f'cell "{name}": {key} is {wanted}; got {value!r}')
