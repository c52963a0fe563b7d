"""Whether it learned, and beats the obvious baseline."""

from __future__ import annotations

import math

import numpy as np

from throughtime.records import DataCard, Evaluation, RunRecord
from throughtime.view import words
from throughtime.view.figures import Axis, Kind, Lines, Numbers, Rule, Series
from throughtime.view.markup import Node, escape, joined, text
from throughtime.view.page import Section, cell, figure, figures
from throughtime.view.subject import Subject, Trained
from throughtime.view.tables import table
from throughtime.view.thin import curve

QUESTION = "Did it learn, and does it beat the obvious baseline?"
METRIC = {"accuracy": "share answered right", "mse": "mean squared error", "nats": "nats a step"}


def log10(values: Numbers) -> list[float]:
    """Logarithms of numbers that cannot be negative; 0 gives −inf, what is no number stays none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return [float(v) for v in np.log10(np.asarray(values, float))]


def section(subject: Subject) -> Section:
    """Scores against the obvious guess, and the curves."""
    trained = [one for one in subject.runs if one.run.updates]
    if not trained:
        return Section("learning", "Did it learn", QUESTION, "No training was recorded, so there is nothing to judge.")
    drawn = [figure("fig-loss", _loss(trained), "Median over stretches of updates; the band is smallest to largest.")]
    scored = [one for one in trained if one.run.evaluations]
    if scored:
        drawn.append(figure("fig-score", _score(scored, subject.data), "After each evaluation on held-out data."))
    body = (_table(trained, subject.data), figures(*drawn))
    return Section("learning", "Did it learn", QUESTION, _headline(trained, subject.data), body)


def held_out(run: RunRecord) -> Evaluation | None:
    """The score to judge by: on test data, else the best on validation data."""
    return run.test or next((each for each in reversed(run.evaluations) if each.best), None)


def _headline(trained: list[Trained], data: DataCard | None) -> Node:
    judged = [(one, held) for one in trained if (held := held_out(one.run)) is not None]
    if not judged:
        last = [text("{} from {} to {}", cell(o.label, o.colour), *map(words.plain, _ends(o))) for o in trained]
        return text(
            "Training loss went in {}; no held-out score was taken, so what was learned is not known.{}",
            joined(last),
            _cut_short(trained),
        )
    scores = joined(text("{} {}", cell(o.label, o.colour), words.score(data, held.score)) for o, held in judged)
    what = {"accuracy": "Answered right on held-out data", "mse": "Mean squared error on held-out data"}
    named = what.get(data.metric, "Held-out score") if data else "Held-out score"
    if data is None:
        return text("{}: {}; no baseline was recorded.", named, scores)
    judged = [(one, held) for one, held in judged if math.isfinite(held.score)]
    if not judged:
        return text("{}: {}; no score is a number.", named, scores)
    beaten = sum(beats(held.score, data) for _, held in judged)
    how = (
        "both"
        if beaten == len(judged) == 2
        else "all"
        if beaten == len(judged)
        else "none"
        if not beaten
        else "one"
        if beaten == 1
        else str(beaten)
    )
    unscored = _cut_short([one for one in trained if held_out(one.run) is None])
    if len(judged) == 1:
        verb = "it beats the obvious guess" if beaten else "it does not beat the obvious guess"
    else:
        verb = f"{how} of them {'beats' if beaten in (0, 1) else 'beat'} the obvious guess"
        verb = verb.replace("both of them", "both").replace("all of them", "all")
    guess = words.score(data, data.baseline)
    return text("{}: {}; {} ({}: {}).{}", named, scores, verb, data.baseline_is, guess, unscored)


def _cut_short(unscored: list[Trained]) -> Node:
    """How the runs without a score ended; said once where several ended alike."""
    alike: dict[str, list[Trained]] = {}
    for one in unscored:
        alike.setdefault(one.run.stopped.rstrip("."), []).append(one)
    return escape(
        text(" No score in {}: {}.", joined(cell(one.label, one.colour) for one in each), why)
        for why, each in alike.items()
        if why
    )


def beats(score: float, data: DataCard) -> bool:
    """Whether a score is better than the obvious guess."""
    return score > data.baseline if data.higher_is_better else score < data.baseline


def _ends(one: Trained) -> tuple[float, float]:
    return one.run.updates[0].loss, one.run.updates[-1].loss


def _table(trained: list[Trained], data: DataCard | None) -> Node:
    heads = ("Cell", "First loss", "Last loss", "Best on validation", "On test", "Obvious guess", "Beats it")
    rows = []
    for one in trained:
        best = next((each for each in reversed(one.run.evaluations) if each.best), None)
        held = held_out(one.run)
        valid = f"{words.score(data, best.score)} (update {words.count(best.update)})" if best else "not measured"
        test = words.score(data, one.run.test.score) if one.run.test else "not measured"
        guess = words.score(data, data.baseline) if data else "not known"
        verdict = (
            "–"
            if held is None or data is None or not math.isfinite(held.score)
            else "yes"
            if beats(held.score, data)
            else "no"
        )
        rows.append((cell(one.label, one.colour), *map(words.plain, _ends(one)), valid, test, guess, verdict))
    return table(heads, rows, stack=True)


def _loss(trained: list[Trained]) -> Lines:
    series = []
    for one in trained:
        updates = one.run.updates
        x, median, low, high = curve([u.update for u in updates], [u.loss for u in updates])
        thinned = len(x) < len(updates)
        band = (log10(low), log10(high)) if thinned else (None, None)
        series.append(Series(one.label, one.colour, list(x), log10(median), *band))
    return Lines(
        title="Training loss",
        note="Loss of each optimiser step's batch, in the loss's own unit, logarithmic axis.",
        file="training-loss",
        x=Axis("update", "linear", 0.0),
        y=Axis("loss", "log10"),
        series=tuple(series),
    )


def _score(scored: list[Trained], data: DataCard | None) -> Lines:
    metric = data.metric if data else "mse"
    kind: Kind = "log10" if metric == "mse" else "linear"
    series = []
    for one in scored:
        valid = [each for each in one.run.evaluations if each.split == "valid"] or list(one.run.evaluations)
        scores = [each.score for each in valid]
        x = [float(each.update) for each in valid]
        series.append(Series(one.label, one.colour, x, log10(scores) if kind == "log10" else scores))
    rules: tuple[Rule, ...] = ()
    if data is not None and math.isfinite(data.baseline) and (kind == "linear" or data.baseline > 0):
        at = math.log10(data.baseline) if kind == "log10" else data.baseline
        rules = (Rule("y", at, f"obvious guess, {words.score(data, data.baseline)}"),)
    name = METRIC.get(metric, "score") if data else "score"
    ends = (0.0, 1.0) if metric == "accuracy" else (None, None)
    return Lines(
        title="Score on held-out data",
        note=f"Validation split, {name}; {'higher' if data and data.higher_is_better else 'lower'} is better.",
        file="held-out-score",
        x=Axis("update", "linear", 0.0),
        y=Axis(name, kind, *ends),
        series=tuple(series),
        rules=rules,
    )
