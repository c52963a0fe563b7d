"""A smaller sighting in place of one that would take too long to measure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from throughtime.cells.cell import State
from throughtime.flow.linear.trajectory import follow
from throughtime.flow.sighting import Sighting


def fewer(seen: Sighting, sequences: Sequence[int], last: int | None = None) -> Sighting:
    """These sequences of a sighting alone; of one sequence also its `last` steps alone, from the state before them."""
    along, some = seen.along, list(sequences)
    stop = int(along.lengths[some].max())
    start = 0 if last is None else max(0, stop - last)
    before = {
        part: along.run.states[part][start - 1, some] if start else along.run.initial[part][some]
        for part in along.cell.parts
    }
    x, lengths = along.x[start:stop, some], along.lengths[some] - start
    again = follow(along.cell, x, State(**before), lengths=lengths, parameters=along.parameters)
    return Sighting(seen.name, again, seen.delta[:, start:stop, some], math.nan, seen.notes)
