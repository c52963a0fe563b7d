"""Largest singular values: how much a step, or many, can stretch a gradient.

Dimensions: as in tangent.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from throughtime.flow.linear.sweep import LOG10_2, log10, shift, split, window
from throughtime.flow.linear.tangent import Tangent

_SMALL = 32  # states up to this size are decomposed outright
_CHECKED = (12, 20, 32, 48)  # steps of Lanczos; what has not converged by the last is decomposed outright
_NUMBERS = 1 << 18  # in the vectors of a stretch of steps
_CLOSE = 1e-11  # the error allowed, of the squared singular value


def step_gains(tangent: Tangent) -> Tensor:
    """log10 ‖J_t‖₂ at every step: (T, B), float64.

    Lanczos on J_tᵀJ_t for all steps at once, until the residual bounds the error under 1e-11 relative; a step at which
    it does not get there is decomposed outright, as all are where the state is small.
    """
    T, S = tangent.along.T, tangent.P * tangent.H
    size = max(1, min(T, _NUMBERS // (tangent.along.B * S)))
    stretches = [slice(first, min(first + size, T)) for first in range(0, T, size)]
    with torch.no_grad():
        if S <= _SMALL:
            return torch.cat([log10_norm(tangent.dense(s.start, s.stop)) for s in stretches])
        return torch.cat([_lanczos(tangent, stretch) for stretch in stretches])


def log10_norm(matrices: Tensor, exponents: Tensor | None = None) -> Tensor:
    """log10 ‖M‖₂ of (..., S, S) matrices, each row times 2**`exponents` (..., S) if they are given; −inf for zeros."""
    if exponents is not None:
        some = matrices.any(-1)
        top = torch.where(some, exponents, -torch.inf).amax(-1)
        top = torch.where(torch.isfinite(top), top, 0.0)
        down = torch.where(some, exponents - top.unsqueeze(-1), 0.0)
        matrices = shift(matrices, down.int().unsqueeze(-1))
    scaled, more = split(matrices, (-2, -1))
    powers = more if exponents is None else more + top
    return log10(torch.linalg.svdvals(scaled).amax(-1), powers)


def _lanczos(tangent: Tangent, at: slice) -> Tensor:
    # Without reorthogonalising: what that would cost is most of it, and the largest Ritz value does not need it.
    x = tangent.along.x
    shape = (tangent.P, at.stop - at.start, tangent.along.B, tangent.H)
    generator = torch.Generator().manual_seed(0)  # its own: measuring does not touch the caller's random numbers
    v = torch.randn(shape, generator=generator, dtype=torch.float64).to(x)
    v = v / torch.linalg.vector_norm(v, dim=(0, -1), keepdim=True)
    old = torch.zeros_like(v)
    _, powers = split(tangent.push(v, at))
    far = powers.abs().max() > math.log2(window(x.dtype))  # JᵀJ could leave the dtype's range
    powers = powers if bool(far) else torch.zeros_like(powers)
    down = -powers.int().unsqueeze(-1)

    def apply(v: Tensor) -> Tensor:
        if not bool(far):
            return tangent.pull(tangent.push(v, at), at)
        return shift(tangent.pull(shift(tangent.push(v, at), down), at), down)

    alphas: list[Tensor] = []
    betas = [x.new_zeros(shape[1:3])]
    squared, waiting = x.new_zeros(shape[1:3]), torch.ones(shape[1:3], dtype=torch.bool, device=x.device)
    for count in range(1, _CHECKED[-1] + 1):
        y = apply(v).sub_(betas[-1].unsqueeze(-1) * old)
        alphas.append((v * y).sum((0, -1)))
        y.sub_(alphas[-1].unsqueeze(-1) * v)
        beta = torch.linalg.vector_norm(y, dim=(0, -1))
        exhausted = beta <= 1e-14 * torch.stack(alphas).abs().amax(0)  # the basis spans all there is
        betas.append(torch.where(exhausted, 0.0, beta))
        old, v = v, torch.where(exhausted, 0.0, 1 / beta).unsqueeze(-1) * y
        if count in _CHECKED:
            top, close = _ritz(torch.stack(alphas, -1)[waiting], torch.stack(betas[1:], -1)[waiting])
            squared[waiting] = top
            waiting[waiting.clone()] = ~close
            if not bool(waiting.any()):
                break
    found = log10(squared.clamp(min=0)) / 2 + powers * LOG10_2
    for t in waiting.any(1).nonzero()[:, 0].tolist():
        found[t, waiting[t]] = log10_norm(tangent.dense(at.start + t, at.start + t + 1)[0, waiting[t]])
    return found


def _ritz(alphas: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    """The largest Ritz values (n,) from (n, m) coefficients, and whether their errors, residual² / gap, are small."""
    off = betas[:, :-1]
    small = torch.diag_embed(alphas) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    values, vectors = torch.linalg.eigh(small)
    top = values[:, -1]
    residual = betas[:, -1] * vectors[:, -1, -1].abs()
    gap = (top - values[:, -2]).clamp(min=torch.finfo(top.dtype).tiny)
    close = max(_CLOSE, 8 * torch.finfo(top.dtype).eps)
    return top, (residual <= close * top) | (residual**2 <= close * top * gap)
