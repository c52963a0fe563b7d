"""Steps that no kernel can be generated for: the engine says what and where, and the reference answers.

And steps whose meaning hangs on more than their arguments: what they mean at the call is what is run.
"""

from __future__ import annotations

import random
from copy import deepcopy
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import throughtime as tt
from tests.engines.comparing import agrees, case, run, seen
from tests.tolerances import close
from throughtime.cells import Cell, Elman, Gates, State
from throughtime.engines import Job, choose
from throughtime.errors import EngineError

pytestmark = pytest.mark.compiler

T, B, H = 4, 3, 7
OUTSIDE = torch.ones(H, dtype=torch.float64)


class OneMap(Cell):
    """h_t = bend(U x_t + W h_{t-1}), where a test says what `bend` is."""

    parts = ("h",)
    reads = {"h": "h"}  # noqa: RUF012
    inputs = ("hidden",)
    recurrent = ("hidden",)

    def __init__(self, *sizes: int, **keywords: Any) -> None:
        super().__init__(*sizes, **keywords)
        self.register_buffer("held", torch.full((self.hidden_size,), 0.5))
        self.scale = 1.5

    def extra(self):
        return {"more": (self.hidden_size,)}

    def step(self, u, read, W):
        return State(h=self.bend(u.hidden + W.hidden(read.h), read.h, W)), Gates()

    def bend(self, a: Tensor, h: Tensor, W: Any) -> Tensor:
        return torch.tanh(a)


def _with(bend: Any) -> type[Cell]:
    return type("OneMap", (OneMap,), {"bend": bend})


class _Backwards(torch.autograd.Function):
    """The identity; going back the gradient is turned round."""

    @staticmethod
    def forward(ctx, a):
        return a.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def _in_place_on_what_was_read(self, a, h, W):
    h.mul_(0.5)
    return torch.tanh(a) + h


def _until_small(self, a, h, W):
    while bool((a.abs() > 1).any()):
        a = a / 2
    return a


def _if_item(self, a, h, W):
    return torch.tanh(a) if a.sum().item() > 0 else torch.sigmoid(a)


def _hooked(self, a, h, W):
    a = torch.tanh(a)
    if a.requires_grad:
        a.register_hook(lambda gradient: 2 * gradient)
    return a


def _still(map_, h):
    with torch.no_grad():
        return map_(h)


def _map_then_change(self, a, h, W):
    z = torch.tanh(a)
    mapped = W.hidden(z)
    z.mul_(2)
    return mapped + z


def _in_place_behind(self, a, h, W):
    b = torch.tanh(a)
    b.data.mul_(2)
    return b * a


