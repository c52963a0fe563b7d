"""Bounds on the gradient's way back, beside what they bound.

Dimensions: as in linear/tangent.py; L lags.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, Read, State
from throughtime.errors import FlowError
from throughtime.flow.lags import medians
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.spectral import log10_norm, step_gains
from throughtime.flow.linear.sweep import sweep
from throughtime.flow.linear.tangent import Tangent
from throughtime.flow.linear.trajectory import Trajectory, follow
from throughtime.modules import Recurrent
from throughtime.records import BoundRecord, Floats


def bounds(
    cell: Cell | Recurrent,
    x: Tensor,
    state: State | None = None,
    *,
    lengths: Tensor | None = None,
    lags: Sequence[int] | None = None,
    parameters: Parameters | None = None,
) -> BoundRecord:
    """‖P(t, t−τ)‖₂ from each sequence's last step t, and what bounds it.

    In order: global Π γ‖W‖₂ ≥ local Π ‖D(φ'(a_j))‖ ‖W‖₂ ≥ Π ‖J_j‖₂ ≥ ‖P(t, t−τ)‖₂, each as the median
    over sequences of log10. The first two are there for a cell of the form φ(W h + …) alone. γ‖W‖₂ < 1 is enough for
    vanishing; γ‖W‖₂ > 1 is necessary for exploding, not enough.

    `lags` (steps; None: about four for each doubling, up to the longest). Costs S rows for each sequence, carried
    back as far as the longest lag, and one singular value decomposition (S, S) for each lag and sequence.
    Raises FlowError if a lag is longer than every sequence, and as `tt.flow.jacobians` does.

    Source: Pascanu, Mikolov, Bengio 2013, section 2.1.
    """
    along = follow(cell, x, state, lengths=lengths, parameters=parameters)
    tangent = linearise(along)
    longest = int(along.lengths.max()) - 1
    asked = spread_lags(longest) if lags is None else sorted(set(lags))
    if not asked or asked[0] < 0 or asked[-1] > longest:
        raise FlowError(f"lags are steps in 0..{longest}, at least one, got {list(asked)}.")
    return bounds_along(tangent, asked, step_gains(tangent))


def spread_lags(longest: int) -> list[int]:
    """Lags from 0 to `longest`, close together where they are short: about four for each doubling."""
    if longest < 1:
        return [0]
    return [0, *np.unique(np.geomspace(1, longest, 1 + int(4 * np.log2(longest))).round().astype(int)).tolist()]


def bounds_along(tangent: Tangent, lags: Sequence[int], gains: Tensor) -> BoundRecord:
    """The same for a trajectory that is linearised already, with its `step_gains` (T, B)."""
    along = tangent.along
    slopes = _slopes(along)
    return BoundRecord(
        lags=np.asarray(lags),
        gain=medians(_gain(tangent, lags)),
        steps=_products(along, gains, lags),
        local=None if slopes is None else _products(along, slopes[0], lags),
        globally=None if slopes is None else _products(along, slopes[1], lags),
    )


def _gain(tangent: Tangent, lags: Sequence[int]) -> Floats:
    """log10 ‖P(t, t−τ)‖₂ for t each sequence's last step: (L, B), NaN where the sequence is shorter."""
    along = tangent.along
    ends = along.ends()
    found = torch.full((len(lags), along.B), torch.nan, dtype=torch.float64)
    seeds = tangent.identity()
    last = max(0, int(ends.min()) - lags[-1])
    for carried in sweep(tangent, ends.expand(seeds.shape[1], -1), seeds, last=last, most_lag=lags[-1]):
        for place, lag in enumerate(lags):
            some = (ends - carried.k == lag).nonzero()[:, 0]
            if len(some):
                matrices = carried.rows[:, :, some].permute(2, 1, 0, 3).flatten(2)
                found[place, some.cpu()] = log10_norm(matrices, carried.exponents[:, some].T).cpu()
    return np.asarray(found.numpy())


def _slopes(along: Trajectory) -> tuple[Tensor, Tensor] | None:
    """log10 of ‖D(φ'(a_t))‖ ‖W_t‖₂ and of γ‖W_t‖₂, (T, B) each; None if the cell is of another form."""
    cell = along.cell
    if cell.steepest is None:
        return None
    before, u, W = along.before(0, along.T), along.share(0, along.T), cell.weights(along.parameters)
    with torch.no_grad():
        slopes = cell.slopes(u, Read(**{port: before[part] for port, part in cell.reads.items()}), W)
        matrix = cell.matrix(u, W)
    if slopes is None or matrix is None:
        return None
    norm = log10_norm(matrix).expand(along.T * along.B)
    local = slopes.abs().amax(-1).double().log10() + norm
    return local.view(along.T, along.B), (norm + np.log10(cell.steepest)).view(along.T, along.B)


def _products(along: Trajectory, steps: Tensor, lags: Sequence[int]) -> Floats:
    """Medians of Σ steps_j over the τ last steps of each sequence, (L,); `steps` (T, B) are logarithms."""
    ends = along.ends()
    back = ends - torch.arange(along.T, device=ends.device).unsqueeze(1)
    sums = torch.cat([steps.new_zeros(1, along.B), steps.gather(0, back.clamp(min=0)).cumsum(0)])[:-1]
    return medians(torch.where(back >= 0, sums, torch.nan).cpu().numpy()[np.asarray(lags)])
