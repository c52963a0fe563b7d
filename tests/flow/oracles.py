"""The slow ways: a plain loop over the cell's step, fresh leaves at one step, and autograd. Nothing from `flow`."""

from __future__ import annotations

import torch
from torch import Tensor

from throughtime.cells import Cell, State


def walk(cell: Cell, x: Tensor, state: State) -> list[State]:
    """z_{-1}, z_0, …, z_{T-1}."""
    states, u, W = [state], cell.share(x), cell.weights()
    for t in range(x.shape[0]):
        states.append(cell.advance(u.map(lambda tensor, t=t: tensor[t]), states[-1], W)[0])
    return states


def leaves(state: State) -> State:
    return state.map(lambda part: part.detach().clone().requires_grad_())


def from_step(cell: Cell, x: Tensor, state: State, k: int) -> tuple[State, list[State]]:
    """Fresh leaves in the place of z_k (−1: the initial state), and z_k, z_{k+1}, … made from them."""
    start = leaves(walk(cell, x, state)[k + 1])
    return start, walk(cell, x[k + 1 :], start)


def gradients(made: Tensor, start: State) -> list[Tensor]:
    """d made / d each part, zeros where it does not depend on it."""
    found = torch.autograd.grad(made, list(start.values()), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(start.values(), found, strict=True)]


def matrix(cell: Cell, made: State, start: State) -> Tensor:
    """∂made/∂start, (B, S, S), one backward pass for each row."""
    rows = [
        torch.cat(gradients(made[part][:, unit].sum(), start), dim=-1)
        for part in cell.parts
        for unit in range(cell.hidden_size)
    ]
    return torch.stack(rows, dim=1)


def boundary_credit(cell: Cell, x: Tensor, state: State, delta: Tensor) -> Tensor:
    """‖∂(δ_t·y_t)/∂z_k‖ by part, z_k a fresh leaf: (P, T, T, B)."""
    T, B = delta.shape[:2]
    found = delta.new_zeros(len(cell.parts), T, T, B)
    for k in range(T):
        start, states = from_step(cell, x, state, k)
        for t in range(k, T):
            out = (delta[t] * states[t - k][cell.parts[-1]]).sum()
            for p, gradient in enumerate(gradients(out, start)):
                found[p, t, k] = gradient.norm(dim=-1)
    return found
