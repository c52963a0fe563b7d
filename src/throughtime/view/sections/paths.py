"""Which way the gradient travelled: along which ports, how often off the carousel, and the lectures' two paths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from throughtime.records import CarouselRecord, Floats, FlowRecord, PathRecord
from throughtime.view import words
from throughtime.view.figures import DASHES, PERCENT, Axis, Dash, Lines, Series
from throughtime.view.markup import Html, Node, joined, tag, text
from throughtime.view.page import Section, cell, figure, figures
from throughtime.view.sections.notes import DERIVATIVE
from throughtime.view.subject import Strand, Subject
from throughtime.view.tables import table
from throughtime.view.thin import lines

QUESTION = "Which way did the gradient travel?"
FLOOR = -12.0  # a share under this is as good as none to an optimiser; the tables have the numbers
ROOF = 6.0  # a bound over this says no more than that it does
SHOWN = 5  # ports drawn one by one where there is no carousel
POINTS = 50  # of a line, which is smooth
# How often a path leaves the carousel, in words, with the line that stands for it.
OFTEN: tuple[tuple[str, str, Dash], ...] = (
    ("{} alone", "ink", "solid"),
    ("left {} once", "ink", "dashed"),
    ("left {} twice", "ink", "dotted"),
    ("left {} {} times", "muted", "dotted"),
)


@dataclass(frozen=True)
class _Travelled:
    """One strand's path families."""

    strand: Strand
    flow: FlowRecord
    paths: PathRecord

    @property
    def parted(self) -> bool:
        """Whether there is more than one way."""
        return len(self.paths.only) > 1


def section(subject: Subject) -> Section | None:
    """Gradient left by lag along families of paths, each port by itself, t0 and t1; None if no record has them."""
    found = [each for strand in subject.strands if (each := _found(strand)) is not None]
    if not found:
        return None
    need = subject.data.lag if subject.data else None
    parted = [each for each in found if each.parted]
    body: list[Node] = []
    if parted:
        low, high = _reach([values for each in parted for values in _most(each.paths)])
        round_ = (
            "The carousel hands the old state on, at most shrunk by a gate; every other port leads through a gate or a "
            "candidate. "
            if any(each.paths.carousel for each in parted)
            else ""
        )
        says = (
            f"A path from one step to another takes one of the cell's ports at each step. {round_}Paths can cancel "
            "each other, so shares need not add up."
        )
        body += [tag("p", says), figures(*(_by_family(each, i, low, high) for i, each in enumerate(parted)))]
        body += [tag("h3", "Each port alone, and all the others"), tag("div", _table(parted, need), class_="scroll")]
    kept = [(each, each.flow.carousel) for each in found if each.flow.carousel is not None]
    if kept:
        shares = [values for _, record in kept for values in (record.t0, record.kept_backward) if values is not None]
        bounds = [record.t1_bound for _, record in kept if record.t1_bound is not None]
        low, high = _reach(shares)[0], _reach([*shares, *bounds])[1]
        says = (
            "Round the carousel alone (t0) a gradient vanishes only where the forget gates make it; along the output "
            "gate's loop alone (t1) it has a bound, which over 1 lets it explode. The share of the state that is kept "
            "going forward is the share of the gradient that is kept going backward: what was forgotten is not blamed."
        )
        body += [tag("h3", "Round the carousel, and what is fair"), tag("p", says)]
        body.append(figures(*(_two_paths(each, record, i, low, high) for i, (each, record) in enumerate(kept))))
    return Section("paths", "Which way it went", QUESTION, _headline(found, need), tuple(body))


def _found(strand: Strand) -> _Travelled | None:
    """The last measurement of a strand that followed paths."""
    flow = next((flow for flow in reversed(strand.flows) if flow.paths is not None), None)
    return None if flow is None or flow.paths is None else _Travelled(strand, flow, flow.paths)


def _lag(paths: PathRecord, need: int | None) -> int:
    """The lag that is spoken of: the task's, else the farthest that 1% of the gradient still reaches."""
    measured = np.flatnonzero(~np.isnan(paths.whole))
    longest = int(paths.lags[measured[-1]]) if measured.size else 0
    if need is not None:
        return min(longest, need)
    reached = np.flatnonzero(paths.whole >= PERCENT.at)
    return max(min(1, longest), int(paths.lags[reached[-1]]) if reached.size else 0)


def _at(paths: PathRecord, values: Floats, lag: int) -> float:
    place = np.flatnonzero(paths.lags == lag)
    return float(values[place[0]]) if place.size else math.nan


def _lead(paths: PathRecord, lag: int) -> str:
    """The port that is spoken of: the carousel, else the one that by itself brings most."""
    alone = {port: _at(paths, values, lag) for port, values in paths.only.items()}
    return paths.carousel or max(alone, key=lambda port: -math.inf if math.isnan(alone[port]) else alone[port])


def _headline(found: Sequence[_Travelled], need: int | None) -> Node:
    parts: list[Html] = []
    said: set[str] = set()  # ports that a cell before this one spelt out
    for each in sorted(found, key=lambda each: not each.parted):
        name, paths = cell(each.strand.label, each.strand.colour), each.paths
        lag = _lag(paths, need)
        left = _at(paths, paths.whole, lag)
        if math.isnan(left):
            parts.append(text("{} was not measured", name))
        elif not each.parted:
            parts.append(text("{} has one way only", name))
        else:
            port = _lead(paths, lag)
            alone, closed = (words.left(_at(paths, its[port], lag)) for its in (paths.only, paths.without))
            pattern = "{} and {}" if port in said else "{} along {} alone, {} without it"
            ways = text(pattern, *((alone, closed) if port in said else (alone, _the(paths, port), closed)))
            of = "" if said else " of the gradient"
            back = words.some(lag, "step")
            parts.append(text("{} back {} keeps {}{}: {}", back, name, words.left(left), of, ways))
            said.add(port)
    return text("{}.", joined(parts, between="; ", last="; "))


