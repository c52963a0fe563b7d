"""Looks at the operations of a step: whether they keep the units apart, and whether they draw random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
# Neither is tagged as pointwise by torch, and none of them carries a number from one unit to another.
_HARMLESS = {
    _aten.detach.default,
    _aten.alias.default,
    _aten._to_copy.default,
    _aten.ones_like.default,
    _aten.zeros_like.default,
    _aten.full_like.default,
    _aten.empty_like.default,
}


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is on, follows the tensors that were made from `these`, all of one shape (N, H).

    `mixed` is true once an operation could have carried a number from one unit, or one sequence, to another;
    `random` once one drew random numbers.
    """

    def __init__(self, these: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.mixed = False
        self.random = False
        self._followed = {id(tensor): tensor for tensor in these}  # holding them keeps their ids theirs
        self._shape = next(iter(self._followed.values())).shape
        self._paused = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped by torch's compiler, torch would first load all of it, for seconds."""
        return False

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self._followed

    def follow(self, tensor: Tensor) -> None:
        """Follow one more."""
        self._followed[id(tensor)] = tensor

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Look away."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._paused:
            return out
        self.random |= torch.Tag.nondeterministic_seeded in func.tags
        if any(isinstance(leaf, Tensor) and leaf in self for leaf in pytree.tree_leaves((args, kwargs))):
            made = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
            apart = torch.Tag.pointwise in func.tags or func in _HARMLESS
            self.mixed |= not (apart and made and all(tensor.shape == self._shape for tensor in made))
            for tensor in made:
                self.follow(tensor)
        return out


def handwritten(outputs: Iterable[Tensor]) -> bool:
    """Whether a backward pass written in Python (torch.autograd.Function) is on the way to these outputs.

    Its derivative need not be that of the operations that were seen going forward.
    """
    ahead: list[Any] = [tensor.grad_fn for tensor in outputs]
    visited: set[Any] = set()
    while ahead:
        node = ahead.pop()
        if node is None or node in visited:
            continue
        if isinstance(node, BackwardCFunction):
            return True
        visited.add(node)
        ahead.extend(following for following, _ in node.next_functions)
    return False
