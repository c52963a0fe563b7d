"""Rows of all sources carried back side by side: at each lag every row is that many steps back from where it began.

Where `sweep` goes by the step k, this goes by the lag τ, so that what belongs to one lag is at hand together.

Dimensions: as in tangent.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.cells.cell import Read
from throughtime.flow.linear.sweep import outgrown, split, window
from throughtime.flow.linear.tangent import Tangent
from throughtime.flow.linear.whole import Whole

_STRETCHES = 8  # that the steps are run in, so that few are passed through where only few have a row


@dataclass(frozen=True)
class Abreast:
    """The rows g(t, t − τ) of one lag τ: `rows · 2**exponents`. Views, valid until the next lag is asked for."""

    lag: int
    first: int  # row r is at step k = first + r, and began at t = k + lag
    rows: Tensor  # (P, R, B, H)
    exponents: Tensor  # (R, B)


def abreast(tangent: Tangent, seeds: Tensor, exponents: Tensor, *, most_lag: int | None = None) -> Iterator[Abreast]:
    """Carry `seeds · 2**exponents`, (P, T, B, H) and (T, B), back from every step at once, one lag after another.

    It ends after `most_lag`, at the start of the sequence, or where nothing is left but true zeros. Each row has one
    power of two, as in `sweep`. Costs one product of (T − τ)·B rows with the weights at each lag τ, steps before the
    first and after the last seed that is not zero left out.
    Raises FlowError if a single step leaves the range of the dtype.
    """
    step = SideBySide(tangent) if isinstance(tangent, Whole) else tangent
    there = torch.nonzero(seeds.any(-1).any(-1).any(0))[:, 0].tolist()
    if not there:
        return
    first = there[0]
    rows, spare = seeds[:, first : there[-1] + 1].clone(), torch.empty_like(seeds[:, first : there[-1] + 1])
    powers = exponents[first : there[-1] + 1].clone()
    lag = 0
    while True:
        with torch.no_grad():
            rows, powers, left = _in_range(rows, powers, lag)
        if not left:
            return
        yield Abreast(lag, first, rows, powers)
        if first == 0:  # the row of step 0 has nowhere left to go
            rows, spare, powers, first = rows[:, 1:], spare[:, 1:], powers[1:], 1
        if lag == most_lag or not rows.shape[1]:
            return
        with torch.no_grad():
            step.pull(rows, slice(first, first + rows.shape[1]), out=spare)
        rows, spare = spare, rows
        lag, first = lag + 1, first - 1


def _in_range(rows: Tensor, powers: Tensor, lag: int) -> tuple[Tensor, Tensor, bool]:
    """The same rows, rescaled if any comes near the end of the dtype's range; whether any is not zero."""
    largest = rows.abs().amax((0, -1))
    if outgrown(largest, window(rows.dtype), f"{lag} steps back"):
        rows, moved = split(rows)
        powers = powers + moved
    return rows, powers, bool(largest.any())


class SideBySide:
    """The step of a `Whole`, run once over all steps as one batch; one backward pass then pulls a row of each step.

    Matrices, which serve any number of rows of a step, would be made anew at every lag.
    """

    def __init__(self, tangent: Whole) -> None:
        along, cell = tangent.along, tangent.cell
        self._B = along.B
        self._part = {port: cell.parts.index(part) for port, part in cell.reads.items()}
        count = max(1, min(_STRETCHES, along.T // 2))  # of two steps or more, or it would not show that they mix
        cuts = [along.T * n // count for n in range(count + 1)]
        self._made: list[tuple[int, int, dict[str, Tensor], list[Tensor]]] = []  # from, to, what is read, what is made
        for start, stop in itertools.pairwise(cuts):
            before = along.before(start, stop)
            read = {port: before[part].clone().requires_grad_() for port, part in cell.reads.items()}
            with torch.no_grad():
                u = along.share(start, stop)
            with torch.enable_grad():
                new, _ = cell.step(u, Read(**read), cell.weights(along.parameters))
            z = [new[part] for part in cell.parts]
            tangent.check_apart(z, start, stop)
            self._made.append((start, stop, read, z))

    def pull(self, rows: Tensor, at: slice, *, out: Tensor) -> None:
        """gᵀ J_t for rows g (P, R, B, H), row r at step `at.start + r`, into `out`."""
        out.zero_()
        for start, stop, read, z in self._made:
            low, high = max(start, at.start), min(stop, at.stop)
            some = rows[:, max(0, low - at.start) : max(0, high - at.start)]
            given = cotangents(z, some, (low - start) * self._B) if low < high else []
            if not given:
                continue
            found = torch.autograd.grad(
                [made for made, _ in given], list(read.values()), [g for _, g in given],
                retain_graph=True, allow_unused=True,
            )  # fmt: skip
            for port, pulled in zip(read, found, strict=True):
                if pulled is not None:
                    here = pulled.view(stop - start, self._B, -1)[low - start : high - start]
                    out[self._part[port], low - at.start : high - at.start] += here


def cotangents(made: list[Tensor], rows: Tensor, first: int) -> list[tuple[Tensor, Tensor]]:
    """Each part made (N, H) that hangs on anything, with its rows (R, B, H) put in from `first` on, 0 elsewhere."""
    pairs = []
    for z, part in zip(made, rows, strict=True):
        if z.requires_grad:
            given = torch.zeros_like(z)
            given[first : first + part.shape[0] * part.shape[1]] = part.flatten(0, 1)
            pairs.append((z, given))
    return pairs
