"""Autograd with given gradients at the outputs.

torch.autograd.grad takes them too, but loads a computer algebra system to look at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _Seed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradients: Sequence[Tensor], *outputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return gradients[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Any, ...]:
        return None, *ctx.gradients


def seed(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A number whose way back begins with these gradients at these outputs, one or more."""
    return _Seed.apply(gradients, *outputs)  # type: ignore[no-any-return, no-untyped-call]


def sent(outputs: Sequence[Tensor], gradients: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """What comes to each input, all of which require gradients; None where no way leads."""
    if not inputs or not any(output.requires_grad for output in outputs):
        return [None] * len(inputs)
    found = torch.autograd.grad(seed(outputs, gradients), inputs, retain_graph=True, allow_unused=True)
    return list(found)
