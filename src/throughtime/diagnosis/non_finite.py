"""NaN or infinity in what a layer puts out, or in the gradient that comes back to it."""

from __future__ import annotations

from collections.abc import Iterator

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.torch_lines import CLIP
from throughtime.records import Finding, NonFinite


def non_finite(case: Case) -> Iterator[Finding]:
    """The first place where it happened, in any sequence of the batch."""
    if case.flow is not None and case.flow.non_finite is not None:
        yield lost(case.flow.non_finite)


def lost(its: NonFinite) -> Finding:
    """The finding of one place."""
    forward = its.way == "forward"
    if its.input:
        advice = "Look at the data: the input was NaN or infinite before this layer read it."
    elif its.weights:
        advice = (
            "The weights were lost in an earlier step: load the last good ones, and look at the gradient before it."
        )
    elif forward:
        advice = "Its input is finite, so its own step overflows: look at the size of its weights and inputs."
    else:
        advice = "Look at the loss of that sequence (a log of 0, a division by 0), or at the loss scale; then clip."
    return Finding(
        rule="non_finite",
        severity="serious",
        cell=its.layer,
        title=its.sentence[:1] + its.sentence[1:],
        evidence=("Every sequence of the batch was looked at, not those alone that are measured.",),
        advice=advice,
        command="" if forward else CLIP,
        check="If that sequence is left out and it still happens, it is not its data.",
    )
