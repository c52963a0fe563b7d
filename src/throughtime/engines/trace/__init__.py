"""From a cell's step to a program that engines compile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from threading import Thread
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from throughtime.cells.cell import Cell
from throughtime.engines.trace.follow import Followed, follow
from throughtime.engines.trace.guards import Guards
from throughtime.engines.trace.program import Program
from throughtime.engines.trace.record import Untraceable
from throughtime.engines.trace.tape import replay

__all__ = ["Program", "Traced", "Untraceable", "trace", "traced"]


@dataclass(frozen=True)
class Traced:
    """A cell's step as a program, and how its vectors follow from the cell's parameters."""

    program: Program
    dtype: torch.dtype
    units: int
    _followed: Followed = field(repr=False)
    _guards: Guards = field(repr=False)

    def vectors(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        """The values (H,) that hang on parameters alone, on their device; differentiable in the parameters."""
        if not self._followed.slots:
            return []
        found = replay(self._followed.tape, parameters)
        some = [found[slot].to(self.dtype) for slot in self._followed.slots]
        # As numbers that lie in memory so: an engine reads them there, also where torch has marked them as negated.
        return [vector.reshape(-1).expand(self.units).resolve_neg().contiguous() for vector in some]

    @cached_property
    def hung_on(self) -> tuple[str, ...]:
        """The parameters that the vectors hang on, by name."""
        return tuple(dict.fromkeys(entry for entry in self._followed.tape if isinstance(entry, str)))

    def holds(self, cell: Cell) -> bool:
        """Whether what the trace has baked in is unchanged; a few microseconds."""
        return self._guards.hold(cell)


@dataclass(frozen=True)
class _Refused:
    reason: str
    guards: Guards

    def holds(self, cell: Cell) -> bool:
        return self.guards.hold(cell)


_KEPT: WeakKeyDictionary[Cell, dict[torch.dtype, Traced | _Refused]] = WeakKeyDictionary()


def trace(cell: Cell, dtype: torch.dtype) -> Traced:
    """Trace a cell's step; the cell may be on any device, the meta device too. Takes some 10 ms.

    Raises Untraceable.
    """
    found = _trace(cell, dtype)
    if isinstance(found, _Refused):
        raise Untraceable(found.reason)
    return found


def traced(cell: Cell, dtype: torch.dtype) -> Traced | str:
    """As `trace`, kept while the cell lives and nothing that its step reads changes; or why not, in one sentence.

    Threads may ask at once: each gets an answer, one of them is kept.
    """
    kept = _KEPT.get(cell)
    found = None if kept is None else kept.get(dtype)
    if found is None or not found.holds(cell):
        found = _trace(cell, dtype)
        _KEPT.setdefault(cell, {})[dtype] = found
    return found if isinstance(found, Traced) else found.reason


def _trace(cell: Cell, dtype: torch.dtype) -> Traced | _Refused:
    """Trace in a thread of its own, where no mode of torch's is on that the caller may be under."""
    answers: list[Traced | _Refused | BaseException] = []
    guards = Guards(cell)

    def attempt() -> None:
        try:
            if guards.asks:
                asked = ", ".join(guards.asks)
                raise Untraceable(f'the step of "{cell.title}" asks {asked}, which may differ from call to call.')
            followed = follow(cell, dtype)
            if not guards.hold(cell):
                raise Untraceable(f'the step of "{cell.title}" changes what it reads, beside the state.')
            answers.append(Traced(followed.program, dtype, cell.hidden_size, followed, guards))
        except Untraceable as error:
            answers.append(_Refused(str(error), Guards(cell)))
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            answers.append(_Refused(f'the step of "{cell.title}" cannot be traced: {first}.', Guards(cell)))
        except BaseException as error:
            answers.append(error)

    thread = Thread(target=attempt)
    thread.start()
    thread.join()
    (answer,) = answers
    if isinstance(answer, BaseException):
        raise answer
    return answer
