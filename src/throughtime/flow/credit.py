"""Which step's output reached which earlier state, all pairs in one reverse sweep.

Dimensions: T steps, B sequences, H units, P parts, N sources, R rows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import reduce
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.errors import FlowError
from throughtime.flow.adjoint import Adjoint, checked, gather
from throughtime.flow.lags import lag_profile
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.sweep import LOG10_2, NEVER, Carried, log10, norms_of, sources_of, split, sweep
from throughtime.flow.linear.tangent import Tangent
from throughtime.flow.linear.trajectory import Trajectory, follow
from throughtime.modules import Recurrent
from throughtime.records import CreditRecord, Floats

Derivative = Literal["boundary", "node"]

_TAKEN = 1 << 18  # norms that are taken down before logarithms are made of them


def credit(
    cell: Cell | Recurrent,
    x: Tensor,
    delta: Tensor,
    *,
    state: State | None = None,
    lengths: Tensor | None = None,
    derivative: Derivative = "boundary",
    sources: Sequence[int] | None = None,
    most_lag: int | None = None,
    parameters: Parameters | None = None,
) -> CreditRecord:
    """C(t, k) = ‖δ_tᵀ P(t, k)‖₂: how much of what step t put out reaches the state at k, for all pairs t ≥ k.

    `x` (T, B, I); `delta` is δ_t, the direct gradient: (T, B, H) at the output, or (T, B, S) at the whole state. With
    derivative="boundary" the parts of z_k are coordinates, each held while another is moved; with "node" a part takes
    along what step k itself made from it (for an LSTM: h_k made from s_k), as autograd does on a kept tensor. `sources`
    (steps t, ascending) and `most_lag` (steps) limit what is measured; past a sequence's `lengths` nothing is.

    Returns logarithms that neither under- nor overflow; −inf is a true zero, NaN "not measured".
    Costs one product of (T − k)·B rows with the weights at each step k (sources without any gradient cost nothing),
    and T²·B numbers for each part and for the whole.
    Raises FlowError if shapes or steps do not fit, if delta is not finite or not zero past a sequence's end, and as
    `tt.flow.jacobians` does.

    Source: Pascanu, Mikolov, Bengio 2013, section 2, for the sum over pairs; the sweep is ours.

    >>> import torch, throughtime as tt
    >>> cell, delta = tt.cells.make("elman", 3, 4), torch.zeros(7, 2, 4)
    >>> delta[-1] = 1.0  # a loss of the last step alone
    >>> record = tt.flow.credit(cell, torch.randn(7, 2, 3), delta)
    >>> record.pairs.shape, bool((record.pairs[-1] > 0).all()), bool((record.pairs[:-1] > 0).any())
    ((7, 7, 2), True, False)
    """
    began = time.perf_counter()
    along = follow(cell, x, state, lengths=lengths, parameters=parameters)
    tangent = linearise(along)
    given = checked(along, delta)
    return credit_along(tangent, given, gather(tangent, given), derivative, sources, most_lag, began)


def credit_along(
    tangent: Tangent,
    delta: Tensor,
    through_time: Adjoint,
    derivative: Derivative = "boundary",
    sources: Sequence[int] | None = None,
    most_lag: int | None = None,
    began: float | None = None,
) -> CreditRecord:
    """The same for a trajectory that is linearised already, with its adjoint."""
    began = time.perf_counter() if began is None else began
    along = tangent.along
    if derivative not in ("boundary", "node"):
        raise FlowError(f'derivative is "boundary" or "node", got {derivative!r}.')
    if most_lag is not None and most_lag < 0:
        raise FlowError(f"most_lag is a number of steps, 0 or more, got {most_lag}.")
    steps = torch.arange(along.T) if sources is None else _sources(sources, along.T)
    running = along.running()
    wanted = torch.zeros_like(running)
    wanted[steps] = running[steps]
    starts, seeds = sources_of(delta, wanted)
    row_of = torch.full((along.T,), NEVER)
    row_of[steps] = torch.arange(len(steps))
    pages = [_empty(steps, running.cpu()) for _ in range(1 if tangent.P == 1 else 1 + tangent.P)]
    if starts.numel():
        book = _Book(pages, row_of, starts, seeds)
        for carried in sweep(tangent, starts, seeds, most_lag=most_lag):
            book.enter(carried, _norms(tangent, carried, derivative))
    if most_lag is not None:
        unmeasured = (steps.unsqueeze(1) - torch.arange(along.T) > most_lag).unsqueeze(-1)
        pages = [page.masked_fill_(unmeasured, torch.nan) for page in pages]
    whole, parts = pages[0], pages[-tangent.P :]

    pairs = whole.numpy()
    return CreditRecord(
        cell=along.cell.title,
        parts=tangent.parts,
        derivative=derivative,
        log10_pairs=pairs,
        log10_direct=log10_direct(along, delta),
        log10_adjoint=log10_adjoint(tangent, through_time, derivative),
        log10_parts={name: part.numpy() for name, part in zip(tangent.parts, parts, strict=True)},
        lags=lag_profile(pairs, steps.numpy(), most=most_lag),
        dtype=str(delta.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - began,
        sources=None if sources is None else steps.numpy(),
    )


def log10_direct(along: Trajectory, delta: Tensor) -> Floats:
    """log10 ‖δ_t‖, (T, B), also where squares leave the range of the dtype; NaN past a sequence's end."""
    scaled, exponents = split(delta, (0, -1))
    return _where(along.running(), log10(torch.linalg.vector_norm(scaled, dim=(0, -1)), exponents))


