"""What was not measured."""

from __future__ import annotations

from throughtime.view import words
from throughtime.view.markup import Html, Node, joined, tag, text
from throughtime.view.page import Section, cell
from throughtime.view.subject import Strand, Subject, Trained

QUESTION = "What was not measured?"


def section(subject: Subject) -> Section:
    """What the records lack, and why where they say so."""
    lacking: dict[str, list[Html]] = {}  # the gap -> whose it is
    for strand in subject.strands:
        for gap in _flow_gaps(strand):
            lacking.setdefault(gap, []).append(cell(strand.label, strand.colour))
    for one in subject.runs:
        for gap in _run_gaps(one):
            lacking.setdefault(gap, []).append(cell(one.label, one.colour))
    for deep in subject.deep:
        for gap in deep.record.left_out:
            lacking.setdefault(gap, []).append(cell(deep.label, deep.colour))
    found = [text("{}: {}", joined(dict.fromkeys(whose)), gap) for gap, whose in lacking.items()]
    seeds = {one.run.seed for one in subject.runs}
    if len(seeds) == 1:
        found.append(
            Html(
                "The spread between seeds: every run used the same one, so differences of a few percent may be chance."
            )
        )
    if subject.measurement is not None:
        found += [text("{}", gap) for gap in subject.measurement.left_out]
    if subject.data is not None and subject.data.lag is None:
        found.append(
            Html("The lag the task needs: the data do not say it, so “enough” is judged by what was measured.")
        )
    headline: Node = (
        f"{words.some(len(found), 'thing')} {'is' if len(found) == 1 else 'are'} missing from these records."
        if found
        else "Nothing that this report asks for is missing from the records."
    )
    body = (tag("ul", (tag("li", gap) for gap in found), class_="gaps"),) if found else ()
    return Section("gaps", "What was not measured", QUESTION, headline, body)


def _run_gaps(one: Trained) -> list[str]:
    gaps = list(one.run.notes)
    if not one.run.flows:
        gaps.append("no gradient flow was measured.")
    if one.run.test is None:
        gaps.append("no score on test data.")
    if not one.run.evaluations:
        gaps.append("no score on validation data while training.")
    return gaps


def _flow_gaps(strand: Strand) -> list[str]:
    now = strand.now
    gaps = list(now.left_out)
    if now.lags.horizon() is None:
        gaps.append("what is left of the gradient at each lag.")
    elif words.censored(now.lags):
        why = (
            "no probe sequence is longer"
            if now.lags.longest() >= now.before + now.T - 1
            else "the measurement stopped there"
        )
        gaps.append(f"lags over {now.lags.longest()}: {why}, and the gradient was still there.")
    if strand.before is None and not strand.found:
        gaps.append("the untrained net, so what training changed is not known.")
    if not strand.trained:
        gaps.append("the trained net.")
    if now.blame is None and not any("pair" in gap for gap in now.left_out):
        gaps.append("which step blames which.")
    if now.bounds is None:
        gaps.append("bounds on the gradient.")
    if not now.examples:
        gaps.append("what it did over real sequences, step by step.")
    return gaps
