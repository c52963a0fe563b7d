"""What hangs on parameters and constants alone: calls as they were written, to be done again for other parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Slot:
    """Where a tensor stands on the tape."""

    index: int


@dataclass(frozen=True)
class Call:
    """A call that is given parameters and constants alone; its results follow what is on the tape already."""

    function: Any
    args: Any  # tensors as slots
    kwargs: Any
    grad: bool  # whether autograd looked on


Entry = Call | str  # a name is the parameter of that name


class Pure(NamedTuple):
    """A tensor that hangs on parameters and constants alone."""

    tensor: Tensor
    slot: int
    constant: bool  # on no parameter


def replay(tape: Sequence[Entry], parameters: Mapping[str, Tensor]) -> list[Any]:
    """What stands in each slot, for these parameters and on their device; under autograd."""
    slots: list[Any] = []
    device = next(iter(parameters.values())).device if parameters else None

    def filled(leaf: Any) -> Any:
        if isinstance(leaf, Slot):
            return slots[leaf.index]
        return device if isinstance(leaf, torch.device) else leaf

    for entry in tape:
        if isinstance(entry, str):
            slots.append(parameters[entry])
            continue
        args, kwargs = pytree.tree_map(filled, (entry.args, entry.kwargs))
        with torch.set_grad_enabled(entry.grad and torch.is_grad_enabled()):
            slots += tensors(entry.function(*args, **kwargs))
    return slots


def written(function: Any, args: Any, kwargs: Any, slots: Mapping[int, Slot]) -> Call:
    """A call with its tensors replaced by where they stand, by their id."""

    def placed(leaf: Any) -> Any:
        return slots[id(leaf)] if isinstance(leaf, Tensor) else leaf

    args, kwargs = pytree.tree_map(placed, (args, kwargs))
    return Call(function, args, kwargs, torch.is_grad_enabled())


def needed(tape: Sequence[Entry], wanted: Sequence[int], sizes: Sequence[int]) -> tuple[list[Entry], list[int]]:
    """The entries that these slots need, and where the slots stand then; entry k fills `sizes[k]` slots."""
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    fills = {start + at: k for k, (start, size) in enumerate(zip(starts, sizes, strict=True)) for at in range(size)}
    keep: set[int] = set()
    ahead = [fills[slot] for slot in wanted]
    while ahead:
        k = ahead.pop()
        entry = tape[k]
        if k not in keep:
            keep.add(k)
            if isinstance(entry, Call):
                leaves = pytree.tree_leaves((entry.args, entry.kwargs))
                ahead += [fills[leaf.index] for leaf in leaves if isinstance(leaf, Slot)]
    moved: dict[int, int] = {}
    left: list[Entry] = []
    for k in sorted(keep):
        for at in range(sizes[k]):
            moved[starts[k] + at] = len(moved)
        left.append(_moved(tape[k], moved))
    return left, [moved[slot] for slot in wanted]


def _moved(entry: Entry, moved: Mapping[int, int]) -> Entry:
    if isinstance(entry, str):
        return entry
    args, kwargs = pytree.tree_map(
        lambda leaf: Slot(moved[leaf.index]) if isinstance(leaf, Slot) else leaf, (entry.args, entry.kwargs)
    )
    return Call(entry.function, args, kwargs, entry.grad)


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in what an operator is given or returns."""
    return list(_tensors(tree))


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for each in tree:
            yield from _tensors(each)
    elif isinstance(tree, Mapping):
        for each in tree.values():
            yield from _tensors(each)
