"""Splits of a series that is predicted step by step: windows and lanes are views of one tensor, never copies of it.

Dimensions: N rows of a series, T steps of a window, B windows, I values a step, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from throughtime.data.dataset import Batch, Split
from throughtime.errors import InputError

Spell = Callable[[Tensor], tuple[str, ...]]  # steps -> what a person reads


class Cuts:
    """Stretches of a series as samples: step t of a sample is answered by the row after it."""

    def __init__(self, of: Series, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        self._of, self._starts, self._lengths = of, starts, lengths

    def __len__(self) -> int:
        """How many samples."""
        return len(self._starts)

    def batch(self, indices: Sequence[int]) -> Batch:
        """These samples, side by side; a view if they are equally long and equally far apart, as lanes are."""
        chosen = np.asarray(indices, dtype=np.int64)
        starts, lengths = self._starts[chosen], self._lengths[chosen]
        of = self._of
        counted = None
        if len(starts) and (lengths == lengths[0]).all() and len(np.unique(np.diff(starts))) <= 1:
            apart = int(starts[1] - starts[0]) if len(starts) > 1 else 0
            if apart > 0 or len(starts) == 1:
                shape = (int(starts[0]), apart, len(starts), int(lengths[0]))
                if of.answered is not None:
                    counted = _side_by_side(of.answered, 1, *shape)
                x, y = _side_by_side(of.x, 0, *shape), _side_by_side(of.y, 1, *shape)
                return Batch(x, torch.from_numpy(lengths), y, True, counted)
        places = list(zip(starts.tolist(), (starts + lengths).tolist(), strict=True))
        x = pad_sequence([of.x[a:b] for a, b in places])
        y = pad_sequence([of.y[a + 1 : b + 1] for a, b in places])
        if of.answered is not None:
            counted = pad_sequence([of.answered[a + 1 : b + 1] for a, b in places])
        return Batch(x, torch.from_numpy(lengths), y, True, counted)

    def lengths(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The steps of every sample, (N,)."""
        found: np.ndarray[tuple[int], np.dtype[np.int64]] = self._lengths.copy()
        return found

    def words(self, index: int) -> tuple[str, ...]:
        """One sample's steps as a person reads them."""
        start = int(self._starts[index])
        return self._of.spell(self._of.x[start : start + int(self._lengths[index])])


def _side_by_side(rows: Tensor, skip: int, start: int, apart: int, count: int, length: int) -> Tensor:
    """(length, count, ...) of a (N, ...) tensor: `count` stretches, `apart` rows from each other. A view."""
    each = rows.stride(0)
    rest = tuple(rows.stride()[1:])
    offset = rows.storage_offset() + (start + skip) * each
    return rows.as_strided((length, count, *rows.shape[1:]), (each, apart * each, *rest), offset)


class Series:
    """One series, or several laid end to end, as a Stream.

    `x` is (N,) tokens or (N, I) values and `y` (N,) or (N, O) what a row looks like as an answer. `answered` (N,)
    is False where a row does not count as one: the first row of a later series, a row with a filled gap.
    """

    def __init__(
        self, x: Tensor, y: Tensor, spell: Spell, length: int, ends: Sequence[int], answered: Tensor | None = None
    ) -> None:
        self.x, self.y, self.spell, self.answered = x, y, spell, answered
        self._ends = tuple(ends)  # where each series ends; the last is N
        self._length = length
        self._default = self.windows(length)

    def windows(self, length: int) -> Split:
        """Consecutive samples of `length` steps each; the last of each series may be shorter.

        A window in which no answer counts is left out.

        Raises InputError if `length` is under 1.
        """
        if length < 1:
            raise InputError(f"a window of {length} steps holds nothing; ask for at least 1.")
        starts: list[NDArray[np.int64]] = []
        lengths: list[NDArray[np.int64]] = []
        for begin, end in zip((0, *self._ends[:-1]), self._ends, strict=True):
            here = np.arange(begin, end - 1, length, dtype=np.int64)
            starts.append(here)
            lengths.append(np.minimum(length, end - 1 - here))
        start, steps = np.concatenate(starts), np.concatenate(lengths)
        if self.answered is not None:
            # A window in which nothing counts has no loss: it would be the mean of no numbers.
            counts = np.concatenate([[0], np.cumsum(self.answered.numpy())])
            some = counts[start + steps + 1] > counts[start + 1]
            start, steps = start[some], steps[some]
        return Cuts(self, start, steps)

    def lanes(self, count: int) -> Split:
        """`count` samples of equal length; fewer than `count` steps at the very end are left over.

        Raises InputError if there are fewer steps than lanes.
        """
        steps = len(self.x) - 1
        if not 1 <= count <= steps:
            raise InputError(
                f"{count} lanes cannot be cut from a series of {steps} steps; ask for 1 to {steps} (a smaller batch)."
            )
        each = steps // count
        return Cuts(self, np.arange(count, dtype=np.int64) * each, np.full(count, each, dtype=np.int64))

    def first(self, steps: int) -> Series:
        """So many steps to learn from, at the start of the series; all of it if it has fewer."""
        rows = min(steps + 1, len(self.x))
        answered = None if self.answered is None else self.answered[:rows]
        ends = [*(end for end in self._ends if end < rows), rows]
        return Series(self.x[:rows], self.y[:rows], self.spell, self._length, ends, answered)

    def __len__(self) -> int:
        """How many windows of the default length."""
        return len(self._default)

    def batch(self, indices: Sequence[int]) -> Batch:
        """These windows of the default length, side by side."""
        return self._default.batch(indices)

    def lengths(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The steps of every window of the default length, (N,)."""
        return self._default.lengths()

    def words(self, index: int) -> tuple[str, ...]:
        """One window's steps as a person reads them."""
        return self._default.words(index)


LONGEST_WINDOW = 128


def window_length(rows: int) -> int:
    """A default length for windows of a series of so many rows: enough windows for a few batches, long or not."""
    return max(1, min(LONGEST_WINDOW, max(16, rows // 32), rows - 1))
