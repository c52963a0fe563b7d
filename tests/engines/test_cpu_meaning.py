"""Steps whose meaning hangs on more than their arguments: what they mean at the call is what is run."""

from __future__ import annotations

from copy import deepcopy
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from tests.engines.cells import bent
from tests.engines.comparing import agrees, case, run, seen
from tests.tolerances import close
from throughtime.cells import Elman

pytestmark = pytest.mark.compiler

T, B, H = 4, 3, 7

FACTOR = 2.0


class Holder:
    factor = 2.0


_TABLE = {"factor": 2.0}


class Kind(Enum):
    TANH = 1
    SIGMOID = 2


def _by_global(self, a, h, W):
    return torch.tanh(FACTOR * a)


def _helper(a):
    return torch.tanh(FACTOR * a)


def _by_helper(self, a, h, W):
    return _helper(a)


class _Bends:
    """An object that a cell may hold."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def bend(self, a: Tensor) -> Tensor:
        return torch.tanh(self.factor * a)

    def __call__(self, a: Tensor) -> Tensor:
        return self.bend(a)


def _far_down(a, levels=4):
    return _far_down(a, levels - 1) if levels else _helper(a)


def _keyword(a, *, factor=2.0):
    return torch.tanh(factor * a)


def _closed_over() -> Any:
    held = [2.0]

    def bend(self, a, h, W):
        return torch.tanh(held[0] * a)

    return bend, lambda cell, patch: held.__setitem__(0, 3.0)


def _held(value: Any, bend: Any, change: Any) -> tuple[Any, Any, Any]:
    """A cell with an attribute `inside`."""
    return bend, change, value


_GLOBAL = _Bends(2.0)

CHANGES: dict[str, tuple[Any, ...]] = {
    "an object's attribute": _held(
        lambda: _Bends(2.0),
        lambda self, a, h, W: self.inside.bend(a),
        lambda cell, patch: setattr(cell.inside, "factor", 3.0),
    ),
    "an object": _held(
        lambda: _Bends(2.0),
        lambda self, a, h, W: self.inside(a),
        lambda cell, patch: setattr(cell, "inside", _Bends(3.0)),
    ),
    "a module's attribute": _held(
        lambda: nn.LeakyReLU(0.1),
        lambda self, a, h, W: self.inside(a),
        lambda cell, patch: setattr(cell.inside, "negative_slope", 0.5),
    ),
    "a module": _held(
        lambda: nn.ModuleList([nn.Tanh()]),
        lambda self, a, h, W: self.inside[0](a),
        lambda cell, patch: cell.inside.__setitem__(0, nn.Sigmoid()),
    ),
    "a function with arguments": _held(
        lambda: partial(_keyword, factor=2.0),
        lambda self, a, h, W: self.inside(a),
        lambda cell, patch: setattr(cell, "inside", partial(_keyword, factor=3.0)),
    ),
    "an object in a list": _held(
        lambda: [{"x": _Bends(2.0)}],
        lambda self, a, h, W: self.inside[0]["x"](a),
        lambda cell, patch: setattr(cell.inside[0]["x"], "factor", 3.0),
    ),
    "a number of numpy's": _held(
        lambda: np.array([2.0]),
        lambda self, a, h, W: torch.tanh(float(self.inside[0]) * a),
        lambda cell, patch: cell.inside.__setitem__(0, 3.0),
    ),
    "one of an enumeration": _held(
        lambda: Kind.TANH,
        lambda self, a, h, W: torch.tanh(a) if self.inside is Kind.TANH else torch.sigmoid(a),
        lambda cell, patch: setattr(cell, "inside", Kind.SIGMOID),
    ),
    "a method's global object": (
        lambda self, a, h, W: _GLOBAL.bend(a),
        lambda cell, patch: patch.setattr(_GLOBAL, "factor", 3.0),
    ),
    "a global object": (
        lambda self, a, h, W: _GLOBAL(a),
        lambda cell, patch: patch.setitem(globals(), "_GLOBAL", _Bends(3.0)),
    ),
    "a global far down": (
        lambda self, a, h, W: _far_down(a),
        lambda cell, patch: patch.setitem(globals(), "FACTOR", 3.0),
    ),
    "a function's usual argument": (
        lambda self, a, h, W: _keyword(a),
        lambda cell, patch: patch.setitem(_keyword.__kwdefaults__, "factor", 3.0),
    ),
    "a list that is closed over": _closed_over(),
    "an attribute": (
        lambda self, a, h, W: torch.tanh(self.scale * a),
        lambda cell, patch: setattr(cell, "scale", 3.0),
    ),
    "the training flag": (
        lambda self, a, h, W: torch.tanh(a) if self.training else torch.sigmoid(a),
        lambda cell, patch: cell.eval(),
    ),
    "a global": (_by_global, lambda cell, patch: patch.setitem(globals(), "FACTOR", 3.0)),
    "a global of a function that is called": (_by_helper, lambda cell, patch: patch.setitem(globals(), "FACTOR", 3.0)),
    "a function that is called": (_by_helper, lambda cell, patch: patch.setitem(globals(), "_helper", torch.sigmoid)),
    "an entry of a dictionary": (
        lambda self, a, h, W: torch.tanh(_TABLE["factor"] * a),
        lambda cell, patch: patch.setitem(_TABLE, "factor", 3.0),
    ),
    "an attribute of a class": (
        lambda self, a, h, W: torch.tanh(Holder.factor * a),
        lambda cell, patch: patch.setattr(Holder, "factor", 3.0),
    ),
    "an attribute of an object inside": (
        lambda self, a, h, W: torch.tanh(self.options.setdefault("factor", 2.0) * a),
        lambda cell, patch: cell.options.update(factor=3.0),
    ),
    "the step itself": (
        lambda self, a, h, W: torch.tanh(a),
        lambda cell, patch: patch.setattr(cell, "bend", lambda a, h, W: torch.sigmoid(a)),
    ),
    "the step of the class": (
        lambda self, a, h, W: torch.tanh(a),
        lambda cell, patch: patch.setattr(type(cell), "bend", lambda self, a, h, W: torch.sigmoid(a)),
    ),
    "the dtype that is usual": (
        lambda self, a, h, W: torch.tanh(a * (2.0 if torch.get_default_dtype() == torch.float32 else 3.0)),
        lambda cell, patch: patch.setattr(torch, "get_default_dtype", lambda: torch.float64),
    ),
    "a buffer": (
        lambda self, a, h, W: torch.tanh(self.held * a),
        lambda cell, patch: cell.held.mul_(2),
    ),
    "a buffer that is another": (
        lambda self, a, h, W: torch.tanh(self.held * a),
        lambda cell, patch: setattr(cell, "held", torch.full((H,), 3.0, dtype=torch.float64)),
    ),
    "a parameter": (
        lambda self, a, h, W: torch.tanh(W["more"] * a),
        lambda cell, patch: cell.more.data.mul_(3),
    ),
    "a parameter that is another": (
        lambda self, a, h, W: torch.tanh(W["more"].exp() * a),
        lambda cell, patch: setattr(cell, "more", nn.Parameter(torch.randn(H, dtype=torch.float64))),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_between_calls_is_followed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bend, change, *inside = CHANGES[what]
    given = case(bent(bend), T, B, H)
    for made in inside:
        given.cell.inside = made()
    before = tt.unroll(given.cell, given.x, given.state).output
    change(given.cell, monkeypatch)
    expected = run(given, "reference").output
    assert not torch.allclose(before, expected)
    close(tt.unroll(given.cell, given.x, given.state).output, expected)
    close(tt.unroll(deepcopy(given.cell), given.x, given.state).output, expected)


def test_two_cells_of_one_class_do_not_share_their_meaning() -> None:
    first, second = (case(bent(CHANGES["an attribute"][0]), T, B, H) for _ in range(2))
    kind = type(first.cell)
    second.cell.__class__ = kind
    second.cell.scale = 3.0
    for given in (first, second, first):
        close(tt.unroll(given.cell, given.x, given.state).output, run(given, "reference").output)


def test_a_subclass_steps_as_it_says() -> None:
    class Halved(Elman):
        def step(self, u, read, W):
            new, gates = super().step(u, read, W)
            return new.map(lambda part: 0.5 * part), gates

    given = case(Halved, T, B, H)
    agrees(given)
    assert not torch.allclose(run(given, "cpu").output, run(case(Elman, T, B, H), "cpu").output)


def test_other_parameters_stand_in() -> None:
    """Given by name, in any order; they get the gradients, and the cell's own get none."""
    cell = tt.cells.make("lstm", 3, H, peephole=True, dtype=torch.float64)
    x = torch.randn(T, B, 3, dtype=torch.float64)
    others = {name: torch.randn_like(value).requires_grad_() for name, value in reversed(cell.values().items())}
    answers = []
    for engine in ("cpu", "reference"):
        done = tt.unroll(cell, x, engine=engine, parameters=others)
        answers.append([done.output, *torch.autograd.grad(done.output.sum(), list(others.values()))])
    for mine, expected in zip(*answers, strict=True):
        close(mine, expected)
    assert all(value.grad is None for value in cell.parameters())


