"""Which directions of a state many steps stretch and shrink, and by how much.

Dimensions: as in linear/tangent.py; n columns on their way, L lags.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.errors import FlowError
from throughtime.flow.lags import medians
from throughtime.flow.linear.flag import Factored, Flag, Steps, in_double, rows
from throughtime.flow.linear.graded import graded_svd
from throughtime.flow.linear.trajectory import excerpt, follow
from throughtime.flow.sighting import Sighting
from throughtime.modules import Recurrent
from throughtime.records import SingularRecord

_SKEWED = 1e4  # how far a product may lean before its singular vectors are taken for its coordinates
_WORK = 1.5e10  # multiplications of `singular_of`: about a second on two cores
_SETTLE = 300  # what taking singular values costs, in multiplications for each number of a cube of S
_BASE = 1e9  # and at least
_MANY = 4  # sequences of `singular_of`, at most
_LAGS = 8  # of `singular_of`


@dataclass(frozen=True)
class Singular:
    """P(t, k) = left · diag(values) · rightᵀ, for each sequence."""

    log10_values: Tensor  # (B, S) float64, largest first; −inf: a true zero; NaN: too faint to tell from that
    left: Tensor  # (B, S, S) columns: where the directions of `right` are taken to
    right: Tensor  # (B, S, S) columns: the old state's directions, from the best kept to the least


def singular(
    cell: Cell | Recurrent,
    x: Tensor,
    t: int,
    k: int,
    *,
    state: State | None = None,
    lengths: Tensor | None = None,
    parameters: Parameters | None = None,
) -> Singular:
    """All singular values of P(t, k) = J_t … J_{k+1}, with their directions; k = t − 1 is one step.

    Logarithms, so that they neither under- nor overflow; the small ones are as exact as the large ones, however far
    apart: the product is never multiplied out, but kept as (orthonormal)·(scales apart)·(triangular). The error of a
    value is about 1e-16 times the largest condition number of a single step, relative, for each step. Past the end of
    a sequence (`lengths`) steps count as the identity. Computed in float64 whatever the cell's dtype.
    Costs about 3·S³ multiplications a step and sequence.
    Raises FlowError if t or k is not a step (k = −1: the initial state), or t < k, and as `tt.flow.jacobians` does.

    Source: Stewart 1997, on triangularised products; Demmel, Veselić 1992, for the values of what is left.

    >>> import torch, throughtime as tt
    >>> cell = tt.cells.make("elman", 1, 2, nonlinearity="identity", bias=False)
    >>> cell.weight_hh.data = torch.diag(torch.tensor([0.1, 10.0]))
    >>> tt.flow.singular(cell, torch.zeros(2001, 1, 1), 2000, 0).log10_values.round()
    tensor([[ 2000., -2000.]], dtype=torch.float64)
    """
    along = in_double(follow(cell, x, state, lengths=lengths, parameters=parameters))
    if not -1 <= k <= t < along.T:
        raise FlowError(f"t and k are steps with −1 ≤ k ≤ t ≤ {along.T - 1}, got t = {t}, k = {k}.")
    product = Product(along.B, along.x, along.cell.state_size)
    product.through(Steps(along), range(k + 1, t + 1))
    logs, left, right = product.whole()
    return Singular(logs / math.log(10), left, right)


class Product:
    """X · diag(e^logs) · U · Zᵀ, the product of the steps so far; X and Z have orthonormal columns."""

    def __init__(self, B: int, like: Tensor, S: int) -> None:
        eye = torch.eye(S, dtype=like.dtype, device=like.device).repeat(B, 1, 1)
        self.flag = Flag(eye.clone())
        self.Z, self.U = eye.clone(), eye
        self.logs = like.new_zeros(B, S)

    def through(self, apply: Steps, steps: Sequence[int]) -> None:
        """Multiply by these steps from the left, in their order, and settle."""
        if steps:
            for factored in self.flag.carry(apply, steps, (len(steps),)):
                self._multiply(factored)
                lean = (self.logs - self.logs.cummin(-1).values).nan_to_num(0.0).amax()
                if float(lean) > math.log(_SKEWED) or float(self.U.abs().max()) > _SKEWED:
                    self.settle()
        self.settle()

    def settle(self) -> None:
        """Make U the identity: X and Z are the singular vectors then, e^logs the singular values."""
        Q, R = torch.linalg.qr(self.flag.columns)
        self._multiply(Factored(0, R, None, True))
        L, self.logs, V = graded_svd(self.logs, self.U)
        width = self.logs.shape[1]
        self.flag.columns = Q @ L * torch.isfinite(self.logs).unsqueeze(1)
        self.Z = self.Z @ V
        self.U = torch.eye(width, dtype=V.dtype, device=V.device).repeat(len(V), 1, 1)

    def _multiply(self, factored: Factored) -> None:
        T = factored.T.triu()
        if factored.order is not None:
            self.logs, self.U = rows(self.logs, factored.order), rows(self.U, factored.order)
        d = T.diagonal(dim1=-2, dim2=-1).abs()
        there = (d > 0) & torch.isfinite(self.logs[:, : T.shape[1]])
        onto = torch.where(there, self.logs[:, : T.shape[1]] + d.log(), -torch.inf)
        # Columns stand in falling order, or the product has settled: what is over e^700 belongs to a 0 of T.
        beside = (self.logs.unsqueeze(1) - onto.unsqueeze(-1)).nan_to_num_(0.0).clamp_(max=700.0).exp_()
        self.U = beside.mul_(T).mul_(there.unsqueeze(-1)) @ self.U
        self.logs = onto

    def whole(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithms (B, S), left and right directions (B, S, S); what is lost last, in directions that are left."""
        B, S, width = self.flag.columns.shape
        missing = self.flag.columns.new_full((B, S - width), -torch.inf)
        logs = torch.cat([self.logs, missing], dim=1)
        unsure = self.flag.unsure.sum(1, keepdim=True)
        alive = torch.isfinite(logs).sum(1, keepdim=True)
        place = torch.arange(S, device=logs.device)
        logs = torch.where((place >= alive) & (place < alive + unsure), torch.nan, logs)
        return logs, _completed(self.flag.columns), _completed(self.Z)


