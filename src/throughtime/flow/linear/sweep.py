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
from throughtime.flow.linear.tangent import Tangent

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
    first, second = _halves(exponents, rows.dtype)
    return rows * first * second


def _halves(exponents: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    half = torch.div(exponents, 2, rounding_mode="floor")
    return _power(half, dtype), _power(exponents - half, dtype)


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
    return _sharpened(torch.linalg.vector_norm(rows, dim=-1), rows, alive)


def _sharpened(norms: Tensor, rows: Tensor, alive: Tensor) -> Tensor:
    """Norms, those whose squares may have underflowed taken anew, in place."""
    faint = (norms < torch.finfo(rows.dtype).tiny ** 0.25) & alive
    if bool(faint.any()):
        scaled, exponents = split(rows[faint], (-1,))
        norms[faint] = shift(torch.linalg.vector_norm(scaled, dim=-1), exponents.int())
    return norms


def check_finite(values: Tensor, at: str, *, steps: str = "one step") -> None:
    """Raises FlowError if what these steps made is not finite; `at` says where that is."""
    if not bool(torch.isfinite(values).all()):
        raise FlowError(
            f"the gradient is not finite {at}: {steps} took it beyond the range of {values.dtype}. "
            "Look at the size of the weights, or measure in float64."
        )


def outgrown(largest: Tensor, most: float, at: str, *, steps: str = "one step") -> bool:
    """Whether any row must be rescaled: its largest number is not in 1/most..most, and not a true zero.

    Raises FlowError as `check_finite` does.
    """
    if not bool(((largest != 0) & ~((largest >= 1 / most) & (largest <= most))).any()):
        return False
    check_finite(largest, at, steps=steps)
    return True


def sources_of(delta: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Starts (R, B) and seeds (P, R, B, H) for a sweep, from δ (P, T, B, H) at the steps `wanted` (T, B) bool.

    For each sequence its steps with a direct gradient in ascending order, NEVER before them where others have more.
    """
    there = delta.any(-1).any(0) & wanted
    counts = there.sum(0)
    R = int(counts.max())
    t, b = there.nonzero(as_tuple=True)
    place = R - counts[b] + there.cumsum(0)[t, b] - 1
    starts = torch.full((R, delta.shape[2]), NEVER, device=delta.device)
    starts[place, b] = t
    seeds = delta.new_zeros(delta.shape[0], R, *delta.shape[2:])
    seeds[:, place, b] = delta[:, t, b]
    return starts, seeds


def sweep(
    tangent: Tangent, starts: Tensor, seeds: Tensor, *, last: int = 0, most_lag: int | None = None
) -> Iterator[Carried]:
    """Carry rows back from where each starts, one step of the linearised cell at a time, down to step `last`.

    Row r of sequence b starts at step `starts[r, b]` (R, B) as `seeds[:, r, b]` (P, R, B, H); rows are in the order
    of their starts, NEVER first. Rows that are more than `most_lag` steps old are dropped. What is yielded at step k
    are the gradients with respect to z_k, rows that start at k included.

    Each row has one power of two, so a part of the state, or a unit, that is 10^300 times smaller than the largest
    of its row is lost against it. Costs at most one product with the weights of R·B rows a step.
    Raises FlowError if a single step leaves the range of the dtype.
    """
    with torch.no_grad():
        flight = _Flight(starts, seeds)
    latest, earliest = starts.amax(1).tolist(), starts.amin(1).tolist()
    first = end = len(latest)
    for k in range(max(latest), last - 1, -1):
        with torch.no_grad():
            if first < end:
                flight.pull(tangent, slice(first, end), k)
            while first > 0 and latest[first - 1] >= k:
                first -= 1
            while most_lag is not None and end > first and earliest[end - 1] > k + most_lag:
                end -= 1
            flight.begin(k)
            here = slice(first, end)
            carried = flight.carried(here, k)
        yield carried


class _Flight:
    """All R rows of a sweep, in buffers that are made once.

    Where the sequences start a row together it lies there from the first; elsewhere it is put in, one by one.
    """

    def __init__(self, starts: Tensor, seeds: Tensor) -> None:
        together = (starts == starts[:, :1]).all(1, keepdim=True)
        self.seeds, self.exponents = split(seeds)
        self.rows = self.seeds * together.unsqueeze(-1)
        self.spare = self.rows.clone()
        self._first = norms_of(self.seeds, torch.ones_like(starts, dtype=torch.bool))
        self._there = self._first.any(0)
        self.norms = self._first * together
        self.alive = self._there & together
        self._absent = (~self.alive).to(seeds.dtype)  # 1 where a row is not alive: its zeros call for no look
        self._most = window(seeds.dtype) ** 2  # as far as norms, which are roots of squares, are sure to be right
        self._least = torch.finfo(seeds.dtype).tiny * 2.0**60
        # Was once nearly lost against the rest of its row: if it is 0 later, it may be lost.
        self._faint = (self._first > 0) & (self._first < self._least)
        self._beginning = _beginnings(starts, ~together)
        check_finite(self._first, f"at step {int(starts.max())}")

    def begin(self, k: int) -> None:
        """Put in what starts at k in some sequences alone."""
        if k in self._beginning:
            some = self._beginning[k]
            self.rows[:, *some] = self.seeds[:, *some]
            self.norms[:, *some] = self._first[:, *some]
            self.alive[some] = self._there[some]
            self._absent[some] = (~self._there[some]).to(self.norms)

    def pull(self, tangent: Tangent, here: slice, k: int) -> None:
        """Take rows one step back, to k, and rescale them before they leave the dtype's range."""
        rows, norms = self.spare[:, here], self.norms[:, here]
        tangent.pull(self.rows[:, here], k + 1, out=rows, norms=norms)
        self.rows, self.spare = self.spare, self.rows
        least, most = torch.aminmax(norms + self._absent[here])
        if not (float(least) >= 1 / self._most and float(most) <= self._most):  # NaN is looked at as well
            self._look(here, k)

    def carried(self, here: slice, k: int) -> Carried:
        """What there is at step k."""
        return Carried(k, here, self.rows[:, here], self.exponents[here], self.alive[here], self.norms[:, here])

    def _look(self, here: slice, k: int) -> None:
        rows, alive = self.rows[:, here], self.alive[here]
        norms = _sharpened(self.norms[:, here], rows, alive)
        largest = norms.amax(0)
        if bool((alive & ~((largest >= 1 / self._most) & (largest <= self._most))).any()):
            if bool(torch.isfinite(largest).all()):
                powers = torch.frexp(largest).exponent
                for half in _halves(-powers, rows.dtype):
                    rows.mul_(half.unsqueeze(-1))
                    norms.mul_(half)
            else:  # their squares may be what is not
                scaled, powers = split(rows)
                rows.copy_(scaled)
                norms.copy_(norms_of(rows, alive))
                check_finite(norms, f"at step {k}")
            self.exponents[here] += powers
            alive &= norms.amax(0) != 0
            self._absent[here] = (~alive).to(norms)
        lost = self._faint[:, here] & (norms == 0) & alive
        self._faint[:, here] |= (norms > 0) & (norms < self._least)
        norms.masked_fill_(lost, torch.nan)


def _beginnings(starts: Tensor, alone: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """Which rows of which sequences start at each step, of those in the rows (R, 1) that do so `alone`."""
    r, b = (alone & (starts != NEVER)).nonzero(as_tuple=True)
    values = starts[r, b]
    places = torch.split(values.argsort(stable=True), torch.bincount(values).tolist())
    return {k: (r[where], b[where]) for k, where in enumerate(places) if len(where)}
