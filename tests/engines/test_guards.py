"""Whatever a step reads of its surroundings and however it comes to read it: a change is seen, or the step refused.

What a changed step means is taken from a trace made anew, and for some from the reference engine.
"""

from __future__ import annotations

import array
import contextlib
import contextvars
import ctypes
import enum
import functools
import random
import threading
import typing

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import throughtime as tt
from tests.engines.cells import MADE, Simple
from tests.engines.guarded import DTYPE, Thing, fresh, seen, simple, with_f
from tests.tolerances import IDENTITY, close
from throughtime import cells
from throughtime.cells import Cell, Gates, State
from throughtime.engines.trace import Traced, traced
from throughtime.engines.trace.guards import Guards

FACTOR = 2.0


def change_factor(cell):
    global FACTOR
    FACTOR += 1.0


# -- what is called where no code names it


class Bend(nn.Module):
    gain = 2.0

    def forward(self, a):
        return torch.tanh(FACTOR * self.gain * a)


class Relu(nn.ReLU):
    def forward(self, a):
        return torch.relu(FACTOR * a)


class Spike(torch.autograd.Function):
    slope = 2.0

    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return torch.tanh(a)

    @staticmethod
    def backward(ctx, g):
        (a,) = ctx.saved_tensors
        return g / (1 + Spike.slope * FACTOR * a.abs()).square()


class Apart(torch.autograd.Function):
    @staticmethod
    def forward(a):
        return torch.tanh(a)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)
        ctx.factor = FACTOR

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor * ctx.saved_tensors[0]


class Operators:
    def __mul__(self, a):
        return FACTOR * a

    def __getitem__(self, key):
        return FACTOR

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return FACTOR

    def __float__(self):
        return FACTOR

    def __enter__(self):
        return FACTOR

    def __exit__(self, *_):
        pass

    def __iter__(self):
        yield FACTOR


class Described:
    def __get__(self, instance, owner=None):
        return FACTOR


class Meta(type):
    @property
    def f(cls):
        return FACTOR


class WithMeta(metaclass=Meta):
    pass


class Level(enum.Enum):
    HIGH = 2.0

    @property
    def f(self):
        return FACTOR * self.value


class Built:
    def __init__(self):
        self.f = FACTOR


class Missing(dict):
    def __getitem__(self, key):
        return FACTOR


class Pair(typing.NamedTuple):
    first: float
    more: list[float]

    def both(self):
        return self.first + FACTOR * self.more[0]


@functools.wraps(F.relu)
def wrapped(a):
    return torch.relu(FACTOR * a)


@contextlib.contextmanager
def lent():
    yield FACTOR


@torch.enable_grad()
def decorated(a):
    return torch.tanh(FACTOR * a)


def entered(cell, a):
    with cell.d as f:
        return f * a


def borrowed(cell, a):
    with lent() as f:
        return f * a


READS_A_GLOBAL = {
    "a module's forward": fresh(simple(lambda s, a: s.m(a)), m=Bend()),
    "one inside others": fresh(simple(lambda s, a: s.m(a)), m=nn.Sequential(nn.Tanh(), nn.Sequential(Bend()))),
    "forward over a library's": fresh(simple(lambda s, a: s.m(a)), m=Relu()),
    "a function's way back": fresh(simple(lambda s, a: Spike.apply(a))),
    "a function held by its apply": fresh(simple(lambda s, a: s.f(a)), f=Spike.apply),
    "setup_context": fresh(simple(lambda s, a: Apart.apply(a))),
    "__mul__": fresh(simple(lambda s, a: s.d * a), d=Operators()),
    "__getitem__": fresh(simple(lambda s, a: s.d[0] * a), d=Operators()),
    "__getattr__": fresh(simple(lambda s, a: s.d.anything * a), d=Operators()),
    "__float__": fresh(simple(lambda s, a: float(s.d) * a), d=Operators()),
    "__iter__": fresh(simple(lambda s, a: sum(s.d) * a), d=Operators()),
    "__enter__": fresh(simple(entered), d=Operators()),
    "a descriptor": fresh(simple(lambda s, a: s.f * a, f=Described())),
    "a property of a metaclass": fresh(simple(lambda s, a: WithMeta.f * a)),
    "a property of an enum": fresh(simple(lambda s, a: Level.HIGH.f * a)),
    "__init__": fresh(simple(lambda s, a: Built().f * a)),
    "a class by its object": fresh(simple(lambda s, a: type(s.d)().f * a), d=Built()),
    "a dictionary of another class": fresh(simple(lambda s, a: s.d["f"] * a), d=Missing(f=1.0)),
    "a tuple's method": fresh(simple(lambda s, a: s.d.both() * a), d=Pair(1.0, [1.0])),
    "a function that says it is torch's": fresh(simple(lambda s, a: wrapped(a))),
    "a function behind contextlib's": fresh(simple(borrowed)),
    "a function behind torch's": fresh(simple(lambda s, a: decorated(a))),
}


@pytest.mark.parametrize("case", READS_A_GLOBAL)
def test_what_is_called_by_no_name_is_watched(case):
    assert seen(READS_A_GLOBAL[case], change_factor)


def test_what_is_called_by_no_name_may_be_replaced(monkeypatch):
    cell = READS_A_GLOBAL["one inside others"]
    assert seen(cell, lambda cell: monkeypatch.setattr(Bend, "gain", 5.0))
    assert seen(cell, lambda cell: monkeypatch.setattr(Bend, "forward", lambda self, a: torch.sigmoid(a)))
    assert seen(READS_A_GLOBAL["a function's way back"], lambda cell: monkeypatch.setattr(Spike, "slope", 25.0))


