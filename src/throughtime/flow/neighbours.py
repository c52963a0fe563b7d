"""How fast two neighbouring trajectories part: the largest Lyapunov exponent without any derivative.

Dimensions: T steps, B sequences, S the whole state.
"""

from __future__ import annotations

import math

import torch

from throughtime.cells.cell import Share
from throughtime.flow.linear.trajectory import Trajectory

_APART = torch.finfo(torch.float64).eps ** (1 / 3)  # of the state's length: rounding and curvature cost the same
_FAINT = 1e-8  # of the distance before: what is left of it after a step must be more than rounding


def growth_of_neighbours(along: Trajectory, transient: int) -> float:
    """Mean of ln (distance after / distance before) over the steps after `transient`, nats per step.

    Two trajectories under the same inputs, set a little way apart and brought back to that distance after every step,
    on either side of their middle; nothing but the cell's own step is used. NaN where they come so close in one step
    that float64 cannot tell how close.

    Source: Benettin, Galgani, Strelcyn 1976.
    """
    cell, B = along.cell, along.B
    W = cell.weights(along.parameters)
    generator = torch.Generator().manual_seed(0)  # its own: measuring does not touch the caller's random numbers
    middle = cell.pack(along.run.initial)
    apart = torch.randn(middle.shape, generator=generator, dtype=middle.dtype).to(middle)
    total, steps = middle.new_zeros(B), middle.new_zeros(B)
    scale = middle.new_zeros(B, 1)
    running = along.running()
    with torch.no_grad():
        u = along.share(0, along.T).map(lambda share: share.view(along.T, B, *share.shape[1:]))
        for t in range(int(along.lengths.max())):
            # A state that passes through 0 is no smaller for it: its size of before counts for some steps.
            scale = torch.maximum(torch.linalg.vector_norm(middle, dim=-1, keepdim=True), 0.9 * scale)
            before = _APART * torch.where(scale > 0, scale, 1.0)
            half = apart * (before / 2 / torch.linalg.vector_norm(apart, dim=-1, keepdim=True))
            both = cell.unpack(torch.cat([middle - half, middle + half]))
            shares = Share(**{name: torch.cat([share[t], share[t]]) for name, share in u.items()})
            new, _ = cell.advance(shares, both, W)
            first, second = cell.pack(new).chunk(2)
            after, length = second - first, torch.linalg.vector_norm(2 * half, dim=-1)
            grown = torch.linalg.vector_norm(after, dim=-1) / length
            here = running[t]
            if bool((here & ~(grown > _FAINT)).any()):
                return math.nan
            counted = here & (t >= transient)
            total += torch.where(counted, grown.log(), 0.0)
            steps += counted
            middle = torch.where(here.unsqueeze(-1), (first + second) / 2, middle)
            apart = torch.where(here.unsqueeze(-1), after, apart)
    return float(total.sum() / steps.sum())
