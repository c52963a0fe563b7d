"""Whether truncated backpropagation looks back as far as the gradient reaches, and no further than it pays."""

from __future__ import annotations

from collections.abc import Iterator

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.thresholds import ROOM, TOO_LONG
from throughtime.diagnosis.wording import command, steps
from throughtime.records import Finding


def window(case: Case) -> Iterator[Finding]:
    """A window shorter than the task's lag or the gradient's reach, or many times longer than both.

    A window of n steps lets a gradient cross at most n − 1 of them.
    """
    run = case.run
    if run is None or run.settings.window is None or not case.leads:
        return
    size = run.settings.window
    if case.data is not None and size >= case.data.lengths[2]:
        return  # no sequence is cut
    lag = case.data.lag if case.data is not None else None
    horizon = case.horizon
    needed = max((reach + 1 for reach in (lag, horizon) if reach is not None), default=None)
    if needed is None:
        return
    if case.data is not None:
        needed = min(needed, case.data.lengths[2])
    evidence = [f"Training looked back over {steps(size)} at most (--window {size})."]
    if lag is not None:
        evidence.append(f"The task's lag is {steps(lag)}.")
    if horizon is not None:
        at_least = "at least " if case.censored else ""
        evidence.append(f"Without truncation 1% of the gradient reaches {at_least}{steps(horizon)} back, {case.when}.")
    if size < needed:
        over_lag = lag is not None and size <= lag
        than = f"the task's lag of {lag}" if over_lag else f"the gradient's reach of {horizon}"
        yield Finding(
            rule="window",
            severity="note" if case.learned else "serious" if over_lag else "warning",
            cell=case.cell,
            title=f"{case.cell}: the window of {steps(size)} is shorter than {than}; what lies beyond it is cut off.",
            evidence=tuple(evidence),
            advice="Lengthen the window to cover it; memory and time for an update grow in proportion.",
            command=command(case, window=needed),
            check="If the score does not rise with the longer window, nothing further back was worth learning.",
        )
    elif size > TOO_LONG * needed and not case.censored and horizon is not None:
        yield Finding(
            rule="window",
            severity="note",
            cell=case.cell,
            title=f"{case.cell}: the window of {steps(size)} is {size / needed:.0f} times what the gradient uses.",
            evidence=tuple(evidence),
            advice="Shorten the window: less memory, and more updates in the same time.",
            command=command(case, window=ROOM * needed),
            check="If the score falls with the shorter window, gradients under 1% did matter.",
        )
