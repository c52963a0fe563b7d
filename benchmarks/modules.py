"""tt.RNN, tt.LSTM and tt.GRU with engine="auto" beside torch.nn's own: the forward and the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import throughtime as tt
from benchmarks.table import Row, paired

LIMIT = 1.1
KINDS = (nn.RNN, nn.LSTM, nn.GRU)
# T steps, B sequences, I inputs, H units; then how many calls one timing holds, so that it lasts some milliseconds
SIZES = (
    (10, 1, 8, 16, 20),
    (100, 1, 32, 64, 4),
    (100, 16, 32, 64, 2),
    (64, 64, 1, 64, 1),
    (200, 32, 128, 256, 1),
)


def rows() -> list[Row]:
    """One row for each kind and size, for packed input, padded input with lengths, and two layers both ways."""
    torch.manual_seed(0)
    found = []
    for kind in KINDS:
        for steps, batch, inputs, units, calls in SIZES:
            theirs, x = kind(inputs, units), torch.randn(steps, batch, inputs)
            large = steps * batch * units > 1_000_000
            found.append(_row(theirs, x, f"T={steps} B={batch} I={inputs} H={units}", calls, 3 if large else 10))
        x, lengths = torch.randn(100, 16, 32), torch.randint(1, 101, (16,))
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        found.append(_row(kind(32, 64), packed, "packed, T<=100 B=16 I=32 H=64", 2))
        found.append(_with_lengths(kind(32, 64), x, lengths, "lengths, T<=100 B=16 I=32 H=64"))
        found.append(_row(kind(32, 64, 2, bidirectional=True), x, "2 layers both ways, T=100 B=16 I=32 H=64", 1))
    return found


def _row(theirs: Any, x: Tensor | PackedSequence, size: str, calls: int, repeats: int = 10) -> Row:
    ours = tt.from_torch(theirs)
    result = paired(_learning(ours, x, calls), _learning(theirs, x, calls), repeats=repeats)
    return result.row(f"{type(theirs).__name__}, forward and backward", size, "torch.nn", limit=LIMIT)


def _learning(module: nn.Module, x: Tensor | PackedSequence, calls: int) -> Callable[[], None]:
    def work() -> None:
        for _ in range(calls):
            output = module(x)[0]
            (output.data if isinstance(output, PackedSequence) else output).sum().backward()

    return work


def _with_lengths(theirs: Any, x: Tensor, lengths: Tensor, size: str) -> Row:
    ours = tt.from_torch(theirs)

    def mine() -> None:
        ours.run(x, lengths=lengths)[0].sum().backward()

    def peer() -> None:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        pad_packed_sequence(theirs(packed)[0], total_length=len(x))[0].sum().backward()

    result = paired(mine, peer)
    return result.row(
        f"{type(theirs).__name__}, forward and backward", size, "torch.nn, packed and padded", limit=LIMIT
    )
