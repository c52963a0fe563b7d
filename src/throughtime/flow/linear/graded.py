"""Singular values of matrices whose rows differ by any number of powers, each of them to nearly all digits.

Dimensions: B matrices of m rows and n columns, m ≤ n.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from throughtime.errors import FlowError

_EPS = torch.finfo(torch.float64).eps
_OUTRIGHT = math.log(1e4)  # rows that differ by less are decomposed by LAPACK, which is exact for the largest
_ROUNDS = 60  # for each row, at most
_FEW = 1e-9  # cosines under which a handful of rounds are enough
_TURNS = 16  # pairs of QR steps before, at most; one costs what a few rounds do


def graded_svd(logs: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """D U = L diag(e^found) Vᵀ where D = diag(e^logs): L (B, m, m), found (B, m) largest first, V (B, n, m).

    A row with −inf is zero; as many of `found` are −inf, and their columns of V are zero. The error of each value is
    about κ(U)·eps relative, whatever `logs`.
    """
    scale, unit = _apart(logs, rows)
    top = scale.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    if float((top - scale).max()) < _OUTRIGHT:
        L, values, Vt = torch.linalg.svd((scale - top).exp().unsqueeze(-1) * unit, full_matrices=False)
        return L, values.log() + top, Vt.mT
    order = torch.argsort(scale, dim=1, descending=True, stable=True)
    left = torch.eye(scale.shape[1], dtype=rows.dtype, device=rows.device)[order].mT
    scale, unit = scale.take_along_dim(order, 1), unit.take_along_dim(order.unsqueeze(-1), 1)
    right: Tensor | None = None
    for _ in range(_TURNS):
        scale, unit, first = _turned(scale, unit)
        scale, unit, second = _turned(scale, unit)
        left, right = left @ second, first if right is None else right @ first
        if float(_cosines(unit).max()) <= _FEW:
            break
    assert right is not None
    L, found, V = _jacobi(scale, unit)
    return left @ L, found, right @ V


def _apart(logs: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as a logarithm and a unit row each; zeros as −inf and zeros."""
    lengths = torch.linalg.vector_norm(rows, dim=-1)
    there = torch.isfinite(logs) & (lengths > 0)
    unit = rows / torch.where(there, lengths, 1.0).unsqueeze(-1) * there.unsqueeze(-1)
    return torch.where(there, logs + lengths.log(), -torch.inf), unit


def _turned(scale: Tensor, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows e^scale · unit = (e^found · made)ᵀ Qᵀ; what is far apart is all but decoupled by two such turns."""
    Q, R = torch.linalg.qr(unit.mT)
    d = R.diagonal(dim1=-2, dim2=-1).abs()
    there = torch.isfinite(scale) & (d > 0)
    found = torch.where(there, scale + d.log(), -torch.inf)
    above = (R != 0) & there.unsqueeze(-1)
    logs = torch.where(above, R.abs().log() + scale.unsqueeze(1) - found.unsqueeze(-1), -torch.inf)
    return *_apart(found, R.sign() * logs.exp()), Q


def _jacobi(scale: Tensor, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One-sided Jacobi on rows e^scale · unit: in every round each row meets the one it is least orthogonal to.

    Each row keeps its power apart, so that a rotation of two rows that differ by 10^-1000 is still exact: it takes the
    large one's direction out of the small one.

    Source: Demmel, Veselić 1992.
    """
    B, m, _ = unit.shape
    turned = torch.eye(m, dtype=unit.dtype, device=unit.device).repeat(B, 1, 1)
    place = torch.arange(m, device=unit.device)
    for _ in range(_ROUNDS * m):
        worst, other = _cosines(unit).max(-1)
        if float(worst.max()) <= m * _EPS:
            break
        mutual = (other.gather(1, other) == place) & (place < other) & (worst > _EPS)
        b, i = mutual.nonzero(as_tuple=True)
        _rotate(scale, unit, turned, b, i, other[b, i])
    else:
        raise FlowError("the singular values did not settle; this is a fault of throughtime: please report it.")
    order = torch.argsort(scale, dim=1, descending=True, stable=True)
    unit, turned = (each.take_along_dim(order.unsqueeze(-1), 1) for each in (unit, turned))
    return turned.mT, scale.take_along_dim(order, 1), unit.mT


def _cosines(unit: Tensor) -> Tensor:
    """Of the angles between rows, (B, m, m) without signs; 0 for a row and itself."""
    cosines = (unit @ unit.mT).abs_()
    cosines.diagonal(dim1=-2, dim2=-1).zero_()
    return cosines


def _rotate(scale: Tensor, unit: Tensor, turned: Tensor, b: Tensor, i: Tensor, j: Tensor) -> None:
    """Make rows i and j of sequence b orthogonal, all pairs at once; in place."""
    swap = scale[b, i] < scale[b, j]
    i, j = torch.where(swap, j, i), torch.where(swap, i, j)  # i is the larger
    large, small = unit[b, i], unit[b, j]
    c = (large * small).sum(-1)
    ratio = (scale[b, j] - scale[b, i]).exp()
    eta = (1 - ratio.square()) / (2 * c.abs())
    tau = -c.sign() / (eta + torch.hypot(ratio, eta))  # the angle's tangent, over the ratio
    t = tau * ratio
    cosine = 1 / torch.hypot(t, torch.ones_like(t))
    made = large - (t * ratio).unsqueeze(-1) * small, small + tau.unsqueeze(-1) * large
    p, q = turned[b, i], turned[b, j]
    across = p - t.unsqueeze(-1) * q, q + t.unsqueeze(-1) * p
    for at, row, axis in zip((i, j), made, across, strict=True):
        length = torch.linalg.vector_norm(row, dim=-1)
        scale[b, at] += (length * cosine).log()
        unit[b, at] = row / length.unsqueeze(-1)
        turned[b, at] = axis * cosine.unsqueeze(-1)