# What a step does, and a word that the reason names it by.
STEPS: dict[str, tuple[Any, str]] = {
    "softmax over units": (lambda self, a, h, W: torch.softmax(a, -1), "softmax"),
    "mean over units": (lambda self, a, h, W: torch.tanh(a - a.mean(-1, keepdim=True)), "mean"),
    "mean over sequences": (lambda self, a, h, W: torch.tanh(a - a.mean(0)), "mean"),
    "sum of all": (lambda self, a, h, W: torch.tanh(a) / a.sum(), "sum"),
    "largest unit": (lambda self, a, h, W: torch.tanh(a) / a.abs().amax(-1, keepdim=True), "amax"),
    "norm": (lambda self, a, h, W: a / a.norm(dim=-1, keepdim=True), "norm"),
    "layer norm": (lambda self, a, h, W: F.layer_norm(a, (a.shape[-1],)), "norm"),
    "batch norm": (lambda self, a, h, W: F.batch_norm(a, None, None, training=True), ""),
    "cumsum": (lambda self, a, h, W: torch.tanh(a.cumsum(-1)), "cumsum"),
    "roll": (lambda self, a, h, W: torch.tanh(a.roll(1, -1)), "roll"),
    "roll over sequences": (lambda self, a, h, W: torch.tanh(a.roll(1, 0)), "roll"),
    "flip": (lambda self, a, h, W: torch.tanh(a.flip(-1)), "flip"),
    "flip over sequences": (lambda self, a, h, W: torch.tanh(a.flip(0)), "flip"),
    "sort": (lambda self, a, h, W: torch.tanh(a.sort(-1).values), "sort"),
    "one unit for all": (lambda self, a, h, W: torch.tanh(a + a[:, :1]), ""),
    "one sequence for all": (lambda self, a, h, W: torch.tanh(a + a[:1]), ""),
    "halves change places": (lambda self, a, h, W: torch.cat(a.tensor_split(2, -1)[::-1], -1), ""),
    "product of two values": (lambda self, a, h, W: torch.tanh(a @ a.T @ h), ""),
    "a map used by hand": (lambda self, a, h, W: torch.tanh(a @ W["weight_hh"]), ""),
    "a bent map": (lambda self, a, h, W: torch.tanh(F.linear(h, W["weight_hh"].tanh())), ""),
    "einsum": (lambda self, a, h, W: torch.einsum("bh,bh->b", a, h)[:, None] * torch.tanh(a), ""),
    "random numbers": (lambda self, a, h, W: torch.tanh(a + torch.randn_like(a)), "rand"),
    "dropout": (lambda self, a, h, W: F.dropout(torch.tanh(a), 0.5, True), ""),
    "bernoulli": (lambda self, a, h, W: torch.tanh(a) * torch.bernoulli(torch.sigmoid(a)), "bernoulli"),
    "a decision on values": (_if_item, ""),
    "a loop on values": (_until_small, ""),
    "a decision on a parameter": (lambda self, a, h, W: a if W["more"].sum() > 0 else torch.tanh(a), ""),
    "the step's numbers in numpy": (lambda self, a, h, W: torch.tanh(a + torch.from_numpy(h.detach().numpy() + 1)), ""),
    "numbers in a list": (lambda self, a, h, W: torch.tanh(a + torch.tensor(h.detach().tolist()).to(a)), ""),
    "in place on what was read": (_in_place_on_what_was_read, ""),
    "a tensor from outside": (lambda self, a, h, W: torch.tanh(a) * OUTSIDE, ""),
    "a buffer": (lambda self, a, h, W: torch.tanh(a) * self.held, ""),
    "a parameter past W": (lambda self, a, h, W: torch.tanh(a) * self.more, ""),
    "a derivative of its own": (lambda self, a, h, W: _Backwards.apply(torch.tanh(a)), ""),
    "a hook": (_hooked, ""),
    "complex numbers": (lambda self, a, h, W: torch.tanh((a * 1j).imag + a), ""),
    "fft": (lambda self, a, h, W: torch.fft.fft(a).real.tanh(), "fft"),
    "half precision inside": (lambda self, a, h, W: torch.tanh(a.bfloat16()).to(a.dtype), ""),
    "single precision inside": (lambda self, a, h, W: torch.tanh(a.float()).to(a.dtype), ""),
    "whole numbers inside": (lambda self, a, h, W: torch.tanh(a) + h.long().to(h.dtype), ""),
    "an operator that few know": (lambda self, a, h, W: torch.special.i0(a), "i0"),
    "the position of a unit": (lambda self, a, h, W: torch.tanh(a) * torch.arange(a.shape[-1]).to(a), ""),
    "the number of a sequence": (lambda self, a, h, W: torch.tanh(a) * torch.arange(len(a)).to(a)[:, None], ""),
    "the number of units": (lambda self, a, h, W: torch.tanh(a) / a.shape[-1], ""),
    "the number of sequences": (lambda self, a, h, W: torch.tanh(a) / a.shape[0], ""),
    "masked in place": (lambda self, a, h, W: torch.tanh(a).masked_fill(h > 0, 0.5), ""),
    "an index": (lambda self, a, h, W: torch.tanh(a)[:, torch.arange(a.shape[-1] - 1, -1, -1)], ""),
    # What can be compiled, where a careless trace would go wrong.
    "a parameter with and without gradient": (
        lambda self, a, h, W: torch.tanh(a * W["more"]) + W["more"].detach() * h,
        "",
    ),
    "a map with and without gradient": (lambda self, a, h, W: W.hidden(h.detach()) * W.hidden(h) + a, ""),
    "a map whose result has no gradient": (lambda self, a, h, W: _still(W.hidden, h) + a, ""),
    "a map twice on equal numbers": (lambda self, a, h, W: W.hidden(a.tanh()) * W.hidden(a.detach().tanh()), ""),
    "a map of a constant": (lambda self, a, h, W: torch.tanh(W.hidden(torch.ones_like(h)) + a), ""),
    "what a map was given, changed in place": (_map_then_change, ""),
    "changed in place behind autograd": (_in_place_behind, ""),
    "masks added": (lambda self, a, h, W: torch.tanh(a) * ((h > 0) + (a > 0)).to(a.dtype), ""),
    "a constant of less precision": (lambda self, a, h, W: a * (torch.full_like(h, 1, dtype=torch.float32) / 3), ""),
    "whole numbers that run over": (
        lambda self, a, h, W: torch.tanh(a) * (torch.full_like(a, 100, dtype=torch.int8) * 2),
        "",
    ),
    "ties": (lambda self, a, h, W: torch.maximum(torch.relu(a), torch.relu(h)), ""),
    "a decision that a tolerance makes": (
        lambda self, a, h, W: torch.tanh(a) if torch.allclose(W["more"], 2 * W["more"]) else torch.sigmoid(a),
        "",
    ),
    "a gradient inside": (
        lambda self, a, h, W: torch.autograd.grad(torch.tanh(b := a.detach().requires_grad_()).sum(), b)[0] * a,
        "",
    ),
}
MAY_SERVE = {
    "masked in place", "the number of units", "the number of sequences", "a buffer", "a parameter past W",
    "a tensor from outside", "a derivative of its own", "a hook", "complex numbers", "a gradient inside",
    "the position of a unit", "a parameter with and without gradient", "a map with and without gradient",
    "a map whose result has no gradient", "a map twice on equal numbers", "a map of a constant",
    "what a map was given, changed in place", "changed in place behind autograd", "masks added",
    "a constant of less precision", "whole numbers that run over", "ties",
}  # fmt: skip  # if what it gives is right, it may


