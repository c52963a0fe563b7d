"""Whether a state forgets or explodes by itself, and which of its directions many steps keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from throughtime.records import Floats, FlowRecord, LyapunovRecord, SingularRecord
from throughtime.view import words
from throughtime.view.figures import Axis, Dash, Lines, Map, Panel, Rule, Series
from throughtime.view.markup import Html, Node, joined, tag, text
from throughtime.view.page import Section, cell, figure, figures
from throughtime.view.subject import Strand, Subject
from throughtime.view.thin import row

QUESTION = "Does the state forget or explode by itself?"
SURE = 2.0  # standard errors from 0 that make an exponent one of forgetting or exploding
APART = 4.0  # standard errors by which the check may differ before it is said
LOW = -12.0  # decades that the singular values are drawn down to; the tables have the numbers
UNITS = 128  # of a direction, side by side at most
FAINT = -3.0  # decades that the components of a direction are drawn down to
QUANTILES = (("largest", 0.0), ("upper quarter", 0.25), ("median", 0.5), ("lower quarter", 0.75), ("smallest", 1.0))


@dataclass(frozen=True)
class _Measured:
    """One strand's spectra, and the exponents of the untrained net."""

    strand: Strand
    flow: FlowRecord
    lyapunov: LyapunovRecord | None
    singular: SingularRecord | None
    before: LyapunovRecord | None


def section(subject: Subject) -> Section | None:
    """Lyapunov exponents by rank, singular values by lag and the best kept directions; None if no record has them."""
    measured = [found for strand in subject.strands if (found := _found(strand)) is not None]
    if not measured:
        return None
    body: list[Node] = []
    ranked = [each for each in measured if each.lyapunov is not None and _finite(each.lyapunov.exponents).size]
    if ranked:
        body.append(figure("fig-exponents", _exponents(ranked), _says(ranked)))
    lagged = [each for each in measured if each.singular is not None and _finite(each.singular.log10_values).size]
    if lagged:
        body += [
            tag("h3", "What many steps do to a small change of the state"),
            tag(
                "p",
                "A change of the state can be taken apart into as many directions as the state has numbers. The "
                "largest singular value is what is left of the one that is kept best, the smallest of the least kept.",
            ),
            figures(*(figure(f"fig-singular-{i}", _by_lag(each)) for i, each in enumerate(lagged))),
            figure("fig-directions", _directions(lagged), "The best kept direction: where it starts, where it ends."),
        ]
    return Section("stretching", "Forget or explode", QUESTION, _headline(measured), tuple(body))


def _found(strand: Strand) -> _Measured | None:
    """The last measurement of a strand that has either."""
    flow = next((flow for flow in reversed(strand.flows) if flow.lyapunov or flow.singular), None)
    if flow is None:
        return None
    before = strand.before if flow.moment != "before" else None
    return _Measured(strand, flow, flow.lyapunov, flow.singular, before.lyapunov if before else None)


def _finite(values: Floats) -> Floats:
    return np.asarray(values[np.isfinite(values)])


def _headline(measured: Sequence[_Measured]) -> Node:
    parts = [
        text("{} {}", cell(each.strand.label, each.strand.colour), _verdict(each.lyapunov))
        for each in measured
        if each.lyapunov is not None
    ]
    if parts:
        return text("Under these inputs, {}.", joined(parts, between="; ", last="; "))
    kept = [
        text("{} of the best kept direction in {}", _kept(each.singular), cell(each.strand.label, each.strand.colour))
        for each in measured
        if each.singular is not None
    ]
    return text("At the longest lag measured there is left: {}.", joined(kept))


def _kept(record: SingularRecord) -> Html:
    return words.left(float(record.log10_values[-1, 0]))


def _verdict(record: LyapunovRecord) -> Html:
    """Forgets, explodes or keeps; by how much, how sure, and what that is in steps."""
    largest, error = float(record.exponents[0]), float(record.error[0])
    if math.isnan(largest):
        return Html("was not measured")
    if math.isinf(largest):
        return Html("loses everything within some steps, exactly")
    spread = f" ± {words.plain(error, 1)}" if math.isfinite(error) else ""
    check = f"; two neighbouring runs: {words.plain(record.check, 2)}" if math.isfinite(record.check) else ""
    if math.isfinite(error) and abs(record.check - largest) > APART * error + 0.01 * abs(largest):
        check += ", which does not fit"
    numbers = f"{words.plain(largest, 2)}{spread} nats a step{check}"
    if largest == 0 or abs(largest) <= SURE * (error if math.isfinite(error) else 0.0):
        return text("neither forgets nor explodes, as far as {} tell ({})", _steps(record.steps), numbers)
    turns = words.plain(1 / abs(largest), 2)
    if largest < 0:
        return text("forgets all but 1/e in {} steps ({})", turns, numbers)
    return text("explodes, e-fold in {} steps ({})", turns, numbers)


