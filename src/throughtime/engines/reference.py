"""The step in a loop: the meaning of a cell, differentiable twice, on any device and dtype."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, State
from throughtime.engines.seam import Engine, Job, Unrolled, hold
from throughtime.errors import CellError


class Reference(Engine):
    """Runs any cell, one step at a time, under autograd; every other engine is compared with it."""

    name: ClassVar = "reference"

    def why_not(self, job: Job) -> str | None:
        """It always serves."""
        return None

    def run(self, job: Job) -> Unrolled:
        """The loop over t."""
        cell, state = job.cell, job.state
        u, W = cell.share(job.x, job.parameters), cell.weights(job.parameters)
        shares = {name: tensor.unbind(0) for name, tensor in u.items()}
        states: dict[str, list[Tensor]] = {part: [] for part in cell.parts}
        gates: dict[str, list[Tensor]] = {}
        for t in range(job.x.shape[0]):
            u_t = type(u)(**{name: steps[t] for name, steps in shares.items()})
            new, open_ = cell.advance(u_t, state, W)
            if t == 0:
                _check(cell, new, state)
            if job.damping is not None:
                new = damp(new, job.damping)
            state = State(**{part: hold(new[part], state[part], t, job.lengths) for part in cell.parts})
            for part in cell.parts:
                states[part].append(state[part])
            for name, value in open_.items():
                gates.setdefault(name, []).append(hold(value, torch.zeros_like(value), t, job.lengths))
        keep = cell.parts if job.inside else cell.parts[-1:]
        return Unrolled(
            cell=cell,
            states={part: _stack(states[part], job.x, cell.hidden_size) for part in keep},
            gates={name: torch.stack(values) for name, values in gates.items()} if job.inside else {},
            final=state,
            engine=self.name,
            initial=job.state,
            lengths=job.lengths,
        )


def _check(cell: Cell, new: State, old: State) -> None:
    if {part: tensor.shape for part, tensor in new.items()} != {part: tensor.shape for part, tensor in old.items()}:
        raise CellError(f"the step of {type(cell).__name__} must return {old} of its parts, got {new}")


def _stack(steps: list[Tensor], x: Tensor, units: int) -> Tensor:
    return torch.stack(steps) if steps else x.new_zeros(0, x.shape[1], units)


class _Damp(torch.autograd.Function):
    """The identity forward; backward, each sequence's gradient is scaled to a norm of at most `most`."""

    @staticmethod
    def forward(ctx: Any, most: float, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.most = most
        return tuple(part.view_as(part) for part in parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        norm = torch.linalg.vector_norm(torch.cat(gradients, dim=-1), dim=-1, keepdim=True)
        scale = (ctx.most / norm).clamp(max=1.0)
        return None, *(gradient * scale for gradient in gradients)


def damp(state: State, most: float) -> State:
    """Clip while backpropagating: dL/dz_t of each sequence keeps its direction and gets a norm of at most `most`.

    Source: the lectures' clipping of the backpropagated gradient at each step; Pascanu et al. 2013, section 3.2.
    """
    damped = _Damp.apply(most, *state.values())  # type: ignore[no-untyped-call]
    return State(**dict(zip(state, damped, strict=True)))
