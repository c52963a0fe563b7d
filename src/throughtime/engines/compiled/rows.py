"""How the rows of a batch of sequences lie in memory.

Dimensions: T steps, B sequences, H units, N packed rows (T·B, or the sum of the lengths).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from throughtime.errors import CellError


class Rows(NamedTuple):
    """How sequences lie in packed rows: row t·B + b, or where `batch_sizes` end sequences early, longest first."""

    T: int
    B: int
    N: int
    batch_sizes: Tensor | None = None  # (T,) int64 on the CPU: how many sequences still run at step t
    first: Tensor | None = None  # (T,) int64: the first row of each step

    @classmethod
    def whole(cls, T: int, B: int) -> Rows:
        """Every sequence runs T steps."""
        return cls(T, B, T * B)

    @classmethod
    def packed(cls, batch_sizes: Tensor, B: int) -> Rows:
        """As torch's PackedSequence has them. Raises CellError for sizes that no such sequence has."""
        sizes = batch_sizes.to(torch.int64).contiguous()
        if len(sizes) and (bool((sizes[1:] > sizes[:-1]).any()) or not 0 <= int(sizes[-1]) <= int(sizes[0]) <= B):
            raise CellError(
                f"batch_sizes must fall from at most {B} sequences to no less than 0, as pack_padded_sequence makes "
                f"them; got {sizes.tolist()[:10]}"
            )
        total = int(sizes.sum())
        return cls(len(sizes), B, total, sizes, (sizes.cumsum(0) - sizes).contiguous())

    def words(self) -> list[int]:
        """As the kernels take it."""
        if self.batch_sizes is None or self.first is None:
            return [self.T, self.B, 0, 0]
        return [self.T, self.B, self.first.data_ptr(), self.batch_sizes.data_ptr()]

    def step(self, t: int) -> slice:
        """The rows of step t."""
        if self.batch_sizes is None or self.first is None:
            return slice(t * self.B, (t + 1) * self.B)
        start = int(self.first[t])
        return slice(start, start + int(self.batch_sizes[t]))

    def before(self, states: Tensor, initial: Tensor, *, reverse: bool) -> tuple[tuple[int, int, Tensor], ...]:
        """A part of the state before each step, from those after it: the first row, how many, and these (…, H)."""
        if self.batch_sizes is None or self.first is None:
            inner = self.N - self.B
            if reverse:
                return (inner, self.B, initial), (0, inner, states.view(self.N, -1)[self.B :])
            return (0, self.B, initial), (self.B, inner, states)
        t = torch.repeat_interleave(torch.arange(self.T), self.batch_sizes)
        b = torch.arange(self.N) - self.first[t]
        other = t + 1 if reverse else t - 1
        there = (other >= 0) & (other < self.T)
        other = other.clamp(0, self.T - 1)
        there &= b < self.batch_sizes[other]
        rows = torch.where(there, self.first[other] + b, self.N + b)
        return ((0, self.N, torch.cat([states, initial.flatten(0, -2)]).index_select(0, rows.to(states.device))),)
