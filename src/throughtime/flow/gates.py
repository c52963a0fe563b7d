"""What the gates did, and how much of the activations was saturated.

Dimensions: T steps, B sequences, H units.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, Read, Share, State
from throughtime.flow.linear.linked import Linked
from throughtime.flow.linear.trajectory import Trajectory, follow
from throughtime.modules import Recurrent
from throughtime.records import GateStats

_FLAT = 0.1  # an activation is called saturated where its slope is under this share of its steepest
_FAR = 1e4  # a pre-activation at which any squashing function has reached its limit


def gates(
    cell: Cell | Recurrent,
    x: Tensor,
    state: State | None = None,
    *,
    lengths: Tensor | None = None,
    parameters: Parameters | None = None,
) -> dict[str, GateStats]:
    """Mean opening of each gate, and the shares nearly shut (< 0.1) and nearly open (> 0.9), by step and by unit.

    For a candidate in −1..1 the shares are of < −0.9 and > 0.9. Steps past a sequence's end do not count; a step that
    no sequence has is NaN. Empty for a cell without gates. Costs a run of the cell.
    Raises FlowError if a state is not finite, or if shapes or lengths do not fit.
    """
    return gates_along(follow(cell, x, state, lengths=lengths, parameters=parameters))


def saturation(
    cell: Cell | Recurrent,
    x: Tensor,
    state: State | None = None,
    *,
    lengths: Tensor | None = None,
    parameters: Parameters | None = None,
) -> dict[str, float]:
    """By gate, the share of units and steps at which its activation is flat: slope under a tenth of the steepest.

    A logistic gate is flat under 0.026 and over 0.974, a tanh candidate beyond ±0.949; gates without limits are left
    out. For a cell of the form φ(W h + …) the share is that of φ, under the name of the part it makes.
    Costs a run of the cell. Raises FlowError if a state is not finite, or if shapes or lengths do not fit.
    """
    return saturation_along(follow(cell, x, state, lengths=lengths, parameters=parameters))


def gates_along(along: Trajectory) -> dict[str, GateStats]:
    """The same for a trajectory."""
    running = along.running()
    limits = _limits(along)
    found: dict[str, GateStats] = {}
    for name, values in along.run.gates.items():
        shut = 0.1 if limits[name][0] >= 0 else -0.9
        found[name] = GateStats(
            mean=_by_step(values, running),
            low=_by_step(values < shut, running),
            high=_by_step(values > 0.9, running),
            unit_mean=_counted(values, running).double().mean(0).cpu().numpy(),
        )
    return found


def saturation_along(along: Trajectory) -> dict[str, float]:
    """The same for a trajectory."""
    cell, running, limits = along.cell, along.running(), _limits(along)
    found: dict[str, float] = {}
    for name, values in along.run.gates.items():
        low, high = limits[name]
        if -1.0 <= low < high <= 1.0:
            share = (_counted(values, running).double() - low) / (high - low)
            # Between its limits σ has the slope s(1 − s), and tanh that of a stretched σ: 4s(1 − s) of the steepest.
            found[name] = float((4 * share * (1 - share) < _FLAT).double().mean())
    if cell.steepest is not None:
        before = along.before(0, along.T)
        read = Read(**{port: before[part] for port, part in cell.reads.items()})
        with torch.no_grad():
            slopes = cell.slopes(along.share(0, along.T), read, cell.weights(along.parameters))
        if slopes is not None:
            flat = (slopes.abs() < _FLAT * cell.steepest)[running.flatten()]
            found[cell.parts[-1]] = float(flat.double().mean())
    return found


def _counted(values: Tensor, running: Tensor) -> Tensor:
    """What (T, B, H) holds of steps before each sequence's end, (·, H)."""
    return values.flatten(0, 1) if bool(running.all()) else values[running]


def _by_step(values: Tensor, running: Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    sums = (values.double().mean(-1) * running).sum(1)
    counts = running.sum(1)
    return np.asarray(torch.where(counts > 0, sums / counts, torch.nan).cpu().numpy())


def _limits(along: Trajectory) -> dict[str, tuple[float, float]]:
    """The least and the largest value a gate takes when everything it hears from the input is driven far off."""
    cell = along.cell
    with torch.no_grad():
        u = along.share(0, 1)
        if isinstance(cell, Linked):
            u, cell = cell.inner_share(u), cell.inner
        read = Read(**{port: torch.zeros_like(along.run.initial[part]) for port, part in cell.reads.items()})
        W = cell.weights(along.parameters)
        ends = [
            cell.step(Share(**{block: torch.full_like(s, far) for block, s in u.items()}), read, W)[1]
            for far in (-_FAR, _FAR)
        ]
    return {
        name: (min(float(e[name].min()) for e in ends), max(float(e[name].max()) for e in ends))
        for name in along.run.gates
    }
