"""Whether clipping was a safety net or a step-size limiter."""

from __future__ import annotations

import math
from collections.abc import Sequence

from throughtime.diagnosis.thresholds import NEARLY_ALWAYS
from throughtime.records import RunRecord
from throughtime.view import words
from throughtime.view.figures import Axis, Lines, Rule, Series
from throughtime.view.markup import Node, joined, text
from throughtime.view.page import Section, cell, figure
from throughtime.view.sections.learning import log10
from throughtime.view.subject import Subject, Trained
from throughtime.view.tables import table
from throughtime.view.thin import curve

QUESTION = "Was clipping a safety net or a step-size limiter?"
FEW = 0.1


def role(run: RunRecord) -> str:
    """What clipping was in a run."""
    if run.settings.clip is None and run.settings.clip_by != "always":
        return "off"
    if run.settings.clip_by == "always":
        return "a step-size limiter by choice"
    if run.settings.clip_by == "backward":
        return "done within each backward pass, at how many steps is not recorded"
    share = run.clipped_share
    if share > NEARLY_ALWAYS:
        return "a step-size limiter"
    if share >= FEW:
        return "something between the two"
    return "a safety net" if share else "never needed"


def section(subject: Subject) -> Section:
    """Gradient norms before clipping, and the share of updates that were clipped."""
    trained = [one for one in subject.runs if one.run.updates]
    if not trained:
        return Section("clipping", "Clipping", QUESTION, "No updates were recorded, so there is nothing to judge.")
    says = "Median over stretches of updates; the band is smallest to largest, so no spike is lost."
    body = (_table(trained), figure("fig-norms", _norms(trained), says))
    return Section("clipping", "Clipping", QUESTION, _headline(trained), body)


def _headline(trained: Sequence[Trained]) -> Node:
    roles: dict[str, list[Node]] = {}
    said = False
    for one in trained:
        named, what = cell(one.label, one.colour), role(one.run)
        if what != "off" and one.run.settings.clip_by != "backward":
            of = "" if said else " of updates"
            named, said = text("{} ({}{})", named, words.percent(one.run.clipped_share), of), True
        roles.setdefault(what, []).append(named)
    parts = [text("{} in {}", what, joined(several)) for what, several in roles.items()]
    return text("Clipping was {}.", joined(parts, between="; ", last="; "))


def _table(trained: Sequence[Trained]) -> Node:
    heads = ("Cell", "Clipped updates", "Share", "By", "Threshold", "Median norm", "Largest norm", "At update")
    rows = []
    for one in trained:
        updates = one.run.updates
        norms = [u.grad_norm for u in updates]
        worst = max(updates, key=lambda u: math.inf if math.isnan(u.grad_norm) else u.grad_norm)
        middle = sorted(norms, key=lambda n: math.inf if math.isnan(n) else n)[len(norms) // 2]
        clipped = sum(u.clipped for u in updates)
        last = updates[-1].threshold
        threshold = "none" if last is None else words.plain(last)
        seen = one.run.settings.clip_by != "backward"  # what acts within the backward pass is not counted
        counts = (
            f"{words.count(clipped)} of {words.count(len(updates))}" if seen else "not recorded",
            words.percent(one.run.clipped_share) if seen else "–",
        )
        sizes = (words.plain(middle), words.plain(worst.grad_norm), words.count(worst.update))
        by = one.run.settings.clip_by
        rows.append((cell(one.label, one.colour), *counts, by, threshold, *sizes))
    return table(heads, rows, stack=True)


def _norms(trained: Sequence[Trained]) -> Lines:
    series = []
    thresholds = set()
    for one in trained:
        updates = one.run.updates
        x, median, low, high = curve([u.update for u in updates], [u.grad_norm for u in updates])
        band = (log10(low), log10(high)) if len(x) < len(updates) else (None, None)
        series.append(Series(one.label, one.colour, list(x), log10(median), *band))
        thresholds |= {u.threshold for u in updates if u.threshold is not None and u.threshold > 0}
    rules: tuple[Rule, ...] = ()
    if len(thresholds) == 1:
        at = thresholds.pop()
        rules = (Rule("y", math.log10(at), f"threshold {words.plain(at)}"),)
    return Lines(
        title="Gradient norm before clipping",
        note="Global 2-norm over all parameters, loss per unit of parameter, logarithmic axis.",
        file="gradient-norm",
        x=Axis("update", "linear", 0.0),
        y=Axis("gradient norm", "log10"),
        series=tuple(series),
        rules=rules,
    )
