"""The small print under a picture: which derivative it shows, in which units, from how many sequences."""

from __future__ import annotations

from collections.abc import Sequence

from throughtime.records import FlowRecord
from throughtime.view.subject import Strand
from throughtime.view.words import count, some

DERIVATIVE = {
    "boundary": "Boundary derivative (the parts of the state held apart)",
    "node": "Node derivative (total, with the path from part to part inside the step)",
}


def shared(strands: Sequence[Strand], unit: str) -> str:
    """A note that holds for several measurements."""
    return note([strand.now for strand in strands], unit)


def note(flows: Sequence[FlowRecord], unit: str) -> str:
    """Derivative, unit, dtype, sequences, layer; each said once where all agree."""
    derivatives = list(dict.fromkeys(DERIVATIVE[flow.derivative] for flow in flows))
    dtypes = list(dict.fromkeys(flow.dtype for flow in flows))
    batches = list(dict.fromkeys(f"{some(flow.B, 'sequence')} {_steps(flow)}" for flow in flows))
    layers = list(dict.fromkeys(flow.layer for flow in flows))
    measured = f"{', '.join(batches)}, layer {', '.join(layers)}"
    return f"{'; '.join(derivatives)}. {unit}. Computed in {', '.join(dtypes)} on {measured}."


def _steps(flow: FlowRecord) -> str:
    if flow.before:
        return f"over the last {count(flow.T)} of {some(flow.before + flow.T, 'step')}"
    return f"of up to {some(flow.T, 'step')}"
