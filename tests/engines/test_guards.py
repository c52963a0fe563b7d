"""Whatever a step reads of its surroundings and however it comes to read it: a change is seen, or the step refused.

What a changed step means is taken from a trace made anew, and for some from the reference engine.
"""

from __future__ import annotations

import array
import collections
import contextlib
import contextvars
import ctypes
import dataclasses
import enum
import functools
import random
import threading
import types
import typing

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import throughtime as tt
from tests.engines.cells import MADE, Simple
from tests.tolerances import IDENTITY, close
from throughtime import cells
from throughtime.cells import Cell, Gates, State
from throughtime.engines.trace import Traced, trace, traced
from throughtime.engines.trace.guards import Guards

DTYPE = torch.float64
FACTOR = 2.0


def change_factor(cell):
    global FACTOR
    FACTOR += 1.0


def fresh(kind, **held):
    """A cell of a class of its own, so that a change of the class is no other test's, with this in its attributes."""
    cell = kind(3, 4, dtype=DTYPE)
    for name, value in held.items():
        setattr(cell, name, value)
    return cell


def simple(made, **of_class):
    return type("Mine", (Simple,), {"made": lambda self, a, h, W: made(self, a) + h, **of_class})


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
    "a dictionary of another class": fresh(simple(lambda s, a: s.d["f"] * a), d=Missing(f=1.0)),
    "a tuple's method": fresh(simple(lambda s, a: s.d.both() * a), d=Pair(1.0, [1.0])),
    "a function that says it is torch's": fresh(simple(lambda s, a: wrapped(a))),
    "a function behind contextlib's": fresh(simple(borrowed)),
    "a function behind torch's": fresh(simple(lambda s, a: decorated(a))),
}


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


@pytest.mark.parametrize("case", READS_A_GLOBAL)
def test_what_is_called_by_no_name_is_watched(case):
    assert seen(READS_A_GLOBAL[case], change_factor)


def test_what_is_called_by_no_name_may_be_replaced(monkeypatch):
    cell = READS_A_GLOBAL["one inside others"]
    assert seen(cell, lambda cell: monkeypatch.setattr(Bend, "gain", 5.0))
    assert seen(cell, lambda cell: monkeypatch.setattr(Bend, "forward", lambda self, a: torch.sigmoid(a)))
    assert seen(READS_A_GLOBAL["a function's way back"], lambda cell: monkeypatch.setattr(Spike, "slope", 25.0))


# -- where things are held


class Slotted:
    __slots__ = ("__hidden", "f", "later")

    def __init__(self):
        self.f = self.__hidden = 2.0

    @property
    def hidden(self):
        return self.__hidden

    def hide(self, value):
        self.__hidden = value


@dataclasses.dataclass(slots=True)
class SlottedData:
    f: float = 2.0


class Number(float):
    pass


class Thing:
    def value(self):
        return self.f


class Other(Thing):
    def value(self):
        return self.f + 1.0


def helper(a):
    return helper.f * a


def helped(a):
    return getattr(helped, "f", 1.0) * a


helper.f = 2.0
BEHIND = {"f": 2.0}


def with_f(thing, f=2.0):
    thing.f = f
    return thing


def in_turn(cell, a):
    for function in cell.d.values():
        a = function(a)
    return a


def last_first(cell):
    name = next(iter(cell.d))
    function = cell.d[name]
    del cell.d[name]
    cell.d[name] = function


def exchange(cell):
    cell.d.remove("x")
    cell.d.add("y")


def one_of(cell, a):
    return torch.tanh(a) if "x" in cell.d else torch.sigmoid(a)


def is_true(cell, a):
    return a if cell.d[0] is True else 2.0 * a


F_OF_IT = simple(lambda s, a: s.d.f * a)
FIRST_OF_IT = simple(lambda s, a: s.d[0] * a)
BY_NAME = simple(lambda s, a: s.d["f"] * a)
IN_TURN = simple(in_turn)
LATER = simple(lambda s, a: getattr(s.d, "later", 1.0) * a)
FUNCTIONS = {"tanh": torch.tanh, "exp": torch.exp}

