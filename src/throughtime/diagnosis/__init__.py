"""What the records say is wrong, and what to do: one rule a file, records in, findings out. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from throughtime.diagnosis.baseline import baseline
from throughtime.diagnosis.case import Case
from throughtime.diagnosis.clipping import clipping
from throughtime.diagnosis.cut import cut
from throughtime.diagnosis.exploding import exploding
from throughtime.diagnosis.forgetting import forgetting
from throughtime.diagnosis.non_finite import lost as lost_at
from throughtime.diagnosis.non_finite import non_finite
from throughtime.diagnosis.padding import padding
from throughtime.diagnosis.reach import reach
from throughtime.diagnosis.saturation import saturation
from throughtime.diagnosis.shut import shut
from throughtime.diagnosis.vanishing import vanishing
from throughtime.diagnosis.window import window
from throughtime.diagnosis.wrong_end import wrong_end
from throughtime.errors import InputError
from throughtime.records import DataCard, Finding, FlowRecord, Measurement, RunRecord, Study, Watched

Rule = Callable[[Case], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    *(non_finite, wrong_end, cut, padding, shut),
    *(baseline, vanishing, exploding, window, forgetting, saturation, clipping, reach),
)
_SERIOUS_FIRST = ("serious", "warning", "note", "good")
# Of a layer for which one of these is found, what follows from it is not told once more, and no other cure is advised.
_CAUSES = {non_finite.__name__, wrong_end.__name__, cut.__name__, padding.__name__, shut.__name__}
_FOLLOWS = {vanishing.__name__, forgetting.__name__, saturation.__name__, reach.__name__}
_ELSEWHERE = {baseline.__name__, clipping.__name__}  # faults that a gradient that reaches far enough does not exclude

__all__ = ["RULES", "Case", "Rule", "diagnose"]

Records = FlowRecord | RunRecord | Study | Measurement | Watched


class Watching(Protocol):
    """Whatever has seen a model in training: a `tt.watch`."""

    @property
    def watched(self) -> Watched:
        """What it saw last."""
        ...


def diagnose(record: Records | Watching | Sequence[FlowRecord]) -> tuple[Finding, ...]:
    """What a record says is wrong or right, most serious first; each with evidence, advice and a check of the advice.

    A `Study` says most: it knows the task's lag, the obvious guess and the command. A `RunRecord` alone knows how it
    was trained, a `FlowRecord` alone how the gradient travelled. Of somebody's own model (a `tt.watch` or its records,
    a `Measurement`) every layer is judged, and the first finding is of the whole model: the fault, or that none was
    found; the advice is in lines of torch.

    Raises InputError for anything else.
    """
    whole = _taken(record)
    if whole is None:
        raise InputError(
            "findings are made from a FlowRecord, RunRecord, Study or Measurement, from a watch or the records of one, "
            f"not from {type(record).__name__}."
        )
    cases = list(_cases(whole))
    by_case = [_of(case) for case in cases]
    lost = whole.non_finite if isinstance(whole, Watched) else ()
    found = [lost_at(its) for its in lost] + [its for by in by_case for its in by if _stands(its, by)]
    if isinstance(whole, Watched) and not cases:
        found += [_unseen(reason) for reason in whole.left_out]
    # Both directions of a layer may tell of the same fault; it is one finding.
    once = {(finding.rule, finding.title): finding for finding in reversed(found)}
    ordered = sorted(
        (finding for finding in dict.fromkeys(found) if once[finding.rule, finding.title] is finding),
        key=lambda finding: _SERIOUS_FIRST.index(finding.severity),
    )
    if not any(case.strange for case in cases):
        return tuple(ordered)
    faults = [finding for finding in ordered if finding.severity in ("serious", "warning")]
    if faults:
        return (*(finding for finding in ordered if finding.severity != "good"),)
    return (_verdict(cases, ordered), *ordered)


def _taken(record: object) -> Records | None:
    if isinstance(record, Records):
        return record
    if isinstance(record, tuple | list):
        return Watched(tuple(record)) if record and all(isinstance(one, FlowRecord) for one in record) else None
    seen = getattr(record, "watched", None)
    return seen if isinstance(seen, Watched) else None


def _of(case: Case) -> list[Finding]:
    return [finding for rule in RULES for finding in rule(case)]


def _stands(finding: Finding, beside: list[Finding]) -> bool:
    """Whether no finding beside it is its cause, and it is no good news beside a fault of the same layer."""
    if finding.rule in _FOLLOWS and any(other.rule in _CAUSES and other.severity != "note" for other in beside):
        return False
    against = (other for other in beside if other.rule not in _ELSEWHERE)
    return finding.severity != "good" or all(other.severity not in ("serious", "warning") for other in against)


def _unseen(reason: str) -> Finding:
    """That a layer could not be measured, where no other was, so that nothing is known of the gradient."""
    return Finding(
        rule="unseen",
        severity="note",
        cell="",
        title=f"Nothing was measured: {reason}",
        evidence=("No record was made in the step that was watched last.",),
        advice="Change what the sentence names, then watch again; until then nothing is known of the gradient.",
        command="",
        check="The watch then has a record.",
    )


def _verdict(cases: list[Case], ordered: list[Finding]) -> Finding:
    """That no fault was found, and what that rests on: the layer nearest the loss."""
    own = [case.cell for case in cases if case.flow is not None]
    notes = [finding for finding in ordered if finding.rule in (cut.__name__, reach.__name__)]
    first = notes[0] if notes else None
    rest = first.title.rstrip(".") if first is not None else "nothing was measured"
    unmeasured = all(case.horizon is None for case in cases)
    good = bool(ordered) and all(finding.severity == "good" for finding in ordered)
    return Finding(
        rule="verdict",
        severity="good" if good else "note",
        cell=own[-1] if own else "",
        title=f"{'Nothing was measured' if unmeasured else 'No fault was found'}: {rest}.",
        evidence=(f"Looked at: {', '.join(dict.fromkeys(own))}.",) if own else (),
        advice="If it does not learn, look elsewhere first: at the data, the loss, the rate.",
        command="",
        check="A lag that you know (tt.watch(model, lag=…), measure --lag) makes this sharper.",
    )


def _cases(record: Records) -> Iterator[Case]:
    if isinstance(record, FlowRecord):
        yield Case(record, record if record.moment == "before" else None)
    elif isinstance(record, Measurement):
        yield from _found(record.flows, record.card)
    elif isinstance(record, Watched):
        yield from _found(record.flows, None)
    elif isinstance(record, RunRecord):
        yield from _layers(record, None, "")
    else:
        for run in record.runs:
            yield from _layers(run, record.data, record.command)


def _found(flows: Sequence[FlowRecord], card: DataCard | None) -> Iterator[Case]:
    """A case for each layer as it is; where the task's lag is known, the one of a stack that reaches furthest leads."""
    known = (card is not None and card.lag is not None) or any(flow.lag is not None for flow in flows)
    data = card if card is not None and card.lag is not None else None
    if not known:
        yield from (Case(flow, None, named=flow.layer) for flow in flows)
        return
    stacks: dict[object, list[Case]] = {}
    for number, flow in enumerate(flows):
        stack = (flow.place.module, flow.place.run) if flow.place is not None else number
        stacks.setdefault(stack, []).append(Case(flow, None, data=data, leads=False, named=flow.layer))
    for cases in stacks.values():
        furthest = max(cases, key=_reach)
        yield from (replace(case, leads=case is furthest) for case in cases)


def _reach(case: Case) -> int:
    return -1 if case.horizon is None else case.horizon


def _layers(run: RunRecord, data: DataCard | None, command: str) -> Iterator[Case]:
    """A case for each recurrent layer that was measured; one without flow if none was.

    It is enough that one layer carries the gradient back, so the one that reaches furthest leads.
    """
    layers = tuple(dict.fromkeys(flow.layer for flow in run.flows))
    cases = []
    for layer in layers:
        flows = [flow for flow in run.flows if flow.layer == layer]
        before = _last(flows, "before")
        judged = _last(flows, "after") or _last(flows, "during") or before
        cases.append(Case(judged, before, run, data, command, len(layers), leads=False))
    if not cases:
        yield Case(None, None, run, data, command)
        return
    furthest = max(cases, key=_reach)
    yield from (replace(case, leads=case is furthest) for case in cases)


def _last(flows: list[FlowRecord], moment: str) -> FlowRecord | None:
    return next((flow for flow in reversed(flows) if flow.moment == moment), None)