def test_parameters_that_hang_on_others() -> None:
    """Weights made of other tensors, some without gradients, views, not contiguous."""
    cell = tt.cells.make("gru", 3, H, dtype=torch.float64)
    x = torch.randn(T, B, 3, dtype=torch.float64)
    raw = torch.randn(H, 3 * H, dtype=torch.float64, requires_grad=True)
    answers = []
    for engine in ("cpu", "reference"):
        given = {**{k: v.detach() for k, v in cell.values().items()}, "weight_hh": (0.3 * raw.tanh()).T}
        done = tt.unroll(cell, x, engine=engine, parameters=given)
        answers.append([done.output, *torch.autograd.grad(done.output.square().sum(), raw)])
    for mine, expected in zip(*answers, strict=True):
        close(mine, expected)


def test_weights_that_are_tied() -> None:
    """One tensor under two names gets both gradients."""
    cell = tt.cells.make("elman", H, H, dtype=torch.float64)
    x = torch.randn(T, B, H, dtype=torch.float64)
    tied = {**cell.values(), "weight_hh": cell.weight_ih, "bias_hh": cell.bias_ih}
    answers = []
    for engine in ("cpu", "reference"):
        done = tt.unroll(cell, x, engine=engine, parameters=tied)
        answers.append([done.output, *torch.autograd.grad(done.output.sum(), [cell.weight_ih, cell.bias_ih])])
    for mine, expected in zip(*answers, strict=True):
        close(mine, expected)


def test_every_gate_and_part_is_seen() -> None:
    given = case("Swap", T, B, H)
    done = run(given, "cpu")
    assert list(done.states) == list(given.cell.parts)
    assert list(done.gates) == ["watch", "same", "before"]
    assert set(seen(done, None)) == set(seen(run(given, "reference"), None))
