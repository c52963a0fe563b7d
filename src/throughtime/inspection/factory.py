"""Runs a person's own file and lets a function in it make a model. The only place where code is run that came as data.

What goes wrong in that code is told with its file and line.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from throughtime.errors import InputError

_LONGEST = 300  # characters of somebody else's error that are shown

Loss = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Made:
    """What a factory returned."""

    model: nn.Module
    loss: Loss | None  # loss(output, y); None: none was given


@dataclass(frozen=True)
class Factory:
    """A function of a file that was run."""

    path: Path
    name: str
    function: Callable[..., Any]

    def make(self, *offered: Any) -> Made:
        """Call it with as many of `offered` as it asks for, and check what it returns.

        Raises InputError if it asks for more, raises, or returns no model.
        """
        wanted = self._wanted(len(offered))
        with theirs(self.path, f"{self.name} was called"):
            returned = self.function(*offered[:wanted])
        model, loss = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
        if not isinstance(model, nn.Module):
            raise InputError(
                f"{self.path}: {self.name} returned {_called(returned)}; it has to return the model, a torch.nn.Module "
                "that is built, or (model, loss)."
            )
        a_class = isinstance(loss, type) and issubclass(loss, nn.Module)
        if loss is not None and (a_class or not callable(loss)):
            raise InputError(
                f"{self.path}: the loss that {self.name} returned is {_called(loss)}; it has to be a function "
                "loss(output, y), such as torch.nn.functional.mse_loss."
            )
        return Made(model, loss)

    def _wanted(self, most: int) -> int:
        try:
            parameters = list(inspect.signature(self.function).parameters.values())
        except (TypeError, ValueError):  # written in C
            return 0
        places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if any(p not in places for p in required) or len(required) > most:
            names = ", ".join(p.name for p in required)
            raise InputError(
                f"{self.path}: {self.name} asks for {names}; it is called with nothing, with the data's card, or with "
                "the card and batches to train on: make(), make(data) or make(data, batches)."
            )
        return len(required) or int(bool(places) and places[0].name == "data")


def check(path: Path, name: str) -> str:
    """Read a Python file without running it; returns which functions (and classes) it has, in words.

    Raises InputError if the file is not there or no Python, or if no function was named.
    """
    there = _defined(path)
    known = f"there are {', '.join(there)}" if len(there) > 1 else f"there is {there[0]}" if there else "it has none"
    if not name:
        example = there[0] if there else "make"
        raise InputError(f"{path}: say which function makes the model, as in {path}:{example} ({known}).")
    return known


def load(path: Path, name: str) -> Factory:
    """Run a Python file, and find a function (or a model's class) in it.

    Raises InputError as `check` does, and if the file raises or has no such function.
    """
    known = check(path, name)
    function = getattr(_run(path), name, None)
    if not callable(function):
        raise InputError(f'{path}: has no function "{name}"; {known}.')
    if isinstance(function, nn.Module):
        raise InputError(f"{path}: {name} is a model that stands already; name a function that returns it.")
    return Factory(path, name, function)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Known random numbers for their code, whichever library it draws from; afterwards all streams are as before."""
    plain, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(arrays)


@contextmanager
def theirs(path: Path, when: str) -> Iterator[None]:
    """Whatever goes wrong in the person's code becomes one InputError that names its file and line."""
    try:
        yield
    except (Exception, SystemExit) as error:  # their file may end the whole process, as a script does
        raise InputError(f"{place(path, error)}, when {when}: {short(error)}") from error


def short(error: BaseException) -> str:
    """An error's last line, as a traceback ends with it."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _defined(path: Path) -> list[str]:
    """The functions and classes at the top of a file, without running it."""
    if path.suffix != ".py":
        raise InputError(f"{path}: is not a Python file (.py); name one and a function in it, as in my_model.py:make.")
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: this is not Python: {error.msg}.") from None
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as Python ({error}).") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the name.") from None
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    names += [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return [name for name in names if not name.startswith("_")]


def _run(path: Path) -> Any:
    """The file as a module, as if it had been imported from its own folder."""
    name = f"_measured_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: cannot be loaded as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # where its own imports are; it stays, for imports inside its functions
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        with theirs(path, "it was run"):
            spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


def place(path: Path, error: BaseException) -> str:
    """The file and line in the person's own folder that the error came through last."""
    folder = path.resolve().parent
    found = str(path)
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        if file.is_absolute() or file.exists():
            resolved = file.resolve()
            if folder in resolved.parents and "site-packages" not in resolved.parts:
                shown = path if resolved == path.resolve() else Path(os.path.relpath(resolved))
                found = f"{shown}, line {frame.lineno}"
    return found


def _called(value: Any) -> str:
    """What something is, for an error."""
    if isinstance(value, type) and issubclass(value, nn.Module):
        return f"the class {value.__name__}, not an object of it"
    if isinstance(value, tuple):
        return f"a tuple of {', '.join(type(one).__name__ for one in value) or 'nothing'}"
    return "nothing" if value is None else f"a {type(value).__name__}"
