"""What was measured in a model of somebody's own, on what, and how to do it again."""

from __future__ import annotations

from throughtime.records import DataCard, Measurement
from throughtime.view import words
from throughtime.view.markup import Node, joined, tag, text
from throughtime.view.page import Section, cell, facts
from throughtime.view.subject import Subject
from throughtime.view.tables import table

TASKS = {
    "classification": "one class a sequence",
    "regression": "numbers for each sequence",
    "next": "the next step, at every step",
}
HEADS = ("Layer", "Cell", "Units", "Sequences followed", "Steps", "Precision", "Time to measure")


def section(subject: Subject, measurement: Measurement) -> Section:
    """Command, model, data, loss, versions, machine; the layers."""
    body: list[Node] = []
    if measurement.command:
        body.append(tag("pre", tag("code", measurement.command), class_="command", tabindex=0))
    body += [tag("div", _layers(subject), class_="scroll"), _where(measurement)]
    notes = list(measurement.notes)
    if any(flow.place is not None and flow.place.direction for flow in measurement.flows):
        notes.append("A layer that reads backwards (…_reverse) counts its steps as it reads: 0 is a sequence's last.")
    if notes:
        body += [tag("h3", "How the model was called"), tag("ul", (tag("li", n) for n in notes))]
    question = "What was measured, and how do I repeat it?"
    return Section("repeat", "How to repeat it", question, _headline(subject, measurement), tuple(body))


def _headline(subject: Subject, measurement: Measurement) -> Node:
    names = joined(cell(strand.label, strand.colour) for strand in subject.strands)
    spent = words.duration(sum(strand.now.seconds for strand in subject.strands))
    return text("{} of {}, on {}; measured in {}.", names, measurement.model, measurement.data, spent)


def _layers(subject: Subject) -> Node:
    rows = []
    for strand in subject.strands:
        flow = strand.now
        sizes = (words.count(flow.H), words.count(flow.B), words.count(flow.T))
        name = cell(strand.label, strand.colour)
        rows.append((name, flow.cell, *sizes, flow.dtype, words.duration(flow.seconds)))
    return table(HEADS, rows, stack=True)


def _where(measurement: Measurement) -> Node:
    card = measurement.card
    return facts(
        {
            "Model": measurement.model,
            "Data": measurement.data,
            "Data hash": tag("code", f"SHA-256 {card.digest}") if card is not None and card.digest else None,
            "Loss": measurement.loss,
            "Task": None if card is None else _task(card),
            "Versions": ", ".join(f"{name} {version}" for name, version in measurement.versions.items()),
            "Machine": measurement.machine,
            "Time": words.moment(measurement.created),
        }
    )


def _task(card: DataCard) -> str:
    inputs = "one of " + words.some(card.inputs, "token") if card.tokens else words.some(card.inputs, "value")
    lag = f"; its lag is {words.some(card.lag, 'step')}" if card.lag is not None else ""
    return f"{TASKS[card.kind]}; one step is one {card.step} ({inputs}){lag}"
