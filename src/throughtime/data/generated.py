"""Tasks made by rule: sample i of a split is a pure function of (task, seed, split, i), so nothing is stored.

Dimensions: T steps, B sequences, I values a step.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from throughtime.data.assembly import sizes, spread
from throughtime.data.dataset import Batch, Dataset
from throughtime.data.draws import Draws
from throughtime.data.options import Options
from throughtime.data.sequences import plainly
from throughtime.errors import InputError
from throughtime.records import DataCard

SAMPLES = 10_000
MOST_SAMPLES = 10_000_000
MOST_STEPS = 10_000_000
FITS = ("lag", "samples")

Sample = tuple[NDArray[np.generic], NDArray[np.generic]]  # the steps (T,) tokens or (T, I) values, and the answer


class Task(ABC):
    """One rule that makes sequences. A new task is a subclass in a file of its own."""

    name: str
    each_step = False  # whether every step has an answer
    vocabulary: tuple[str, ...] = ()

    def length(self, draws: Draws) -> int:
        """The steps of the sample made from these draws; called before `sample` with the same draws."""
        return self.longest

    @property
    @abstractmethod
    def longest(self) -> int:
        """The steps of the longest sample there can be."""

    @abstractmethod
    def sample(self, length: int, draws: Draws) -> Sample:
        """A sample of so many steps."""

    @abstractmethod
    def card(self, sizes: dict[str, int], lengths: tuple[int, int, int], digest: str) -> DataCard:
        """What the task is, with its baseline."""


class Generated:
    """The samples of a task in one split."""

    def __init__(self, task: Task, seed: int, split: str, count: int) -> None:
        self._task, self._seed, self._split, self._count = task, seed, split, count

    def __len__(self) -> int:
        """How many samples."""
        return self._count

    def _draws(self, index: int) -> Draws:
        if not -self._count <= index < self._count:
            raise IndexError(f"sample {index} of {self._count}")
        return Draws(self._seed, self._task.name, self._split, index % self._count)

    def _sample(self, index: int) -> Sample:
        draws = self._draws(index)
        return self._task.sample(self._task.length(draws), draws)

    def batch(self, indices: Sequence[int]) -> Batch:
        """These samples, side by side, in this order."""
        made = [self._sample(int(index)) for index in indices]
        x = pad_sequence([torch.from_numpy(steps) for steps, _ in made])
        answers = [torch.from_numpy(np.asarray(answer)) for _, answer in made]
        y = pad_sequence(answers) if self._task.each_step else torch.stack(answers)
        lengths = torch.tensor([len(steps) for steps, _ in made], dtype=torch.int64)
        return Batch(x, lengths, y, self._task.each_step)

    @cached_property
    def _lengths(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if type(self._task).length is Task.length:
            return np.full(self._count, self._task.longest, dtype=np.int64)
        return np.array([self._task.length(self._draws(i)) for i in range(self._count)], dtype=np.int64)

    def lengths(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The steps of every sample, (N,)."""
        return self._lengths.copy()

    def words(self, index: int) -> tuple[str, ...]:
        """One sample's steps as a person reads them."""
        steps = torch.from_numpy(self._sample(index)[0])
        if self._task.vocabulary:
            return tuple(self._task.vocabulary[token] for token in steps.tolist())
        return plainly(index, steps)


def dataset(task: Task, lag: int, options: Options) -> Dataset:
    """The task's splits: `samples` to train, a tenth as many each to validate and to test."""
    count = options.at_least("samples", 10, SAMPLES)
    for what, asked, most in (("steps in a sample", task.longest, MOST_STEPS), ("samples", count, MOST_SAMPLES)):
        if asked > most:  # nothing is stored, but each length is drawn, and a batch is held
            raise InputError(
                f"{task.name}: {asked:,} {what} are more than can be made here (at most {most:,}); take fewer."
            )
    held = count // 10
    train, valid, test = (
        Generated(task, options.seed, split, n) for split, n in (("train", count), ("valid", held), ("test", held))
    )
    recipe = repr((task.name, lag, count, options.seed, "version 1"))  # raised when the rule of a task changes
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    card = task.card(sizes(train, valid, test), spread(train, valid, test), digest)
    return Dataset(card, train, valid, test, vocabulary=task.vocabulary, answers_each_step=task.each_step)
