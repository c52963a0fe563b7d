"""Cells that hold things, for the tests of what is watched while a trace is kept."""

from __future__ import annotations

import torch

from tests.engines.cells import Simple
from throughtime.engines.trace import Traced, trace, traced

DTYPE = torch.float64


class Thing:
    def value(self):
        return self.f


def with_f(thing, f=2.0):
    thing.f = f
    return thing


def fresh(kind, **held):
    """A cell of a class of its own, so that a change of the class is no other test's, with this in its attributes."""
    cell = kind(3, 4, dtype=DTYPE)
    for name, value in held.items():
        setattr(cell, name, value)
    return cell


def simple(made, **of_class):
    return type("Mine", (Simple,), {"made": lambda self, a, h, W: made(self, a) + h, **of_class})


def seen(cell, change):
    """Whether the trace that is kept is right before and after a change that changes it."""
    first = traced(cell, DTYPE)
    assert isinstance(first, Traced), first
    assert traced(cell, DTYPE) is first
    change(cell)
    after = traced(cell, DTYPE)
    assert isinstance(after, Traced), after
    assert traced(cell, DTYPE) is after
    return after.program == trace(cell, DTYPE).program != first.program
