"""Runs a program with torch, one operator at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from throughtime.engines.trace.program import OPERATORS, Node, Program


def numbers(program: Program, leaf: Callable[[Node], Tensor], dtype: torch.dtype) -> list[Tensor]:
    """What each node is, given what its leaves are; constants it knows itself."""
    found: list[Tensor] = []
    for node in program.nodes:
        if node.op == "constant":
            found.append(torch.tensor(node.at, dtype=dtype))
        elif not node.args:
            found.append(leaf(node))
        else:
            value = OPERATORS[node.op](*(found[a] for a in node.args))
            found.append(value.to(dtype) if node.op == "number" else value)
    return found
