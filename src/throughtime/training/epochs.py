"""What an epoch is made of: which samples come together, in which order, in how many windows."""

from __future__ import annotations

from typing import cast

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from throughtime.data.dataset import Batch, Dataset, Split, Stream
from throughtime.errors import TrainingError
from throughtime.records import Settings
from throughtime.training.bptt import Truncation
from throughtime.training.order import Indices, Order, shard


class Epochs:
    """The training split as batches, epoch by epoch, the same for the same seed whenever it is asked.

    A stream is cut into windows that start from an empty state, or, with truncation, into as many lanes as a batch
    holds, each read from start to end in one batch.
    """

    def __init__(self, data: Dataset, settings: Settings, truncation: Truncation, seed: int) -> None:
        size, name = settings.batch_size, data.card.name
        self._truncation = truncation
        self._lanes = data.continues and truncation.window is not None
        self.split: Split = data.train
        if self._lanes:
            stream = cast(Stream, data.train)
            steps = int(stream.lanes(1).lengths()[0])
            if size > steps:
                raise TrainingError(
                    f"batch_size={size} is larger than {name}: it has {steps} steps to learn from; use less."
                )
            self.split = stream.lanes(size)
        elif size > len(data.train):
            raise TrainingError(
                f"batch_size={size} is larger than the data: {name} has {_samples(len(data.train))} to learn from; "
                f"use a batch_size of at most {len(data.train)}."
            )
        self._lengths = self.split.lengths()
        self._order = Order(self._lengths, size, seed)

    def batches(self, epoch: int) -> list[Indices]:
        """The batches of an epoch, as sample numbers."""
        if self._lanes:
            return [np.arange(len(self._lengths), dtype=np.int64)]
        return self._order.epoch(epoch)

    def windows(self, epochs: int) -> int:
        """How many windows so many epochs have."""
        if self._lanes or self._truncation.window is None or not self._truncation.each_step:
            return epochs * sum(self._count(batch) for batch in self.batches(0))
        return sum(self._count(batch) for epoch in range(epochs) for batch in self.batches(epoch))

    def steps(self, batch: Indices) -> int:
        """The steps of the longest sequence of a batch, over all processes."""
        return int(self._lengths[batch].max())

    def load(self, batch: Indices, process: int, processes: int) -> tuple[Batch, bool]:
        """One process's share of a batch, and whether it has one: the last batch may be smaller than the processes.

        The share is as long as the whole batch; who has none gets a sample whose loss must not count.
        """
        mine = shard(batch, process, processes)
        loaded = self.split.batch((mine if len(mine) else batch[:1]).tolist())
        missing = self.steps(batch) - loaded.x.shape[0]
        return (_longer(loaded, missing) if missing else loaded), bool(len(mine))

    def _count(self, batch: Indices) -> int:
        return len(self._truncation.windows(self.steps(batch)))


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"


def _longer(batch: Batch, steps: int) -> Batch:
    """The same batch with `steps` steps of padding at its end."""

    def pad(tensor: Tensor) -> Tensor:
        return F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, steps))

    counted = None if batch.counted is None else pad(batch.counted)
    return Batch(pad(batch.x), batch.lengths, pad(batch.y) if batch.each_step else batch.y, batch.each_step, counted)


def held_out(data: Dataset, split: str, settings: Settings) -> Split:
    """A split to assess: as it is, or, of a stream learned in windows, as lanes that are read from start to end."""
    chosen: Split = {"train": data.train, "valid": data.valid, "test": data.test}[split]
    if not (data.continues and settings.window is not None):
        return chosen
    stream = cast(Stream, chosen)
    steps = int(stream.lanes(1).lengths()[0])
    return stream.lanes(max(1, min(settings.batch_size, steps // settings.window)))