# -- what says which part is which


class Two(Cell):
    parts = ("c", "h")
    reads = {"x": "c", "y": "h"}  # noqa: RUF012
    inputs = ("a",)
    recurrent = ("a",)

    def step(self, u, read, W):
        h = torch.tanh(u.a + W.a(read.x))
        return State(c=0.5 * read.x + h, h=h * read.y + h), Gates()


LAYOUT = {
    "reads changed": lambda kind: kind.reads.update(x="h"),
    "reads replaced": lambda kind: setattr(kind, "reads", {"x": "h", "y": "c"}),
    "parts replaced": lambda kind: setattr(kind, "parts", ("h", "c")),
}


@pytest.mark.parametrize("case", LAYOUT)
def test_the_layout_of_a_class_is_watched(case):
    kind = type("Mine", (Two,), {"reads": dict(Two.reads), "parts": Two.parts})
    assert seen(fresh(kind), lambda cell: LAYOUT[case](kind))


@pytest.mark.parametrize("name", ["inputs", "recurrent", "unbiased"])
def test_the_names_of_blocks_are_watched(name):
    kind = type("Mine", (Two,), {name: getattr(Two, name)})
    cell = fresh(kind)
    first = traced(cell, DTYPE)
    assert first.holds(cell)
    setattr(kind, name, ("b",))
    assert not first.holds(cell)


# -- what is refused


@functools.lru_cache
def cached(k):
    return FACTOR * k


def importing(cell, a):
    from tests.engines import test_guards

    return test_guards.FACTOR * a


def importing_names(cell, a):
    from tests.engines.test_guards import FACTOR as factor

    return factor * a


def importing_a_librarys(cell, a):
    import math

    from torch.nn import functional

    return math.pi * functional.relu(a)


CONTEXT = contextvars.ContextVar("CONTEXT", default=2.0)


class Turned(list):
    def __iter__(self):
        yield FACTOR


class OwnSlot(Simple):
    __slots__ = ("f",)

    def made(self, a, h, W):
        return self.f * a


UNSEEN = {
    "ctypes.c_double": fresh(simple(lambda s, a: s.d.value * a), d=ctypes.c_double(2.0)),
    "array.array": fresh(simple(lambda s, a: s.d[0] * a), d=array.array("d", [2.0])),
    "bytearray": fresh(simple(lambda s, a: s.d[0] * a), d=bytearray([2])),
    "numpy.ndarray": fresh(simple(lambda s, a: s.d[0].f * a), d=np.array([with_f(Thing())], dtype=object)),
    "list_iterator": fresh(simple(lambda s, a: next(s.d) * a), d=iter([1.0, 2.0])),
    "ContextVar": fresh(simple(lambda s, a: CONTEXT.get() * a)),
    "_thread._local": fresh(simple(lambda s, a: s.d.f * a), d=threading.local()),
    "Turned": fresh(simple(lambda s, a: sum(s.d) * a), d=Turned([1.0])),
    "_lru_cache_wrapper": fresh(simple(lambda s, a: cached(1) * a)),
    "Random": fresh(simple(lambda s, a: a if s.d() < 0.1 else -a), d=random.Random(0).random),
    "random": fresh(simple(lambda s, a: a if random.random() < 0.1 else -a)),
    "import tests.engines": fresh(simple(importing)),
    "import tests.engines.test_guards": fresh(simple(importing_names)),
    "get_num_threads": fresh(simple(lambda s, a: torch.get_num_threads() * a)),
    "a slot of its own": fresh(OwnSlot, f=2.0),
}


@pytest.mark.parametrize("case", UNSEEN)
def test_what_cannot_be_seen_is_refused(case):
    reason = traced(UNSEEN[case], DTYPE)
    assert isinstance(reason, str)
    assert "asks" in reason
    assert case in reason


def test_a_context_of_the_caller_counts():
    CONTEXT.set(3.0)
    x = torch.randn(5, 2, 3, dtype=DTYPE)
    cell = UNSEEN["ContextVar"]
    close(tt.unroll(cell, x).output, tt.unroll(cell, x, engine="reference").output, IDENTITY)


# -- and what is served still


def by_the_package(cell, u, read, W):
    return tt.cells.State(h=torch.ops.aten.tanh.default(u.a)), cells.Gates()


SERVED = {
    "torch's operators, and the package by its name": type("Mine", (Simple,), {"step": by_the_package}),
    "imports of libraries": simple(importing_a_librarys),
    **{kind.__name__: kind for kind in MADE},
}


@pytest.mark.parametrize("case", SERVED)
def test_served(case):
    cell = SERVED[case](3, 4, dtype=DTYPE)
    found = traced(cell, DTYPE)
    assert isinstance(found, Traced), found
    assert traced(cell, DTYPE) is found


@pytest.mark.parametrize("name", cells.known())
def test_nothing_that_the_known_cells_hold_is_unseen(name):
    assert Guards(cells.make(name, 3, 4)).asks == []


def test_a_changed_slope_reaches_the_gradients(monkeypatch):
    cell = fresh(simple(lambda s, a: Spike.apply(a)))
    x = torch.randn(5, 2, 3, dtype=DTYPE)

    def gradient(engine):
        return torch.autograd.grad(tt.unroll(cell, x, engine=engine).output.sum(), cell.weight_ih)[0]

    close(gradient("auto"), gradient("reference"), IDENTITY)
    before = gradient("auto")
    monkeypatch.setattr(Spike, "slope", 25.0)
    close(gradient("auto"), gradient("reference"), IDENTITY)
    assert not torch.equal(gradient("auto"), before)