HELD = {
    "a slot": (fresh(F_OF_IT, d=Slotted()), lambda cell: setattr(cell.d, "f", 3.0)),
    "a private slot": (fresh(simple(lambda s, a: s.d.hidden * a), d=Slotted()), lambda cell: cell.d.hide(3.0)),
    "a slot that was empty": (fresh(LATER, d=Slotted()), lambda cell: setattr(cell.d, "later", 3.0)),
    "a slot of a dataclass": (fresh(F_OF_IT, d=SlottedData()), lambda cell: setattr(cell.d, "f", 3.0)),
    "a namespace": (fresh(F_OF_IT, d=types.SimpleNamespace(f=2.0)), lambda cell: setattr(cell.d, "f", 3.0)),
    "a number with an attribute": (fresh(F_OF_IT, d=with_f(Number(2.0))), lambda cell: setattr(cell.d, "f", 3.0)),
    "a tensor's attribute": (
        fresh(simple(lambda s, a: s.d[0].f * a), d=[with_f(torch.ones(1))]),
        lambda cell: setattr(cell.d[0], "f", 3.0),
    ),
    "an object's class": (
        fresh(simple(lambda s, a: s.d.value() * a), d=with_f(Thing())),
        lambda cell: setattr(cell.d, "__class__", Other),
    ),
    "an object's dictionary": (fresh(F_OF_IT, d=with_f(Thing())), lambda cell: setattr(cell.d, "__dict__", {"f": 3.0})),
    "a deque": (fresh(FIRST_OF_IT, d=collections.deque([2.0])), lambda cell: cell.d.__setitem__(0, 3.0)),
    "a set of the same size": (fresh(simple(one_of), d={"x"}), exchange),
    "a list's equal": (fresh(simple(is_true), d=[True]), lambda cell: cell.d.__setitem__(0, 1)),
    "what a proxy shows": (fresh(BY_NAME, d=types.MappingProxyType(BEHIND)), lambda cell: BEHIND.update(f=3.0)),
    "a dictionary with defaults": (
        fresh(BY_NAME, d=collections.defaultdict(float, f=2.0)),
        lambda cell: cell.d.update(f=3.0),
    ),
    "behind a bound method": (
        fresh(simple(lambda s, a: s.get("f") * a), get=BEHIND.get),
        lambda cell: BEHIND.update(f=BEHIND["f"] + 1.0),
    ),
    "the order of a dictionary": (fresh(IN_TURN, d=dict(FUNCTIONS)), last_first),
    "the order of an ordered one": (
        fresh(IN_TURN, d=collections.OrderedDict(FUNCTIONS)),
        lambda cell: cell.d.move_to_end("tanh"),
    ),
    "the order of modules": (
        fresh(IN_TURN, d=nn.ModuleDict({"tanh": nn.Tanh(), "softplus": nn.Softplus()})),
        last_first,
    ),
    "a function's attribute": (fresh(simple(lambda s, a: helper(a))), lambda cell: setattr(helper, "f", 3.0)),
    "a function's new attribute": (fresh(simple(lambda s, a: helped(a))), lambda cell: setattr(helped, "f", 3.0)),
    "the options": (
        fresh(simple(lambda s, a: s.options["f"] * a), options={"f": 2.0}),
        lambda cell: cell.options.update(f=3.0),
    ),
}


@pytest.mark.parametrize("case", HELD)
def test_what_is_held_is_watched(case):
    assert seen(*HELD[case])


def test_an_array_is_watched_in_numbers_and_shape():
    cell = fresh(simple(lambda s, a: s.d.shape[0] * float(s.d.reshape(-1)[0]) * a), d=np.ones((2, 3)))
    assert seen(cell, lambda cell: cell.d.fill(5.0))
    assert seen(cell, lambda cell: cell.d.resize((3, 2), refcheck=False))


# -- what is found by names that are put together, and what comes to hide it

PLACE = types.ModuleType("place")
PLACE.f = 2.0


def part(name):
    return "f"[: len(name)]


def second_line(cell):
    type(cell.d).__bases__ = (Other,)


def with_own_dictionary(cell):
    cell.__dict__ = {**cell.__dict__, "f": 3.0}


class Heir(Thing):
    pass


FOUND = {
    "a class's number by getattr": (
        fresh(simple(lambda s, a: getattr(s, part("n")) * a, f=2.0)),
        lambda cell: setattr(type(cell), "f", 3.0),
    ),
    "a module's number by getattr": (
        fresh(simple(lambda s, a: getattr(PLACE, part("n")) * a)),
        lambda cell: setattr(PLACE, "f", 3.0),
    ),
    "a parameter's attribute": (fresh(simple(lambda s, a: s.p.f * a)), lambda cell: setattr(cell.p, "f", 3.0)),
    "a class by its object": (fresh(simple(lambda s, a: type(s.d)().f * a), d=Built()), change_factor),
    "what is inherited": (fresh(simple(lambda s, a: s.d.value() * a), d=with_f(Heir())), second_line),
    "a dictionary in its place": (fresh(simple(lambda s, a: s.f * a), f=2.0), with_own_dictionary),
}
with_f(FOUND["a parameter's attribute"][0].p)


@pytest.mark.parametrize("case", FOUND)
def test_what_is_found_is_watched(case):
    assert seen(*FOUND[case])


def test_a_name_of_pythons_may_be_hidden(monkeypatch):
    cell = fresh(simple(lambda s, a: abs(-2.0) * a))
    hide = functools.partial(monkeypatch.setitem, globals(), "abs", lambda value: 5.0)
    assert seen(cell, lambda cell: hide())


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
    "array.array": fresh(FIRST_OF_IT, d=array.array("d", [2.0])),
    "bytearray": fresh(FIRST_OF_IT, d=bytearray([2])),
    "numpy.ndarray": fresh(simple(lambda s, a: s.d[0].f * a), d=np.array([with_f(Thing())], dtype=object)),
    "list_iterator": fresh(simple(lambda s, a: next(s.d) * a), d=iter([1.0, 2.0])),
    "ContextVar": fresh(simple(lambda s, a: CONTEXT.get() * a)),
    "_thread._local": fresh(F_OF_IT, d=threading.local()),
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
