"""How cuDNN wants the parameters laid out: one block of memory, in its own order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from throughtime.cells.cell import Cell
from throughtime.engines.native import mode


def flatten(cells: Sequence[Cell], weights: Sequence[Sequence[Tensor]]) -> None:
    """Move the weights (one list a layer and direction) into one block, if cuDNN would run these cells.

    The tensors stay the same objects with the same numbers; only their memory moves. Without this cuDNN copies them
    in every forward pass. Nothing happens on other devices, for other cells, or for weights that share memory.
    """
    theirs = mode(cells[0])
    flat = [weight for layer in weights for weight in layer]
    if theirs is None or not all(_acceptable(weight, flat[0].dtype) for weight in flat):
        return
    if len({weight.data_ptr() for weight in flat}) < len(flat):
        return
    from torch.backends.cudnn import rnn

    first = cells[0]
    with torch.cuda.device(flat[0].device), torch.no_grad():
        if torch._use_cudnn_rnn_flatten_weight():
            torch._cudnn_rnn_flatten_weight(
                flat,
                4 if first.bias else 2,
                first.input_size,
                rnn.get_cudnn_mode(theirs),  # type: ignore[no-untyped-call]
                first.hidden_size,
                0,  # no projection
                len(cells),
                False,  # time first
                len(weights) == 2 * len(cells),
            )


def _acceptable(weight: Tensor, dtype: torch.dtype) -> bool:
    return weight.is_cuda and weight.dtype == dtype and bool(torch.backends.cudnn.is_acceptable(weight))  # type: ignore[no-untyped-call]
