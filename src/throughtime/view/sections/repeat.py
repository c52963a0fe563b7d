"""What was trained, and how to repeat it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from throughtime.records import DataCard, Settings, Study
from throughtime.view import words
from throughtime.view.markup import Node, escape, joined, tag, text
from throughtime.view.page import Section, cell, facts
from throughtime.view.subject import Subject, Trained
from throughtime.view.tables import table

# What a setting of None means.
UNSET = {
    "clip": "off",
    "window": "the whole sequence",
    "stride": "as window",
    "patience": "never stop early",
    "evaluate_every": "each epoch",
    "checkpoint_every": "each evaluation",
}


def section(subject: Subject) -> Section:
    """Command, seed, versions, data, machine; the cells and their settings."""
    body: list[Node] = []
    study = subject.study
    if study is not None and study.command:
        body.append(tag("pre", tag("code", study.command), class_="command", tabindex=0))
    if subject.runs:
        body.append(tag("div", _runs(subject.runs), class_="scroll"))
    if study is not None:
        body.append(_where(study))
    if subject.runs:
        body += [tag("h3", "Settings"), tag("div", _settings(subject.runs), class_="scroll")]
    if not subject.runs:
        flows = [strand.now for strand in subject.strands]
        heads = ("Cell", "Layer", "Units", "Engine", "Optimiser steps", "Probe loss")
        rows = [
            (cell(s.label, s.colour), f.layer, words.count(f.H), f.engine, words.count(f.update), words.plain(f.loss))
            for s, f in zip(subject.strands, flows, strict=True)
        ]
        body.append(tag("div", table(heads, rows), class_="scroll"))
    return Section(
        "repeat", "How to repeat it", "What was trained, and how do I repeat it?", _headline(subject), tuple(body)
    )


def _headline(subject: Subject) -> Node:
    if not subject.runs:
        measured = joined(cell(s.label, s.colour) for s in subject.strands)
        return text("{} measured as found; the records do not say how it was trained.", measured)
    seeds = sorted({one.run.seed for one in subject.runs})
    seed = f"with seed {seeds[0]}" if len(seeds) == 1 else f"with seeds {', '.join(map(str, seeds))}"
    names = joined(cell(one.label, one.colour) for one in subject.runs)
    spent = words.duration(sum(one.run.seconds for one in subject.runs))
    data = subject.data
    if data is None:
        return text("{} trained {} in {}; the records do not name the data.", names, seed, spent)
    samples = words.some(data.sizes.get("train", 0), "sequence")
    again = "one command repeats it." if subject.study and subject.study.command else "no command was recorded."
    return text(
        "{} learned from {} of {} ({}) {}, in {}; {}", names, samples, _span(data), data.name, seed, spent, again
    )


def _runs(runs: Sequence[Trained]) -> Node:
    heads = (
        "Cell",
        "Units",
        "Layers",
        "Readout",
        "Options",
        "Start",
        "Parameters",
        "Engine",
        "Seed",
        "Updates",
        "Time",
        "Ended",
    )
    rows = []
    for one in runs:
        model = one.run.model
        options = _said(model.options)
        layers = f"{model.layers}, both directions" if model.bidirectional else str(model.layers)
        sizes = (
            words.count(model.hidden),
            layers,
            model.readout,
            options,
            _said(model.start),
            words.count(model.parameters),
            model.engine,
        )
        ran = (str(one.run.seed), words.count(len(one.run.updates)), words.duration(one.run.seconds), one.run.stopped)
        rows.append((cell(one.label, one.colour), *sizes, *ran))
    return table(heads, rows, stack=True)


def _said(chosen: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in chosen.items()) or "–"


def _where(study: Study) -> Node:
    data = study.data
    return facts(
        {
            "Data": f"{data.name}: {data.kind}, one step is one {data.step}; {_shape(data)}",
            "Samples": ", ".join(f"{words.count(size)} {split}" for split, size in data.sizes.items()),
            "Data hash": tag("code", f"SHA-256 {data.digest}") if data.digest else None,
            "Versions": ", ".join(f"{name} {version}" for name, version in study.versions.items()),
            "Machine": study.machine,
            "Time": words.moment(study.created),
        }
    )


def _span(data: DataCard) -> str:
    """How long its sequences are."""
    shortest, _, longest = data.lengths
    return words.some(longest, data.step) if shortest == longest else f"{shortest} to {words.some(longest, data.step)}"


def _shape(data: DataCard) -> str:
    shortest, median, longest = data.lengths
    middle = "" if shortest == longest else f", {words.count(median)} in the middle"
    inputs = (
        f"{words.some(data.inputs, data.step)} known" if data.tokens else f"{words.some(data.inputs, 'value')} each"
    )
    return f"{_span(data)} a sequence{middle}, {inputs}"


def _settings(runs: Sequence[Trained]) -> Node:
    """What all runs share is said once; what differs has one column a run."""
    said = {f.name: [_setting(one.run.settings, f.name) for one in runs] for f in dataclasses.fields(Settings)}
    shared = {name.replace("_", " "): each[0] for name, each in said.items() if len(set(each)) == 1}
    rows = [(name.replace("_", " "), *each) for name, each in said.items() if len(set(each)) > 1]
    heads: list[Node] = ["Setting", *(cell(one.label, one.colour) for one in runs)]
    return escape([table(heads, rows) if rows else None, facts(shared, columns=True)])


def _setting(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    if value is None:
        return UNSET.get(name, "none")
    return words.plain(value) if isinstance(value, float) else str(value)
