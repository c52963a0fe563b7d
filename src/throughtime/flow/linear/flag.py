"""Nested subspaces carried through the linearised steps, with the triangular factors that say how they were stretched.

What Lyapunov exponents and the singular values of long products are both read from: columns that are pushed on lean
ever more towards what grows fastest, so after every few steps they are factored, A = X T with T upper triangular, and
X goes on. The span of the first i columns, for each i, does not depend on how often that is done, nor on what X is
made of. Between the steps that are asked for, X comes from Gaussian elimination with row exchanges, which costs a
fifth of orthogonalising; where an exact account is asked for, from QR.

Dimensions: as in tangent.py; n steps at a time, m columns, m ≤ S.

Source: Benettin, Galgani, Giorgilli, Strelcyn 1980, part 2, for QR; Rutishauser 1957 for elimination in its place.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.errors import FlowError
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.sweep import window
from throughtime.flow.linear.tangent import Tangent
from throughtime.flow.linear.trajectory import Trajectory, excerpt

EPS = torch.finfo(torch.float64).eps
_FAR = EPS ** (1 / 3)  # columns may lean together so far between two factorings: 4e-11 of the faintest is lost
_LOST = 1e-12  # a column of which this share is new to those before it is one of them, but for rounding


def in_double(along: Trajectory) -> Trajectory:
    """The same run in float64; itself if that is what it is."""
    return along if along.x.dtype == torch.float64 else excerpt(along, range(along.B), dtype=torch.float64)


class Steps:
    """J_t, or its transpose, applied to columns (B, S, m); a sequence that does not run at t is left alone."""

    def __init__(self, along: Trajectory, *, back: bool = False) -> None:
        self.tangent: Tangent = linearise(along)
        self.back = back
        self._running = along.running()
        self._whole = bool(self._running.all())

    def __call__(self, columns: Tensor, t: int) -> Tensor:
        """J_t X, or J_tᵀ X."""
        with torch.no_grad():
            by_part = columns.view(len(columns), self.tangent.P, self.tangent.H, -1).permute(1, 3, 0, 2).contiguous()
            by_part = self.tangent.pull(by_part, t) if self.back else self.tangent.push(by_part, t)
            moved = by_part.permute(2, 1, 0, 3).flatten(2).mT  # column by column, as the factoring wants it
        return moved if self._whole else torch.where(self._running[t].view(-1, 1, 1), moved, columns)

    def deficient(self, t: int, sequence: int) -> bool:
        """Whether J_t maps some direction to exactly nothing, as far as rows and columns of one length can tell."""
        J = self.tangent.dense(t, t + 1)[0, sequence]
        for _ in range(3):
            for dim in (0, 1):
                length = J.abs().amax(dim, keepdim=True)
                if not bool(length.all()):
                    return True
                J = J / length
        values = torch.linalg.svdvals(J)
        return bool(values[-1] <= _LOST * values[0])


@dataclass(frozen=True)
class Factored:
    """`done` steps, and what the last of them made: (J … J X_before)[order] = X_after T."""

    done: int
    T: Tensor  # (B, m', m), of which only the upper triangle counts; a row of zeros for a lost direction
    order: Tensor | None  # (B, m): the columns before, in their new order, where some were lost; None: as they were
    exact: bool  # the new columns are orthonormal


class Flag:
    """Columns on their way. Lost ones are zero and stand last; `unsure` are too faint to tell from lost."""

    def __init__(self, columns: Tensor) -> None:
        self.columns = columns  # (B, S, m)
        self.alive = torch.ones(columns.shape[0], columns.shape[2], dtype=torch.bool, device=columns.device)
        self.unsure = torch.zeros_like(self.alive)
        self.widest = 0  # steps between two factorings, at most, so far

    def carry(
        self, apply: Steps, steps: Sequence[int], stops: Collection[int], most: int | None = None
    ) -> Iterator[Factored]:
        """Through `steps` in their order, factored after at most `most` of them and as often as it takes.

        After each of the `stops` (counts of steps done) the columns are orthonormal.
        Raises FlowError if a step leaves the range of float64.
        """
        done, n, most = 0, 1, len(steps) if most is None else most
        ends = sorted({*stops, len(steps)})
        for end in ends:
            while done < end:
                take = min(n, end - done, most)
                moved = self.columns
                for t in steps[done : done + take]:
                    moved = apply(moved, t)
                exact = done + take == end
                X, T = _factor(moved, exact)
                lengths = moved.abs().amax(1)
                left, size = self._left(lengths, T)
                if take > 1 and not (left >= _FAR and size <= window(moved.dtype)):
                    n, most = max(1, take // 2), max(1, 3 * take // 4)  # those steps were for nothing: not again
                    continue
                order = None
                if not math.isfinite(size):
                    raise FlowError(
                        f"the Jacobian of step {steps[done]} is not finite in float64; look at the size of the weights."
                    )
                if left <= _LOST:
                    X, T, order = self._lose(moved, apply, steps[done])
                elif not bool(lengths.all()):
                    X = X * (lengths > 0).unsqueeze(1)
                self.columns = X
                done += take
                self.widest = max(self.widest, take)
                n = _next(take, left, size)
                yield Factored(done, T, order, exact or order is not None)

    def _left(self, lengths: Tensor, T: Tensor) -> tuple[float, float]:
        """The least share of a column that is new to those before it; how far lengths are from 1, as a factor."""
        alive = self.alive[:, : lengths.shape[1]]
        if not bool(torch.isfinite(lengths).all()):
            return 0.0, math.inf
        new = T.diagonal(dim1=-2, dim2=-1).abs()
        share = torch.where(alive, torch.where(lengths > 0, new / lengths, 0.0), 1.0)
        there = torch.where(alive & (lengths > 0), lengths, 1.0)
        return float(share.min()), float(torch.maximum(there, 1 / there).max())

    def _lose(self, moved: Tensor, apply: Steps, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """Find the columns that are nothing new to those before them, and put them last."""
        B, S, m = moved.shape
        order = torch.arange(m, device=moved.device).repeat(B, 1)
        for b in range(B):
            kept, gone = _independent(moved[b], self.alive[b, :m])
            if gone:
                dead = (~self.alive[b, :m]).nonzero()[:, 0].tolist()
                order[b] = torch.tensor([*kept, *gone, *dead])
                unsure = self.unsure[b, order[b]]
                if not apply.deficient(t, b):
                    unsure[len(kept) : len(kept) + len(gone)] = True
                self.unsure[b, :m] = unsure
                self.alive[b, :m] = torch.arange(m) < len(kept)
        width = max(1, int(self.alive.sum(1).max()))
        X, T = _factor(moved.gather(2, order.unsqueeze(1).expand(-1, S, -1)), True)
        alive = self.alive[:, :width]
        X = X[..., :width] * alive.unsqueeze(1)
        return X, T[:, :width] * alive.unsqueeze(-1), order


def _factor(moved: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """A = X T, (B, S, m) and (B, m, m), of which only the upper triangle counts."""
    if exact:
        X, T = torch.linalg.qr(moved)
        return X, T
    LU, pivots, _ = torch.linalg.lu_factor_ex(moved)
    L = LU.tril(-1)
    L.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    X = [one.index_select(0, _exchanged(rows, one)) for one, rows in zip(L, pivots.tolist(), strict=True)]
    return X[0].unsqueeze(0) if len(X) == 1 else torch.stack(X), LU[:, : LU.shape[2]]


def _exchanged(pivots: Sequence[int], like: Tensor) -> Tensor:
    """Where each row went, of as many as `like` has; LAPACK says which two changed places, in turn, from 1."""
    rows = list(range(len(like)))
    for at, other in enumerate(pivots):
        rows[at], rows[other - 1] = rows[other - 1], rows[at]
    order = torch.empty(len(rows), dtype=torch.long)
    order[torch.tensor(rows)] = torch.arange(len(rows))
    return order.to(like.device)


def _next(taken: int, left: float, size: float) -> int:
    """How many steps to take before the next factoring, by how far this one's columns were apart."""
    lean, grow = -math.log(max(left, EPS)) / taken, math.log(max(size, 1.0)) / taken
    allowed = min(-math.log(_FAR) / max(lean, 1e-3), math.log(window(torch.float64)) / max(grow, 1e-3))
    return max(1, min(2 * taken, int(0.9 * allowed)))


def _independent(moved: Tensor, alive: Tensor) -> tuple[list[int], list[int]]:
    """Of the columns of (S, m) that were alive: those that add to the span of those before them, and the others."""
    kept, gone = alive.nonzero()[:, 0].tolist(), list[int]()
    while kept:
        columns = moved[:, kept]
        lengths = torch.linalg.vector_norm(columns, dim=0)
        Q, R = torch.linalg.qr(columns)
        faint = (R.diagonal().abs() <= _LOST * lengths).nonzero()[:, 0].tolist()
        if not faint:
            break
        first = faint[0]
        head, rest = Q[:, :first], columns[:, first:]
        beyond = torch.linalg.vector_norm(rest - head @ (head.T @ rest), dim=0) <= _LOST * lengths[first:]
        beyond[0] = True
        lost = [kept[first + i] for i in beyond.nonzero()[:, 0].tolist()]
        gone += lost
        kept = [column for column in kept if column not in set(lost)]
    return kept, gone


def rows(values: Tensor, order: Tensor) -> Tensor:
    """Rows (B, m, ...) in a new order (B, m)."""
    shape = (*order.shape, *(1,) * (values.ndim - 2))
    return values.take_along_dim(order.view(shape), 1)
