"""The whole Lyapunov spectrum beside one backward pass for each unit of the state; and a long run's time and memory.

The peer is what a person would write: a loop over the cell whose states are kept, and for every unit of the last state
one backward pass that gives the gradient of every state before it. The factoring that a spectrum needs besides is ours
alone.
"""

from __future__ import annotations

import multiprocessing
import time

import torch

import throughtime as tt
from benchmarks.table import Row, paired
from benchmarks.truncated import resident

H, I = 128, 16  # noqa: E741
# Cell, T, the largest ratio that is promised. A plain net's backward pass is a single product a step: too cheap to be
# left far behind.
SPECTRA = (("gru", 100, 1 / 20), ("lstm", 60, 1 / 20), ("elman", 100, None))
LONG = 10_000
MOST = 2048.0  # MiB


def rows() -> list[Row]:
    """Spectra by cell, then a run of 10,000 steps."""
    torch.manual_seed(0)
    return [_spectrum(*each) for each in SPECTRA] + _long()


def _spectrum(name: str, T: int, limit: float | None) -> Row:
    cell = tt.cells.make(name, I, H, dtype=torch.float64)
    x = torch.randn(T, 1, I, dtype=torch.float64)

    def passes() -> None:
        state, kept = cell.zero_state(1, x).map(lambda part: part.requires_grad_()), []
        u, W = cell.share(x), cell.weights()
        for t in range(T):
            kept.extend(state.values())
            state, _ = cell.advance(u.map(lambda share, t=t: share[t]), state, W)
        for part in state.values():
            for unit in range(H):
                torch.autograd.grad(part[0, unit], kept, retain_graph=True, allow_unused=True)

    pair = paired(lambda: tt.flow.lyapunov(cell, x), passes, repeats=1, warmup=1)
    size = f"{name}, all {cell.state_size} exponents, T={T} B=1 H={H}, float64"
    return pair.row("Lyapunov spectrum", size, "a backward pass for each unit", limit=limit)


def _long() -> list[Row]:
    """In a process of its own, so that the peak is this run's and not what ran before it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, peak = pool.apply(_long_run)
    size = f"lstm, T={LONG} B=1 H={H}, all {2 * H} exponents, lag profile of 16 sources, float32 run"
    return [
        Row("long run", size, seconds, 600.0, "ten minutes", "s", seconds / 600.0),
        Row("long run", size, peak, MOST, "2 GiB", "MiB", peak / MOST, "peak of the process"),
    ]


def _long_run() -> tuple[float, float]:
    """Seconds, and MiB at most."""
    torch.manual_seed(0)
    cell, x = tt.cells.make("lstm", I, H), torch.randn(LONG, 1, I)
    began = time.perf_counter()
    sources = range(LONG // 16 - 1, LONG, LONG // 16)
    tt.flow.credit(cell, x, torch.randn(LONG, 1, H), sources=sources, most_lag=1000).lags.horizon()
    tt.flow.lyapunov(cell, x)
    return time.perf_counter() - began, resident(peak=True)
