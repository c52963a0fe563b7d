"""From a cell's step to a program that engines compile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from throughtime.cells.cell import Cell
from throughtime.engines.trace.follow import follow
from throughtime.engines.trace.interpret import evaluate
from throughtime.engines.trace.program import Program
from throughtime.engines.trace.record import Call, Untraceable, replay

__all__ = ["Program", "Traced", "Untraceable", "evaluate", "trace", "traced"]


@dataclass(frozen=True)
class Traced:
    """A cell's step as a program, and how its vectors follow from the cell's parameters."""

    program: Program
    dtype: torch.dtype
    units: int
    _tape: tuple[Call | str, ...]
    _slots: tuple[int, ...]

    def vectors(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        """The values (H,) that hang on parameters alone, under autograd."""
        if not self._slots:
            return []
        slots = replay(self._tape, parameters)
        return [slots[at].to(self.dtype).reshape(-1).expand(self.units).contiguous() for at in self._slots]

    def holds(self, cell: Cell) -> bool:
        """Whether what was baked in is unchanged."""
        return True


def trace(cell: Cell, dtype: torch.dtype) -> Traced:
    """Trace a cell's step; the cell may be on any device, the meta device too.

    Raises Untraceable.
    """
    followed = follow(cell, dtype)
    return Traced(followed.program, dtype, cell.hidden_size, followed.tape, followed.slots)


_KEPT: WeakKeyDictionary[Cell, dict[torch.dtype, Traced | str]] = WeakKeyDictionary()


def traced(cell: Cell, dtype: torch.dtype) -> Traced | str:
    """As `trace`, made once for a cell and dtype; why not, in one sentence, where it cannot be traced."""
    kept = _KEPT.setdefault(cell, {})
    found = kept.get(dtype)
    if found is None or (isinstance(found, Traced) and not found.holds(cell)):
        try:
            found = trace(cell, dtype)
        except Untraceable as error:
            found = str(error)
        kept[dtype] = found
    return found
