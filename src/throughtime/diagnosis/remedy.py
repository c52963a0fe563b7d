"""What helps a gradient that dies too early."""

from __future__ import annotations

from typing import NamedTuple

from throughtime.diagnosis.case import Case, Need
from throughtime.diagnosis.torch_lines import open_gates, take_gated
from throughtime.diagnosis.wording import command


class Remedy(NamedTuple):
    """What to do, what to type, and what would show it wrong."""

    advice: str
    command: str
    check: str


def remedy(case: Case, need: Need) -> Remedy:
    """Smaller steps if training shortened the reach, else an open memory gate, else a cell that has one."""
    lag = max(2, need.steps)
    before = case.before.horizon if case.before is not None and case.before is not case.flow else None
    if before is not None and before >= need.steps and case.run is not None:
        return Remedy(
            "It did reach far enough before training, so training shortened it: take smaller steps.",
            command(case, rate=f"{case.run.settings.rate / 3:.2g}"),
            f"If the horizon after training still falls under {need.steps} at that rate, the task rewards forgetting.",
        )
    flow = case.flow
    if flow is not None and "carousel" in flow.ports and flow.memory_gates:
        lines = open_gates(case, lag) if case.strange else ""
        return Remedy(
            f"Open the gate that keeps memory from the start, its bias spread for lags up to {lag}"
            + (": before training, paste the lines below." if lines else "."),
            lines or command(case, chrono=lag),
            f"If the untrained net then reaches {need.steps} back and scores no better, the gradient was no obstacle.",
        )
    if flow is not None and flow.step_gain.size and "carousel" in flow.ports and case.strange:
        return Remedy(
            "Its memory is handed on without weights, but it names no gate (`clock`) whose bias could hold it longer: "
            "look at what its step does to the part that the carousel reads.",
            "",
            f"If the net then reaches {need.steps} back and scores no better, the gradient was no obstacle.",
        )
    return Remedy(
        "No path hands the gradient on without weights in between and a gate to hold it; take a cell that has one.",
        take_gated(case) if case.strange else command(case, cell="lstm", chrono=lag),
        f"If that net reaches {need.steps} back and scores no better, the gradient was no obstacle.",
    )
