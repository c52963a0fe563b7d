"""The gradient dies before it is where it is needed: at which lag, in which port, at which step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np

from throughtime.diagnosis.case import Case, Need
from throughtime.diagnosis.remedy import remedy
from throughtime.diagnosis.wording import factor, fading, steps
from throughtime.records import Finding, FlowRecord


def vanishing(case: Case) -> Iterator[Finding]:
    """A horizon short of what is needed (and not merely short of what was measured)."""
    flow, horizon, need = case.flow, case.horizon, case.need
    if not case.leads or flow is None or horizon is None or need is None or not case.short:
        return
    wanted = f"the task needs {need.steps}" if need.known else f"the first step lies {_away(flow, need)} back"
    horizon = _reached(flow, horizon)
    cure = remedy(case, need)
    yield Finding(
        rule="vanishing",
        severity=_severity(case, need),
        cell=case.cell,
        title=f"{case.subject}: {case.when} 1% of the gradient reaches only {steps(horizon)} back; {wanted}.",
        evidence=tuple(_evidence(case, flow, horizon, need)),
        advice=cure.advice,
        command=cure.command,
        check=cure.check,
    )


def _reached(flow: FlowRecord, horizon: int) -> int:
    """In the middle of the sequences, where their lengths differ and each answers at its end."""
    use = flow.use
    if use is None or int(use.sources.max(initial=0)) != 1 or not bool((use.horizons >= 0).any()):
        return horizon
    return int(np.median(use.horizons[use.horizons >= 0]))


def _away(flow: FlowRecord, need: Need) -> str:
    """How far each sequence's first step lies from its last: one number, or from where to where."""
    use = flow.use
    if use is None or not bool((use.last >= 0).any()):
        return str(need.steps)
    least, most = int(use.last[use.last >= 0].min()), int(use.last.max())
    return str(most) if least == most else f"{least} to {most}"


def _severity(case: Case, need: Need) -> Literal["note", "warning", "serious"]:
    if case.learned or (case.flow is not None and case.flow.moment == "before"):
        return "note"
    return "serious" if need.known else "warning"


def _evidence(case: Case, flow: FlowRecord, horizon: int, need: Need) -> Iterator[str]:
    beyond = (flow.lags.lags > horizon) & ~np.isnan(flow.lags.median)
    if beyond.any():
        lag, left = int(flow.lags.lags[beyond][0]), float(flow.lags.median[beyond][0])
        yield f"At lag {lag} a median of {factor(left)} of the gradient is left" + (
            ", exactly nothing: every path was cut." if left == -math.inf else "."
        )
    if flow.half_life is not None:
        yield f"Half of it is gone at lag {flow.half_life}."
    if fading(flow):
        yield fading(flow)
    at_need = (flow.lags.lags == need.steps) & ~np.isnan(flow.lags.median)
    if need.known and at_need.any() and need.steps != horizon + 1:
        yield f"At the lag that is needed, {need.steps}, {factor(float(flow.lags.median[at_need][0]))} of it is left."
    yield from _where(flow)
    if case.before is not None and case.before is not flow and case.before.horizon is not None:
        at_least = "at least " if case.before.horizon >= case.before.lags.longest() else ""
        yield f"Before training it reached {at_least}{steps(case.before.horizon)} back."
    if case.learned:
        yield "The score is well above the obvious guess, so what it learned it learned within this reach."


def _where(flow: FlowRecord) -> Iterator[str]:
    """The port and the step in which it is lost."""
    carried = {port: _median(values) for port, values in flow.ports.items()}
    measured = sorted((port for port in carried if not math.isnan(carried[port])), key=lambda p: -carried[p])
    if measured:
        shares = ", ".join(f"{port} {factor(carried[port])}" for port in measured[:3])
        yield f"What each port carries of it one step back (median over steps): {shares}."
        strongest = measured[0]
        step = int(np.nanargmin(flow.ports[strongest]))
        yield f"{strongest} carries least at step {step}: {factor(float(flow.ports[strongest][step]))}."
    if not np.isnan(flow.step_gain).all():
        step = int(np.nanargmin(flow.step_gain))
        yield (
            f"A step can keep at most ‖J_k‖₂ of it: {factor(_median(flow.step_gain))} in the median, "
            f"{factor(float(flow.step_gain[step]))} at step {step}."
        )


def _median(values: np.ndarray) -> float:
    measured = values[~np.isnan(values)]
    # not np.median, which averages the middle two: between a true zero and a number that would be NaN or −inf
    return float(np.sort(measured)[measured.size // 2]) if measured.size else math.nan
