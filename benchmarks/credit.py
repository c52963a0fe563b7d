"""tt.flow.credit of all pairs beside the least it could do, and beside the obvious way.

The first peer is the bare matrix products of the sweep, gate by gate: at step k, (T − k)·B rows by the shared weights,
which is G·H²·B·T(T+1) operations for G recurrent blocks. The second is T separate backward passes through a loop whose
states are kept.
"""

from __future__ import annotations

import statistics
from time import perf_counter

import torch

import throughtime as tt
from benchmarks.table import Row, paired
from throughtime.cells import Cell

# T steps, H units, B sequences; how many times the products' time an LSTM in float32 may take, and how many times
# faster than separate passes it is to be
SWEEPS = ((200, 128, 8, 1.8, 25), (500, 64, 8, 1.8, 60))
PASSES = 10  # backward passes that are timed, evenly spread over the T
ROUNDS = 3


def rows() -> list[Row]:
    """The sweep beside its bare products, by cell, size and dtype; then beside separate backward passes."""
    torch.manual_seed(0)
    found = [
        _bare(tt.cells.make(name, 16, H, dtype=dtype), T, B, limit if dtype == torch.float32 else None)
        for T, H, B, limit, _ in SWEEPS
        for name, dtype in (
            ("elman", torch.float64), ("gru", torch.float64), ("lstm", torch.float64), ("lstm", torch.float32),
        )
    ]  # fmt: skip
    return found + [_separate(tt.cells.make("lstm", 16, H), T, B, faster) for T, H, B, _, faster in SWEEPS]


def _bare(cell: Cell, T: int, B: int, limit: float | None) -> Row:
    weights = cell.weight_hh.detach()
    x = torch.randn(T, B, cell.input_size, dtype=weights.dtype)
    delta = torch.randn(T, B, cell.hidden_size, dtype=weights.dtype)
    gates = torch.randn(T * B, len(weights), dtype=weights.dtype)
    out = torch.empty(T * B, cell.hidden_size, dtype=weights.dtype)

    def products() -> None:
        for count in range(1, T + 1):
            torch.mm(gates[: count * B], weights, out=out[: count * B])

    pair = paired(lambda: tt.flow.credit(cell, x, delta), products, repeats=1, warmup=1)
    return pair.row("credit of all pairs", _size(cell, T, B), "bare matrix products", limit=limit)


def _separate(cell: Cell, T: int, B: int, faster: float) -> Row:
    x, delta = torch.randn(T, B, cell.input_size), torch.randn(T, B, cell.hidden_size)
    some = [int((place + 0.5) * T / PASSES) for place in range(PASSES)]

    def passes() -> float:
        """Seconds for all T passes: the time of one grows with t, so T / PASSES times that of some stands for all."""
        start = perf_counter()
        state, kept, outputs = cell.zero_state(B, x), [], []
        u, W = cell.share(x), cell.weights()
        for t in range(T):
            state, _ = cell.advance(u.map(lambda share, t=t: share[t]), state, W)
            kept.extend(state.values())
            outputs.append(state[cell.parts[-1]])
        forward = perf_counter() - start
        for t in some:
            torch.autograd.grad((delta[t] * outputs[t]).sum(), kept, retain_graph=True, allow_unused=True)
        return forward + (perf_counter() - start - forward) * T / PASSES

    def credit() -> float:
        start = perf_counter()
        tt.flow.credit(cell, x, delta)
        return perf_counter() - start

    credit()
    ours, peer = zip(*((credit(), passes()) for _ in range(ROUNDS)), strict=True)
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, peer, strict=True))
    note = f"{1 / ratio:.0f} times faster, at least {faster:g}; {PASSES} passes timed, spread over the T"
    mine, theirs = statistics.median(ours) * 1e3, statistics.median(peer) * 1e3
    return Row("credit of all pairs", _size(cell, T, B), mine, theirs, "T backward passes", "ms", ratio, note)


def _size(cell: Cell, T: int, B: int) -> str:
    dtype = str(cell.weight_ih.dtype).removeprefix("torch.")
    return f"{cell.name}, T={T} B={B} H={cell.hidden_size}, {dtype}"
