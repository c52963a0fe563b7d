"""Units and gates that are stuck at an end of their range, where nothing they hear changes them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.thresholds import SATURATED
from throughtime.diagnosis.torch_lines import orthogonal
from throughtime.diagnosis.wording import command, percent
from throughtime.records import Finding


def saturation(case: Case) -> Iterator[Finding]:
    """Each gate, candidate or part that is saturated for most units and steps; an open memory gate is no fault."""
    flow = case.flow
    if flow is None:
        return
    for name, share in flow.saturation.items():
        if math.isnan(share) or share < SATURATED:
            continue
        stats = flow.gates.get(name)
        low, high = (_mean(stats.low), _mean(stats.high)) if stats is not None else (math.nan, math.nan)
        if flow.place is not None and flow.place.rectifier and stats is None:
            continue  # a relu is off half of the time; one that is dead is told by another rule
        sign = next((gate.sign for gate in flow.memory_gates if gate.gate == name), 0)
        if sign * (high - low) > 0 or (sign and case.need is not None and not case.short):
            continue  # this end is memory, where the advice on memory puts it; or it reaches as far as is needed
        evidence = [f"{percent(share)} of units and steps of {name} are saturated, {case.when}."]
        if stats is not None:
            evidence.append(f"{percent(low)} are at the lower end, {percent(high)} at the upper one.")
            step = int(np.nanargmax(stats.low + stats.high)) if not np.isnan(stats.low + stats.high).all() else 0
            evidence.append(f"Most are at step {step}: {percent(float(stats.low[step] + stats.high[step]))}.")
        rate = case.run.settings.rate / 3 if case.run is not None else 1e-3
        yield Finding(
            rule="saturation",
            severity="note" if case.learned or flow.moment == "before" else "warning",
            cell=case.cell,
            title=f"{case.subject}: {case.when} {name} is saturated for {percent(share)} of units and steps.",
            evidence=tuple(evidence),
            advice="Take smaller steps and start with recurrent matrices that stretch nothing; scale inputs to about "
            "1 if they are not.",
            command=orthogonal(case) if case.strange else command(case, rate=f"{rate:.2g}", init="orthogonal"),
            check="If fewer are saturated then and neither the horizon nor the score grows, it did no harm.",
        )


def _mean(values: np.ndarray) -> float:
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if measured.size else math.nan
