"""What the gates wrote, kept and erased."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from throughtime.records import Example, Floats, FlowRecord
from throughtime.view import words
from throughtime.view.figures import DASHES, Axis, Bar, Bars, Lines, Series, Strip, StripRow
from throughtime.view.markup import Html, Node, joined, tag, text
from throughtime.view.page import Section, cell, figure, figures
from throughtime.view.sections.notes import DERIVATIVE, shared
from throughtime.view.subject import Strand, Subject
from throughtime.view.tables import table

QUESTION = "What did the gates write, keep and erase?"
EXAMPLES = 2  # of a cell
STEPS = 120  # of an example
DECADES = 8  # that the scales of memory and blame span at most


def section(subject: Subject, step: str) -> Section:
    """Openings by step, saturation, ports, and real sequences with gates and memory over their words."""
    strands = list(subject.strands)
    gated = [s for s in strands if s.now.gates]
    body: list[Node] = []
    if gated:
        body.append(tag("div", _table(gated), class_="scroll"))
        body.append(
            tag("p", "For a candidate that goes under 0 the first share is of values under −0.9.", class_="small")
        )
        body.append(figures(*(figure(f"fig-gates-{i}", _openings(s)) for i, s in enumerate(gated))))
    ported = [s for s in strands if s.now.ports]
    if ported:
        says = "Each place where a step reads the state before; the ports' Jacobians add up to the step's."
        body += [tag("h3", "What carries the gradient one step back"), figure("fig-ports", _ports(ported), says)]
    shown = [s for s in strands if s.now.examples]
    if shown:
        body.append(tag("h3", "Real sequences, as the nets read them"))
        scales = _scales([example for s in shown for example in s.now.examples[:EXAMPLES]])
        for n in range(EXAMPLES):
            for i, s in enumerate(shown):
                for example in s.now.examples[n : n + 1]:
                    body.append(figure(f"fig-example-{n}-{i}", _strip(s, example, n, step, scales), _answer(example)))
    return Section("gates", "Gates and memory", QUESTION, _headline(strands, gated), tuple(body))


def _keeping(flow: FlowRecord) -> tuple[str, float] | None:
    """The gate that decides what is kept, and its mean opening."""
    there = (gate.gate for gate in flow.memory_gates if gate.sign > 0 and gate.gate in flow.gates)
    name = next(there, None)
    return None if name is None else (name, float(np.mean(flow.gates[name].mean)))


def _headline(strands: Sequence[Strand], gated: Sequence[Strand]) -> Node:
    if not strands:
        return "Nothing was measured."
    if not gated:
        names = joined(cell(s.label, s.colour) for s in strands)
        return text(
            "{} {} no gates: every step overwrites the whole state.", names, "has" if len(strands) == 1 else "have"
        )
    parts: list[Html] = []
    for s in gated:
        kept = _keeping(s.now)
        if kept is None:
            means = joined(f"{name} {words.plain(float(np.mean(g.mean)), 2)}" for name, g in s.now.gates.items())
            parts.append(text("{} opens its gates on average {}", cell(s.label, s.colour), means))
            continue
        name, mean = kept
        half = math.log(0.5) / math.log(mean) if 0 < mean < 1 else math.nan
        lasts = f", so half is left after {words.some(max(1, round(half)), 'step')}" if math.isfinite(half) else ""
        share = words.percent(mean)
        parts.append(
            text("{} keeps {} of its memory at each step (mean {} gate{})", cell(s.label, s.colour), share, name, lasts)
        )
    rest = [s for s in strands if s not in gated]
    tail = (
        text("; {} {} no gates", joined(cell(s.label, s.colour) for s in rest), "has" if len(rest) == 1 else "have")
        if rest
        else None
    )
    return text("{}{}.", joined(parts, between="; ", last="; "), tail)


def _table(gated: Sequence[Strand]) -> Node:
    heads = ("Cell", "Gate", "Mean", "Under 0.1", "Over 0.9", "Units from", "to", "Saturated")
    rows = []
    for s in gated:
        for name, gate in s.now.gates.items():
            lowest, highest = (words.plain(float(f(gate.unit_mean)), 2) for f in (np.min, np.max))
            saturated = s.now.saturation.get(name)
            shares = (words.percent(float(np.mean(gate.low))), words.percent(float(np.mean(gate.high))))
            rows.append(
                (
                    cell(s.label, s.colour), name, words.plain(float(np.mean(gate.mean)), 2), *shares,
                    lowest, highest, "not measured" if saturated is None else words.percent(saturated),
                )
            )  # fmt: skip
    return table(heads, rows, stack=True)


def _openings(strand: Strand) -> Lines:
    flow = strand.now
    x = list(range(flow.T))
    tones = (strand.colour, "ink", "muted")
    series = tuple(
        Series(name, tones[n % 3], x, gate.mean, dash=DASHES[n // 3 % 3], weight=2.25 if n % 3 == 0 else 1.75)
        for n, (name, gate) in enumerate(flow.gates.items())
    )
    low = min((float(np.nanmin(gate.mean)) for gate in flow.gates.values()), default=0.0)
    return Lines(
        title=f"{strand.label}: mean opening by step",
        note=f"Means over {words.some(flow.B, 'sequence')} and {words.some(flow.H, 'unit')}; 0 shut, 1 open "
        "(a candidate has its activation's own range). Values going forward, no derivative.",
        file=f"gates-{strand.label}",
        x=Axis("step"),
        y=Axis("mean opening", "linear", -1.0 if low < 0 else 0.0, 1.0),
        series=series,
        height=280,
    )


def _median(values: Floats) -> float:
    measured = values[~np.isnan(values)]
    return float(np.median(measured)) if measured.size else math.nan


def _ports(strands: Sequence[Strand]) -> Bars:
    bars = []
    for s in strands:
        for port, values in s.now.ports.items():
            middle = _median(np.asarray(values, float))
            said = (
                "not measured"
                if math.isnan(middle)
                else "exactly 0"
                if math.isinf(middle)
                else words.plain(10**middle, 2)
            )
            bars.append(Bar(s.label, port, s.colour, middle, said))
    finite = [bar.value for bar in bars if math.isfinite(bar.value)]
    low = math.floor(min([*finite, -2.0]))
    return Bars(
        title="Share of the gradient that each read of the state carries one step back",
        note=shared(
            strands, "Ratio ‖a J(port)‖ / ‖a‖, dimensionless, logarithmic axis; medians over steps and sequences"
        ),
        file="ports",
        axis=Axis("share carried", "log10", float(max(low, -8)), float(math.ceil(max([*finite, 0.0])))),
        bars=tuple(bars),
    )


def _answer(example: Example) -> str:
    right = "right" if example.truth == example.answer else "wrong"
    return f"Answers “{example.answer}”, the truth is “{example.truth}”: {right}."


def _numeric(steps: Sequence[str]) -> bool:
    """Whether the steps are numbers as text, which nobody reads as a line."""
    try:
        [float(step) for step in steps]
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Scales:
    """The colour scales that all examples of a report share."""

    size: Axis
    memory: Axis
    blame: Axis


def _scales(examples: Sequence[Example]) -> Scales:
    states = np.concatenate([np.ravel(v) for e in examples for v in e.state.values()] or [np.zeros(1)])
    largest = float(np.max(states[np.isfinite(states)], initial=0.0))
    return Scales(
        Axis("size, root mean square", "linear", 0.0, float(f"{largest:.2g}") or 1.0),
        Axis("‖∂z_T/∂x_k‖", "log10", *_decades(np.concatenate([e.memory for e in examples]))),
        Axis("‖dL/dz_k‖", "log10", *_decades(np.concatenate([e.blame for e in examples]))),
    )


def _decades(values: Floats) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return -1.0, 0.0
    high = math.ceil(float(finite.max()))
    return float(max(min(math.floor(float(finite.min())), high - 1), high - DECADES)), float(high)


def _strip(strand: Strand, example: Example, n: int, step: str, scales: Scales) -> Strip:
    T = len(example.steps)
    first = max(0, T - STEPS)
    cut = slice(first, T)
    rows = [StripRow(name, _opening(gate), gate[cut]) for name, gate in example.gates.items()]
    rows += [StripRow(f"state {part}", scales.size, size[cut]) for part, size in example.state.items()]
    rows.append(StripRow("still in memory", scales.memory, example.memory[cut]))
    rows.append(StripRow("blamed", scales.blame, example.blame[cut]))
    left = f" The first {words.some(first, step)} {'is' if first == 1 else 'are'} left out." if first else ""
    return Strip(
        title=f"Example {n + 1}, {strand.label}",
        note=f"From the top: {', '.join(row.name for row in rows)}. “Still in memory” is what the last state still "
        f"holds of each {step}, “blamed” the gradient through time there.{left} "
        + f"{DERIVATIVE[strand.now.derivative]}. The same absolute scales for every example. Computed in "
        f"{strand.now.dtype} on this sequence alone, layer {strand.now.layer}.",
        file=f"example-{strand.label}-{n + 1}",
        layout="grid" if _numeric(example.steps) else "text",
        step=step,
        words=example.steps[cut],
        rows=tuple(rows),
    )


def _opening(gate: Floats) -> Axis:
    """A gate's range; a candidate that goes under 0 has its activation's."""
    return Axis("opening", "linear", -1.0 if bool((gate < 0).any()) else 0.0, 1.0)