def _completed(columns: Tensor) -> Tensor:
    """Orthonormal columns and zeros (B, S, n) as an orthonormal basis (B, S, S) that starts with them."""
    whole = []
    for one in columns:
        kept = one[:, one.any(0)]
        Q, _ = torch.linalg.qr(torch.cat([kept, torch.eye(len(one), dtype=one.dtype, device=one.device)], dim=1))
        whole.append(torch.cat([kept, Q[:, kept.shape[1] :]], dim=1))
    return torch.stack(whole)


def singular_of(seen: Sighting) -> tuple[SingularRecord | None, tuple[str, ...]]:
    """Singular values of P(t, t−τ) by lag, from the last step t of some sequences; what was limited, in sentences."""
    began = time.perf_counter()
    along, S = seen.along, seen.along.cell.state_size
    ends = along.ends()
    longest = int(ends.max())
    if longest < 1:
        return None, ("Singular values were not taken: there is one step only.",)
    settle, step = _SETTLE * S**3, 3 * S**3
    if settle > _WORK:
        return None, (f"Singular values were not taken: with {S} numbers in the state they take too long here.",)
    count = int(max(1, min(along.B, _MANY, (_WORK - _LAGS * _BASE) // (_LAGS * settle + longest * step))))
    reach = int(max(1, min(longest, _WORK // (count * step))))
    lags = int(max(4, min(_LAGS, (_WORK - count * reach * step) // (count * settle + _BASE))))
    asked = sorted({*np.geomspace(1, reach, lags).round().astype(int).tolist()})
    which = torch.argsort(along.lengths, descending=True, stable=True)[:count]
    values = np.full((len(asked), S, count), np.nan)
    first: tuple[Tensor, Tensor] | None = None
    for length in sorted(set(along.lengths[which].tolist()), reverse=True):
        places = (along.lengths[which] == length).nonzero()[:, 0]
        start = max(0, length - 1 - reach)
        some = excerpt(along, which[places].tolist(), start, length, torch.float64)
        product, apply, done = Product(some.B, some.x, S), Steps(some, back=True), 0
        for at, lag in enumerate(asked):
            if lag >= length:
                break
            product.through(apply, range(some.T - 1 - done, some.T - 1 - lag, -1))
            logs, right, left = product.whole()
            values[at][:, places.cpu().numpy()] = (logs / math.log(10)).T.cpu().numpy()
            done = lag
        first = (right[0, :, 0], left[0, :, 0]) if first is None else first
    assert first is not None
    notes = []
    if count < along.B:
        notes.append(f"Singular values were taken of {count} of {along.B} sequences, the longest.")
    if reach < longest:
        notes.append(f"Singular values were followed {reach} steps back, not to the start.")
    return SingularRecord(
        cell=along.cell.title,
        lags=np.asarray(asked),
        log10_values=medians(values),
        stretched=np.asarray(first[0].cpu().numpy()),
        into=np.asarray(first[1].cpu().numpy()),
        sequences=count,
        dtype="float64",
        seconds=time.perf_counter() - began,
    ), tuple(notes)
