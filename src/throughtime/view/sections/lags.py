"""What gradient survives at each lag, against bounds and against the untrained net."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from throughtime.records import Floats, LagProfile
from throughtime.view import words
from throughtime.view.figures import DASHES, PERCENT, Axis, Lines, Rule, Series
from throughtime.view.markup import Html, Node, joined, tag, text
from throughtime.view.page import Section, cell, figure, figures
from throughtime.view.sections.notes import note, shared
from throughtime.view.subject import Strand, Subject

QUESTION = "What gradient survives at each lag, against its bounds{}?"
SPAN = 16.0  # decades that the gradients of single steps span at most
BESIDE = -8.0  # how far down the untrained nets may stretch the axis of the trained ones
FLOOR = -12.0  # a share under this is as good as none to an optimiser; the tables have the numbers


def section(subject: Subject) -> Section:
    """Lag profiles, bounds, the two gradients by step, and the horizon over training."""
    strands = [s for s in subject.strands if _measured(s.now.lags.median)]
    need = subject.data.lag if subject.data else None
    headline = _headline(strands, need) if strands else "No lag was measured."
    body = (*_by_lag(strands, need), *_by_step(subject.strands))
    question = QUESTION.format("" if subject.found else " and against the untrained net")
    return Section("lags", "What survives", question, headline, body)


def _measured(values: Floats) -> bool:
    return not bool(np.isnan(values).all())


def _by_lag(strands: Sequence[Strand], need: int | None) -> list[Node]:
    if not strands:
        return []
    body: list[Node] = [figure("fig-lags", _profiles(strands, need), _says(strands))]
    over = [s for s in strands if len(s.flows) > 2]
    if over:
        body.append(figure("fig-horizons", _horizons(over, need), "One point for each measurement during training."))
    bounded = [s for s in strands if s.now.bounds is not None]
    top = _top([each for s in bounded if s.now.bounds for each in (s.now.bounds.gain, s.now.bounds.steps)])
    low, _ = _reach([s.now.lags for s in bounded])
    pictures = [figure(f"fig-bounds-{i}", _bounds(s, low, top)) for i, s in enumerate(bounded)]
    if pictures:
        says = (
            "What the Jacobians let through at most, with the bounds on it: gain, product and bounds, each under the "
            "next. They are from each sequence's last step; the gradient left is from all that were measured."
        )
        body += [tag("h3", "What could survive at most"), tag("p", says), figures(*pictures)]
    parted = [s for s in strands if len(s.now.part_lags) > 1]
    if parted:
        body += [tag("h3", "Through which part of the state"), figures(*_parts(parted))]
    return body


def _by_step(strands: Sequence[Strand]) -> list[Node]:
    seen = [s for s in strands if _measured(np.concatenate([s.now.direct, s.now.adjoint]))]
    if not seen:
        return []
    stretched = [s for s in seen if _measured(s.now.step_gain)]
    return [
        tag("h3", "The two gradients of a step"),
        tag(
            "p",
            "The direct gradient is what a hook on a layer's output shows: the loss seen from that output alone. "
            "The gradient through time adds every path through later steps; only this one tells what is learned.",
        ),
        figures(*_steps(seen)),
        *([figure("fig-gains", _gains(stretched))] if stretched else []),
    ]


def _far(strand: Strand, need: int | None) -> int:
    """The lag a headline speaks of: the task's, else the longest measured."""
    longest = strand.now.lags.longest()
    return min(longest, need) if need is not None else longest


def at(lags: LagProfile, lag: int) -> float:
    """The median at one lag."""
    found = np.flatnonzero(lags.lags == lag)
    return float(lags.median[found[0]]) if found.size else math.nan


def _headline(strands: Sequence[Strand], need: int | None) -> Node:
    parts = []
    for strand in strands:
        lag = _far(strand, need)
        now = words.left(at(strand.now.lags, lag))
        before = strand.before
        was = text(" (untrained {})", words.left(at(before.lags, lag))) if before and strand.trained else None
        parts.append(text("{} keeps {}{}", cell(strand.label, strand.colour), now, was))
    lags = {_far(strand, need) for strand in strands}
    back = words.some(min(lags), "step") if len(lags) == 1 else "the longest lag measured"
    return (
        text("At {} back, {} of the gradient.", back, joined(parts))
        if len(lags) == 1
        else text("At {}, {} of the gradient.", back, joined(parts))
    )


def _says(strands: Sequence[Strand]) -> str:
    dashed = " Dashed: the untrained net." if any(s.before and s.trained for s in strands) else ""
    return (
        f"Median over steps and sequences, band from first to third quartile.{dashed} Dotted across: 1%, the horizon."
    )


def _lowest(profiles: Sequence[LagProfile]) -> float:
    return min((float(p.median[np.isfinite(p.median)].min(initial=0.0)) for p in profiles), default=0.0)


def _reach(profiles: Sequence[LagProfile], beside: Sequence[LagProfile] = ()) -> tuple[float, float]:
    """The axis all cells share: down to what was seen, but never so far that the upper decades are lost."""
    low = min(-3.0, max(_lowest(profiles), FLOOR), max(_lowest(beside), BESIDE))
    high = max((float(p.upper[np.isfinite(p.upper)].max(initial=0.0)) for p in profiles), default=0.0)
    return float(math.floor(low)), math.ceil(high) + 0.5


