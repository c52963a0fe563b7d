"""What a cell's class must keep to, checked with one sentence that says what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from throughtime.errors import CellError

if TYPE_CHECKING:
    from throughtime.cells.cell import Cell

METHODS = frozenset({"get", "items", "keys", "map", "values"})  # of named tensors: u.values is not a block


def require_names(kind: str, names: Iterable[object], owner: str) -> None:
    """Refuse names that are not text, are given twice, or would be hidden by a method of named tensors.

    Raises CellError.
    """
    some = tuple(names)
    for name in some:
        if not isinstance(name, str) or not name:
            raise CellError(f"{owner}: a {kind} is named by a text, not by {name!r}")
        if name in METHODS or name.startswith("_"):
            raise CellError(
                f'{owner}: a {kind} cannot be called "{name}", which means something else on u, read and the state; '
                f'choose another word, such as "{name.strip("_")}_{kind.split()[-1]}"'
            )
    twice = next((name for name in some if some.count(name) > 1), None)
    if twice is not None:
        raise CellError(f'{owner}: the {kind} "{twice}" is named twice; name each once')


def require_step_result(cell: Cell, result: object, state: type, gates: type) -> None:
    """Refuse what a step returns unless it is a State and Gates.

    Raises CellError.
    """
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], state)
            and isinstance(result[1], gates)):  # fmt: skip
        shown = (
            f"({', '.join(type(item).__name__ for item in result)})"
            if isinstance(result, tuple)
            else type(result).__name__
        )
        parts = ", ".join(f"{part}=…" for part in cell.parts)
        raise CellError(
            f'the step of "{cell.title}" returned {shown}; it must return the new state and the gates, as in '
            f"return State({parts}), Gates(), where Gates() has none to show"
        )


def require_tensor(x: object, name: str) -> None:
    """Refuse what is no torch tensor.

    Raises CellError.
    """
    if not isinstance(x, Tensor):
        what = (
            type(x).__module__.split(".")[0] + "." + type(x).__name__ if hasattr(x, "__array__") else type(x).__name__
        )
        raise CellError(f"{name} must be a torch tensor, got {what}; convert it with torch.as_tensor({name})")


def require_parameters_declared(cell: Cell, again: Callable[[], Cell]) -> None:
    """Refuse a cell that cannot be a layer's: it holds numbers that a layer would not train, save or move.

    A layer keeps the parameters of its cells itself, one set for each layer and direction, by the shapes that the cell
    declares. What `__init__` makes or sets beside those would be lost without a word. `again` makes the cell once more.

    Raises CellError.
    """
    declared = set(cell.shapes())
    owner = f'"{cell.title}"'
    for name, _ in cell.named_parameters():
        if name not in declared:
            raise CellError(_beside(owner, f"a parameter of its own, {name}", name))
    for name, buffer in cell.named_buffers():
        if buffer is not None:
            raise CellError(
                f"the cell {owner} holds a buffer, {name}, which a layer would neither save nor move; make it in "
                "`step` from what is given there, or declare it as a parameter in `extra`"
            )
    for name, value in vars(cell).items():
        if isinstance(value, Tensor) and value.requires_grad:
            raise CellError(_beside(owner, f"a tensor that requires gradients, {name}", name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = again()
        torch.manual_seed(0)
        drawn = {name: torch.empty_like(value) for name, value in made.values().items()}
        made.reset_parameters(drawn)
    for name, value in made.values().items():
        if not torch.equal(value.detach(), drawn[name]):
            raise CellError(
                f"the cell {owner} sets {name} in __init__, and a layer, which draws the parameters of each layer and "
                "direction by reset_parameters, would draw it anew; set it there, as in def reset_parameters(self, "
                "parameters=None, *, generator=None): super().reset_parameters(parameters, generator=generator); "
                f'nn.init.constant_((self.values() if parameters is None else parameters)["{name}"], 3.0)'
            )


def _beside(owner: str, what: str, name: str) -> str:
    last = name.rpartition(".")[2]
    return (
        f"the cell {owner} holds {what}, which a layer would not train, save or move; declare it, as in "
        f'def extra(self): return {{"{last}": (self.hidden_size,)}}, and use it in `step` as W["{last}"]'
    )


def require_free_names(cell: nn.Module, extra: dict[str, Any], usual: dict[str, Any], owner: str) -> None:
    """Refuse further parameters whose names are taken.

    Raises CellError.
    """
    for name in extra:
        if name in usual or hasattr(cell, name) or "." in name or not name:
            raise CellError(
                f'{owner}: extra() names a parameter "{name}", and that name is taken; choose another word, such as '
                f'"own_{name.replace(".", "_")}"'
            )
