"""Singular values of matrices whose rows differ by any number of powers, each of them to nearly all digits.

Dimensions: B matrices of m rows and n columns, m ≤ n.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from throughtime.errors import FlowError

_EPS = torch.finfo(torch.float64).eps
_OUTRIGHT = math.log(1e3)  # rows that differ by less are decomposed by LAPACK, which is exact for the largest
_SWEEPS = 60


def graded_svd(logs: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """D U = L diag(e^found) Vᵀ where D = diag(e^logs): L (B, m, m), found (B, m) largest first, V (B, n, m).

    A row with −inf is zero; as many of `found` are −inf, and their columns of V are zero. The error of each value is
    about κ(U)·eps relative, whatever `logs`.
    """
    lengths = torch.linalg.vector_norm(rows, dim=-1)
    there = torch.isfinite(logs) & (lengths > 0)
    scale = torch.where(there, logs + lengths.log(), -torch.inf)
    unit = torch.where(there.unsqueeze(-1), rows / lengths.clamp(min=torch.finfo(rows.dtype).tiny).unsqueeze(-1), 0.0)
    top = scale.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    if bool(there.all()) and float((top - scale).max()) < _OUTRIGHT:
        L, values, Vt = torch.linalg.svd((scale - top).exp().unsqueeze(-1) * unit, full_matrices=False)
        return L, values.log() + top, Vt.mT
    return _jacobi(scale, unit)


def _jacobi(scale: Tensor, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One-sided Jacobi on rows e^scale · unit, all pairs of a round at once.

    Each row keeps its power apart, so that a rotation of two rows that differ by 10^-1000 is still exact: it takes the
    large one's direction out of the small one.

    Source: Demmel, Veselić 1992; the rounds: Brent, Luk 1985.
    """
    B, m, _ = unit.shape
    odd = m % 2
    if odd:
        scale = torch.cat([scale, scale.new_full((B, 1), -torch.inf)], dim=1)
        unit = torch.cat([unit, unit.new_zeros(B, 1, unit.shape[2])], dim=1)
    half = (m + odd) // 2
    turned = torch.eye(m + odd, dtype=unit.dtype, device=unit.device).repeat(B, 1, 1)
    order = torch.argsort(scale, dim=1, descending=True)
    pieces = [
        each.take_along_dim(order.view(*order.shape, *(1,) * (each.ndim - 2)), 1) for each in (scale, unit, turned)
    ]
    state = [(each[:, :half], each[:, half:]) for each in pieces]
    for _ in range(_SWEEPS):
        worst = 0.0
        for _ in range(2 * half - 1):
            worst = max(worst, _round(state))
            state = [_next_pairs(*each) for each in state]
        if worst <= m * _EPS:
            break
    else:
        raise FlowError("the singular values did not settle; this is a fault of throughtime: please report it.")
    scale, unit, turned = (torch.cat(each, dim=1) for each in state)
    order = torch.argsort(scale, dim=1, descending=True, stable=True)[:, :m]
    unit, turned = (each.take_along_dim(order.unsqueeze(-1), 1) for each in (unit, turned))
    return turned[..., :m].mT, scale.take_along_dim(order, 1), unit.mT


def _round(state: list[tuple[Tensor, Tensor]]) -> float:
    """Make every pair of rows orthogonal; how far from it the worst was, as a cosine."""
    (first, second), (a, b), (p, q) = state
    c = (a * b).sum(-1)
    worst = float(c.abs().max()) if c.numel() else 0.0
    if worst <= _EPS:
        return worst
    ahead = first >= second  # −inf on both sides: rows of zeros, c = 0
    ratio = torch.where(torch.isfinite(first) & torch.isfinite(second), -(first - second).abs(), -torch.inf).exp()
    eta = (1 - ratio.square()) / (2 * c.abs()).clamp(min=1e-300)
    tau = -c.sign() / (eta + torch.hypot(ratio, eta)).clamp(min=1e-300)
    tau = torch.where(c.abs() > _EPS / 8, tau, 0.0)
    small = -tau * ratio.square()
    t = tau * ratio
    cosine = 1 / torch.hypot(t, torch.ones_like(t))
    alpha, beta = torch.where(ahead, small, tau).unsqueeze(-1), torch.where(ahead, tau, small).unsqueeze(-1)
    gamma = torch.where(ahead, -t, t).unsqueeze(-1)
    a, b = torch.addcmul(a, alpha, b), torch.addcmul(b, beta, a)
    lengths = [torch.linalg.vector_norm(each, dim=-1) for each in (a, b)]
    safe = [torch.where(length > 0, length, 1.0) for length in lengths]
    state[0] = first + (safe[0] * cosine).log(), second + (safe[1] * cosine).log()
    state[1] = a / safe[0].unsqueeze(-1), b / safe[1].unsqueeze(-1)
    wide = cosine.unsqueeze(-1)
    state[2] = wide * torch.addcmul(p, gamma, q), wide * torch.addcmul(q, -gamma, p)
    return worst


def _next_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The first stays, the others move round by one: after all rounds everyone has met everyone."""
    if a.shape[1] == 1:
        return a, b
    return torch.cat([a[:, :1], b[:, :1], a[:, 1:-1]], dim=1), torch.cat([b[:, 1:], a[:, -1:]], dim=1)
