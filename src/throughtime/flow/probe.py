"""The microscope on a net of this package: one of its layers, on one batch, at one moment."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Literal

from throughtime.data.dataset import Batch
from throughtime.errors import FlowError
from throughtime.flow.credit import Derivative
from throughtime.flow.examples import example_of
from throughtime.flow.layer import look, twin
from throughtime.flow.sighting import latest
from throughtime.flow.survey import Extent, survey
from throughtime.models import Net
from throughtime.records import FlowRecord


def probe(
    net: Net,
    batch: Batch,
    *,
    moment: Literal["before", "during", "after"],
    update: int,
    layer: int = 0,
    derivative: Derivative = "boundary",
    extent: Extent = "whole",
    most_steps: int | None = None,
    examples: Sequence[tuple[Batch, Sequence[str]]] = (),
    labels: Sequence[str] = (),
) -> FlowRecord:
    """How the gradient of a batch's loss travels back through recurrent layer `layer` (0 is the lowest).

    `update` is the number of optimiser steps taken so far. `examples` are single sequences, each with its steps as
    words; `labels` name the classes. Everything is measured in float64 on a copy of the net without dropout:
    the net, its gradients and the random numbers are as they were. Of a layer of two directions
    the forward one is measured. `extent` is "quick", "usual" (with bounds, step gains and the map of all pairs) or
    "whole" (with path families, the weights' gradient by lag, memory and spectra); of longer sequences the last
    `most_steps` steps are measured (None: all); what was limited to stay short is said in `left_out`.

    Costs a run of the net and a backward pass, and about a second on two cores for each of the measures that "whole"
    adds; what would take longer is measured on less.
    Raises FlowError if a sequence has no step, if there is no such layer, or if states or gradients are not finite.
    """
    began = time.perf_counter()
    if int(batch.lengths.min()) < 1:
        raise FlowError("the probe batch holds a sequence without a step; leave it out.")
    batch = batch.window(0, int(batch.lengths.max()))
    double = twin(net)
    seen = look(double, batch, layer).seen
    if most_steps is not None:
        seen = latest(seen, most_steps)
    shown = tuple(example_of(double, one, words, labels, layer, most_steps) for one, words in examples)
    record = survey(seen, moment=moment, update=update, derivative=derivative, extent=extent, examples=shown)
    return dataclasses.replace(record, seconds=time.perf_counter() - began)
