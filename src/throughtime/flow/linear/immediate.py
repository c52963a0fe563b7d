"""What one step's own use of the parameters says of them: products of rows with ∂⁺z_k/∂θ, added up over steps.

Dimensions: T steps, B sequences, H units, P parts, R rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from throughtime.cells.cell import State
from throughtime.flow.linear.abreast import Abreast, cotangents
from throughtime.flow.linear.sweep import shift
from throughtime.flow.linear.trajectory import Trajectory

_STRETCHES = 8  # that the steps are run in, so that few are passed through where only few have a row
_ROWS = 2048  # picked rows that are passed through together


@dataclass(frozen=True)
class Term:
    """A part of dL/dθ for every θ: `values · 2**exponent`; −inf for none at all."""

    values: dict[str, Tensor]
    exponent: float

    def plus(self, other: Term) -> Term:
        """The sum of both, with the larger of the two exponents."""
        top = max(self.exponent, other.exponent)
        if top == -math.inf:
            return self
        mine, its = (torch.tensor(max(-8000.0, each.exponent - top)).int() for each in (self, other))
        return Term({name: shift(v, mine) + shift(other.values[name], its) for name, v in self.values.items()}, top)


class Immediate:
    """∂⁺z_k/∂θ along a trajectory, by backward passes of the cell's step with many steps side by side as one batch.

    They go through the input's share too, so they serve every parameter of any cell.
    """

    def __init__(self, along: Trajectory) -> None:
        self._along = along
        self._values = {name: value.detach().requires_grad_() for name, value in along.parameters.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters."""
        return tuple(self._values)

    def nothing(self) -> Term:
        """No part of dL/dθ at all."""
        return Term({name: torch.zeros_like(value) for name, value in self._values.items()}, -math.inf)

    def times(self, here: Abreast) -> Term:
        """Σ_k rows_k ∂⁺z_k/∂θ over all steps and sequences, at least one row not zero."""
        rows, top = _levelled(here.rows, here.exponents)
        B = self._along.B
        given: list[tuple[Tensor, Tensor]] = []
        for start, stop, parts in self._stretches:
            low, high = max(start, here.first), min(stop, here.first + rows.shape[1])
            if low < high:
                given += cotangents(parts, rows[:, low - here.first : high - here.first], (low - start) * B)
        return Term(self._back(given, keep=True), top)

    def picked(self, steps: Tensor, sequences: Tensor, rows: Tensor, exponents: Tensor) -> Term:
        """The same for rows (P, R, H), with exponents (R,), of single steps of single sequences, (R,) each."""
        if not bool(rows.any()):
            return self.nothing()
        along, cell = self._along, self._along.cell
        levelled, top = _levelled(rows, exponents)
        total: Term | None = None
        for first in range(0, len(steps), _ROWS):
            some = slice(first, first + _ROWS)
            k, b = steps[some], sequences[some]
            state = State(**{part: before[k, b] for part, before in self._before.items()})
            with torch.enable_grad():
                u = cell.share(along.x[k, b], self._values)
                new, _ = cell.advance(u, state, cell.weights(self._values))
            pairs = [(new[part], levelled[p, some]) for p, part in enumerate(cell.parts) if new[part].requires_grad]
            term = Term(self._back(pairs, keep=False), top)
            total = term if total is None else total.plus(term)
        assert total is not None
        return total

    @cached_property
    def _stretches(self) -> list[tuple[int, int, list[Tensor]]]:
        """From step, to step, and the parts of the state made in them, with the graph that made them."""
        along, cell = self._along, self._along.cell
        cuts = np.linspace(0, along.T, min(_STRETCHES, along.T) + 1).round().astype(int).tolist()
        made = []
        for start, stop in itertools.pairwise(cuts):
            with torch.enable_grad():
                u = cell.share(along.x[start:stop].flatten(0, 1), self._values)
                new, _ = cell.advance(u, along.before(start, stop), cell.weights(self._values))
            made.append((start, stop, [new[part] for part in cell.parts]))
        return made

    @cached_property
    def _before(self) -> dict[str, Tensor]:
        """The state before every step, by part: (T, B, H)."""
        along = self._along
        return {part: flat.view(along.T, along.B, -1) for part, flat in along.before(0, along.T).items()}

    def _back(self, pairs: Sequence[tuple[Tensor, Tensor]], *, keep: bool) -> dict[str, Tensor]:
        if not pairs:  # no parameter is heard in these steps
            return self.nothing().values
        made, given = [z for z, _ in pairs], [g for _, g in pairs]
        found = torch.autograd.grad(
            made, list(self._values.values()), given, retain_graph=keep, allow_unused=True, materialize_grads=True
        )
        return dict(zip(self._values, found, strict=True))


def _levelled(rows: Tensor, exponents: Tensor) -> tuple[Tensor, float]:
    """Rows (P, ..., H) with exponents (...) brought to one exponent, that of the largest that is not zero."""
    there = rows.any(-1).any(0)
    top = exponents[there].max()
    return shift(rows, (exponents - top).clamp(min=-8000.0).int().unsqueeze(-1)), float(top)
