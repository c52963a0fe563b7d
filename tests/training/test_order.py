"""The order of samples: pure, complete, short of padding."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from throughtime.training.order import Order, philox, shard, stream_seed

LENGTHS = np.random.default_rng(3).lognormal(5, 0.6, 2000).astype(np.int64) + 1


@given(
    samples=st.integers(1, 150),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 50),
    processes=st.integers(1, 4),
)
def test_each_sample_comes_once_an_epoch_over_all_processes(
    samples: int, size: int, seed: int, epoch: int, processes: int
) -> None:
    order = Order(np.arange(samples) % 7, size, seed)
    batches = order.epoch(epoch)
    assert len(batches) == len(order)
    assert all(len(batch) <= size for batch in batches)
    shares = [shard(batch, process, processes) for batch in batches for process in range(processes)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(samples))


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_that_went_before() -> None:
    once = Order(LENGTHS, 32, 5)
    for epoch in (3, 0, 3):
        again = [batch.tolist() for batch in Order(LENGTHS, 32, 5).epoch(epoch)]
        assert [batch.tolist() for batch in once.epoch(epoch)] == again
    others = [Order(LENGTHS, 32, 5).epoch(4), Order(LENGTHS, 32, 6).epoch(3)]
    here = once.epoch(3)
    assert all([b.tolist() for b in other] != [b.tolist() for b in here] for other in others)


def test_the_stream_is_fixed_for_good() -> None:
    # Random123's known answer for Philox 4x64-10 is held by numpy; these are the first words of key (7, 2).
    assert philox(7, 2, 3).tolist() == np.random.Philox(key=7 + (2 << 64)).random_raw(3).tolist()


def test_batches_of_similar_length_pad_little_and_still_mix() -> None:
    def padding(batches: list[np.ndarray]) -> float:
        steps = sum(int(LENGTHS[batch].max()) * len(batch) for batch in batches)
        return 1 - LENGTHS.sum() / steps

    order = Order(LENGTHS, 32, 0)
    shuffled = np.random.default_rng(0).permutation(len(LENGTHS))
    assert padding(np.array_split(shuffled, 63)) > 0.5
    assert padding(order.epoch(0)) < 0.15
    longest = [int(LENGTHS[batch].max()) for batch in order.epoch(0)]
    assert longest != sorted(longest)
    together = [{frozenset(batch.tolist()) for batch in order.epoch(epoch)} for epoch in range(2)]
    assert not together[0] & together[1]


def test_streams_of_updates_and_processes_differ() -> None:
    seeds = {stream_seed(seed, update, process) for seed in (0, 1) for update in range(50) for process in range(2)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
