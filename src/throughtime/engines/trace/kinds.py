"""What kind of thing an object is, for one who must see when it changes."""

from __future__ import annotations

import dis
import re
import sys
from abc import ABC, ABCMeta
from collections import namedtuple
from datetime import date, time, timedelta, timezone
from decimal import Decimal
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    CodeType,
    EllipsisType,
    GenericAlias,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    NoneType,
    NotImplementedType,
    UnionType,
    WrapperDescriptorType,
)
from typing import Any, TypeVar

import numpy as np
import torch

# Numbers and descriptions that never change, unless a subclass gives them attributes.
_CONSTANT = (
    int, float, complex, str, bytes, range, slice, NoneType, EllipsisType, NotImplementedType,
    CodeType, GenericAlias, UnionType, TypeVar, re.Pattern, date, time, timedelta, timezone, Decimal,
    ClassMethodDescriptorType, GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType,
    np.generic, np.dtype, np.ufunc, torch.dtype, torch.device, torch.layout, torch.memory_format, torch.finfo,
    torch.iinfo, type(vars(namedtuple("_One", "field"))["field"]),
)  # fmt: skip
_HEAP, _CLOSED = 1 << 9, 1 << 8 | 1 << 7  # bits of a type's flags: made while running; not to be changed, or called
_IMPORT = dis.opmap["IMPORT_NAME"]
# Classes that are made by a call belong to "abc" or "types" by name, whosoever they are.
_LIBRARIES = (frozenset(sys.stdlib_module_names) - {"abc", "types"}) | {"torch", "numpy"}


def of_library(module: object) -> bool:
    """Whether a module is Python's, torch's or numpy's: taken not to change."""
    return isinstance(module, str) and module.partition(".")[0] in _LIBRARIES


def of_package(module: object) -> bool:
    """Whether a module is this package's."""
    return isinstance(module, str) and module.partition(".")[0] == "throughtime"


def is_library(cls: type) -> bool:
    """Whether a class is of a library."""
    return of_library(cls.__module__) or cls in (ABC, ABCMeta)


def base_of(kind: type) -> type:
    """The nearest class that is not written in Python: what lies beside an object's attributes is of that kind."""
    for cls in kind.__mro__:
        new = cls.__dict__.get("__new__")
        own = isinstance(new, BuiltinFunctionType) and new.__self__ is cls
        if own or not cls.__flags__ & _HEAP or cls.__flags__ & _CLOSED:
            return cls
    return object


def is_constant(base: type) -> bool:
    """Whether objects of such a base never change by themselves."""
    return issubclass(base, _CONSTANT) and not issubclass(base, np.void)


def called_unnamed(cls: type) -> set[str]:
    """What a class has that is called where no code names it: by operators, by `with`, by a library's base class."""
    theirs = {name for base in cls.__mro__ if is_library(base) for name in base.__dict__}
    return {name for name, value in cls.__dict__.items() if _behaves(value) if _is_dunder(name)} | {
        name for name in cls.__dict__ if name in theirs and not _is_dunder(name) and name != "_abc_impl"
    }


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _behaves(value: Any) -> bool:
    described = isinstance(value, (GetSetDescriptorType, MemberDescriptorType))
    return not described and (callable(value) or hasattr(type(value), "__get__"))


def names_in(code: CodeType) -> set[str]:
    """The names of globals and attributes in a function and in those written inside it."""
    return {name for each in _all_of(code) for name in each.co_names}


def imported_in(code: CodeType) -> set[str]:
    """The modules that a function itself imports, less those of libraries and of this package."""
    found = set()
    for each in _all_of(code):
        if _IMPORT not in each.co_code[::2]:
            continue
        steps = list(dis.get_instructions(each))
        for level, _, step in zip(steps, steps[1:], steps[2:], strict=False):
            if step.opcode == _IMPORT:
                found.add("." * (level.argval or 0) + step.argval)
    return {name for name in found if not of_library(name) and not of_package(name)}


def _all_of(code: CodeType) -> list[CodeType]:
    inside = [each for constant in code.co_consts if isinstance(constant, CodeType) for each in _all_of(constant)]
    return [code, *inside]
