"""tt.flow.credit of all pairs beside what it cannot do without, and beside the obvious way.

The first peer is the bare matrix products of the sweep: at step k, (T − k)·B rows by the shared weights, which is
G·H²·B·T(T+1) operations for G recurrent blocks. The second is T separate backward passes through a loop whose states
are kept.
"""

from __future__ import annotations

import torch

import throughtime as tt
from benchmarks.table import Row, paired
from throughtime.cells import Cell

# T steps, H units, B sequences
SWEEPS = ((200, 128, 8), (500, 64, 8))
SEPARATE = (300, 64, 8)


def rows() -> list[Row]:
    """The sweep beside its bare products, by cell, size and dtype; then beside separate backward passes."""
    torch.manual_seed(0)
    found = [
        _bare(tt.cells.make(name, 16, H, dtype=dtype), T, B)
        for T, H, B in SWEEPS
        for name, dtype in (
            ("elman", torch.float64), ("gru", torch.float64), ("lstm", torch.float64), ("lstm", torch.float32),
        )
    ]  # fmt: skip
    return found + [_separate(tt.cells.make(name, 16, SEPARATE[1])) for name in ("elman", "lstm")]


def _bare(cell: Cell, T: int, B: int) -> Row:
    weights = cell.weight_hh.detach()
    x = torch.randn(T, B, cell.input_size, dtype=weights.dtype)
    delta = torch.randn(T, B, cell.hidden_size, dtype=weights.dtype)
    gates = torch.randn(T * B, len(weights), dtype=weights.dtype)
    out = torch.empty(T * B, cell.hidden_size, dtype=weights.dtype)

    def products() -> None:
        for count in range(1, T + 1):
            torch.mm(gates[: count * B], weights, out=out[: count * B])

    size = f"{cell.name}, T={T} B={B} H={cell.hidden_size}, {str(weights.dtype).removeprefix('torch.')}"
    pair = paired(lambda: tt.flow.credit(cell, x, delta), products, repeats=1, warmup=1)
    return pair.row("credit of all pairs", size, "bare matrix products")


def _separate(cell: Cell) -> Row:
    T, H, B = SEPARATE
    x, delta = torch.randn(T, B, cell.input_size), torch.randn(T, B, H)

    def passes() -> None:
        state, kept, outputs = cell.zero_state(B, x), [], []
        u, W = cell.share(x), cell.weights()
        for t in range(T):
            state, _ = cell.advance(u.map(lambda share, t=t: share[t]), state, W)
            kept.extend(state.values())
            outputs.append(state[cell.parts[-1]])
        for t in range(T):
            torch.autograd.grad((delta[t] * outputs[t]).sum(), kept, retain_graph=True, allow_unused=True)

    pair = paired(lambda: tt.flow.credit(cell, x, delta), passes, repeats=1, warmup=0)
    return pair.row("credit of all pairs", f"{cell.name}, T={T} B={B} H={H}", "T backward passes")
