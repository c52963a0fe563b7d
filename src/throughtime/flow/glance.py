"""The gradient through time and the credit of a few sources in one sweep: for a look that is taken often.

`credit` and `adjoint` are for many rows at a time; with few, what a step of the sweep does beside its product costs
more than the product. Here the rows stay in one buffer until many steps are measured at once.

Dimensions: as in linear/tangent.py; N sources, n steps of a stretch. The last of the R rows is the gradient
through time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from throughtime.flow.adjoint import Adjoint
from throughtime.flow.credit import Derivative, log10_adjoint, log10_direct
from throughtime.flow.lags import lag_profile
from throughtime.flow.linear.sweep import NEVER, log10, norms_of, outgrown, shift, split, window
from throughtime.flow.linear.tangent import Tangent
from throughtime.records import CreditRecord

_HELD = 1 << 20  # numbers in the buffer: 8 MiB in float64
_UNSEEN = 8  # steps that rows go on before somebody looks whether they are about to leave the dtype's range


def glance(
    tangent: Tangent, delta: Tensor, derivative: Derivative = "boundary", sources: Sequence[int] | None = None
) -> tuple[Adjoint, CreditRecord]:
    """As `gather` and `credit_along`, for a few sources (ascending steps; None: every step with a gradient).

    δ (P, T, B, H) is `checked`. Costs one product of (N + 1)·B rows with the weights at each step.
    Raises FlowError if a few steps leave the range of the dtype.
    """
    began = time.perf_counter()
    along, T = tangent.along, tangent.along.T
    running = along.running()
    steps = torch.arange(T, device=delta.device) if sources is None else torch.as_tensor(sources, device=delta.device)
    there = delta.any(-1).any(0)
    taken = torch.zeros_like(there)
    taken[steps] = there[steps]
    # Where each sequence has but one source, what comes from there is all that comes.
    alone = bool((taken == there).all()) and int(taken.sum(0).max()) <= 1
    starts = _starts(taken)
    sweep = _Sweep(tangent, delta, starts[:0] if alone else starts, derivative)
    sweep.run()
    rows = slice(None) if alone else slice(0, -1)
    norms, powers = sweep.norms[:, :, rows], sweep.powers[:, rows]

    row_of = torch.full((T,), NEVER, device=delta.device)
    row_of[steps] = torch.arange(len(steps), device=delta.device)
    k, r, b = (torch.arange(T, device=delta.device).view(-1, 1, 1) <= starts).nonzero(as_tuple=True)
    where = row_of[starts[r, b]], k, b
    empty = torch.where(running[steps], -torch.inf, torch.nan).double().unsqueeze(1).repeat(1, T, 1)
    found = [log10(torch.linalg.vector_norm(norms.nan_to_num(), dim=1), powers)]
    found += [log10(its, powers) for its in norms.unbind(1)] if tangent.P > 1 else []
    pages = [empty.index_put(where, values[k, r, b]).cpu().numpy() for values in found]

    through_time = Adjoint(sweep.adjoint, sweep.powers[:, -1])
    return through_time, CreditRecord(
        cell=along.cell.title,
        parts=tangent.parts,
        derivative=derivative,
        log10_pairs=pages[0],
        log10_direct=log10_direct(along, delta),
        log10_adjoint=log10_adjoint(tangent, through_time, derivative),
        log10_parts=dict(zip(tangent.parts, pages[-tangent.P :], strict=True)),
        lags=lag_profile(pages[0], steps.cpu().numpy()),
        dtype=str(delta.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - began,
        sources=None if sources is None else steps.cpu().numpy(),
    )


def _starts(taken: Tensor) -> Tensor:
    """Where the rows of each sequence start, (N, B), for sources (T, B): its last one last, NEVER first."""
    order = taken.int().argsort(dim=0, stable=True)[len(taken) - int(taken.sum(0).max()) :]
    return torch.where(taken.gather(0, order), order, NEVER)


class _Sweep:
    """Rows on their way back, those of the sources before the gradient through time; kept by step."""

    def __init__(self, tangent: Tangent, delta: Tensor, starts: Tensor, derivative: Derivative) -> None:
        self._tangent, self._delta, self._derivative = tangent, delta, derivative
        P, T, B, H = delta.shape
        self._fresh = delta.any(-1).any(0)  # (T, B)
        steps = torch.arange(T, device=delta.device).unsqueeze(1)
        latest = torch.where(self._fresh, steps, NEVER).amax(0, keepdim=True)
        self._starts = torch.cat([starts, latest])  # (R, B), on their way in this order, the last ones first
        R = len(self._starts)
        self.adjoint = torch.zeros_like(delta)
        self.norms = delta.new_zeros(T, P, R, B)  # NaN: lost against the rest of its row
        self.powers = delta.new_zeros(T, R, B, dtype=torch.float64)
        self._size = max(_UNSEEN, min(T, _HELD // (P * R * B * H)))
        self._buffer = delta.new_zeros(self._size, P, R, B, H)
        self._power = self.powers.new_zeros(R, B)  # now
        self._scaled = False
        self._faint = torch.zeros(P, R, B, dtype=torch.bool, device=delta.device)

    @torch.no_grad()
    def run(self) -> None:
        """From the last step to the first."""
        T = self._delta.shape[1]
        fresh = self._fresh.any(1).tolist()
        sources = self._starts[:-1]
        begin = {k: (sources == k).nonzero(as_tuple=True) for k in set(sources.flatten().tolist())}
        first = len(sources)  # of the rows that are on their way
        last: Tensor | None = None
        for stop in range(T, 0, -self._size):
            start = max(0, stop - self._size)
            for k in reversed(range(start, stop)):
                rows = self._buffer[k - start]
                if first:
                    rows[:, :first] = 0
                if last is None:
                    rows.zero_()
                else:
                    self._tangent.pull(last[:, first:], k + 1, out=rows[:, first:])
                if fresh[k]:
                    self._add(rows[:, -1], k)
                if k in begin:
                    r, b = begin[k]
                    rows[:, r, b] = self._delta[:, k, b]
                    first = min(first, int(r.min()))
                if k % _UNSEEN == 0 or k in begin:
                    self._look(rows, k)
                if self._scaled:
                    self.powers[k] = self._power
                last = rows
            self._measure(start, stop)
            last = self._buffer[0].clone()

    def _add(self, row: Tensor, k: int) -> None:
        """Adds δ_k to the gradient through time (P, B, H), at the power of two of the larger."""
        delta = self._delta[:, k]
        if self._scaled:
            power = torch.where(self._fresh[k], self._power[-1].clamp(min=0), self._power[-1])
            row.copy_(shift(row, _steps(self._power[-1] - power)))
            delta = shift(delta, _steps(-power).clamp(max=0))
            self._power[-1] = power
        row += delta

    def _look(self, rows: Tensor, k: int) -> None:
        """Rescale rows before they leave the dtype's range."""
        if not outgrown(rows.abs().amax((0, -1)), window(rows.dtype) ** 0.25, f"at step {k}", steps="a few steps"):
            return
        scaled, moved = split(rows)
        rows.copy_(scaled)
        self._power += moved
        self._scaled = True

    def _measure(self, start: int, stop: int) -> None:
        """Norms of the rows of the steps start..stop."""
        rows = self._buffer[: stop - start]
        self.adjoint[:, start:stop] = rows[:, :, -1].transpose(0, 1)
        if self._derivative == "node":
            each = [self._tangent.node(its.transpose(0, 1), slice(start, stop)) for its in rows.unbind(2)]
            rows = torch.stack(each, dim=2).transpose(0, 1)
        steps = torch.arange(start, stop, device=rows.device).view(-1, 1, 1, 1)
        alive = steps <= self._starts
        norms = norms_of(rows, alive)
        faint = (norms > 0) & (norms < torch.finfo(norms.dtype).tiny * 2.0**60)
        if bool(faint.any() | self._faint.any()):
            was = torch.cat([faint, self._faint.unsqueeze(0)])
            was = was.flip(0).int().cumsum(0).flip(0) > 0
            norms = norms.masked_fill(was[1:] & (norms == 0) & alive, torch.nan)
            self._faint = was[0]
        self.norms[start:stop] = norms


def _steps(powers: Tensor) -> Tensor:
    """Powers of two as whole steps, as far down as there is anything left; (B, 1)."""
    return powers.clamp(min=-8000.0).int().unsqueeze(-1)
