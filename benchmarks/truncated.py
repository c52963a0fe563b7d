"""Truncated training of one long series: memory beyond the data must not follow its length.

Each length is trained once, from its first step to its last, in a process of its own; its peak of resident memory
less what was resident before training (torch, the model and the data) is what training itself took. The peer is
the loop over the whole series that one would write by hand with torch.nn, with the same cell and loss. Backpropagation
through the whole of it with recomputation stands beside the same peer.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.table import Row

LENGTHS = (10_000, 100_000, 1_000_000)
WINDOW = 5_000  # k2, steps
UNITS = 16
LONG = LENGTHS[1]  # steps of the full backpropagation with recomputation
LIMIT = 1.5  # what the longest may take, over what the shortest does


def rows() -> list[Row]:
    ours = {steps: _measure("windows", steps) for steps in LENGTHS}
    least = ours[LENGTHS[0]][0]
    found = [
        Row(
            "truncated training, memory beyond the data",
            f"{steps:,} steps, window {WINDOW:,}, H={UNITS}",
            memory,
            least,
            f"the same, {LENGTHS[0]:,} steps",
            "MiB",
            memory / least,
            f"{seconds:.1f} s" + (f", at most {LIMIT:g}" if steps == LENGTHS[-1] else ""),
        )
        for steps, (memory, seconds) in ours.items()
    ]
    steps = LENGTHS[-1]
    whole, seconds = _measure("whole", steps)
    memory, mine = ours[steps]
    note = f"{mine:.1f} s for {steps // WINDOW} updates, the peer {seconds:.1f} s for one"
    name = "nn.LSTM over the whole series"
    found.append(Row("truncated beside full, memory", found[-1].size, memory, whole, name, "MiB", memory / whole, note))
    whole, seconds = _measure("whole", LONG)
    memory, mine = _measure("recomputed", LONG)
    note = f"{mine:.1f} s, the peer {seconds:.1f} s"
    size = f"{LONG:,} steps, recomputed, H={UNITS}"
    name = "nn.LSTM, keeping everything"
    found.append(Row("full BPTT over 100,000 steps, memory", size, memory, whole, name, "MiB", memory / whole, note))
    return found


def _measure(way: str, steps: int) -> tuple[float, float]:
    """(MiB beyond the data, seconds) of one training in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.truncated", way, str(steps)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    memory, seconds = json.loads(answer.stdout)
    return memory, seconds


# -- in the fresh process


def resident(peak: bool) -> float:
    """MiB of this process that are resident now, or were at most so far."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(rf"Vm{'HWM' if peak else 'RSS'}:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        assert found is not None
        return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def _train(way: str, steps: int) -> tuple[float, float]:
    import torch
    from torch import nn

    import throughtime as tt
    from throughtime.data.dataset import Dataset
    from throughtime.data.streams import Series
    from throughtime.records import DataCard, Settings

    torch.set_num_threads(1)

    def series(rows: int) -> Series:
        x = torch.empty(rows, 1)
        for piece in x.split(4096):  # in pieces, so that making the data leaves no room behind to train in
            piece.normal_()
        return Series(x, x, lambda at: tuple(map(str, at.tolist())), WINDOW, (rows,))

    card = DataCard("series", "next", "row", False, 1, 1, (), "mse", 1.0, "the mean", None, {}, (steps,) * 3, "")
    data = Dataset(card, series(steps + 1), series(101), series(101), answers_each_step=True, continues=True)
    short = Dataset(card, series(101), data.valid, data.test, answers_each_step=True, continues=True)
    settings = Settings(epochs=1, batch_size=1, window=WINDOW)
    net = tt.Net.build(card, "lstm", hidden=UNITS)
    peer, head = nn.LSTM(1, UNITS), nn.Linear(UNITS, 1)
    if way == "recomputed":
        peer = tt.LSTM(1, UNITS, recompute=True)
    first = replace(settings, window=20)  # loads what loads late, and leaves no room behind that would hide a window's
    list(tt.train(tt.Net.build(card, "lstm", hidden=UNITS), short, first, device="cpu"))
    head(peer(torch.zeros(9, 1, 1))[0]).sum().backward()
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here
    before, began = resident(peak=False), time.perf_counter()
    if way == "windows":
        for _ in tt.train(net, data, settings, device="cpu"):
            pass
    else:
        batch = data.train.lanes(1).batch([0])
        (head(peer(batch.x)[0]) - batch.y).square().mean().backward()
    return resident(peak=True) - before, time.perf_counter() - began


if __name__ == "__main__":
    print(json.dumps(_train(sys.argv[1], int(sys.argv[2]))))
