"""The order of samples: a pure function of (seed, epoch), so that a checkpoint needs no random state.

Numbers come from Philox's raw output, whose stream is fixed for good, and not from a generator's methods, which
may change from one version of numpy to the next. Dropout draws from a stream of (seed, update, process).

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011 (Philox).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

POOL = 32  # batches whose samples are sorted together: long enough to pad little, short enough to mix


class Order:
    """Batches of sample numbers, epoch by epoch.

    Samples of similar length come together: the shuffled samples are sorted by length within pools of `POOL`
    batches, cut into batches, and the batches shuffled. Each sample comes once an epoch; the last batch cut may be
    smaller.
    """

    def __init__(self, lengths: NDArray[np.integer], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self._lengths) // self._batch_size)

    def epoch(self, epoch: int) -> list[Indices]:
        """The batches of an epoch (counted from 0), each the numbers of its samples."""
        raw = philox(self._seed, epoch, len(self._lengths) + len(self))
        samples = np.argsort(raw[: len(self._lengths)], kind="stable")
        pool = POOL * self._batch_size
        for start in range(0, len(samples), pool):
            inside = samples[start : start + pool]
            samples[start : start + pool] = inside[np.argsort(self._lengths[inside], kind="stable")]
        batches = [samples[start : start + self._batch_size] for start in range(0, len(samples), self._batch_size)]
        return [batches[place] for place in np.argsort(raw[len(self._lengths) :], kind="stable")]


def philox(seed: int, epoch: int, count: int) -> NDArray[np.uint64]:
    """`count` random whole numbers of 64 bits that depend on (seed, epoch) alone."""
    raw: NDArray[np.uint64] = np.random.Philox(key=[seed, epoch]).random_raw(count)
    return raw


def stream_seed(seed: int, update: int, process: int) -> int:
    """The seed of the random stream that dropout draws from in one update, in one of the processes."""
    digest = hashlib.blake2b(f"{seed},{update},{process}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def shard(indices: Indices, process: int, processes: int) -> Indices:
    """One process's share of a batch; all shares together are the batch, each sample once."""
    return indices[process::processes]
