"""Which step blames which."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from throughtime.records import Floats, FlowRecord
from throughtime.view import words
from throughtime.view.figures import Axis, Map, Panel
from throughtime.view.markup import Html, Node, joined, text
from throughtime.view.page import Section, cell, figure
from throughtime.view.sections.notes import note
from throughtime.view.subject import Strand, Subject
from throughtime.view.thin import blocks, row, widest

QUESTION = "Which step blames which?"
SQUARES = 13_000  # of all maps of a report together
COLUMNS = 256  # of the one row
SIDE = 64  # steps a side at most, wider maps are set in blocks
DECADES = 12  # the maps' scale spans at most so many


def section(subject: Subject) -> Section:
    """All pairs (t, k), or the one row of them where the loss looks at one step only."""
    strands = [s for s in subject.strands if s.now.blame is not None]
    if not strands:
        return Section("blame", "Which step blames which", QUESTION, "No pairs of steps were measured.")
    moments = [(s, _moments(s)) for s in strands]
    scale = _scale([blame for _, several in moments for _, _, blame in several])
    alone = all(len(_sources(blame)) <= 1 for _, several in moments for _, _, blame in several)
    body: tuple[Node, ...]
    if alone:
        body = (
            figure(
                "fig-blame", _rows(moments, scale), "The loss looks at one step only, so one row of the map says all."
            ),
        )
    else:
        panels = sum(len(several) for _, several in moments)
        body = tuple(
            figure(
                f"fig-blame-{i}",
                _map(s, several, scale, panels),
                "Rows: the step that put out; columns: the step blamed.",
            )
            for i, (s, several) in enumerate(moments)
        )
    return Section("blame", "Which step blames which", QUESTION, _headline(strands), body)


Moment = tuple[str, FlowRecord, Floats]


def _moments(strand: Strand) -> list[Moment]:
    found: list[Moment] = []
    if strand.before is not None and strand.before.blame is not None and strand.trained:
        found.append(("untrained", strand.before, strand.before.blame))
    assert strand.now.blame is not None
    found.append((strand.state, strand.now, strand.now.blame))
    return found


def _sources(blame: Floats) -> list[int]:
    """The steps t with any gradient to send."""
    return [int(t) for t in np.flatnonzero((blame > -np.inf).any(axis=1))]


def _scale(maps: Sequence[Floats]) -> Axis:
    """One absolute scale for every map of the report, in whole decades."""
    seen = np.concatenate([blame[np.isfinite(blame)] for blame in maps] or [np.zeros(0)])
    high = math.ceil(float(seen.max())) if seen.size else 0
    low = math.floor(float(seen.min())) if seen.size else -1
    return Axis("norm C(t, k)", "log10", float(max(min(low, high - 1), high - DECADES)), float(high))


def _map(strand: Strand, moments: Sequence[Moment], scale: Axis, panels: int) -> Map:
    side = min(SIDE, widest(strand.now.T, panels, SQUARES))
    drawn = [(name, *blocks(blame, side)) for name, _, blame in moments]
    width = drawn[-1][2]
    blocked = f" Each square is the largest of {width}×{width} pairs." if width > 1 else ""
    return Map(
        title=f"{strand.label}: gradient of what step t put out, with respect to the state at step k",
        note=note([flow for _, flow, _ in moments], "2-norms, loss per unit of state; medians over sequences; the same "
                  "absolute scale for every map here") + blocked,
        file=f"blame-{strand.label}",
        x="step k",
        y="step t",
        scale=scale,
        panels=tuple(Panel(f"{strand.label}, {name}", rows) for name, rows, _ in drawn),
        block=width,
    )  # fmt: skip


def _rows(moments: Sequence[tuple[Strand, list[Moment]]], scale: Axis) -> Map:
    names, rows, flows = [], [], []
    width = max(1, math.ceil(max(s.now.T for s, _ in moments) / COLUMNS))
    for strand, several in moments:
        for name, flow, blame in several:
            sources = _sources(blame)
            names.append(f"{strand.label}, {name}")
            rows.append(row(blame[sources[0], : sources[0] + 1] if sources else blame[-1], width))
            flows.append(flow)
    return Map(
        title="Gradient of what the last step put out, with respect to the state at each step k",
        note=note(flows, "2-norms, loss per unit of state; medians over sequences; one absolute scale")
        + (f" Each square is the largest of {width} steps." if width > 1 else ""),
        file="blame",
        x="step k",
        y="",
        scale=scale,
        panels=(Panel("", rows, tuple(names)),),
        block=width,
    )


def share_back(blame: Floats) -> tuple[int, int, float] | None:
    """The last step that sends gradient, the first step it could reach, and log10 of the share that arrives."""
    sources = [t for t in _sources(blame) if t > 0]
    if not sources:
        return None
    t = sources[-1]
    own, first = float(blame[t, t]), float(blame[t, 0])
    return t, 0, math.nan if math.isnan(own) or math.isnan(first) or math.isinf(own) else first - own


def _headline(strands: Sequence[Strand]) -> Node:
    parts: list[Html] = []
    steps: set[int] = set()
    for s in strands:
        assert s.now.blame is not None
        found = share_back(s.now.blame)
        if found is None:
            parts.append(text("nothing in {}", cell(s.label, s.colour)))
            continue
        steps.add(found[0])
        parts.append(text("{} in {}", words.left(found[2]), cell(s.label, s.colour)))
    if not steps:
        return text("No step sends any gradient back: {}.", joined(parts))
    step = f"step {steps.pop()}" if len(steps) == 1 else "the last step"
    return text("Of the gradient at {} itself, step 0 gets {}.", step, joined(parts))
