"""Rows of all sources carried back side by side: at each lag every row is that many steps back from where it began.

Where `sweep` goes by the step k, this goes by the lag τ, so that what belongs to one lag is at hand together.

Dimensions: as in tangent.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.errors import FlowError
from throughtime.flow.sweep import split, window
from throughtime.flow.tangent import Tangent


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
            tangent.pull(rows, slice(first, first + rows.shape[1]), out=spare)
        rows, spare = spare, rows
        lag, first = lag + 1, first - 1


def _in_range(rows: Tensor, powers: Tensor, lag: int) -> tuple[Tensor, Tensor, bool]:
    """The same rows, rescaled if any comes near the end of the dtype's range; whether any is not zero."""
    largest, most = rows.abs().amax((0, -1)), window(rows.dtype)
    if bool(((largest != 0) & ~((largest >= 1 / most) & (largest <= most))).any()):
        if not bool(torch.isfinite(largest).all()):
            raise FlowError(
                f"the gradient is not finite {lag} steps back: one step took it beyond the range of {rows.dtype}. "
                "Look at the size of the weights, or measure in float64."
            )
        rows, moved = split(rows)
        powers = powers + moved
    return rows, powers, bool(largest.any())
