"""How far back each cell learns, and whether that is enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from throughtime.records import DataCard
from throughtime.view import words
from throughtime.view.figures import Axis, Bar, Bars, Rule
from throughtime.view.markup import Html, Node, joined, tag, text
from throughtime.view.page import Section, cell, figure
from throughtime.view.sections.learning import held_out
from throughtime.view.sections.notes import shared
from throughtime.view.subject import Strand, Subject
from throughtime.view.tables import table


@dataclass(frozen=True)
class Judgement:
    """Whether a horizon is enough."""

    enough: Literal["yes", "no", "open"]
    says: str


def judge(strand: Strand, data: DataCard | None) -> Judgement:
    """Hold a strand's horizon against the lag its task is built on."""
    lags = strand.now.lags
    reached = lags.horizon()
    if reached is None:
        return Judgement("open", "Cannot be told: no lag was measured.")
    need = data.lag if data is not None and data.lag is not None else strand.now.lag
    if need is None:
        if words.censored(lags):
            whole = lags.longest() >= strand.now.before + strand.now.T - 1
            far = "Over the whole sequence" if whole else "As far as was measured"
            return Judgement("yes" if whole else "open", f"{far}: {words.some(lags.longest(), 'step')}.")
        if strand.found:
            there = words.some(strand.now.T - 1, "step")
            said = f"{words.count(reached)} of the {there} there are; how many the task needs is not known."
            return Judgement("open", said)
        room = _room(data) or f"{words.count(strand.now.T)} were looked at"
        return Judgement("open", f"{words.some(reached, 'step')}; {room}; how many the task needs is not known.")
    if reached >= need:
        return Judgement("yes", f"Enough: the task needs {words.some(need, 'step')}.")
    if words.censored(lags):
        return Judgement("open", f"Cannot be told: the task needs {need}, only {lags.longest()} were measured.")
    return Judgement("no", f"Not enough: {words.some(need - reached, 'step')} short of the {need} the task needs.")


def headline(subject: Subject) -> Node:
    """One sentence with each cell's horizon and what the task needs."""
    measured = [s for s in subject.strands if s.now.lags.horizon() is not None]
    if not measured:
        return "How far back the gradient reaches was not measured, so there is no verdict."
    each = [
        text("{} {} back in {}", words.horizon(s.now.lags), "step" if s.now.lags.horizon() == 1 else "steps", _cell(s))
        for s in measured
    ]
    need = subject.data.lag if subject.data else None
    room = f"the task needs {words.count(need)}" if need is not None else _room(subject.data)
    if need is None and subject.found:
        room = ""
    end = f"; {room}." if room else "."
    return text("1% of the gradient still reaches {}{}", joined(each), end)


def _room(data: DataCard | None) -> str:
    """How long a sequence is, which is as far as there is to reach; nothing of a stream, which has no beginning."""
    if data is None or data.kind == "next":
        return ""
    shortest, middle, longest = data.lengths
    if shortest == longest:
        return f"a sequence has {words.some(longest, data.step)}"
    return f"a sequence has {words.some(middle, data.step)} in the middle, {words.count(longest)} at most"


def _cell(strand: Strand) -> Html:
    return cell(strand.label, strand.colour)


def _score(subject: Subject, strand: Strand) -> Node:
    held = held_out(strand.run) if strand.run else None
    return "–" if held is None else words.score(subject.data, held.score)


def section(subject: Subject) -> Section:
    """The verdict for each cell."""
    rows = []
    bars = []
    for strand in subject.strands:
        judgement = judge(strand, subject.data)
        untrained = words.horizon(strand.before.lags) if strand.before and strand.trained else "–"
        row: list[Node] = [
            _cell(strand),
            tag("span", words.horizon(strand.now.lags), class_="big"),
            words.half_life(strand.now.lags),
            words.decay(strand.now.lags),
            strand.now.cell if subject.found else untrained,
            words.count(strand.now.T) if subject.found else _score(subject, strand),
            tag("span", judgement.says, class_=f"judged {judgement.enough}"),
        ]
        rows.append(row)
        bars += _bars(strand)
    heads = (
        "Cell",
        "Horizon, steps",
        "Half-life, steps",
        "Then halves every, steps",
        "Horizon untrained",
        "Held-out score",
        "Is that enough?",
    )
    if subject.found:
        heads = (
            "Layer",
            "Horizon, steps",
            "Half-life, steps",
            "Then halves every, steps",
            "Cell",
            "Steps",
            "Is that enough?",
        )
    need = subject.data.lag if subject.data else None
    chart = Bars(
        title="How many steps back 1% of the gradient still reaches",
        note=shared(subject.strands, "Steps; “at least” where the gradient was still there at the longest lag measured")
        if subject.strands
        else "",
        file="horizon",
        axis=Axis("steps back", "linear", 0.0, _right(subject)),
        bars=tuple(bars),
        rules=(Rule("x", float(need), f"the task's lag, {need}"),) if need is not None else (),
    )
    verdict = tag("div", tag("div", table(heads, rows, stack=True), class_="scroll verdicts"), class_="verdict")
    says = "Filled: as trained. Open: before training." if any(bar.hollow for bar in bars) else None
    body: tuple[Node, ...] = (verdict, figure("fig-horizon", chart, says)) if bars else ()
    return Section(
        "verdict", "How far back", "How far back does it learn, and is that enough?", headline(subject), body
    )


def _right(subject: Subject) -> float:
    longest = max((flow.lags.longest() for strand in subject.strands for flow in strand.flows), default=1)
    need = subject.data.lag if subject.data and subject.data.lag is not None else 0
    return float(max(longest, need, 1))


def _bars(strand: Strand) -> list[Bar]:
    found = []
    moments = [(strand.state, strand.now, not strand.trained)]
    if strand.trained and strand.before is not None:
        moments.append(("untrained", strand.before, True))
    for name, flow, hollow in moments:
        reached = flow.lags.horizon()
        value = math.nan if reached is None else float(reached)
        at_least = words.censored(flow.lags)
        found.append(Bar(strand.label, name, strand.colour, value, words.horizon(flow.lags), hollow, at_least))
    return found
