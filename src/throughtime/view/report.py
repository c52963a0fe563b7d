"""The report: one self-contained page, drawn from records alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from throughtime.diagnosis import diagnose
from throughtime.disk import write_whole
from throughtime.errors import InputError
from throughtime.records import DataCard, DepthRecord, Finding
from throughtime.view import words
from throughtime.view.markup import Node, joined, tag
from throughtime.view.page import document
from throughtime.view.sections import (
    advice,
    blame,
    clipping,
    depth,
    gaps,
    gates,
    lags,
    learning,
    measured,
    memory,
    paths,
    repeat,
    stretching,
    verdict,
    weights,
)
from throughtime.view.subject import Records, Subject, subject

MARK = "Drawn by throughtime"  # by it a page is known for ours


def report(records: Records | Iterable[Records], path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Draw records as one HTML file that opens from disk, asks nothing of any network, and reads without scripts.

    `records` is a Study, a Measurement, a RunRecord, a FlowRecord, a DepthRecord, or several of the last three. Returns
    the path written. The file appears whole or not at all.
    Raises InputError if there is nothing to draw, if `path` exists and `overwrite` is not set, or if it cannot be
    written.
    """
    place = Path(path)
    if place.is_dir():
        raise InputError(f"{place}: is a folder; name the file to write, for example {place / 'report.html'}.")
    if place.exists() and not overwrite:
        raise InputError(
            f"{place}: exists already; name another file or ask to overwrite it (overwrite=True, --overwrite)."
        )
    if not place.parent.is_dir():
        raise InputError(f"{place}: its folder does not exist; make {place.parent} first.")
    written = page(subject(records))
    write_whole(place, written.encode())
    return place


def page(about: Subject) -> str:
    """The whole page as text."""
    if about.deep and not about.strands and not about.runs:  # nothing here went through time
        chains = tuple(one for one in (depth.section(about), gaps.section(about)) if one is not None)
        return document(about.title, _byline(about), chains, _foot(about))
    step = about.data.step if about.data else "step"
    sections = (
        verdict.section(about),
        repeat.section(about) if about.measurement is None else measured.section(about, about.measurement),
        None if about.found else learning.section(about),
        lags.section(about),
        blame.section(about),
        paths.section(about),
        stretching.section(about),
        weights.section(about),
        gates.section(about, step),
        memory.section(about),
        None if about.found else clipping.section(about),
        depth.section(about),
        advice.section(about, _findings(about)),
        gaps.section(about),
    )
    shown = tuple(one for one in sections if one is not None)
    return document(about.title, _byline(about), shown, _foot(about), _reading(about.data))


def _findings(about: Subject) -> tuple[Finding, ...]:
    judged = (record for record in about.records if not isinstance(record, DepthRecord))
    return tuple(finding for record in judged for finding in diagnose(record))


def _byline(about: Subject) -> Node:
    names = joined(dict.fromkeys(strand.label for strand in about.strands) or [one.label for one in about.runs])
    when = f", {words.moment(about.origin.created)}" if about.origin else ""
    if not names:
        return ("How the gradient travelled back through the layers of ", joined(one.label for one in about.deep))
    return ("How the gradient travelled back through time in ", names, when)


def _reading(data: DataCard | None) -> Node:
    """How the source became sequences, folded up: what was read, in which order, what was left out."""
    if data is None or not data.notes:
        return None
    shortest, middle, longest = data.lengths
    steps = words.some(longest, data.step) if shortest == longest else f"{shortest:,} to {longest:,} {data.step}s"
    between = f", {middle:,} in the middle" if shortest < longest else ""
    counts = ", ".join(f"{number:,} {split}" for split, number in data.sizes.items())
    read = f"{data.name}: {counts}; each has {steps}{between}"
    lines = tag("ul", [tag("li", note) for note in (read, *data.notes)])
    return tag("details", tag("summary", "How the data were read"), lines, class_="small")


def _foot(about: Subject) -> Node:
    version = about.origin.versions.get("throughtime") if about.origin else None
    return (
        f"{MARK}{' from records of version ' + version if version else ''}. Every picture is drawn from "
        "numbers in this file; nothing is fetched. Exact zeros, numbers below a scale and gaps in the measurement each "
        "have their own mark."
    )