@pytest.mark.parametrize("what", STEPS)
def test_what_cannot_be_compiled_is_refused_and_right(what: str) -> None:
    bend, word = STEPS[what]
    given = case(_with(bend), T, B, H)
    asked = given.job()
    if what not in MAY_SERVE:
        with pytest.raises(EngineError, match=f'engine "cpu" cannot serve here: .*{word}.*engine="auto"'):
            choose(asked, "cpu")
    elif choose(asked, "auto").name == "cpu":
        agrees(given)
        other = case(_with(bend), T, 2 * B, H if "outside" in what else 2 * H)
        other.cell.more.data.mul_(3)
        agrees(other)
    mine, expected = (_answers(_with(bend), engine) for engine in ("auto", "reference"))
    if isinstance(expected, type):
        assert mine is expected
        return
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def _answers(kind: type[Cell], engine: str) -> list[Tensor] | type[Exception]:
    """Output and gradients; or the error, where the reference has one for a step that spoils its own graph."""
    given = case(kind, T, B, H)
    torch.manual_seed(0)
    try:
        output = choose(asked := given.job(), engine).run(asked).output
        leaves = list(given.leaves.values())
        return [output, *torch.autograd.grad(output.sum(), leaves, materialize_grads=True)]
    except RuntimeError as error:
        return type(error)


def test_pythons_random_numbers() -> None:
    """Nobody can see them drawn, but two looks at the step differ."""
    given = case(_with(lambda self, a, h, W: torch.tanh(a) * random.random()), T, B, H)
    with pytest.raises(EngineError):
        choose(given.job(), "cpu")
    random.seed(1)
    first = tt.unroll(given.cell, given.x, given.state).output
    random.seed(1)
    assert torch.equal(first, run(given, "reference").output)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64, torch.complex128])
def test_other_dtypes(dtype: torch.dtype) -> None:
    cell = OneMap(3, H, dtype=dtype)
    x = torch.zeros(T, B, 3, dtype=dtype)
    asked = Job(cell, cell.values(), x, cell.zero_state(B, x))
    with pytest.raises(EngineError, match=str(dtype)):
        choose(asked, "cpu")
    assert choose(asked).name == "reference"


def test_other_devices() -> None:
    cell = tt.cells.make("lstm", 3, H, device="meta")
    x = torch.zeros(T, B, 3, device="meta")
    asked = Job(cell, cell.values(), x, cell.zero_state(B, x))
    with pytest.raises(EngineError, match="meta"):
        choose(asked, "cpu")
    assert tt.unroll(cell, x).output.device.type == "meta"


def test_a_share_that_is_a_matrix() -> None:
    cell = tt.cells.make("feedforward", 3, H)
    x = torch.eye(3).unsqueeze(1)
    asked = Job(cell, cell.values(), x, cell.zero_state(1, x))
    with pytest.raises(EngineError, match='engine "cpu" cannot serve here'):
        choose(asked, "cpu")
    assert choose(asked).name == "reference"


def test_steps_that_answer_wrongly_are_named_as_by_the_reference() -> None:
    class OfOneSequence(OneMap):
        def step(self, u, read, W):
            return State(h=torch.tanh(u.hidden)[:1]), Gates()

    class OfAnotherPart(OneMap):
        def step(self, u, read, W):
            return State(s=torch.tanh(u.hidden)), Gates()

    for kind in (OfOneSequence, OfAnotherPart):
        given = case(kind, T, B, H)
        with pytest.raises(tt.errors.CellError, match="must return"):
            tt.unroll(given.cell, given.x, given.state)


def test_an_error_in_the_step_is_the_persons_to_see() -> None:
    def bend(self, a, h, W):
        raise KeyError("mine")

    given = case(_with(bend), T, B, H)
    with pytest.raises(KeyError, match="mine"):
        tt.unroll(given.cell, given.x, given.state)


# -- what the step means when it is called


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
    given = case(_with(bend), T, B, H)
    for made in inside:
        given.cell.inside = made()
    before = tt.unroll(given.cell, given.x, given.state).output
    change(given.cell, monkeypatch)
    expected = run(given, "reference").output
    assert not torch.allclose(before, expected)
    close(tt.unroll(given.cell, given.x, given.state).output, expected)
    close(tt.unroll(deepcopy(given.cell), given.x, given.state).output, expected)


def test_two_cells_of_one_class_do_not_share_their_meaning() -> None:
    first, second = (case(_with(CHANGES["an attribute"][0]), T, B, H) for _ in range(2))
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
