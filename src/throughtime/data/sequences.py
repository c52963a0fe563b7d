"""Splits whose samples are separate sequences, held end to end in one tensor.

Dimensions: T steps (the longest of the batch), B sequences, I values a step, O outputs, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from throughtime.data.dataset import Batch

Spell = Callable[[int, Tensor], tuple[str, ...]]  # (row, its steps) -> the steps as a person reads them


class Pool:
    """All sequences of a source: `flat` (total steps,) tokens or (total steps, I) values, one after another.

    `starts` (N + 1,) says where each begins; `y` (N,) or (N, O) holds the answers, or with `each_step` (total steps,)
    those of the steps, of which `counted` (total steps,) count. Small integers may stand for
    values: they are multiplied by `scale` when a batch is made, so that a large set of images stays small.
    """

    def __init__(
        self,
        flat: Tensor,
        starts: NDArray[np.int64],
        y: Tensor,
        spell: Spell,
        scale: float | None = None,
        *,
        each_step: bool = False,
        counted: Tensor | None = None,
    ) -> None:
        self.flat, self.starts, self.y, self.spell, self.scale = flat, starts, y, spell, scale
        self.each_step, self.counted = each_step, counted

    def of(self, values: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """What is held for each step, of these sequences side by side: (T, B), padded with zeros."""
        return pad_sequence([values[int(self.starts[row]) : int(self.starts[row + 1])] for row in rows.tolist()])

    def steps(self, row: int) -> Tensor:
        """The steps of one sequence, as they go into a batch."""
        piece = self.flat[int(self.starts[row]) : int(self.starts[row + 1])]
        if self.flat.ndim == 1:
            return piece.long()
        return piece if self.scale is None else piece.to(torch.float32) * self.scale


class Sequences:
    """Some rows of a pool, as a Split."""

    def __init__(self, pool: Pool, rows: NDArray[np.int64]) -> None:
        self._pool, self._rows = pool, rows

    def __len__(self) -> int:
        """How many samples."""
        return len(self._rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        """These samples, side by side, in this order."""
        rows = self._rows[np.asarray(indices, dtype=np.int64)]
        pieces = [self._pool.steps(row) for row in rows.tolist()]
        lengths = torch.tensor([len(piece) for piece in pieces], dtype=torch.int64)
        x, pool = pad_sequence(pieces), self._pool
        if not pool.each_step:
            return Batch(x, lengths, pool.y[torch.from_numpy(rows)])
        counted = None if pool.counted is None else pool.of(pool.counted, rows)
        return Batch(x, lengths, pool.of(pool.y, rows), True, counted)

    def lengths(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The steps of every sample, (N,)."""
        found: np.ndarray[tuple[int], np.dtype[np.int64]] = np.diff(self._pool.starts)[self._rows]
        return found

    def words(self, index: int) -> tuple[str, ...]:
        """One sample's steps as a person reads them."""
        row = int(self._rows[index])
        return self._pool.spell(row, self._pool.steps(row))


def plainly(_row: int, steps: Tensor) -> tuple[str, ...]:
    """Values as text, four significant digits each."""
    return tuple(" ".join(f"{value:.4g}" for value in step) for step in steps.tolist())
