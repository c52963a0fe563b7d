"""Looks for NaN and infinity in what a recurrent layer puts out and what comes back to it, at every training step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime.cells.cell import Cell
from throughtime.microscope.hooks import Hook
from throughtime.records import NonFinite


class Health:
    """One layer's; costs a sum over each output and over its gradient, and looks closer only where that is not finite.

    `tell` is told of the first place of each kind in a step.
    """

    def __init__(self, name: str, step: Callable[[], int], tell: Callable[[NonFinite], None]) -> None:
        self._name, self._step, self._tell = name, step, tell
        self._at, self._calls = -1, 0

    def called(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Look at one call's output, and later at its gradient."""
        step = self._step()
        if step != self._at:
            self._at, self._calls = step, 0
        self._calls += 1
        call, put_out = self._calls, _output(output)
        if not isinstance(put_out, Tensor | PackedSequence):
            return
        packed = put_out if isinstance(put_out, PackedSequence) else None
        data = put_out.data if packed is not None else put_out
        if not isinstance(data, Tensor):
            return
        batch_first = bool(getattr(module, "batch_first", False))

        def found(values: Tensor, way: Literal["forward", "backward"], **why: bool) -> None:
            lost = ~torch.isfinite(values.detach())
            sequence, at = _place(lost, packed, batch_first, isinstance(module, nn.RNNCellBase | Cell))
            at = call - 1 if at is None else at
            self._tell(NonFinite(self._name, step, way, call, sequence, at, **why))

        if not _finite(data):
            fed = args[0] if args else None
            fed = fed.data if isinstance(fed, PackedSequence) else fed
            given = isinstance(fed, Tensor) and fed.is_floating_point() and not _finite(fed)
            weights = not all(_finite(w) for w in module.parameters(recurse=False))
            found(data, "forward", input=given, weights=weights)
        elif data.grad_fn is not None and not isinstance(module, nn.RNNCellBase | Cell):
            # of a cell, called at every step, the gradient of its weights alone is looked at, which costs little
            number = data.output_nr

            def came(gradients: tuple[Tensor | None, ...]) -> None:
                gradient = gradients[number]
                if gradient is not None and not _finite(gradient):
                    found(gradient, "backward")

            data.grad_fn.register_prehook(Hook(came))

    def weight(self, gradient: Tensor) -> None:
        """Look at the gradient of one of its weights."""
        if not _finite(gradient):
            self._tell(NonFinite(self._name, self._step(), "backward", 0, None, None))


def _output(output: Any) -> Any:
    """What a layer or cell put out: the first of a tuple, the last part of a state."""
    if isinstance(output, Mapping):
        return list(output.values())[-1]
    return output[0] if isinstance(output, tuple) and not isinstance(output, PackedSequence) else output


def _finite(values: Tensor) -> bool:
    """Whether all are: one sum, and a closer look if that is not finite, as it may have overflowed."""
    values = values.detach()
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def _place(lost: Tensor, packed: PackedSequence | None, batch_first: bool, cell: bool) -> tuple[int | None, int | None]:
    """The first sequence and step that are lost."""
    lost = lost.any(-1)
    if packed is not None:
        row, step = int(lost.nonzero()[0, 0]), 0
        for size in packed.batch_sizes.tolist():
            if row < size:
                break
            row, step = row - size, step + 1
        order = packed.sorted_indices
        return (row if order is None else int(order[row])), step
    if lost.ndim == 1:  # a cell's, or one sequence without a dimension for the batch
        at = int(lost.nonzero()[0, 0])
        return (at, None) if cell else (None, at)
    if lost.ndim != 2:
        return None, None
    step, sequence = (lost.T if batch_first else lost).nonzero()[0].tolist()
    return sequence, step
