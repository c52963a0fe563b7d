"""One direction of one recurrent layer as it ran on one batch, with the gradient that reached it from outside.

Whoever knows how a model is built makes one of these; every measure starts from it.

Dimensions: T steps, B sequences, H units, P parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from throughtime.cells.cell import Cell
from throughtime.flow.adjoint import Adjoint, gather
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.tangent import Tangent
from throughtime.flow.linear.trajectory import Trajectory, excerpt
from throughtime.records import MemoryGate, Place, Use


@dataclass(frozen=True)
class Sighting:
    """A trajectory and δ; steps count in the order in which this direction reads."""

    name: str  # as its model names it
    along: Trajectory
    delta: Tensor  # (P, T, B, H), `checked`: what reaches each part of each state, but through the step after it
    loss: float  # NaN: not known
    notes: tuple[str, ...] = ()  # what of the layer is not in here, and why; sentences
    place: Place | None = None
    use: Use | None = None  # what is known of it before anything is measured
    before: int = 0  # steps of the sequences that lie before those of the trajectory

    @cached_property
    def tangent(self) -> Tangent:
        """The linearised steps."""
        return linearise(self.along)

    @cached_property
    def adjoint(self) -> Adjoint:
        """The gradient through time."""
        return gather(self.tangent, self.delta)


def place_of(
    cell: Cell,
    module: str,
    kind: str,
    layer: int = 0,
    direction: int = 0,
    suffix: str = "",
    *,
    run: int = 1,
    ours: bool = False,
) -> Place:
    """The place of a layer, with the gates that the cell itself says its memory lies in."""
    H, biased = cell.hidden_size, "bias_ih" in cell.shapes()
    memory = []
    for gate, sign in cell.clock.items():
        at = cell.inputs.index(gate) * H if gate in cell.inputs else -1
        there = biased and at >= 0
        memory.append(MemoryGate(gate, sign, f"bias_ih{suffix}" if there else "", (at, at + H) if there else (0, 0)))
    rectifier = cell.options.get("nonlinearity") == "relu"
    return Place(module, kind, layer, direction, run, suffix, ours, tuple(memory), rectifier)


def latest(seen: Sighting, steps: int) -> Sighting:
    """The last steps of a batch alone, from the states before them; sequences that end earlier are left out."""
    T = seen.along.T
    start = T - steps
    if start <= 0:
        return seen
    some = (seen.along.lengths > start).nonzero()[:, 0].tolist()
    again = excerpt(seen.along, some, start, T)
    dropped = seen.along.B - len(some)
    less = f", and {dropped} of {seen.along.B} sequences, which end before them, were left out" if dropped else ""
    note = f"Only the last {steps:,} of {T:,} steps were measured{less}; `--measure whole` measures all of them."
    return replace(
        seen, along=again, delta=seen.delta[:, start:, some], notes=(*seen.notes, note), before=seen.before + start
    )


def fewer(seen: Sighting, sequences: Sequence[int], last: int | None = None) -> Sighting:
    """These sequences of a sighting alone; of one sequence also its `last` steps alone, from the state before them."""
    some = list(sequences)
    stop = int(seen.along.lengths[some].max())
    start = 0 if last is None else max(0, stop - last)
    again = excerpt(seen.along, some, start, stop)
    return Sighting(seen.name, again, seen.delta[:, start:stop, some], math.nan, seen.notes, seen.place)
