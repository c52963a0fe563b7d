"""What is caught of a cell in one training step of a test."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.microscope.loops import After, nothing, parts_of
from throughtime.flow.sighting import Sighting
from throughtime.microscope.cells import CellCatcher

T, B, I, H = 6, 3, 3, 5  # noqa: E741


def caught(module: nn.Module, step: Callable[[], object], sequences: int | None = None) -> tuple[Sighting, ...]:
    """What is seen of a cell in one training step."""
    catcher = CellCatcher("cell", module, sequences)
    catcher.open()
    try:
        step()
        return catcher.sightings()
    finally:
        catcher.close()


def through_time(seen: Sighting) -> Tensor:
    """dL/dz by part, (P, T, B, H), from a sighting."""
    return seen.adjoint.rows * 2.0 ** seen.adjoint.exponents.unsqueeze(-1)


def in_torchs_order(seen: Sighting, values: Tensor) -> Tensor:
    """The parts as torch.nn has them: h, then c."""
    return values.flip(0) if seen.along.cell.name == "lstm" else values


def plain(cell: nn.Module, x: Tensor, after: After = nothing) -> Tensor:
    """A loss that uses each state twice in the loop and once after it."""
    state, total, outputs = None, torch.zeros((), dtype=x.dtype), []
    for t in range(len(x)):
        goes_on, out = after(t, parts_of(cell(x[t], state)))
        state = goes_on if isinstance(cell, nn.LSTMCell) else goes_on[0]
        total = total + out[0].square().sum() * (t % 2) + out[0].sin().sum()
        outputs.append(out[0])
    return total + (torch.stack(outputs).mean(0) ** 3).sum()
