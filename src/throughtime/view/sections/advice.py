"""What to do first, and what check would prove the advice wrong."""

from __future__ import annotations

from collections.abc import Sequence

from throughtime.records import Finding
from throughtime.view.markup import Html, Node, tag, text
from throughtime.view.page import Section, cell
from throughtime.view.subject import Subject

QUESTION = "What to do first, and what check would prove the advice wrong?"
ORDER = {"serious": 0, "warning": 1, "note": 2, "good": 3}
NAMES = {"serious": "Serious", "warning": "Warning", "note": "Note", "good": "Good"}


def section(subject: Subject, findings: Sequence[Finding]) -> Section:
    """Findings, the most serious first."""
    ordered = sorted(findings, key=lambda finding: ORDER[finding.severity])
    body = tuple(_finding(finding, subject.colours) for finding in ordered)
    return Section("advice", "What to do first", QUESTION, _headline(ordered), body)


def _headline(ordered: Sequence[Finding]) -> Node:
    if not ordered:
        return "No rule found anything to say about these records."
    first = ordered[0]
    if first.severity == "good":
        return text("Nothing needs doing: all {} findings are good.", len(ordered)) if len(ordered) > 1 else first.title
    asking = sum(finding.severity in ("serious", "warning") for finding in ordered)
    if not asking:
        return text("Nothing asks for action; worth knowing: {}.", first.title.rstrip("."))
    count = f"{asking} of {len(ordered)} findings {'asks' if asking == 1 else 'ask'} for action"
    return text("First, {} ({}).", first.title.rstrip("."), count)


def _finding(finding: Finding, colours: dict[str, str]) -> Html:
    name = cell(finding.cell, colours[finding.cell]) if finding.cell in colours else finding.cell
    title = finding.title.removeprefix(f"{finding.cell}: ")  # the cell's name stands above it
    if title != finding.title:
        title = title[:1].upper() + title[1:]
    return tag(
        "article",
        tag("div", tag("span", NAMES[finding.severity], class_="kind"), " ", name),
        tag("h3", title),
        tag("ul", (tag("li", line) for line in finding.evidence)) if finding.evidence else None,
        tag("p", tag("b", "Do: "), finding.advice) if finding.advice else None,
        tag("pre", tag("code", finding.command), class_="command", tabindex=0) if finding.command else None,
        tag("p", tag("b", "Wrong if: "), finding.check) if finding.check else None,
        class_=f"finding {finding.severity}",
    )
