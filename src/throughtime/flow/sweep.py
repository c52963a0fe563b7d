"""Rows carried back through time, with their powers of two apart, so that they never under- or overflow.

Dimensions: as in tangent.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.errors import FlowError
from throughtime.flow.tangent import Tangent

LOG10_2 = math.log10(2.0)
NEVER = -1  # the start of a row that is not used


@dataclass(frozen=True)
class Carried:
    """Rows g(t, k) at one step k: `rows · 2**exponents`. Views, valid until the next step is asked for."""

    k: int
    which: slice  # the rows that are on their way, of all R
    rows: Tensor  # (P, r, B, H); 0 where a row has not started, or is truly zero
    exponents: Tensor  # (r, B)
    alive: Tensor  # (r, B) bool: the row has started and is not zero
    norms: Tensor  # (P, r, B) 2-norms of `rows` by part; NaN: lost against the rest of its row


def log10(norms: Tensor, exponents: Tensor | float = 0.0) -> Tensor:
    """log10 (norms · 2**exponents) in float64; −inf is a true zero."""
    return norms.double().log10() + exponents * LOG10_2


def split(rows: Tensor, dims: tuple[int, ...] = (0, -1)) -> tuple[Tensor, Tensor]:
    """Rows as numbers up to 1 and powers of two (without `dims`), exactly; zeros keep the power 0."""
    largest = rows.abs().amax(dims, keepdim=True)
    exponents = torch.frexp(largest).exponent
    return shift(rows, -exponents), exponents.squeeze(dims).double()


def shift(rows: Tensor, exponents: Tensor) -> Tensor:
    """Rows times 2**exponents, exactly; in two halves, as the power alone need not be a number of this dtype."""
    half = torch.div(exponents, 2, rounding_mode="floor")
    return rows * _power(half, rows.dtype) * _power(exponents - half, rows.dtype)


def _power(exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """2**exponents, from its bits (`torch.ldexp` goes by float32's powers); beyond the range, the nearest in it."""
    bits, bias, whole = (52, 1023, torch.int64) if dtype == torch.float64 else (23, 127, torch.int32)
    shifted = (exponents.to(whole) + bias).clamp(1, 2 * bias)
    power = torch.bitwise_left_shift(shifted, bits)
    return power.view(dtype)


def window(dtype: torch.dtype) -> float:
    """Numbers from 1/w to w can take one more step of any ordinary cell without leaving the dtype's range."""
    return float(torch.finfo(dtype).max ** 0.15)


def norms_of(rows: Tensor, alive: Tensor) -> Tensor:
    """The 2-norm of each row by part, (P, r, B), also where the squares of a part would underflow."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    faint = (norms < torch.finfo(rows.dtype).tiny ** 0.25) & alive
    if bool(faint.any()):
        scaled, exponents = split(rows[faint], (-1,))
        norms[faint] = shift(torch.linalg.vector_norm(scaled, dim=-1), exponents.int())
    return norms


def sweep(
    tangent: Tangent, starts: Tensor, seeds: Tensor, *, last: int = 0, most_lag: int | None = None
) -> Iterator[Carried]:
    """Carry rows back from where each starts, one step of the linearised cell at a time, down to step `last`.

    Row r of sequence b starts at step `starts[r, b]` (R, B) as `seeds[:, r, b]` (P, R, B, H); rows are in the order
    of their starts, NEVER first. Rows that are more than `most_lag` steps old are dropped. What is yielded at step k
    are the gradients with respect to z_k, rows that start at k included.

    Each row has one power of two, so a part of the state, or a unit, that is 10^300 times smaller than the largest
    of its row is lost against it. Costs one product with the weights of R·B rows a step.
    Raises FlowError if a single step leaves the range of the dtype.
    """
    R, B = starts.shape
    most = window(seeds.dtype)
    scaled, exponents = split(seeds)
    rows, spare = torch.zeros_like(seeds), torch.zeros_like(seeds)
    alive = torch.zeros(R, B, dtype=torch.bool, device=seeds.device)
    faint = torch.zeros(seeds.shape[:-1], dtype=torch.bool, device=seeds.device)
    least = torch.finfo(seeds.dtype).tiny * 2.0**60
    latest, earliest = starts.amax(1).tolist(), starts.amin(1).tolist()
    first, end = R, R
    for k in range(max(latest), last - 1, -1):
        while first > 0 and latest[first - 1] >= k:
            first -= 1
        while most_lag is not None and end > first and earliest[end - 1] > k + most_lag:
            end -= 1
        here = slice(first, end)
        with torch.no_grad():
            begin = starts[here] == k
            if bool(begin.any()):
                rows[:, here][:, begin] = scaled[:, here][:, begin]
                alive[here] |= begin
            norms = norms_of(rows[:, here], alive[here])
            whole = torch.linalg.vector_norm(norms, dim=0)
            if bool((alive[here] & ~((whole >= 1 / most) & (whole <= most))).any()):
                rows[:, here], moved = split(rows[:, here])
                exponents[here] += moved
                norms = norms_of(rows[:, here], alive[here])
                alive[here] &= norms.amax(0) != 0
                if not bool(torch.isfinite(norms).all()):
                    raise FlowError(
                        f"the gradient is not finite at step {k}: one step took it beyond the range of "
                        f"{seeds.dtype}. Look at the size of the weights, or measure in float64."
                    )
            lost = faint[:, here] & (norms == 0) & alive[here]
            faint[:, here] |= (norms > 0) & (norms < least)
            norms = norms.masked_fill(lost, torch.nan)
        yield Carried(k, here, rows[:, here], exponents[here], alive[here], norms)
        if k > last:
            with torch.no_grad():
                tangent.pull(rows[:, here], k, out=spare[:, here])
            rows, spare = spare, rows
