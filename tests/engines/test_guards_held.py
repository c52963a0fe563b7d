"""Where a step may hold what it reads, and how it may find it: a change is seen."""

from __future__ import annotations

import collections
import dataclasses
import functools
import types

import numpy as np
import pytest
import torch
from torch import nn

from tests.engines.guarded import Thing, fresh, seen, simple, with_f


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


class Other(Thing):
    def value(self):
        return self.f + 1.0


def helper(a):
    return helper.f * a


def helped(a):
    return getattr(helped, "f", 1.0) * a


helper.f = 2.0
BEHIND = {"f": 2.0}


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
