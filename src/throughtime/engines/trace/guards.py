"""What a trace has baked in beside the equations: numbers and functions that the step reads from its surroundings."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from operator import is_, itemgetter
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from throughtime.cells.cell import Cell

_UNHEARD = frozenset(nn.Module().__dict__) - {
    "training",
    "_modules",
}  # of a cell: tensors are refused, hooks not called
_METHODS = ("step", "advance", "share", "weights")
# Classes that are made by a call belong to "abc" or "types" by name, whosoever they are.
_LIBRARIES = (frozenset(sys.stdlib_module_names) - {"abc", "types"}) | {"torch", "numpy"}
# What a step may ask, where a trace gets another answer than the call that it is made for: a trace is in a thread
# without modes, on the CPU, with plain tensors, and what it reads of the process may change unseen.
_ASKS = frozenset({
    "is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled", "is_autocast_cpu_enabled", "is_inference",
    "Parameter", "environ", "getenv", "globals",
})  # fmt: skip

_Check = tuple[Callable[[Any], Any], Any, tuple[Any, ...]]  # what is taken of what, and what it must be


class Guards:
    """Tells in a few microseconds whether anything that a cell's step reads has changed.

    Looked at, however deep: all that the cell holds; the globals, closures and defaults of the functions that the
    step calls; and what is in the objects, containers and modules among these. Whatever is there must still be the
    same object, and an array of numpy's must hold the same bytes. Not seen is what a step reads by itself from outside
    the program (files, the time), or by names that it puts together.

    `asks`: the names among these of what a trace must not answer, in order.
    """

    def __init__(self, cell: Cell) -> None:
        self._default = torch.get_default_dtype()
        self._entries: dict[int, tuple[Mapping[Any, Any], dict[Any, Any]]] = {}  # what must stand under which name
        self._sizes: list[tuple[Any, int]] = []
        self._lists: list[tuple[list[Any], tuple[Any, ...]]] = []
        self._closed: list[tuple[CellType, Any]] = []
        self._codes: list[tuple[FunctionType, CodeType, Any, Any]] = []
        self._arrays: list[tuple[np.ndarray[Any, Any], bytes]] = []
        self._looked: dict[int, Any] = {id(cell): None}  # by id; held, so that the id stays its own
        self._names: set[str] = {*_METHODS, "__call__"}
        self._scopes: dict[Any, Mapping[str, Any]] = {}  # of classes and modules: what code names of them counts
        self._collect(cell)
        self.asks = sorted(_ASKS & self._names)
        self._checks = [_check(container, values) for container, values in self._entries.values() if values]
        del self._looked, self._scopes, self._entries

    def hold(self, cell: Cell) -> bool:
        """Whether everything is as it was."""
        if torch.get_default_dtype() is not self._default:
            return False
        try:
            for container, size in self._sizes:
                if len(container) != size:
                    return False
            for take, scope, values in self._checks:
                if not all(map(is_, values, take(scope))):
                    return False
            for closed, value in self._closed:
                if closed.cell_contents is not value:
                    return False
        except (KeyError, ValueError):  # a name, or what a closure held, is gone
            return False
        for function, code, defaults, named in self._codes:
            if function.__code__ is not code or function.__defaults__ is not defaults:
                return False
            if function.__kwdefaults__ is not named:
                return False
        for now, then in self._lists:
            if len(now) != len(then) or not all(map(is_, now, then)):
                return False
        return all(array.tobytes() == content for array, content in self._arrays)

    def _collect(self, cell: Cell) -> None:
        own = cell.__dict__
        self._sizes.append((own, len(own)))
        self._take(own, own.keys() - _UNHEARD)
        self._class(type(cell))
        before = -1
        while before != (before := len(self._names) + len(self._scopes)):  # each may bring more of the other
            for scope in tuple(self._scopes.values()):
                self._take(scope, self._names & scope.keys())

    def _take(self, container: Mapping[Any, Any], names: Iterable[Any]) -> None:
        """Guard what stands under these names in a dictionary, and what is inside."""
        _, values = self._entries.setdefault(id(container), (container, {}))
        for name in [name for name in names if name not in values]:
            values[name] = container[name]
            self._look(container[name])

    def _look(self, value: Any) -> None:
        """Guard what may change inside a value while the value stays the same object."""
        if id(value) in self._looked or isinstance(value, (int, float, str, torch.Tensor, type(None))):
            return
        self._looked[id(value)] = value
        if isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, (MethodType, classmethod, staticmethod)):
            self._all((value.__func__, getattr(value, "__self__", None)))
        elif isinstance(value, BuiltinFunctionType):
            self._names.add(value.__name__)  # it may stand here under another
        elif isinstance(value, property):
            self._all((value.fget,))
        elif isinstance(value, functools.partial):
            self._all((value.func, value.args, value.keywords))
        elif isinstance(value, np.ndarray):
            self._arrays.append((value, value.tobytes()))
        elif isinstance(value, dict):
            self._sizes.append((value, len(value)))
            self._take(value, value)
        elif isinstance(value, list):
            self._lists.append((value, tuple(value)))
            self._all(value)
        elif isinstance(value, (tuple, set, frozenset)):
            self._sizes.append((value, len(value)))
            self._all(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, ModuleType):
            if not _of_library(value.__name__):
                self._scopes[value] = value.__dict__
        else:
            self._look(getattr(value, "__dict__", None))
            self._class(type(value))

    def _all(self, values: Iterable[Any]) -> None:
        for value in values:
            self._look(value)

    def _class(self, kind: type) -> None:
        for cls in kind.__mro__:
            if not _of_library(cls.__module__) and cls not in self._scopes:
                scope = self._scopes[cls] = cls.__dict__
                self._sizes.append((scope, len(scope)))  # what comes up nearer by hides what is inherited

    def _function(self, function: FunctionType) -> None:
        if _of_library(function.__module__) or function.__module__ == Cell.__module__:
            return
        self._codes.append((function, function.__code__, function.__defaults__, function.__kwdefaults__))
        self._all((function.__defaults__, function.__kwdefaults__))
        names = _names(function.__code__)
        self._names |= names
        self._take(function.__globals__, names & function.__globals__.keys())
        for closed in function.__closure__ or ():
            try:
                value = closed.cell_contents
            except ValueError:  # not filled yet
                continue
            self._closed.append((closed, value))
            self._look(value)


def _check(container: Mapping[Any, Any], values: Mapping[Any, Any]) -> _Check:
    names = list(values)
    return (
        itemgetter(*names, names[0]),
        container,
        (*values.values(), values[names[0]]),
    )  # of one name it makes no tuple


def _names(code: CodeType) -> set[str]:
    """The names of globals and attributes in a function and in those written inside it."""
    inside = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names, inside))


def _of_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _LIBRARIES
