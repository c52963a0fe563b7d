"""What every source of sequences becomes: splits that answer with batches, and a card that says what they are.

Dimensions: T steps (the longest of the batch), B sequences, I values a step, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from throughtime.records import DataCard
from throughtime.records.preparation import Preparation


@dataclass(frozen=True)
class Batch:
    """Sequences side by side, padded at the end with zeros.

    `y` is one answer for each sequence ((B,) classes, or (B, O) values), or, with `each_step`, one for each step
    ((T, B) classes, or (T, B, O) values); then `counted` (T, B) says at which steps it counts (None: at every step
    under its sequence's length).
    """

    x: Tensor  # (T, B) token numbers, int64; or (T, B, I) values, float32
    lengths: Tensor  # (B,) steps, int64
    y: Tensor
    each_step: bool = False
    counted: Tensor | None = None  # (T, B) bool

    @property
    def size(self) -> int:
        """B."""
        return int(self.lengths.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        counted = None if self.counted is None else self.counted.to(device)
        return Batch(self.x.to(device), self.lengths.to(device), self.y.to(device), self.each_step, counted)

    def window(self, start: int, stop: int) -> Batch:
        """Steps start..stop of every sequence (a view); an answer for the whole sequence stays."""
        return Batch(
            self.x[start:stop],
            (self.lengths - start).clamp(0, stop - start),
            self.y[start:stop] if self.each_step else self.y,
            self.each_step,
            None if self.counted is None else self.counted[start:stop],
        )


class Split(Protocol):
    """Samples by number. The same number always gives the same sample."""

    def __len__(self) -> int:
        """How many samples."""
        ...

    def batch(self, indices: Sequence[int]) -> Batch:
        """These samples, side by side, in this order."""
        ...

    def lengths(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The steps of every sample, (N,), without loading them."""
        ...

    def words(self, index: int) -> tuple[str, ...]:
        """One sample's steps as a person reads them: words, characters, or numbers as text."""
        ...


class Stream(Split, Protocol):
    """One long series, or several laid end to end, to be cut; as it is, it answers as `windows` of a default length.

    The answer at each step is the next step, so a series of N steps has N − 1 to learn from.
    """

    def windows(self, length: int) -> Split:
        """Consecutive samples of `length` steps each (the last may be shorter): each starts from an empty state."""
        ...

    def lanes(self, count: int) -> Split:
        """`count` samples of equal length, each a contiguous stretch of the series, read from start to end."""
        ...

    def first(self, steps: int) -> Stream:
        """So many steps to learn from, at the start of the series; all of it if it has fewer."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Sequences to learn from, split, with what is known of them."""

    card: DataCard
    train: Split  # a Stream if `continues`
    valid: Split
    test: Split
    vocabulary: tuple[str, ...] = ()  # token number -> word; empty if the input is numbers
    answers_each_step: bool = False  # whether `y` has one answer a step
    continues: bool = False  # whether the splits are streams: series to predict step by step
    prepared: Preparation = field(default_factory=lambda: Preparation("made"))  # how the source became these sequences
