"""Steps that no kernel can be generated for: the engine says what and where, and the reference answers."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import throughtime as tt
from tests.engines.cells import OneMap, bent
from tests.engines.comparing import agrees, case, run
from throughtime.cells import Cell, Gates, State
from throughtime.engines import Job, choose
from throughtime.errors import EngineError

pytestmark = pytest.mark.compiler

T, B, H = 4, 3, 7
OUTSIDE = torch.ones(H, dtype=torch.float64)


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
    given = case(bent(bend), T, B, H)
    asked = given.job()
    if what not in MAY_SERVE:
        with pytest.raises(EngineError, match=f'engine "cpu" cannot serve here: .*{word}.*engine="auto"'):
            choose(asked, "cpu")
    elif choose(asked, "auto").name == "cpu":
        agrees(given)
        other = case(bent(bend), T, 2 * B, H if "outside" in what else 2 * H)
        other.cell.more.data.mul_(3)
        agrees(other)
    mine, expected = (_answers(bent(bend), engine) for engine in ("auto", "reference"))
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
    given = case(bent(lambda self, a, h, W: torch.tanh(a) * random.random()), T, B, H)
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

    given = case(bent(bend), T, B, H)
    with pytest.raises(KeyError, match="mine"):
        tt.unroll(given.cell, given.x, given.state)