def _steps(steps: int) -> str:
    return words.some(steps, "step")


def _says(ranked: Sequence[_Measured]) -> str:
    lost = [
        f"{each.strand.label}: {words.some(count, 'direction is', 'directions are')} lost altogether"
        for each in ranked
        if each.lyapunov is not None and (count := int(np.isneginf(each.lyapunov.exponents).sum()))
    ]
    dashed = "Dashed: the untrained net. " if any(each.before for each in ranked) else ""
    return (
        f"Under 0 a direction is forgotten, over 0 it explodes. {dashed}{'; '.join(lost)}{'.' if lost else ''}".strip()
    )


def _exponents(ranked: Sequence[_Measured]) -> Lines:
    series = []
    for each in ranked:
        for record, now in ((each.lyapunov, True), (each.before, False)):
            if record is None:
                continue
            # Lost directions have no place on this axis; the caption counts them.
            there = np.flatnonzero(np.isfinite(record.exponents))
            name = each.strand.label if now else f"{each.strand.label}, untrained"
            dash: Dash = "solid" if now else "dashed"
            values = record.exponents[there]
            series.append(Series(name, each.strand.colour, there + 1, values, dash=dash, weight=2.5 if now else 1.25))
    return Lines(
        title="Lyapunov exponents of the whole state, largest first",
        note=_exponents_note(ranked),
        file="lyapunov-exponents",
        x=Axis("rank"),
        y=Axis("exponent, nats a step"),
        series=tuple(series),
        rules=(Rule("y", 0.0, "0: kept as it is"),),
        height=380,
    )


def _exponents_note(ranked: Sequence[_Measured]) -> str:
    records = [each.lyapunov for each in ranked if each.lyapunov is not None]
    taken = dict.fromkeys(
        f"{_steps(r.steps)} of {words.some(r.sequences, 'sequence')} after {_steps(r.transient)}" for r in records
    )
    layers = dict.fromkeys(each.flow.layer for each in ranked)
    dtypes = dict.fromkeys(r.dtype for r in records)
    return (
        "Boundary derivative, all parts of the state. Mean growth of ln |volume| that each direction adds, nats a "
        f"step. Computed in {', '.join(dtypes)} on {', '.join(taken)}, layer {', '.join(layers)}."
    )


def _by_lag(each: _Measured) -> Lines:
    record = each.singular
    assert record is not None
    last = record.log10_values.shape[1] - 1
    places = dict[int, int]()  # a small state has fewer of them
    for n, (_, share) in enumerate(QUANTILES):
        places.setdefault(round(share * last), n)
    tones = (each.strand.colour, "muted", "ink", "muted", each.strand.colour)
    dashes: tuple[Dash, ...] = ("solid", "dashed", "solid", "dotted", "dashed")
    series = tuple(
        Series(QUANTILES[n][0], tones[n], record.lags, record.log10_values[:, place], dash=dashes[n])
        for place, n in places.items()
    )
    seen = _finite(record.log10_values)
    high = math.ceil(float(seen.max())) + 0.5
    return Lines(
        title=f"{each.strand.label}: what is left of each direction",
        note=(
            "Boundary derivative: singular values of P(t, t−τ), dimensionless, t each sequence's last step; "
            f"logarithmic axis. Computed in {record.dtype} on {words.some(record.sequences, 'sequence')}, layer "
            f"{each.flow.layer}."
        ),
        file=f"singular-values-{each.strand.label}",
        x=Axis("lag τ, steps back"),
        y=Axis("factor", "log10", min(-3.0, max(LOW, math.floor(float(seen.min())))), max(high, 0.5)),
        series=series,
        rules=(Rule("y", 0.0, "1: kept as it is"),),
        height=320,
    )


def _directions(lagged: Sequence[_Measured]) -> Map:
    widest = max(each.flow.H for each in lagged)
    width = max(1, math.ceil(widest / UNITS))
    blocked = f" Each square is the largest of {width} units." if width > 1 else ""
    panels = []
    for each in lagged:
        assert each.singular is not None
        names, rows = [], []
        for way, direction in (("from", each.singular.stretched), ("into", each.singular.into)):
            for part, values in zip(each.flow.parts, np.split(direction, len(each.flow.parts)), strict=True):
                names.append(f"{way} {part}")
                with np.errstate(divide="ignore"):
                    rows.append(row(np.log10(np.abs(values)).round(2), width))
        lag = _steps(int(each.singular.lags[-1]))
        panels.append(Panel(f"{each.strand.label}, over {lag}", rows, tuple(names)))
    return Map(
        title="In which units the best kept direction lies",
        note=(
            "First singular vectors of P(t, t−τ) at the longest lag, of the first sequence measured: sizes of their "
            f"components, of a length of 1 in all.{blocked}"
        ),
        file="best-kept-direction",
        x="unit",
        y="",
        scale=Axis("component", "log10", FAINT, 0.0),
        panels=tuple(panels),
        block=width,
    )
