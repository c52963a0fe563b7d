"""The direct gradient and the gradient through time: two numbers that are often taken for each other.

Dimensions: T steps, B sequences, H units, P parts, S = P·H the whole state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.errors import FlowError
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.sweep import check_finite, shift, split, window
from throughtime.flow.linear.tangent import Tangent
from throughtime.flow.linear.trajectory import Trajectory, follow
from throughtime.modules import Recurrent


def direct(loss: Callable[[Tensor], Tensor], output: Tensor) -> Tensor:
    """δ_t = ∂⁺L/∂y_t: the gradient at each output with the other outputs held; the shape of `output`.

    `loss` makes a scalar of the stacked output (T, B, H). This is what a hook on a layer's output gives. It is not the
    gradient through time: with a loss of the last step alone it is 0 at every earlier step (see `adjoint`).
    """
    leaf = output.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(leaf), leaf, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient


def adjoint(
    cell: Cell | Recurrent,
    x: Tensor,
    delta: Tensor,
    *,
    state: State | None = None,
    lengths: Tensor | None = None,
    parameters: Parameters | None = None,
) -> Tensor:
    """a_k = dL/dz_k = Σ_{t≥k} δ_t P(t, k), the gradient through time, parts held apart at the boundary of step k.

    `delta` is δ_t (see `direct`): (T, B, H) for the output alone, or (T, B, S) for the whole state, whose parts a loss
    can ask for directly too (the cell state that a decoder starts from). Returns (T, B, S); 0 past a sequence's length,
    and where the number is under the dtype's range (`credit` keeps its logarithm). Costs one product of B rows with
    the weights a step.
    Raises FlowError if shapes do not fit, and as `tt.flow.jacobians` does.
    """
    along = follow(cell, x, state, lengths=lengths, parameters=parameters)
    found = gather(linearise(along), checked(along, delta))
    return shift(found.rows, found.exponents.int().unsqueeze(-1)).movedim(0, -2).flatten(-2)


@dataclass(frozen=True)
class Adjoint:
    """a_k = `rows · 2**exponents`."""

    rows: Tensor  # (P, T, B, H)
    exponents: Tensor  # (T, B)


def checked(along: Trajectory, delta: Tensor) -> Tensor:
    """δ by part of the state, (P, T, B, H), if it fits the trajectory; else FlowError."""
    T, B, H, S = along.T, along.B, along.cell.hidden_size, along.cell.state_size
    if tuple(delta.shape) not in ((T, B, H), (T, B, S)):
        whole = "" if S == H else f" or at the whole state, {(T, B, S)}"
        raise FlowError(f"delta must be dL/dy at every output, {(T, B, H)},{whole} got {tuple(delta.shape)}.")
    if not bool(torch.isfinite(delta).all()):
        raise FlowError("delta is not finite: the loss or its gradient is NaN or infinite; look at the loss first.")
    if bool(delta[~along.running()].any()):
        raise FlowError("delta is not zero past the end of a sequence, where there is no output; check the lengths.")
    delta = delta.detach().to(along.x.dtype)
    given = delta.view(T, B, -1, H).movedim(-2, 0)
    by_part = delta.new_zeros(S // H, T, B, H)
    by_part[-len(given) :] = given  # the output is the last part
    return by_part


def gather(tangent: Tangent, delta: Tensor) -> Adjoint:
    """All a_k in one reverse sweep of one row for each sequence; δ (P, T, B, H) is `checked`.

    Raises FlowError if a single step leaves the range of the dtype.
    """
    T, B = delta.shape[1:3]
    rows = torch.zeros_like(delta)
    exponents = torch.zeros(T, B, dtype=torch.float64, device=delta.device)
    fresh = delta.any(-1).any(-1).any(0).tolist()
    power, scaled, most = exponents[0].clone(), False, window(delta.dtype)
    row = rows[:, T - 1 :]
    with torch.no_grad():
        for k in reversed(range(T)):
            if k + 1 < T:
                row = tangent.pull(row, k + 1, out=rows[:, k : k + 1])
            if fresh[k] and scaled:
                total, power = _add(row, power, delta[:, k])
                row.copy_(total)
            elif fresh[k]:
                row.add_(delta[:, k : k + 1])
            low, high = torch.aminmax(torch.linalg.vector_norm(row, dim=(0, 1, -1)))
            if not (float(low) >= 1 / most and float(high) <= most) and _leaves(row):
                check_finite(row, f"at step {k}")
                smaller, moved = split(row, (0, 1, -1))
                row.copy_(smaller)
                power, scaled = power + moved, True
            if scaled:
                exponents[k] = power
    return Adjoint(rows, exponents)


def _leaves(row: Tensor) -> bool:
    """Whether a row that is not zero could leave the dtype's range in a step."""
    largest, most = row.abs().amax((0, 1, -1)), window(row.dtype)
    return bool(((largest != 0) & ~((largest >= 1 / most) & (largest <= most))).any())


def _add(row: Tensor, power: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Row · 2**power + δ with a power of two that suits the larger of them; zeros have none."""
    old, moved = split(row, (0, 1, -1))
    new, powers = split(delta, (0, -1))
    power = torch.where(old.any(-1).any(1).any(0), power + moved, -torch.inf)
    powers = torch.where(new.any(-1).any(0), powers, -torch.inf)
    top = torch.maximum(power, powers)
    total = shift(old, _steps(power - top))
    total[:, 0] += shift(new, _steps(powers - top))
    return total, torch.where(torch.isfinite(top), top, 0.0)


def _steps(difference: Tensor) -> Tensor:
    """A power of two as whole steps; −inf and NaN (of zeros, whose power does not matter) as far down as needed."""
    return difference.nan_to_num(0.0, neginf=-8000.0).clamp(min=-8000.0).int().unsqueeze(-1)
