"""Whether memory could last long enough at the start: the forget gate before training, against the task's lag."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.thresholds import SHARE
from throughtime.diagnosis.wording import command, factor, steps
from throughtime.records import Finding


def forgetting(case: Case) -> Iterator[Finding]:
    """A memory gate f so far shut at the start that even its most open unit keeps under 1% (f^lag) over the lag."""
    if not case.leads or case.before is None or case.need is None or case.need.steps < 2:
        return
    if "carousel" not in case.before.ports:
        return
    name = next((its.gate for its in case.before.memory_gates if its.sign > 0 and its.gate in case.before.gates), None)
    if name is None:
        return
    lag, stats = case.need.steps, case.before.gates[name]
    means, units = stats.mean[~np.isnan(stats.mean)], stats.unit_mean[~np.isnan(stats.unit_mean)]
    if not (means.size and units.size):
        return
    mean, most = float(means.mean()), float(units.max())
    kept = _log10_power(most, lag)
    if kept >= math.log10(SHARE):
        return
    if case.horizon is not None and case.horizon >= lag and case.flow is not case.before:
        return  # training opened it
    bias = math.log(lag - 1)
    yield Finding(
        rule="forgetting",
        severity="note" if case.learned or not case.need.known else "warning",
        cell=case.cell,
        title=f"{case.subject}: the {name} gate starts at {mean:.2f}, which keeps {factor(_log10_power(mean, lag))} of "
        f"a memory over {steps(lag)}.",
        evidence=(
            f"Before training the {name} gate is open {mean:.3f} in the mean over units and steps, {most:.3f} in its "
            f"most open unit, which keeps {factor(kept)} over {steps(lag)}.",
            f"To keep a third of it over {steps(lag)} takes {1 - 1 / lag:.3f}, a bias of log({lag} − 1) = {bias:.2f}."
            + ("" if case.need.known else " The lag is that of the first step; the task may need less."),
        ),
        advice=f"Start that gate open: a forget bias of {bias:.1f}, or biases spread over lags up to {lag} "
        f"(--chrono {lag}).",
        command=command(case, forget_bias=f"{bias:.1f}"),
        check=f"If the untrained net's horizon does not rise towards {lag} with it, the gradient is lost elsewhere.",
    )


def _log10_power(opening: float, lag: int) -> float:
    return lag * math.log10(opening) if opening > 0 else -math.inf
