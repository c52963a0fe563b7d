"""Whether what was found agrees with what torch says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from throughtime.engines.trace import gradients
from throughtime.engines.trace.tape import Entry, replay

_ALLOWED = {torch.float64: 1e-11, torch.float32: 1e-3}  # relative; far above rounding, far below a mistake


def close(mine: Tensor, real: Tensor, more: float = 0.0) -> bool:
    """Whether two tensors of one dtype differ by rounding alone; `more` is allowed at each number."""
    allowed = _ALLOWED[real.dtype]
    if torch.allclose(mine, real, rtol=allowed, atol=more, equal_nan=True):
        return True
    scale = float(real.abs().nan_to_num(0.0, 0.0).max())
    return torch.allclose(mine, real, rtol=allowed, atol=more + allowed * scale, equal_nan=True)


def same_ways(
    tape: Sequence[Entry],
    parameters: Mapping[str, Tensor],
    heard: Mapping[int, Tensor],
    outputs: Sequence[Tensor],
    given: Sequence[Tensor],
) -> bool:
    """Whether as much reaches each parameter through the tape as by the step itself.

    `heard`: what the program sends to slots of the tape; `given`: the gradients at the step's own outputs.
    """
    slots, leaves = replay(tape, parameters), list(parameters.values())
    through = gradients.sent([slots[slot] for slot in heard], [*heard.values()], leaves)
    real = gradients.sent(outputs, given, leaves)
    # Far less may reach a parameter than a vector, and be rounding alone: through a softmax, say.
    most = max((float(gradient.abs().nan_to_num(0.0, 0.0).max()) for gradient in heard.values()), default=0.0)
    for leaf, mine, true in zip(leaves, through, real, strict=True):
        a, b = (torch.zeros_like(leaf) if gradient is None else gradient for gradient in (mine, true))
        if not close(a, b, 100 * torch.finfo(leaf.dtype).eps * most):
            return False
    return True
