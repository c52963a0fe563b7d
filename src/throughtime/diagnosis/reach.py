"""Whether the gradient reaches as far back as the task needs: the good news, and what cannot be said."""

from __future__ import annotations

from collections.abc import Iterator

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.wording import command, fading, steps
from throughtime.records import Finding


def reach(case: Case) -> Iterator[Finding]:
    """A reach that suffices, one that no need is known for, or none that was measured."""
    flow, horizon, need = case.flow, case.horizon, case.need
    if not case.leads:
        return
    if flow is None or horizon is None:
        yield _unmeasured(case)
        return
    if flow.T == 1:
        yield _one_step(case)
        return
    at_least = "at least " if case.censored else ""
    evidence = [
        f"The median over {int(flow.lags.pairs.max(initial=0))} pairs of steps is 1% or more up to lag {horizon}, "
        f"{case.when}.",
        f"Lags up to {flow.lags.longest()} were measured, on {flow.B} sequences of up to {steps(flow.T)}"
        + (f", the last of {flow.before + flow.T:,}." if flow.before else "."),
    ]
    if flow.half_life is not None:
        evidence.append(f"Half of it is gone at lag {flow.half_life}.")
    if fading(flow):
        evidence.append(fading(flow))
    if need is None:
        yield Finding(
            rule="reach",
            severity="note",
            cell=case.cell,
            title=f"{case.subject}: {case.when} 1% of the gradient reaches {at_least}{steps(horizon)} back.",
            evidence=tuple(evidence),
            advice="No lag is known for this task and every step may answer for itself, so whether this is enough only "
            "the score can say.",
            command="",
            check="Shuffle what lies further back than this in the inputs: if the score falls, the model does use it.",
        )
    elif not case.short and (horizon >= need.steps or not need.known):
        wanted = f"the task's lag is {need.steps}" if need.known else f"the first step lies {need.steps} back"
        yield Finding(
            rule="reach",
            severity="good",
            cell=case.cell,
            title=f"{case.subject}: {case.when} 1% of the gradient reaches {at_least}{steps(horizon)} back; {wanted}.",
            evidence=tuple(evidence),
            advice="The gradient reaches this lag; if it is not learned, look elsewhere first.",
            command="",
            check="Train on a longer lag: the score should hold as long as the horizon does.",
        )
    elif case.censored:
        yield Finding(
            rule="reach",
            severity="note",
            cell=case.cell,
            title=f"{case.subject}: {case.when} 1% of the gradient reaches at least {steps(horizon)} back, as far as "
            f"was measured; {need.steps} are needed.",
            evidence=tuple(evidence),
            advice=f"Measure on sequences of more than {steps(need.steps)}, and over all lags.",
            command="",
            check="The horizon of that measurement says it.",
        )


def _one_step(case: Case) -> Finding:
    return Finding(
        rule="reach",
        severity="note",
        cell=case.cell,
        title=f"{case.subject}: {case.when} a run has one step, so nothing of its gradient goes through time.",
        evidence=("One call with one step, whose state came from no call that was seen.",),
        advice="Watch a step in which the layer reads a sequence, or is called step by step with the state it put out.",
        command="",
        check="The record then has more steps than one.",
    )


def _unmeasured(case: Case) -> Finding:
    left_out = case.flow.left_out if case.flow is not None else ()
    return Finding(
        rule="reach",
        severity="note",
        cell=case.cell,
        title=f"{case.subject}: how far back the gradient reaches was not measured.",
        evidence=left_out or ("The record holds no pair of steps with a gradient between them.",),
        advice="Nothing can be said about vanishing or exploding here; measure on a batch whose loss has a gradient.",
        command=command(case) if case.run is not None else "",
        check="The record then has a horizon.",
    )
