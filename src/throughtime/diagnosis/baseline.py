"""Whether it beat the obvious guess."""

from __future__ import annotations

import math
from collections.abc import Iterator

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.remedy import remedy
from throughtime.diagnosis.thresholds import BETTER, SPREAD
from throughtime.diagnosis.wording import command
from throughtime.records import Finding

NAMED = {"accuracy": "an accuracy of", "mse": "a mean squared error of", "nats": "a loss of"}


def baseline(case: Case) -> Iterator[Finding]:
    """A score that is no better than the obvious guess, by more than luck would have it."""
    run, data, result = case.run, case.data, case.result
    if run is None or data is None or result is None or not case.leads:
        return
    luck = _luck(data.baseline, data.metric, data.sizes.get(result.split, 0))
    ahead = (result.score - data.baseline) * (1 if data.higher_is_better else -1)
    if ahead > luck:
        return
    score, guess = _said(result.score, data.metric), _said(data.baseline, data.metric)
    last = run.updates[-1] if run.updates else None
    evidence = [
        f"On {result.split}: {score}; the obvious guess ({data.baseline_is}): {guess}.",
        *([f"A score within {_said(luck, data.metric)} of the guess may be luck."] if ahead > 0 else []),
        f"Training ended after {last.update if last else 0} updates"
        + (f" at a loss of {last.loss:.4g}" if last else "")
        + f": {run.stopped.rstrip('.')}.",
    ]
    need, horizon = case.need, case.horizon
    short = need is not None and horizon is not None and horizon < need.steps and not case.censored
    if short and need is not None:
        advice = f"The gradient dies at lag {horizon} of {need.steps}: mend that first (see the finding on vanishing)."
        what = remedy(case, need).command
        check = "If a net whose gradient does reach scores no better, it is not the gradient: more units, or more data."
    else:
        advice = "The gradient is not known to be the obstacle: train longer, with another rate, or with more units."
        what = command(case, epochs=2 * run.settings.epochs, hidden=2 * run.model.hidden)
        check = "If the loss on training data falls and this score does not, it learns by heart: less model, more data."
    yield Finding(
        rule="baseline",
        severity="serious",
        cell=case.cell,
        title=f"{case.cell}: {NAMED[data.metric]} {score} "
        + ("is hardly better than" if ahead > 0 else "does not beat")
        + f" the obvious guess, {guess}.",
        evidence=tuple(evidence),
        advice=advice,
        command=what,
        check=check,
    )


def _luck(guess: float, metric: str, samples: int) -> float:
    """How much better than the guess a score may be without saying anything."""
    if metric == "accuracy":
        return SPREAD * math.sqrt(guess * (1 - guess) / samples) if samples else 0.0
    return BETTER * guess


def _said(score: float, metric: str) -> str:
    if metric == "accuracy":
        return f"{score:.1%}"
    return f"{score:.4g} nats" if metric == "nats" else f"{score:.4g}"
