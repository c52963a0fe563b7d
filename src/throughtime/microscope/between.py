"""What a loop does to a state between two calls: its derivative, unit by unit, read from autograd's own operations.

The operations between the calls are asked for their derivatives one by one, outside any backward pass: no hook runs,
nothing is freed, no number of the training changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import Node

Key = tuple[int, int, int]  # thread, number of an operation in it, which of its outputs

_FAR = 200  # operations between two calls, at most
_GOLDEN = 0.6180339887498949
_ROUNDINGS = 16.0


@dataclass(frozen=True)
class Between:
    """How a state that a call is given was made from what an earlier call put out: unit by unit."""

    slopes: Mapping[str, Tensor]  # part -> ∂given/∂put out, in the shape and dtype of the state


def key_of(tensor: Tensor) -> Key:
    """Where a tensor comes from; of one without a gradient, where it lies."""
    node = tensor.grad_fn
    if node is None:
        return -1, tensor.data_ptr(), tensor._version
    return threading.get_ident(), node._sequence_nr(), tensor.output_nr


def _key(node: Node, place: int) -> Key:
    """The key of what an operation makes; of a leaf, that of the leaf."""
    leaf = getattr(node, "variable", None)
    return (threading.get_ident(), node._sequence_nr(), place) if leaf is None else key_of(leaf)


def _oldest(keys: Iterable[Key]) -> int:
    return min((number for thread, number, _ in keys if thread >= 0), default=-1)


def reached(given: Tensor, keys: Mapping[Key, int]) -> int | None:
    """The newest of the calls with these keys of which a state was made, not far back; None if of none."""
    if not keys or given.grad_fn is None:
        return None
    found = [keys[key_of(given)]] if key_of(given) in keys else []
    least = _oldest(keys)
    ahead, seen = [given.grad_fn], {given.grad_fn}
    while ahead and len(seen) < _FAR:
        for node, place in ahead.pop().next_functions:
            if node is None:
                continue
            key = _key(node, place)
            if key in keys:
                found.append(keys[key])
            elif node not in seen and least < node._sequence_nr() < 1 << 62:  # not a leaf, nor made before them all
                seen.add(node)
                ahead.append(node)
    return max(found, default=None)


def between(made: Mapping[str, tuple[Key, torch.Size]], given: Mapping[str, Tensor]) -> Between | str:
    """The way from what a call put out to what the next one is given; or why it is no matter of single units."""
    if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
        return "under activation checkpointing what the loop does to the state cannot be read"
    if any(given[part].shape != shape for part, (_, shape) in made.items()):
        first = next(part for part, (_, shape) in made.items() if given[part].shape != shape)
        old, new = made[first][1], given[first].shape
        return f"the loop changes the shape of the state from {tuple(old)} to {tuple(new)} (a batch that shrinks?)"
    slopes: dict[str, Tensor] = {}
    for part, tensor in given.items():
        probe = torch.arange(1, tensor.numel() + 1, dtype=torch.float64, device=tensor.device)
        probe = (1 + (probe * _GOLDEN).frac()).to(tensor.dtype).view_as(tensor)
        plain, mixed = (_pulled(tensor, seed, made) for seed in (torch.ones_like(tensor), probe))
        if isinstance(plain, str) or isinstance(mixed, str):
            return str(plain)
        whole = plain.pop(part, torch.zeros_like(tensor))
        slack = _ROUNDINGS * torch.finfo(tensor.dtype).eps * (1 + whole.abs())
        apart = bool(((mixed.get(part, torch.zeros_like(tensor)) - whole * probe).abs() <= slack).all())
        if not apart or any(bool(other.any()) for other in plain.values()):
            by = tensor.grad_fn.name().partition("Backward")[0] if tensor.grad_fn is not None else ""
            return f"the units of the state are mixed (by the loop, or by another layer; the last operation is {by})"
        slopes[part] = whole
    return Between(slopes)


def _pulled(tensor: Tensor, seed: Tensor, made: Mapping[str, tuple[Key, torch.Size]]) -> dict[str, Tensor] | str:
    """The gradients of <seed, tensor> at what was put out, part by part; or why there are none."""
    keys = {key: part for part, (key, _) in made.items()}
    found: dict[str, Tensor] = {}
    if key_of(tensor) in keys:
        return {keys[key_of(tensor)]: seed}
    root = tensor.grad_fn
    if root is None:
        return found
    on_the_way = _on_the_way(root, set(keys))
    waiting: dict[Node, dict[int, Tensor]] = {root: {tensor.output_nr: seed}} if root in on_the_way else {}
    with torch.no_grad():
        while waiting:
            node = max(waiting, key=lambda its: its._sequence_nr())  # whoever reads it has been asked
            come = waiting.pop(node)
            if type(node).__module__ != "builtins":  # its derivative is somebody's Python
                return f"the loop changes the state by {node.name()}, a function with a derivative of its own"
            outputs = [come.get(place) for place in range(len(node._input_metadata))]
            gave = cast(Callable[..., Any], node)(*outputs)
            for gradient, (to, place) in zip(
                gave if isinstance(gave, tuple) else (gave,), node.next_functions, strict=False
            ):
                if to is None or gradient is None:
                    continue
                like = to._input_metadata[place]  # a backward pass sums over what was broadcast, and so is done here
                gradient = gradient.sum_to_size(tuple(like.shape)).to(like.dtype)
                part = keys.get(_key(to, place))
                if part is not None:
                    found[part] = found[part] + gradient if part in found else gradient
                elif to in on_the_way:
                    its = waiting.setdefault(to, {})
                    its[place] = its[place] + gradient if place in its else gradient
    return found


def _on_the_way(root: Node, keys: set[Key]) -> set[Node]:
    """The operations from which what was put out is reached."""
    least = _oldest(keys)
    seen: dict[Node, bool] = {}

    def leads(node: Node, depth: int) -> bool:
        if node not in seen:
            seen[node] = False
            for to, place in node.next_functions:
                if to is None:
                    continue
                number = to._sequence_nr()
                further = depth < _FAR and least < number < 1 << 62
                if _key(to, place) in keys or (further and leads(to, depth + 1)):
                    seen[node] = True
        return seen[node]

    leads(root, 0)
    return {node for node, there in seen.items() if there}
