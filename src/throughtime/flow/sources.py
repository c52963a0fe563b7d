"""Which sources of a sighting are followed, so that a measure of many rows stays short.

Dimensions: T steps, B sequences, H units, P parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.errors import FlowError
from throughtime.flow.linear.trajectory import Trajectory
from throughtime.flow.sighting import Sighting, fewer

_WORK = 4e9  # multiplications: about a second on two cores
_SEQUENCES = 8
_SOURCES = 16  # steps t of each sequence
_STEPS = 1000  # back, and in which the sources lie


@dataclass(frozen=True)
class Sources:
    """Some sources of some sequences."""

    seen: Sighting
    wanted: Tensor  # (T, B) bool: which steps are sources
    most_lag: int | None
    said: tuple[str, ...]  # what was limited; sentences


def affordable(seen: Sighting, families: int, what: str) -> Sources | str:
    """Sources for a sweep of so many families of rows; a sentence instead if no step has a gradient.

    `what` begins the sentences on what was limited ("Paths were followed").
    """
    there = seen.delta.any(-1).any(0)
    begins = torch.nonzero(there.any(1))[:, 0].tolist()
    if not begins:
        return f"{what} from no step: none has an output gradient."
    along, said = seen.along, list[str]()
    most_lag = None
    if begins[-1] >= _STEPS:
        most_lag = _STEPS - 1
        first = begins[-1] - most_lag
        there[:first] = False
        said.append(f"{what} at most {most_lag} steps back, from none but the steps {first} to {begins[-1]}.")
    rows = there.sum(0)
    row = max(1, len(along.cell.squares(along.parameters))) * seen.tangent.H**2 * families
    length = min(begins[-1] + 1, _STEPS)
    most = max(1, int(_WORK / (row * (length if int(rows.max()) == 1 else length / 2))))
    some = rows.nonzero()[:, 0].tolist()[: min(_SEQUENCES, most)]
    if len(some) < along.B:
        said.append(f"{what} on {len(some)} of {along.B} sequences.")
        seen, there = fewer(seen, some), there[:, some]
    each = min(_SOURCES, max(1, most // len(some)))
    wanted = _spread(there[: seen.along.T], each)
    if int(rows.max()) > each:
        said.append(
            f"{what} from at most {each} of the steps of a sequence that have an output gradient, evenly spread."
        )
    return Sources(seen, wanted, most_lag, tuple(said))


def wanted_steps(along: Trajectory, delta: Tensor, sources: Sequence[int] | None, most_lag: int | None) -> Tensor:
    """(T, B) bool: the steps that are sources, all of a gradient δ (P, T, B, H) or those asked for.

    Raises FlowError if there is none, or if what is asked for does not fit.
    """
    there = delta.any(-1).any(0)
    if sources is not None:
        steps = sorted(set(sources))
        if not steps or steps[0] < 0 or steps[-1] >= along.T:
            raise FlowError(f"sources are steps in 0..{along.T - 1}, at least one, got {list(sources)}.")
        asked = torch.zeros_like(there)
        asked[steps] = True
        there = there & asked
    if most_lag is not None and most_lag < 0:
        raise FlowError(f"most_lag is a number of steps, 0 or more, got {most_lag}.")
    if not bool(there.any()):
        raise FlowError(
            "delta is zero at every source, so there is no gradient to follow; name sources that have one, or look at "
            "the loss."
        )
    return there


def _spread(there: Tensor, most: int) -> Tensor:
    """Of the true values in each column of (T, B), at most so many, evenly spread, the last one among them."""
    found = torch.zeros_like(there)
    for b in range(there.shape[1]):
        steps = there[:, b].nonzero()[:, 0]
        count = min(most, len(steps))
        places = torch.linspace(len(steps) - 1, 0, count + 1)[:count] if count < len(steps) else torch.arange(count)
        found[steps[places.round().long()], b] = True
    return found
