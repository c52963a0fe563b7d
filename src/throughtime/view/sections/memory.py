"""What the last state still remembers of its inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from throughtime.records import FlowRecord, LagProfile
from throughtime.view import words
from throughtime.view.figures import PERCENT, Axis, Lines, Rule, Series
from throughtime.view.markup import Node, joined, text
from throughtime.view.page import Section, cell, figure
from throughtime.view.subject import Strand, Subject
from throughtime.view.thin import lines

QUESTION = "What does the last state still remember?"
FLOOR = -12.0  # decades down that the axis goes at most; the table has the numbers
POINTS = 80  # of a line, which is smooth

_Kept = tuple[Strand, FlowRecord, LagProfile]


def section(subject: Subject) -> Section | None:
    """What is left of each input in the last state, by how long ago it was; None if no record has it."""
    kept = [found for strand in subject.strands if (found := _found(strand)) is not None]
    if not kept:
        return None
    need = subject.data.lag if subject.data else None
    dashed = " Dashed: the untrained net." if any(_before(strand, flow) for strand, flow, _ in kept) else ""
    says = f"Median over sequences, band from first to third quartile.{dashed} Dotted across: 1%."
    return Section(
        "memory",
        "What is remembered",
        QUESTION,
        _headline(kept, need),
        (figure("fig-memory", lines(_drawn(kept, need), POINTS), says),),
    )


def _found(strand: Strand) -> _Kept | None:
    """The last measurement of a strand that has memory by lag."""
    return next(((strand, flow, flow.memory) for flow in reversed(strand.flows) if flow.memory is not None), None)


def _before(strand: Strand, flow: FlowRecord) -> LagProfile | None:
    """The same of the untrained net, where that is another measurement."""
    return strand.before.memory if strand.before is not None and flow.moment != "before" else None


def _headline(kept: Sequence[_Kept], need: int | None) -> Node:
    parts = []
    for strand, _, memory in kept:
        unit = "" if memory.horizon() is None else " step" if memory.horizon() == 1 else " steps"
        parts.append(text("{}{} in {}", words.horizon(memory), unit, cell(strand.label, strand.colour)))
    tail = "" if need is None else f"; the task needs {words.count(need)}"
    says = joined(parts, between="; ", last="; ")
    return text("For how long the last state keeps 1% of an input: {}{}.", says, tail)


def _drawn(kept: Sequence[_Kept], need: int | None) -> Lines:
    series = [
        Series(strand.label, strand.colour, m.lags, m.median, m.lower, m.upper, weight=2.5) for strand, _, m in kept
    ]
    for strand, flow, _ in kept:
        before = _before(strand, flow)
        if before is not None:
            name = f"{strand.label}, untrained"
            series.append(Series(name, strand.colour, before.lags, before.median, dash="dashed", weight=1.25))
    rules = [PERCENT]
    if need is not None and need <= max(m.longest() for _, _, m in kept):
        rules.append(Rule("x", float(need), f"the task's lag, {need}"))
    seen = np.concatenate([m.median[np.isfinite(m.median)] for _, _, m in kept])
    upper = np.concatenate([m.upper[np.isfinite(m.upper)] for _, _, m in kept])
    low = max(FLOOR, math.floor(float(seen.min(initial=0.0))))
    return Lines(
        title="What is left of an input in the last state, by how long ago it was read",
        note=_note(kept),
        file="memory-by-lag",
        x=Axis("read so many steps before the last, τ"),
        y=Axis(
            "share of the last input's weight", "log10", min(-3.0, float(low)), math.ceil(upper.max(initial=0.0)) + 0.5
        ),
        series=tuple(series),
        rules=tuple(rules),
        height=380,
    )


def _note(kept: Sequence[_Kept]) -> str:
    several = dict.fromkeys(words.some(int(m.pairs.max(initial=0)), "sequence") for _, _, m in kept)
    dtypes = dict.fromkeys(flow.dtype for _, flow, _ in kept)
    layers = dict.fromkeys(flow.layer for _, flow, _ in kept)
    return (
        "Going forward: ‖∂z(t)/∂x(t−τ)‖ / ‖∂z(t)/∂x(t)‖ in the Frobenius norm, t the last step of a sequence; "
        f"dimensionless. Computed in {', '.join(dtypes)} on {', '.join(several)}, layer {', '.join(layers)}."
    )
