"""What a trace has baked in beside the equations: numbers and functions that the step reads from its surroundings."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from copy import deepcopy
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from throughtime.cells.cell import Cell

_ABSENT = object()
_PLAIN = (
    int,
    float,
    complex,
    str,
    bytes,
    bool,
    type(None),
    torch.dtype,
    torch.device,
    FunctionType,
    BuiltinFunctionType,
)
_INTERNAL = frozenset(nn.Module().__dict__) - {"training"}
_NAMED = (
    "parts",
    "reads",
    "inputs",
    "recurrent",
    "unbiased",
    "hidden_size",
    "bias",
    "step",
    "advance",
    "share",
    "weights",
)
_LIBRARIES = frozenset(sys.stdlib_module_names) | {"torch", "numpy"}
_DEPTH = 3  # functions called by functions called by the step


class Guards:
    """Tells in about a microsecond whether anything a cell's step reads has changed.

    Looked at are the cell's attributes, its class's, and what the step's code names: globals, what it closes over,
    numbers in modules and objects that it names, and the same for the functions among these.
    """

    def __init__(self, cell: Cell) -> None:
        self._default = torch.get_default_dtype()
        self._count = len(cell.__dict__)
        self._own: list[tuple[str, Any]] = []
        self._kind: list[tuple[str, Any]] = []
        self._same: list[tuple[Mapping[str, Any], str, Any]] = []
        self._equal: list[tuple[Mapping[str, Any] | None, str, Any]] = []  # None: the cell's own
        self._closed: list[tuple[Any, Any]] = []
        self._code: list[tuple[FunctionType, CodeType, Any]] = []
        self._functions: dict[FunctionType, int] = {}
        self._seen: set[tuple[int, str]] = set()
        self._collect(cell)

    def hold(self, cell: Cell) -> bool:
        """Whether everything is as it was."""
        own, kind = cell.__dict__, type(cell)
        if len(own) != self._count or torch.get_default_dtype() is not self._default:
            return False
        for name, value in self._own:
            if own.get(name, _ABSENT) is not value:
                return False
        for name, value in self._kind:
            if getattr(kind, name, _ABSENT) is not value:
                return False
        for container, name, value in self._same:
            if container.get(name, _ABSENT) is not value:
                return False
        for function, code, defaults in self._code:
            if function.__code__ is not code or function.__defaults__ is not defaults:
                return False
        for closed, value in self._closed:
            if closed.cell_contents is not value:
                return False
        for place, name, value in self._equal:  # noqa: SIM110 - half as long as all()
            if (own if place is None else place).get(name, _ABSENT) != value:
                return False
        return True

    def _collect(self, cell: Cell) -> None:
        kind = type(cell)
        names = set(_NAMED)
        for name in ("step", "advance"):
            self._enqueue(getattr(kind, name), 0)
        for name, value in cell.__dict__.items():
            if name not in _INTERNAL:
                self._attribute(name, value)
        done: set[FunctionType] = set()
        while len(done) < len(self._functions):
            function = next(each for each in self._functions if each not in done)
            done.add(function)
            names |= self._look_into(function, self._functions[function])
            for name in sorted(names & set(dir(kind)) - set(cell.__dict__)):
                self._of_kind(kind, name)
        for value in cell.__dict__.values():
            self._inside(value, names, 1)

    def _enqueue(self, function: Any, depth: int) -> None:
        function = getattr(function, "__func__", function)
        if not isinstance(function, FunctionType) or depth >= _DEPTH:
            return
        if function.__module__ != Cell.__module__ and not _of_library(function.__module__):
            self._functions.setdefault(function, depth)

    def _attribute(self, name: str, value: Any) -> None:
        if _plain(value):
            self._own.append((name, value))
            for function in _leaves(value):
                self._enqueue(function, 1)
        elif _contained(value):
            self._equal.append((None, name, deepcopy(value)))

    def _of_kind(self, kind: type[Cell], name: str) -> None:
        owner = next((cls for cls in kind.__mro__ if name in cls.__dict__), None)
        if owner is None or owner in (nn.Module, object) or (id(kind), name) in self._seen:
            return
        self._seen.add((id(kind), name))
        value = getattr(kind, name)
        if _plain(value):
            self._kind.append((name, value))
            self._enqueue(value, 1)
        elif isinstance(value, property) and isinstance(value.fget, FunctionType):
            self._kind.append((name, value))
            self._enqueue(value.fget, 1)
        elif _contained(value):
            self._equal.append((owner.__dict__, name, deepcopy(value)))

    def _look_into(self, function: FunctionType, depth: int) -> set[str]:
        """What one function names; guards on what its globals and closure give for these names."""
        self._code.append((function, function.__code__, function.__defaults__))
        names = set(_names(function.__code__))
        for name in sorted(names & set(function.__globals__)):
            self._value(function.__globals__, name, names, depth)
        for closed in function.__closure__ or ():
            try:
                value = closed.cell_contents
            except ValueError:  # not filled yet
                continue
            if _plain(value):
                self._closed.append((closed, value))
                self._enqueue(value, depth + 1)
            else:
                self._inside(value, names, depth)
        return names

    def _value(self, container: Mapping[str, Any], name: str, names: set[str], depth: int) -> None:
        if (id(container), name) in self._seen:
            return
        self._seen.add((id(container), name))
        value = container[name]
        if _plain(value):
            self._same.append((container, name, value))
            for function in _leaves(value):
                self._enqueue(function, depth + 1)
        elif _contained(value):
            self._equal.append((container, name, deepcopy(value)))
        else:
            self._inside(value, names, depth)

    def _inside(self, value: Any, names: set[str], depth: int) -> None:
        """What a module, a class or an object that is named holds by these names."""
        if isinstance(value, Cell) or (isinstance(value, ModuleType) and _of_library(value.__name__)):
            return
        inside = getattr(value, "__dict__", None)
        if isinstance(inside, Mapping) and not _of_library(
            type(value).__module__ if not isinstance(value, ModuleType) else ""
        ):
            for name in sorted(names & set(inside)):
                if _plain(inside[name]) or _contained(inside[name]):
                    self._value(inside, name, set(), depth)


def _plain(value: Any) -> bool:
    """Whether it cannot change by itself, so that it is enough to see that it is still the same."""
    return all(isinstance(leaf, _PLAIN) for leaf in _leaves(value))


def _contained(value: Any) -> bool:
    """Whether it is a container of such: compared with a copy."""
    if isinstance(value, Mapping):
        return all(_plain(each) or _contained(each) for each in value.values())
    return isinstance(value, (list, set, frozenset, tuple)) and all(_plain(each) or _contained(each) for each in value)


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _names(code: CodeType) -> Iterable[str]:
    """The names of globals and attributes in a function and in those written inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _of_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _LIBRARIES
