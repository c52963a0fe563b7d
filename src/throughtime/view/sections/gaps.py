"""What was not measured."""

from __future__ import annotations

from throughtime.view import words
from throughtime.view.markup import Html, Node, tag, text
from throughtime.view.page import Section, cell
from throughtime.view.subject import Strand, Subject

QUESTION = "What was not measured?"


def section(subject: Subject) -> Section:
    """What the records lack, and why where they say so."""
    found: list[Html] = []
    for strand in subject.strands:
        name = cell(strand.label, strand.colour)
        found += [text("{}: {}", name, gap) for gap in _flow_gaps(strand)]
    for one in subject.runs:
        name = cell(one.label, one.colour)
        if not one.run.flows:
            found.append(text("{}: no gradient flow was measured.", name))
        if one.run.test is None:
            found.append(text("{}: no score on test data.", name))
        if not one.run.evaluations:
            found.append(text("{}: no score on validation data while training.", name))
    seeds = {one.run.seed for one in subject.runs}
    if len(seeds) == 1 and subject.runs:
        found.append(
            Html(
                "The spread between seeds: every run used the same one, so differences of a few percent may be chance."
            )
        )
    if subject.data is not None and subject.data.lag is None:
        found.append(
            Html("The lag the task needs: the data do not say it, so “enough” is judged by what was measured.")
        )
    unique = list(dict.fromkeys(found))
    headline: Node = (
        f"{words.some(len(unique), 'thing')} {'is' if len(unique) == 1 else 'are'} missing from these records."
        if unique
        else "Nothing that this report asks for is missing from the records."
    )
    body = (tag("ul", (tag("li", gap) for gap in unique), class_="gaps"),) if unique else ()
    return Section("gaps", "What was not measured", QUESTION, headline, body)


def _flow_gaps(strand: Strand) -> list[str]:
    now = strand.now
    gaps = list(now.left_out)
    if now.lags.horizon() is None:
        gaps.append("what is left of the gradient at each lag.")
    elif words.censored(now.lags):
        why = "no probe sequence is longer" if now.lags.longest() >= now.T - 1 else "the measurement stopped there"
        gaps.append(f"lags over {now.lags.longest()}: {why}, and the gradient was still there.")
    if strand.before is None:
        gaps.append("the untrained net, so what training changed is not known.")
    if not strand.trained:
        gaps.append("the trained net.")
    if now.blame is None and not any("pair" in gap for gap in now.left_out):
        gaps.append("which step blames which.")
    if now.bounds is None:
        gaps.append("bounds on the gradient.")
    if not now.examples:
        gaps.append("real sequences step by step.")
    return gaps