def log10_adjoint(tangent: Tangent, through_time: Adjoint, derivative: Derivative) -> Floats:
    """log10 ‖a_k‖, (T, B); NaN past a sequence's end."""
    rows = through_time.rows if derivative == "boundary" else tangent.node(through_time.rows, slice(0, tangent.along.T))
    norms = torch.linalg.vector_norm(norms_of(rows, rows.any(-1).any(0)), dim=0)
    return _where(tangent.along.running(), log10(norms, through_time.exponents))


def _sources(sources: Sequence[int], T: int) -> Tensor:
    steps = torch.as_tensor(sources, dtype=torch.long)
    if steps.ndim != 1 or not len(steps) or steps[0] < 0 or steps[-1] >= T or bool((steps.diff() <= 0).any()):
        raise FlowError(f"sources are ascending steps in 0..{T - 1}, at least one, got {list(sources)}.")
    return steps


def _empty(steps: Tensor, running: Tensor) -> Tensor:
    """(N, T, B): −inf, a true zero, where a sequence still runs at the source; NaN, not measured, where it does not."""
    nothing = torch.where(running[steps], -torch.inf, torch.full((), torch.nan, dtype=torch.float64))
    empty = torch.from_numpy(np.empty((len(steps), *running.shape)))  # numpy's memory comes in large pages
    return empty.copy_(nothing.unsqueeze(1))


class _Book:
    """Takes down the norms of a sweep step by step, and makes logarithms of them for many steps at a time."""

    def __init__(self, pages: Sequence[Tensor], row_of: Tensor, starts: Tensor, seeds: Tensor) -> None:
        P, R, B, _ = seeds.shape
        self._pages = pages  # (N, T, B) each: the whole state, and its parts if there are several
        self._size = max(1, _TAKEN // (P * R * B))
        self._norms = seeds.new_zeros(P, R, self._size, B, dtype=torch.float64)
        self._powers = self._norms.new_zeros(R, self._size, B)
        self._rows = slice(R, 0)  # those that were there in this stretch of steps
        self._sources = torch.where(starts == NEVER, NEVER, row_of.to(starts.device)[starts]).cpu()

    def enter(self, carried: Carried, norms: Tensor) -> None:
        """Take down what arrived at one step; steps come in descending order, to 0."""
        which, place = carried.which, carried.k % self._size
        self._norms[:, which, place] = norms
        self._powers[which, place] = carried.exponents
        self._rows = slice(min(self._rows.start, which.start), max(self._rows.stop, which.stop))
        if place == 0:
            self._write(carried.k)
            self._norms.zero_()
            self._rows = slice(len(self._sources), 0)

    def _write(self, start: int) -> None:
        stop = min(start + self._size, self._pages[0].shape[1])
        norms, powers = self._norms[:, self._rows, : stop - start], self._powers[self._rows, : stop - start] * LOG10_2
        found = list(norms.log10().add_(powers))
        if len(self._pages) > 1:
            whole = reduce(torch.hypot, norms.nan_to_num().unbind(0))
            found.insert(0, whole.log10_().add_(powers))
        sources = self._sources[self._rows]
        r, b = (sources != NEVER).nonzero(as_tuple=True)
        alike = bool((sources == sources[:, :1]).all())
        for page, values in zip(self._pages, found, strict=True):
            if alike:
                page[sources[:, 0], start:stop] = values.cpu()
            else:
                page[sources[r, b], start:stop, b] = values.cpu()[r, :, b]


def _norms(tangent: Tangent, carried: Carried, derivative: Derivative) -> Tensor:
    if derivative == "boundary":
        return carried.norms
    return norms_of(tangent.node(carried.rows, carried.k), carried.alive)


def _where(running: Tensor, values: Tensor) -> Floats:
    return np.asarray(torch.where(running, values, torch.nan).cpu().numpy())
