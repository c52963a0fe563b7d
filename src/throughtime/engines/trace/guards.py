"""What a trace has baked in beside the equations: numbers and functions that the step reads from its surroundings."""

from __future__ import annotations

import builtins
import functools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sized
from itertools import chain, starmap
from operator import attrgetter, call, is_, itemgetter
from types import (
    BuiltinFunctionType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._ops import OpOverload, OpOverloadPacket

from throughtime.cells.cell import Cell, Named
from throughtime.engines.trace.kinds import (
    base_of,
    called_unnamed,
    imported_in,
    is_constant,
    is_library,
    names_in,
    of_library,
    of_package,
)

# Of a cell: its tensors are refused, its hooks are not called.
_UNHEARD = frozenset(nn.Module().__dict__) - {"training", "_modules"}
_RECORDS = frozenset({"options"})  # looked at only where code names them
# What every step has, by name: what runs it, and what says which part is which.
_METHODS = ("step", "advance", "share", "weights")
_LAYOUT = ("parts", "reads", "inputs", "recurrent", "unbiased")
# Called where a class is, not where an object is.
_BUILD = frozenset({"__new__", "__init__", "__post_init__", "__init_subclass__"})
# What a step may ask, where a trace gets another answer than the call that it is made for: a trace is in a thread
# without modes, on the CPU, with plain tensors, and what it reads of the process may change unseen.
_ASKS = frozenset({
    "is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled", "is_autocast_cpu_enabled", "is_inference",
    "are_deterministic_algorithms_enabled", "get_default_device", "get_float32_matmul_precision", "get_num_threads",
    "Parameter", "environ", "getenv", "globals", "random", "import_module", "__import__", "eval", "exec",
})  # fmt: skip
# With these a step may read what no code names, or build what no code calls.
_BY_STRING = frozenset({"getattr", "hasattr", "attrgetter", "methodcaller", "__getattribute__", "__dict__", "vars"})
_BY_OBJECT = frozenset({"type", "__class__"})
_OURS = frozenset({"throughtime", Cell.__module__})  # the package's own loading, and the cell that all are made from
_PLAIN = frozenset({bool, int, float, str, type(None)})  # most of what is met
_NOTHING = object()
_BUILTIN = frozenset(vars(builtins))

_Check = tuple[Callable[[Any], Any], Any, tuple[Any, ...]]  # what is taken of what, and what it must be


class Guards:
    """Tells in a few microseconds whether anything that a cell's step reads has changed.

    Looked at, however deep: all that the cell holds; the globals, closures, defaults and attributes of the functions
    that the step calls, by name or by an operator; and what is in the objects, containers, classes and modules among
    these. Whatever is there must still be the same object in the same order, and an array of numpy's must hold the
    same bytes. Where code may look by names that it puts together (`getattr`), every name of these counts. Not seen is
    what a step reads from outside the program (files, the time), and what changes inside Python, torch and numpy.

    `asks`: what among these a trace must not answer, in order: names, and objects whose changes cannot be seen.
    """

    def __init__(self, cell: Cell) -> None:
        self._default = torch.get_default_dtype()
        self._kind = type(cell)
        self._entries: dict[int, tuple[Mapping[Any, Any], dict[Any, Any]]] = {}  # what must stand under which name
        self._sizes: list[tuple[Sized, int]] = []
        self._checks: list[_Check] = []
        self._contents: list[Collection[Any]] = []
        self._arrays: list[tuple[np.ndarray[Any, Any], Any]] = []
        self._looked: dict[int, Any] = {id(cell): None}  # by id; held, so that the id stays its own
        self._names: set[str] = {*_METHODS, *_LAYOUT, "__call__", "__getattr__"}
        self._scopes: dict[Any, Mapping[str, Any]] = {}  # of classes and modules: what code names of them counts
        self._unseen: set[str] = set()
        self._collect(cell)
        self.asks = sorted(_ASKS & self._names) + sorted(self._unseen)
        self._checks += [_named(container, values) for container, values in self._entries.values() if values]
        # All sizes in one list and all objects in one row, so that no loop of Python's goes over them.
        self._sized, self._lengths = [container for container, _ in self._sizes], [size for _, size in self._sizes]
        self._takes = [(take, container) for take, container, _ in self._checks]
        self._then = [*chain(*(values for _, _, values in self._checks), *self._contents)]
        del self._looked, self._scopes, self._entries, self._unseen, self._sizes, self._checks

    def hold(self, cell: Cell) -> bool:
        """Whether everything is as it was."""
        if type(cell) is not self._kind or torch.get_default_dtype() is not self._default:
            return False
        try:
            if cell.__dict__ is not self._sized[0] or list(map(len, self._sized)) != self._lengths:
                return False
            now = chain.from_iterable(chain(starmap(call, self._takes), self._contents))
            if not all(map(is_, self._then, now)):
                return False
        except (KeyError, ValueError, TypeError, RuntimeError):  # a name or a closure's value is gone, or goes just now
            return False
        return not self._arrays or all(_numbers(array) == content for array, content in self._arrays)

    def _collect(self, cell: Cell) -> None:
        own = cell.__dict__
        self._sizes.append((own, len(own)))  # the first, as `hold` has it
        self._take(own, own.keys() - _UNHEARD - _RECORDS)
        self._class(type(cell))
        if any(isinstance(each, MemberDescriptorType) for cls in type(cell).__mro__ for each in cls.__dict__.values()):
            self._unseen.add("what a slot of its own holds")
        for tensor in (*own["_parameters"].values(), *own["_buffers"].values()):
            if tensor is not None and tensor.__dict__:
                self._scopes[tensor] = tensor.__dict__
        before = -1
        while before != (before := len(self._names) + len(self._scopes)):  # each may bring more of the other
            self._take(own, self._names & _RECORDS & own.keys())
            for owner, scope in tuple(self._scopes.items()):
                self._take(scope, self._heard(owner, scope))

        self._sizes += [(scope, len(scope)) for owner, scope in self._scopes.items() if self._searched(owner, scope)]

    def _heard(self, owner: Any, scope: Mapping[str, Any]) -> set[str]:
        """The names in a class or module that code may read."""
        names = self._names & scope.keys()
        if isinstance(owner, type) and self._names & _BY_OBJECT and owner not in self._kind.__mro__:
            names |= _BUILD & scope.keys()
        if self._searched(owner, scope):
            names |= {name for name in scope if not name.startswith("__") and name != "_abc_impl"}
        return names

    def _searched(self, owner: Any, scope: Mapping[str, Any]) -> bool:
        """Whether code may look for any name in a class or module."""
        where = owner.__module__ if isinstance(owner, type) else scope.get("__name__")
        return bool(self._names & _BY_STRING) and not of_package(where)

    def _take(self, container: Mapping[Any, Any], names: Iterable[Any]) -> None:
        """Guard what stands under these names in a dictionary, and what is inside."""
        _, values = self._entries.setdefault(id(container), (container, {}))
        for name in [name for name in names if name not in values]:
            values[name] = container[name]
            self._look(container[name])

    def _look(self, value: Any) -> None:
        """Guard what may change inside a value while the value stays the same object."""
        kind = type(value)  # what an object says of its class may be another's
        if kind in _PLAIN or id(value) in self._looked or issubclass(kind, (OpOverload, OpOverloadPacket)):
            return
        self._looked[id(value)] = value
        if issubclass(kind, torch.Tensor):  # its numbers are the recorder's matter
            self._all((value.__dict__,) if value.__dict__ else ())
            self._class(kind)
        elif issubclass(kind, type):
            self._class(value)
            for cls in value.__mro__:
                if cls in self._scopes and cls not in self._kind.__mro__ and cls.__module__ != Cell.__module__:
                    self._take(self._scopes[cls], _BUILD & self._scopes[cls].keys())
        else:
            base = base_of(kind)
            if base is not object and not is_constant(base) and not self._inside(value, base):
                self._unseen.add(f"what an object of {kind.__module__}.{kind.__qualname__} holds")
            elif base in (object, SimpleNamespace) or kind is not base:
                self._attributes(value, kind)

    def _inside(self, value: Any, base: type) -> bool:
        """Guard what an object holds beside its attributes; whether that can be seen."""
        if base is FunctionType:
            self._function(value)
        elif base is MethodType:
            self._all((value.__func__, value.__self__))
        elif base in (BuiltinFunctionType, MethodWrapperType):
            self._names.add(value.__name__)  # it may stand here under another
            self._look(value.__self__)
        elif base in (classmethod, staticmethod):
            self._look(value.__func__)
        elif base is property:
            self._look(value.fget)
        elif base is functools.partial:
            self._all((value.func, value.args, value.keywords))
        elif base is np.ndarray and not value.dtype.hasobject:
            self._arrays.append((value, _numbers(value)))
        elif issubclass(base, (dict, MappingProxyType)):
            keys = base.keys(value)
            self._content(keys)
            if len(keys):
                self._content(base.values(value))
        elif issubclass(base, (tuple, frozenset)):
            self._all(base.__iter__(value))
        elif issubclass(base, (list, set, deque)) and type(value).__iter__ is base.__iter__:
            self._content(value)
        elif issubclass(base, ModuleType):
            if not of_library(value.__name__):
                self._scopes[value] = value.__dict__
        else:
            return base is SimpleNamespace or (base is _CACHED and of_library(value.__module__))
        return True

    def _attributes(self, value: Any, kind: type) -> None:
        """Guard an object's class and attributes."""
        self._class(kind)
        if issubclass(kind, functools.cached_property):
            self._look(value.func)  # the rest is a lock
            return
        if issubclass(kind, ModuleType):
            return
        _, own = _kind_and_own(value)
        if own is not None or not issubclass(kind, tuple):
            self._checks.append((_kind_and_own, value, (kind, own)))
            self._look(own)
        for cls in kind.__mro__[: kind.__mro__.index(base_of(kind))]:
            for member in cls.__dict__.values():
                if isinstance(member, MemberDescriptorType):
                    held = _held(member, value)
                    self._checks.append((functools.partial(_held, member), value, held))
                    self._all(held)

    def _all(self, values: Iterable[Any]) -> None:
        for value in values:
            self._look(value)

    def _content(self, values: Collection[Any]) -> None:
        then = tuple(values)
        if then:
            self._contents.append(values)
            self._all(then)
        self._sizes.append((values, len(then)))

    def _class(self, kind: type) -> None:
        for cls in kind.__mro__:
            named = issubclass(cls, Named) and cls.__module__ == Cell.__module__
            if not is_library(cls) and not named and cls not in self._scopes:
                scope = self._scopes[cls] = cls.__dict__
                self._sizes.append((scope, len(scope)))  # what comes up nearer by hides what is inherited
                if cls.__module__ != Cell.__module__:
                    self._take(scope, called_unnamed(cls) - _BUILD)
        if kind in self._scopes and not of_package(kind.__module__):
            self._checks.append((_LINE, kind, (kind.__mro__, kind.__mro__)))
        if not is_library(type(kind)):
            self._class(type(kind))

    def _function(self, function: FunctionType) -> None:
        written = function.__globals__.get("__name__")  # a wrapper says that it is of the module of what it wraps
        if written in _OURS or (of_library(written) and of_library(function.__module__)):
            return
        self._look(function.__dict__)
        for closed in function.__closure__ or ():
            try:
                value = closed.cell_contents
            except ValueError:  # not filled yet
                continue
            self._checks.append((_ENCLOSED, closed, (value, value)))
            self._look(value)
        if of_library(written):
            return
        self._checks.append((_WRITTEN, function, _WRITTEN(function)))
        self._all((function.__defaults__, function.__kwdefaults__))
        self._unseen |= {f"import {name}" for name in imported_in(function.__code__)}
        names = names_in(function.__code__)
        self._names |= names
        self._take(function.__globals__, names & function.__globals__.keys())
        builtin = (names & _BUILTIN) - function.__globals__.keys()
        if builtin:  # a global of that name would hide it
            self._checks.append((functools.partial(_without, builtin), function.__globals__, (True,)))


_WRITTEN = attrgetter("__code__", "__defaults__", "__kwdefaults__")
_LINE = attrgetter("__mro__", "__mro__")
_ENCLOSED = attrgetter("cell_contents", "cell_contents")  # of one name it makes no tuple
_CACHED = type(functools.lru_cache(len))


def _without(names: set[str], scope: Mapping[str, Any]) -> tuple[bool]:
    return (scope.keys().isdisjoint(names),)


def _kind_and_own(thing: Any) -> tuple[type, dict[str, Any] | None]:
    kind = type(thing)
    return kind, thing.__dict__ if kind.__dictoffset__ else None


def _held(member: MemberDescriptorType, thing: Any) -> tuple[Any]:
    try:
        return (member.__get__(thing),)
    except AttributeError:  # nothing is there yet
        return (_NOTHING,)


def _numbers(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    return array.tobytes(), array.shape, array.dtype


def _named(container: Mapping[Any, Any], values: Mapping[Any, Any]) -> _Check:
    names = list(values)
    names *= 1 + (len(names) == 1)  # of one name it makes no tuple
    return itemgetter(*names), container, tuple(values[name] for name in names)
