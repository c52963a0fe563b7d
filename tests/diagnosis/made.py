"""Records made by hand, as plain as can be: change what a test is about."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from throughtime.records import (
    BoundRecord,
    DataCard,
    Evaluation,
    FlowRecord,
    GateStats,
    LagProfile,
    MemoryGate,
    ModelCard,
    Place,
    RunRecord,
    Settings,
    Study,
    Update,
)


def lags(median: list[float] | np.ndarray) -> LagProfile:
    """A profile with this median (log10) at lags 0, 1, …"""
    median = np.asarray(median, dtype=float)
    count = np.arange(median.size)
    return LagProfile(count, median, median - 0.1, median + 0.1, np.full(median.size, 8))


def decay(rate: float, T: int) -> LagProfile:
    """What is left after each step is `rate` of what was."""
    return lags(np.arange(T) * math.log10(rate))


def gate(opening: float, *, T: int = 101, low: float = 0.0, high: float = 0.0, units: Any = None) -> GateStats:
    units = np.full(4, opening) if units is None else np.asarray(units, dtype=float)
    return GateStats(np.full(T, opening), np.full(T, low), np.full(T, high), units)


def flow(rate: float = 0.99, T: int = 101, cell: str = "elman", **changes: Any) -> FlowRecord:
    """One layer whose gradient loses the same share at every step, with a loss on the last step alone."""
    direct = np.full(T, -math.inf)
    direct[-1:] = -1.0
    adjoint = -1.0 + np.arange(T)[::-1] * math.log10(rate)
    record = FlowRecord(
        cell=cell,
        layer="recurrent.0",
        moment="after",
        update=100,
        engine="reference",
        dtype="float64",
        seconds=0.1,
        T=T,
        B=4,
        H=4,
        parts=("h",),
        derivative="boundary",
        loss=0.1,
        direct=direct,
        adjoint=adjoint,
        lags=decay(rate, T),
        part_lags={},
        blame=None,
        bounds=None,
        ports={"recurrent": np.full(T, math.log10(rate))},
        step_gain=np.full(T, math.log10(rate) + 0.1),
        gates={},
        saturation={},
    )
    record = replace(record, **changes)
    if record.place is None:
        rows = (0, record.H)
        memory = tuple(MemoryGate(g, 1, "bias_ih_l0", rows) for g in ("forget", "update") if g in record.gates)
        layer = int(record.layer.rpartition(".")[2]) if record.layer.startswith("recurrent.") else 0
        place = Place("recurrent", "RNN", layer, ours=record.layer.startswith("recurrent."), memory=memory)
        record = replace(record, place=place)
    return record


def bounds(gamma_lambda: float, T: int = 101) -> BoundRecord:
    steps = np.arange(T)
    line = steps * math.log10(gamma_lambda)
    return BoundRecord(steps, line - 1, line - 0.5, line - 0.2, line)


def updates(norms: list[float], threshold: float | None = 1.0, loss: float = 0.1) -> tuple[Update, ...]:
    return tuple(
        Update(
            update=number,
            epoch=0,
            samples=32 * number,
            loss=loss,
            grad_norm=norm,
            clipped=threshold is not None and norm > threshold,
            threshold=threshold,
            rate=3e-3,
            seconds=0.01,
        )
        for number, norm in enumerate(norms, start=1)
    )


def run(*flows: FlowRecord, label: str = "elman", score: float | None = None, **changes: Any) -> RunRecord:
    test = None if score is None else Evaluation(100, 1, "test", score, score)
    record = RunRecord(
        label=label,
        model=ModelCard(label, {}, 1, 16, False, None, 0.0, "last", "native", 1000),
        settings=Settings(),
        seed=0,
        updates=(),
        evaluations=(),
        flows=flows,
        stopped="all epochs were done.",
        seconds=1.0,
        test=test,
    )
    return replace(record, **changes)


def card(lag: int | None = 100, **changes: Any) -> DataCard:
    record = DataCard(
        name="adding",
        kind="regression",
        step="row",
        tokens=False,
        inputs=2,
        outputs=1,
        labels=(),
        metric="mse",
        baseline=1 / 6,
        baseline_is="always 1",
        lag=lag,
        sizes={"train": 2000, "valid": 500, "test": 500},
        lengths=(101, 101, 101),
        digest="0" * 64,
    )
    return replace(record, **changes)


def study(*runs: RunRecord, data: DataCard | None = None, command: str = "", **changes: Any) -> Study:
    command = command or "throughtime compare adding --lag 100 --cells rnn,lstm --out runs/a"
    record = Study("adding", command, "2026-01-01T00:00:00Z", {}, "", data or card(), runs)
    return replace(record, **changes)
