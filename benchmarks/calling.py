"""What the first call costs, what it costs in the next process, and what any call costs beside its arithmetic.

The first two are measured in processes of their own, with a cache folder that starts empty: the first call of a cell's
forward and backward pass, less a warmed one. The promised times stand where other comparisons have a peer.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from torch import nn

from benchmarks.families import OTHERS, STANDARD, Family
from benchmarks.table import Row, paired
from throughtime.errors import EngineError
from throughtime.modules import Recurrent

ROOT = Path(__file__).parent.parent
T, B, I, H = 100, 16, 32, 64  # noqa: E741
COMPILED, FOUND = 5.0, 0.050  # s: first use, and the second process's
CALL = 30.0  # µs: one step forward
CALLS = 200  # in one timing
PROCESSES = 3  # second processes, the median of which counts


def rows() -> list[Row]:
    """First use and second process by cell, then calls of one step by layer and engine."""
    found = [row for family in (STANDARD[1], STANDARD[2], OTHERS[-1]) for row in _first_uses(family)]
    return found + [row for family in STANDARD for row in _calls(family)]


def _first_uses(family: Family) -> list[Row]:
    size = f"T={T} B={B} I={I} H={H}"
    with tempfile.TemporaryDirectory() as folder:
        engine, first = _in_a_process(family, folder)
        again = [_in_a_process(family, folder)[1] for _ in range(PROCESSES)]
    note = f"engine {engine}; the promised time stands as the peer"
    later = statistics.median(again)
    return [
        Row(f"{family.name}, first use", size, first, COMPILED, "promised", "s", first / COMPILED, note),
        Row(f"{family.name}, second process", size, later * 1e3, FOUND * 1e3, "promised", "ms", later / FOUND, note),
    ]


def _in_a_process(family: Family, folder: str) -> tuple[str, float]:
    """The engine that served, and the seconds a first call took more than a warmed one."""
    code = f"from benchmarks.calling import first_call; first_call({family.name!r})"
    environment = {**os.environ, "THROUGHTIME_CACHE": folder}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    engine, seconds = run.stdout.decode().split()
    return engine, float(seconds)


def first_call(name: str) -> None:
    """Print the engine, and by how many seconds the first call was slower than the quickest of the next ones.

    torch itself is called once before, by the eager loop of another cell, since its own first call is not ours.
    """
    family = next(family for family in (*STANDARD, *OTHERS) if family.name == name)
    x = torch.randn(T, B, I)
    Recurrent("carousel", I, H, engine="reference")(x)[0].sum().backward()
    layer = family.layer(I, H)
    gc.disable()  # as timeit does: what else the process has in memory is not ours to clear away
    first, *others = [_seconds(lambda: layer(x)[0].sum().backward()) for _ in range(6)]
    print(layer.served, first - min(others))


def _calls(family: Family) -> list[Row]:
    assert family.theirs is not None
    x, inputs, units = torch.randn(1, 1, 8), 8, 16
    theirs = family.theirs(inputs, units)
    found = []
    for engine in ("auto", "cpu"):
        try:
            layer = family.layer(inputs, units, engine)
            layer(x)
        except EngineError as error:
            print(f"calling: {error}", file=sys.stderr)
            continue
        pair = paired(_several(layer, x), _several(theirs, x))
        mine, other = (seconds / CALLS * 1e6 for seconds in (pair.ours, pair.peer))
        note = f"{pair.low:.2f} to {pair.high:.2f}; engine {layer.served}; ours at most {CALL:g} µs"
        what = f'{family.name}, one call without gradients, engine="{engine}"'
        found.append(Row(what, f"T=1 B=1 I={inputs} H={units}", mine, other, "torch.nn", "µs", pair.ratio, note))
    return found


def _several(layer: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    def work() -> None:
        with torch.no_grad():
            for _ in range(CALLS):
                layer(x)

    return work


def _seconds(work: Callable[[], None]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start
