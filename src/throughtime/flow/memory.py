"""What a state still holds of each input.

Dimensions: T steps, B sequences, I inputs, H units, S the whole state, N steps asked about.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.errors import FlowError
from throughtime.flow.lags import quartiles
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.sweep import NEVER, Carried, log10, norms_of, shift, sweep
from throughtime.flow.linear.tangent import Tangent
from throughtime.flow.linear.trajectory import follow
from throughtime.flow.sighting import Sighting, fewer
from throughtime.modules import Recurrent
from throughtime.records import Floats, LagProfile, MemoryRecord

_WORK = 1.2e10  # multiplications of one sighting: about a second on two cores, in float64


def memory(
    cell: Cell | Recurrent,
    x: Tensor,
    state: State | None = None,
    *,
    lengths: Tensor | None = None,
    at: Sequence[int] | None = None,
    parameters: Parameters | None = None,
) -> MemoryRecord:
    """R(t, k) = ‖∂z_t/∂x_k‖_F: what step t still holds of input k, for the last step of each sequence, or `at` steps t.

    Costs S rows for each sequence and step t, carried back to the start.
    Raises FlowError if a step is not in 0..T−1, and as `tt.flow.jacobians` does.
    """
    began = time.perf_counter()
    along = follow(cell, x, state, lengths=lengths, parameters=parameters)
    if at is not None and (len(at) == 0 or min(at) < 0 or max(at) >= along.T):
        raise FlowError(f"at takes steps in 0..{along.T - 1}, at least one, got {list(at)}.")
    tangent = linearise(along)
    ends = along.ends()
    asked = [ends] if at is None else [torch.where(ends >= t, t, NEVER) for t in at]
    return MemoryRecord(
        cell=along.cell.title,
        log10_memory=np.stack([memory_along(tangent, steps).cpu().numpy() for steps in asked]),
        at=torch.stack(asked).cpu().numpy(),
        dtype=str(along.x.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - began,
    )


def memory_along(tangent: Tangent, steps: Tensor, last: int = 0) -> Tensor:
    """log10 R(t, k), (T, B), for one step t of each sequence (B,), k from `last` on: −inf for k > t, NaN for NEVER."""
    along = tangent.along
    found = torch.full((along.T, along.B), -torch.inf, dtype=torch.float64, device=along.x.device)
    found[:last] = torch.nan
    found[:, steps == NEVER] = torch.nan
    seeds = tangent.identity()
    if int(steps.max()) == NEVER:
        return found
    for carried in sweep(tangent, steps.expand(seeds.shape[1], -1), seeds, last=last):
        some = (steps >= carried.k).nonzero()[:, 0]
        found[carried.k, some] = _frobenius(tangent, carried)[some]
    return found


def memory_of(seen: Sighting) -> tuple[LagProfile | None, tuple[str, ...]]:
    """What is left of each input in the last state, by lag, and what was limited to stay quick.

    Quartiles over sequences of log10 R(t, t−τ) − log10 R(t, t), t the last step of each; one whose last state does not
    depend on its last input at all does not count.
    """
    along, said = seen.along, list[str]()
    # For one sequence and step: every row through the recurrent maps and on to the inputs.
    maps = len(along.cell.squares(along.parameters)) * along.cell.hidden_size**2
    each = along.cell.state_size * (
        maps + along.cell.input_size * sum(v[0].numel() for v in along.share(0, 1).values())
    )
    longest = max(1, int(along.lengths.max()) - 1)
    count, reach = max(1, int(_WORK / (each * longest))), max(1, int(_WORK / each))
    if count < along.B:
        some = "" if count == 1 else f"{count} "
        said.append(f"What the last state remembers was measured on the {some}longest of {along.B} sequences.")
        chosen = along.lengths.argsort(descending=True, stable=True)[:count].tolist()
        seen = fewer(seen, chosen, reach + 1 if count == 1 else None)
    if reach < longest:
        said.append(f"What the last state remembers was followed {reach} steps back, not to the start.")
    ends = seen.along.ends()
    by_step = memory_along(seen.tangent, ends, max(0, int(ends.min()) - reach))
    return _profile(by_step, ends, min(reach, int(ends.max()))), tuple(said)


def _profile(by_step: Tensor, ends: Tensor, most: int) -> LagProfile:
    """From log10 R(t, k) (T, B), t = `ends`, to quartiles by lag."""
    k = ends - torch.arange(most + 1, device=ends.device).unsqueeze(1)
    left = torch.where(k >= 0, by_step.gather(0, k.clamp(min=0)), torch.nan).cpu().numpy()
    counted = left[:, np.isfinite(left[0])]
    counted = counted - counted[:1]
    several: list[Floats] = [values[~np.isnan(values)] for values in counted]
    lower, median, upper = np.array([quartiles(values) if values.size else np.full(3, np.nan) for values in several]).T
    return LagProfile(np.arange(most + 1), median, lower, upper, np.array([values.size for values in several]))


def _frobenius(tangent: Tangent, carried: Carried) -> Tensor:
    """log10 ‖rows · ∂⁺z_k/∂x_k‖_F, (B,)."""
    along = tangent.along
    with torch.no_grad():
        pulled = tangent.pull_inputs(carried.rows, carried.k)
    with torch.enable_grad():
        x = along.x[carried.k].clone().requires_grad_()
        shares = along.cell.share(x, along.parameters)
        made = [name for name in shares if shares[name].requires_grad]
        (rows,) = torch.autograd.grad(
            [shares[name] for name in made], x, [pulled[name] for name in made], is_grads_batched=True
        )
    norms = norms_of(rows.unsqueeze(0), carried.alive)[0]
    there = norms > 0
    top = torch.where(there, carried.exponents, -torch.inf).amax(0)
    top = torch.where(torch.isfinite(top), top, 0.0)
    together = shift(norms, torch.where(there, carried.exponents - top, 0.0).int())
    largest = together.amax(0).clamp(min=torch.finfo(norms.dtype).tiny)
    return log10(torch.linalg.vector_norm(together / largest, dim=0), top) + log10(largest)
