"""Packing and turning round, against torch.nn.utils.rnn and plain slices."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from throughtime.engines.packing import Packing, backwards

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(LENGTHS, st.integers(0, 2))
def test_packs_as_torch_does(lengths: list[int], more: int) -> None:
    steps = max(lengths) + more
    x, ends = torch.randn(steps, len(lengths), 2), torch.tensor(lengths)
    theirs = pack_padded_sequence(x, ends, enforce_sorted=False)
    packing = Packing.by_length(ends, theirs.sorted_indices, steps, x.device)
    assert torch.equal(packing.batch_sizes, theirs.batch_sizes)
    assert torch.equal(packing.pack(x), theirs.data)
    assert torch.equal(packing.pad(theirs.data), pad_packed_sequence(theirs, total_length=steps)[0])
    as_packed = Packing.as_packed(theirs.batch_sizes, len(lengths), x.device)
    assert torch.equal(as_packed.lengths, ends.sort(descending=True).values)
    assert torch.equal(as_packed.pack(as_packed.pad(theirs.data)), theirs.data)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_turns_round_within_each_length(lengths: list[int]) -> None:
    x = torch.randn(6, len(lengths), 2)
    turned = backwards(x, torch.tensor(lengths))
    for b, length in enumerate(lengths):
        assert torch.equal(turned[:length, b], x[:length, b].flip(0))
        assert torch.equal(turned[length:, b], x[length:, b])
    assert torch.equal(backwards(turned, torch.tensor(lengths)), x)


def test_sequences_of_no_steps() -> None:
    ends = torch.tensor([0, 3, 0])
    packing = Packing.by_length(ends, torch.argsort(ends, descending=True, stable=True), 4, torch.device("cpu"))
    x = torch.randn(4, 3, 2)
    assert packing.batch_sizes.tolist() == [1, 1, 1]
    assert packing.lengths.tolist() == [3, 0, 0]
    assert torch.equal(packing.pack(x), x[:3, 1])
    assert torch.equal(packing.pad(packing.pack(x))[:3, 1], x[:3, 1])
    none = Packing.by_length(torch.tensor([0, 0]), torch.tensor([0, 1]), 4, torch.device("cpu"))
    assert none.pack(x[:, :2]).shape == (0, 2)
    assert not none.pad(none.pack(x[:, :2])).any()
