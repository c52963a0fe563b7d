"""Units that never open: a memory gate that is shut, a relu that is dead."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.thresholds import DEAD, SHUT
from throughtime.diagnosis.torch_lines import open_gates, orthogonal
from throughtime.diagnosis.wording import percent
from throughtime.records import Finding


def shut(case: Case) -> Iterator[Finding]:
    """A memory gate whose mean opening keeps no memory; a relu that puts out nothing nearly everywhere."""
    flow = case.flow
    if flow is None or not case.strange:
        return
    for gate in flow.memory_gates:
        stats = flow.gates.get(gate.gate)
        if stats is None or np.isnan(stats.mean).all():
            continue
        mean = float(np.nanmean(stats.mean))
        if gate.sign < 0 and any(its.sign > 0 for its in flow.memory_gates):
            continue  # another gate holds the memory
        kept = mean if gate.sign > 0 else 1.0 - mean
        if kept >= SHUT:
            continue
        lag = case.need.steps if case.need is not None else flow.T - 1
        yield Finding(
            rule="shut",
            severity="serious",
            cell=case.cell,
            title=f"{case.subject}: the {gate.gate} gate is {'shut' if gate.sign > 0 else 'open'} ({mean:.2g} on "
            f"average), so that {percent(kept)} of the memory is left after a step.",
            evidence=(f"Over {flow.B} sequences and {flow.T} steps, {case.when}.",),
            advice=f"Start it {'open' if gate.sign > 0 else 'shut'}: its bias is too "
            f"{'low' if gate.sign > 0 else 'high'}.",
            command=open_gates(case, max(2, lag)),
            check="If the gate goes back there in training, the task rewards forgetting.",
        )
    off = flow.saturation.get(flow.parts[-1], math.nan)
    if flow.place is not None and flow.place.rectifier and off >= DEAD:
        yield Finding(
            rule="shut",
            severity="serious",
            cell=case.cell,
            title=f"{case.subject}: its relu is dead: {percent(off)} of units and steps are 0 and pass no gradient.",
            evidence=("About half is usual; a unit that is off at every step of every sequence learns nothing more.",),
            advice="Start with positive biases and recurrent matrices that stretch nothing, and take smaller steps; or "
            "take tanh.",
            command=orthogonal(case),
            check="If fewer are off then and the loss falls no faster, they were not needed.",
        )
