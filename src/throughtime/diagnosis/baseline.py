"""Whether it beat the obvious guess."""

from __future__ import annotations

import math
from collections.abc import Iterator

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.remedy import remedy
from throughtime.diagnosis.thresholds import BETTER, SPREAD
from throughtime.diagnosis.wording import command
from throughtime.records import Finding


def baseline(case: Case) -> Iterator[Finding]:
    """A score that is no better than the obvious guess, by more than luck would have it."""
    run, data, result = case.run, case.data, case.result
    if run is None or data is None or result is None or not case.leads:
        return
    if math.isfinite(result.score) and _beats(
        result.score, data.baseline, data.metric, data.sizes.get(result.split, 0)
    ):
        return
    last = run.updates[-1] if run.updates else None
    evidence = [
        f"{data.metric} on {result.split}: {result.score:.4g}; the obvious guess ({data.baseline_is}): "
        f"{data.baseline:.4g}.",
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
        title=f"{case.cell}: {data.metric} {result.score:.4g} does not beat the obvious guess, {data.baseline:.4g}.",
        evidence=tuple(evidence),
        advice=advice,
        command=what,
        check=check,
    )


def _beats(score: float, guess: float, metric: str, samples: int) -> bool:
    if metric == "accuracy":
        luck = SPREAD * math.sqrt(guess * (1 - guess) / samples) if samples else 0.0
        return score > guess + luck
    return score < guess * (1 - BETTER)
