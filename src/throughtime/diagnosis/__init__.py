"""What the records say is wrong, and what to do: one rule a file, records in, findings out. No torch here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from throughtime.diagnosis.baseline import baseline
from throughtime.diagnosis.case import Case
from throughtime.diagnosis.clipping import clipping
from throughtime.diagnosis.exploding import exploding
from throughtime.diagnosis.forgetting import forgetting
from throughtime.diagnosis.reach import reach
from throughtime.diagnosis.saturation import saturation
from throughtime.diagnosis.vanishing import vanishing
from throughtime.diagnosis.window import window
from throughtime.errors import InputError
from throughtime.records import DataCard, Finding, FlowRecord, Measurement, RunRecord, Study

Rule = Callable[[Case], Iterator[Finding]]

RULES: tuple[Rule, ...] = (baseline, vanishing, exploding, window, forgetting, saturation, clipping, reach)
_SERIOUS_FIRST = ("serious", "warning", "note", "good")

__all__ = ["RULES", "Case", "Rule", "diagnose"]


def diagnose(record: FlowRecord | RunRecord | Study | Measurement) -> tuple[Finding, ...]:
    """What a record says is wrong or right, most serious first; each with evidence, advice and a check of the advice.

    A `Study` says most: it knows the task's lag, the obvious guess and the command. A `RunRecord` alone knows how it
    was trained, a `FlowRecord` alone how the gradient travelled. Of a `Measurement` every layer is judged for itself,
    and there is nothing to type: the model is somebody's own.

    Raises InputError for anything else.
    """
    if not isinstance(record, FlowRecord | RunRecord | Study | Measurement):
        raise InputError(
            f"findings are made from a FlowRecord, RunRecord, Study or Measurement, not from {type(record).__name__}; "
            "of a watch, diagnose its records one by one."
        )
    found = [finding for case in _cases(record) for rule in RULES for finding in rule(case)]
    if isinstance(record, Measurement):
        found = [replace(finding, command="") for finding in found]
    return tuple(sorted(found, key=lambda finding: _SERIOUS_FIRST.index(finding.severity)))


def _cases(record: FlowRecord | RunRecord | Study | Measurement) -> Iterator[Case]:
    if isinstance(record, FlowRecord):
        yield Case(record, record if record.moment == "before" else None)
    elif isinstance(record, Measurement):
        yield from _found(record)
    elif isinstance(record, RunRecord):
        yield from _layers(record, None, "")
    else:
        for run in record.runs:
            yield from _layers(run, record.data, record.command)


def _found(record: Measurement) -> Iterator[Case]:
    """A case for each layer as it is; where the task's lag is known, the one of a stack that reaches furthest leads."""
    if record.card is None or record.card.lag is None:
        yield from (Case(flow, None, named=flow.layer) for flow in record.flows)
        return
    stacks: dict[str, list[Case]] = {}
    for flow in record.flows:
        stack = re.sub(r"(\.l\d+(_reverse)?| \(layer \d+\))$", "", flow.layer)
        stacks.setdefault(stack, []).append(Case(flow, None, data=record.card, leads=False, named=flow.layer))
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
