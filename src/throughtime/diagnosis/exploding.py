"""The gradient grows on its way back: at which lag, at which step, and how often an update met it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.thresholds import EXPLODES, GROWS, JUDGED, RECENT, SPIKE
from throughtime.diagnosis.torch_lines import CLIP, orthogonal
from throughtime.diagnosis.wording import command, factor
from throughtime.records import Finding, Floats, FlowRecord


def exploding(case: Case) -> Iterator[Finding]:
    """A gradient that arrives larger than it left, or updates whose gradient norm was out of all proportion."""
    peak = _peak(case.flow)
    norms = np.array([update.grad_norm for update in case.run.updates]) if case.run is not None else np.array([])
    broken = [u for u in case.run.updates if not math.isfinite(u.loss + u.grad_norm)] if case.run is not None else []
    cliff = _cliff(norms)
    about_run = case.leads and (bool(broken) or (cliff is not None and cliff.times >= SPIKE))
    grown = peak is not None and peak[1] >= GROWS
    if not (grown or about_run):
        return
    severity: Literal["serious", "warning", "note"] = "warning"
    if (broken and case.leads) or (peak is not None and peak[1] >= EXPLODES):
        severity = "serious"
    if case.learned and not broken:
        severity = "note"
    if grown and peak is not None:
        title = (
            f"{case.subject}: {case.when} the gradient grows {factor(peak[1])} times on its way back to lag {peak[0]}."
        )
    elif broken:
        title = f"{case.subject}: update {broken[0].update} had a loss or gradient that is not a number."
    else:
        assert cliff is not None
        title = f"{case.subject}: at one update the gradient norm was {cliff.times:.3g} times what it had been."
    evidence = list(_evidence(case.flow)) if grown and case.flow is not None else []
    if case.leads and cliff is not None and case.run is not None:
        evidence.append(
            f"Gradient norm {cliff.norm:.3g} at update {case.run.updates[cliff.at].update}; over the updates before it "
            f"{cliff.before:.3g} in the median."
        )
    evidence += [
        f"Update {update.update}: loss {update.loss}, gradient norm {update.grad_norm}." for update in broken[:1]
    ]
    threshold = f"{cliff.before:.2g}" if cliff is not None else "1"
    clipped = case.run is not None and case.run.settings.clip is not None
    yield Finding(
        rule="exploding",
        severity=severity,
        cell=case.cell,
        title=title,
        evidence=tuple(evidence),
        advice="Clip lower, at the norm usual before it, and begin with recurrent matrices that stretch nothing."
        if clipped
        else "Clip the gradient's norm, and begin with recurrent matrices that stretch nothing.",
        command="\n".join((CLIP, orthogonal(case)))
        if case.strange
        else command(case, clip=threshold, init="orthogonal"),
        check="If the norms stay as uneven though ‖J_k‖₂ starts at 1, the loss explodes and not the way through time.",
    )


class _Cliff(NamedTuple):
    """The update whose gradient norm stood out most from those before it."""

    at: int  # its place in the run
    norm: float
    before: float  # the median of up to RECENT norms before it
    times: float


def _cliff(norms: Floats) -> _Cliff | None:
    """None if no update has enough others before it. Held against recent norms, for they fall as a net learns."""
    finite = np.flatnonzero(np.isfinite(norms))
    best: _Cliff | None = None
    for place in range(JUDGED, finite.size):
        at = int(finite[place])
        before = float(np.median(norms[finite[max(0, place - RECENT) : place]]))
        if before > 0 and (best is None or norms[at] / before > best.times):
            best = _Cliff(at, float(norms[at]), before, float(norms[at]) / before)
    return best


def _peak(flow: FlowRecord | None) -> tuple[int, float] | None:
    """The lag at which the median gradient is largest, and its log10 there."""
    if flow is None or np.isnan(flow.lags.median).all():
        return None
    at = int(np.nanargmax(flow.lags.median))
    return int(flow.lags.lags[at]), float(flow.lags.median[at])


def _evidence(flow: FlowRecord) -> Iterator[str]:
    growth = _growth(flow.adjoint)
    if growth is not None:
        yield f"Going back, it grows most from step {growth[0] + 1} to step {growth[0]}: {factor(growth[1])} times."
    if not np.isnan(flow.step_gain).all():
        step = int(np.nanargmax(flow.step_gain))
        yield f"The step that can stretch it most is step {step}: ‖J_k‖₂ = {factor(float(flow.step_gain[step]))}."
    bounds = flow.bounds
    if bounds is None or bounds.globally is None:
        return
    measured = np.flatnonzero(~np.isnan(bounds.globally) & (bounds.lags > 0))
    if measured.size:
        rate = float(bounds.globally[measured[0]]) / int(bounds.lags[measured[0]])
        yield f"The bound γλ is {factor(rate)} a step; only over 1 can it explode, and need not."


def _growth(adjoint: Floats) -> tuple[int, float] | None:
    """The step k whose dL/dz_k grew most over that of k + 1, and by how much (log10)."""
    there = np.isfinite(adjoint)
    both = there[:-1] & there[1:]
    if not both.any():
        return None
    grown = np.full(adjoint.size - 1, -math.inf)
    grown[both] = adjoint[:-1][both] - adjoint[1:][both]
    k = int(grown.argmax())
    return k, float(grown[k])