def _the(paths: PathRecord, port: str) -> str:
    return f"the {port}" if port == paths.carousel else port


def _by_family(each: _Travelled, number: int, low: float, high: float) -> Html:
    paths = each.paths
    series = [Series("every path", each.strand.colour, paths.lags, paths.whole, weight=2.75)]
    if paths.carousel is None or paths.excursions is None:
        for n, port in enumerate(_farthest(paths)):
            tone = "ink" if n < len(DASHES) else "muted"
            series.append(Series(f"{port} alone", tone, paths.lags, paths.only[port], dash=DASHES[n % 3], weight=1.5))
    else:
        for m, values in enumerate(paths.excursions):
            name, tone, dash = OFTEN[min(m, len(OFTEN) - 1)]
            name = name.format(_the(paths, paths.carousel), m)
            series.append(Series(name, tone, paths.lags, values, dash=dash, weight=1.5))
        closed = paths.without[paths.carousel]
        name = f"{_the(paths, paths.carousel)} closed"
        series.append(Series(name, each.strand.colour, paths.lags, closed, dash="dashed", weight=1.5))
    unit = f"{DERIVATIVE['boundary']}. Ratio to C(t, t), dimensionless, logarithmic axis"
    drawn = Lines(
        title=each.strand.label,
        note=_note(each.flow, paths, unit),
        file=f"paths-{each.strand.label}",
        x=Axis("lag τ, steps back"),
        y=Axis("share of the gradient left", "log10", low, high),
        series=tuple(series),
        rules=(PERCENT,),
        height=340,
    )
    return figure(f"fig-paths-{number}", lines(drawn, POINTS))


def _farthest(paths: PathRecord) -> list[str]:
    """The ports that bring anything farther than one step by themselves, those that bring most first."""
    alone = {port: values[2:][np.isfinite(values[2:])] for port, values in paths.only.items()}
    there = {port: float(values.mean()) for port, values in alone.items() if values.size}
    return sorted(there, key=lambda port: -there[port])[:SHOWN]


def _two_paths(each: _Travelled, record: CarouselRecord, number: int, low: float, high: float) -> Html:
    colour, lags = each.strand.colour, record.lags
    series = [Series("t0, the carousel alone", colour, lags, record.t0, weight=2.75)]
    if record.t1 is not None:
        series.append(Series("t1, the output gate's loop alone", "ink", lags, record.t1, weight=1.75))
    if record.t1_bound is not None:
        series.append(Series("bound of t1, (‖K‖ ‖Wₒ‖)^τ", "ink", lags, record.t1_bound, dash="dashed", weight=1.25))
    if record.kept_forward is not None and record.kept_backward is not None:
        series.append(Series("state kept, forward", "muted", lags, record.kept_forward, weight=4.5))
        series.append(Series("gradient kept, backward", "ink", lags, record.kept_backward, dash="dotted", weight=2.0))
    unit = (
        "t0 is the gradient at the node s_k, t1 that at h_k, as ratios to ‖δ_t‖; what is kept, a mean over units; "
        "dimensionless, logarithmic axis"
    )
    drawn = Lines(
        title=each.strand.label,
        note=_note(each.flow, record, unit),
        file=f"carousel-{each.strand.label}",
        x=Axis("lag τ, steps back"),
        y=Axis("share left", "log10", low, high),
        series=tuple(series),
        rules=(PERCENT,),
        height=340,
    )
    return figure(f"fig-carousel-{number}", lines(drawn, POINTS))


def _table(parted: Sequence[_Travelled], need: int | None) -> Html:
    heads: list[Node] = ["Port", "Steps back", "Left along it alone", "Left without it"]
    rows: list[list[Node]] = []
    for each in parted:
        lag = _lag(each.paths, need)
        for port, alone in each.paths.only.items():
            name = text("{} {}", cell(each.strand.label, each.strand.colour), port)
            without = words.left(_at(each.paths, each.paths.without[port], lag))
            rows.append([name, words.count(lag), words.left(_at(each.paths, alone, lag)), without])
    return table(heads, rows)


def _most(paths: PathRecord) -> tuple[Floats, ...]:
    """Every path, and those that bring most of it: what the axis has to show."""
    if paths.excursions is not None:
        return paths.whole, *paths.excursions
    return paths.whole, *(paths.only[port] for port in _farthest(paths)[:1])


def _reach(several: Sequence[Floats]) -> tuple[float, float]:
    """The axis all cells share."""
    seen = np.concatenate([values[np.isfinite(values)] for values in several] or [np.zeros(0)])
    low = min(-3.0, max(FLOOR, math.floor(float(seen.min(initial=0.0)))))
    return low, min(ROOF, math.ceil(float(seen.max(initial=0.0)))) + 0.5


def _note(flow: FlowRecord, record: PathRecord | CarouselRecord, unit: str) -> str:
    most = int(record.pairs.max(initial=0))
    fewer = ", fewer at long lags" if bool((record.pairs < most).any()) else ""
    return (
        f"{unit}. Medians over {words.some(most, 'source')} (steps t of sequences){fewer}. Computed in {record.dtype}, "
        f"layer {flow.layer}."
    )