def _profiles(strands: Sequence[Strand], need: int | None) -> Lines:
    series = []
    for s in strands:
        lags = s.now.lags
        series.append(Series(s.label, s.colour, lags.lags, lags.median, lags.lower, lags.upper, weight=2.5))
    for s in strands:
        if s.before is not None and s.trained:
            lags = s.before.lags
            series.append(Series(f"{s.label}, untrained", s.colour, lags.lags, lags.median, dash="dashed", weight=1.25))
    rules = [PERCENT]
    if need is not None:
        rules.append(Rule("x", float(need), f"the task's lag, {need}"))
    before = [s.before.lags for s in strands if s.before is not None and s.trained]
    low, high = _reach([s.now.lags for s in strands], before)
    return Lines(
        title="Share of the gradient left at each lag",
        note=shared(strands, "Ratio C(t, t−τ) / C(t, t), dimensionless, logarithmic axis on one absolute scale"),
        file="gradient-by-lag",
        x=Axis("lag τ, steps back"),
        y=Axis("share of the gradient left", "log10", low, high),
        series=tuple(series),
        rules=tuple(rules),
        height=430,
    )


def _horizons(strands: Sequence[Strand], need: int | None) -> Lines:
    series = []
    for s in strands:
        reached = [math.nan if f.lags.horizon() is None else float(f.lags.horizon() or 0) for f in s.flows]
        series.append(Series(s.label, s.colour, [float(f.update) for f in s.flows], reached))
    longest = max(f.lags.longest() for s in strands for f in s.flows)
    rules = [Rule("y", float(longest), f"longest lag measured, {longest}: a point here is “at least”")]
    if need is not None and need < longest:
        rules.append(Rule("y", float(need), f"the task's lag, {need}"))
    return Lines(
        title="Horizon while training",
        note=shared(strands, "Steps back that 1% of the gradient reaches"),
        file="horizon-by-update",
        x=Axis("update"),
        y=Axis("horizon, steps", "linear", 0.0, float(max(longest, need or 0)) * 1.08 or 1.0),
        series=tuple(series),
        rules=tuple(rules),
        height=260,
    )


def _bounds(strand: Strand, low: float, top: float) -> Lines:
    bounds = strand.now.bounds
    assert bounds is not None
    lags = strand.now.lags
    series = [
        Series("gradient left", strand.colour, lags.lags, lags.median, weight=2.5),
        Series("gain ‖P‖", "ink", bounds.lags, bounds.gain, weight=1.75),
        Series("product of ‖J‖", "ink", bounds.lags, bounds.steps, dash="dashed", weight=1.25),
    ]
    if bounds.local is not None:
        series.append(Series("local bound", "muted", bounds.lags, bounds.local, dash="dashed", weight=1.25))
    if bounds.globally is not None:
        series.append(Series("global bound (γλ)^τ", "muted", bounds.lags, bounds.globally, dash="dotted", weight=1.75))
    return Lines(
        title=strand.label,
        note=note([strand.now], "Spectral norms and their products, dimensionless; medians over steps and sequences"),
        file=f"bounds-{strand.label}",
        x=Axis("lag τ, steps back"),
        y=Axis("largest factor", "log10", low, top),
        series=tuple(series),
        rules=(Rule("y", 0.0, ""),),
        height=300,
    )


def _top(several: Sequence[Floats]) -> float:
    highest = max((float(values[np.isfinite(values)].max(initial=0.0)) for values in several), default=0.0)
    return min(12.0, max(2.0, math.ceil(highest)))


def _parts(strands: Sequence[Strand]) -> list[Html]:
    low, high = _reach([lags for s in strands for lags in s.now.part_lags.values()])
    pictures = []
    for i, s in enumerate(strands):
        series = tuple(
            Series(f"through {part}", s.colour, lags.lags, lags.median, lags.lower, lags.upper, dash=DASHES[n % 3])
            for n, (part, lags) in enumerate(s.now.part_lags.items())
        )
        drawn = Lines(
            title=f"{s.label}, by part of the state at k",
            note=note([s.now], "Ratio to C(t, t) of the whole state, dimensionless, logarithmic axis"),
            file=f"gradient-by-lag-and-part-{s.label}",
            x=Axis("lag τ, steps back"),
            y=Axis("share of the gradient left", "log10", low, high),
            series=series,
            rules=(PERCENT,),
            height=300,
        )
        pictures.append(figure(f"fig-parts-{i}", drawn))
    return pictures


def _steps(strands: Sequence[Strand]) -> list[Html]:
    """The direct gradient and the one through time, on one axis for all cells."""
    seen = np.concatenate([np.ravel(v[np.isfinite(v)]) for s in strands for v in (s.now.direct, s.now.adjoint)])
    high = math.ceil(float(seen.max())) + 0.5 if seen.size else 0.5
    low = max(high - SPAN, math.floor(float(seen.min())) - 0.5) if seen.size else high
    pictures = []
    for i, s in enumerate(strands):
        x = list(range(s.now.T))
        drawn = Lines(
            title=s.label,
            note=note([s.now], "2-norms of dL/dz and ∂⁺L/∂y, loss per unit of state; medians over sequences"),
            file=f"gradient-by-step-{s.label}",
            x=Axis("step k"),
            y=Axis("norm", "log10", min(low, high - 3.0), high),
            series=(
                Series("through time", s.colour, x, s.now.adjoint, weight=2.5),
                Series("direct", "muted", x, s.now.direct, dash="dashed", weight=1.5),
            ),
            height=280,
        )
        pictures.append(figure(f"fig-steps-{i}", drawn))
    return pictures


def _gains(strands: Sequence[Strand]) -> Lines:
    return Lines(
        title="Most that one step can stretch a gradient",
        note=shared(strands, "Spectral norm ‖J_k‖ of each step's Jacobian, dimensionless; medians over sequences"),
        file="gain-by-step",
        x=Axis("step k"),
        y=Axis("largest factor", "log10"),
        series=tuple(Series(s.label, s.colour, list(range(s.now.T)), s.now.step_gain) for s in strands),
        rules=(Rule("y", 0.0, ""),),
        height=240,
    )
