"""Whether truncated backpropagation looks back as far as the gradient reaches, and no further than it pays."""

from __future__ import annotations

from collections.abc import Iterator

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.thresholds import LEFT_OUT, ROOM, SHARE, TOO_LONG
from throughtime.diagnosis.wording import command, percent, steps
from throughtime.records import Finding, ParameterCredit


def window(case: Case) -> Iterator[Finding]:
    """A window that is shorter than the task's lag or the gradient's reach, leaves out much of it, or is far too long.

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
    lost, enough = _left_out(case, size), _enough(case)
    used = max(needed, enough or needed)
    if lost is not None:
        evidence.append(f"It leaves out at least {percent(lost)} of the gradient of {_weights(case)}, {case.when}.")
    if enough is not None:
        evidence.append(f"A window of {steps(enough)} would leave out less than {percent(SHARE)} of it.")
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
    elif lost is not None and lost > LEFT_OUT:
        yield Finding(
            rule="window",
            severity="note" if case.learned else "warning",
            cell=case.cell,
            title=f"{case.cell}: the window of {steps(size)} leaves out at least {percent(lost)} of the gradient of "
            f"{_weights(case)}.",
            evidence=tuple(evidence),
            advice="Lengthen the window: what single steps send back is faint out there, but all of it adds up.",
            command=command(case, window=enough or ROOM * size),
            check="If the score does not rise with the longer window, nothing further back was worth learning.",
        )
    elif size > TOO_LONG * used and not case.censored and horizon is not None:
        yield Finding(
            rule="window",
            severity="note",
            cell=case.cell,
            title=f"{case.cell}: the window of {steps(size)} is {size / used:.0f} times what the gradient uses.",
            evidence=tuple(evidence),
            advice="Shorten the window: less memory, and more updates in the same time.",
            command=command(case, window=ROOM * used),
            check="If the score falls with the shorter window, gradients under 1% did matter.",
        )


def _credit(case: Case) -> ParameterCredit | None:
    credit = case.flow.parameters if case.flow is not None else None
    return credit if credit is not None and credit.log10_whole else None


def _weights(case: Case) -> str:
    credit = _credit(case)
    return credit.lead if credit is not None else ""


def _left_out(case: Case, size: int) -> float | None:
    """The share of the weights' gradient that a window leaves out at least."""
    credit = _credit(case)
    return credit.left_out(credit.lead, size - 1) if credit is not None else None


def _enough(case: Case) -> int | None:
    """The window that would leave out next to nothing."""
    credit = _credit(case)
    back = credit.look_back(credit.lead, SHARE) if credit is not None else None
    return None if back is None else back + 1
