"""Gradients reach the parameters by the ways that the step's autograd takes; where they cannot, it is refused."""

from __future__ import annotations

import contextlib
import random
import re
from random import getrandbits

import numpy as np
import pytest
import torch
from numpy.random import rand, randn
from torch import Tensor

import throughtime as tt
from tests.engines.cells import Simple, bent
from tests.engines.comparing import agrees, case
from tests.tolerances import close
from throughtime.engines.trace import Traced, Untraceable, traced
from throughtime.engines.trace.follow import follow

T, B, H = 4, 3, 7
DTYPE = torch.float64


class Through(torch.autograd.Function):
    """The sign; on the way back three times what comes."""

    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, g):
        return 3 * g


class Masked(torch.autograd.Function):
    """The identity; on the way back only what comes to large numbers, of which none may be there."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.where(x.abs() > 1e3, g, torch.zeros_like(g))


class Mixed(torch.autograd.Function):
    """exp(−exp(p)) ⊙ h, with its derivatives by hand."""

    @staticmethod
    def forward(ctx, h, p):
        k = torch.exp(-torch.exp(p))
        ctx.save_for_backward(h, p, k)
        return k * h

    @staticmethod
    def backward(ctx, g):
        h, p, k = ctx.saved_tensors
        return g * k, (-g * h * k * torch.exp(p)).sum(0)


class Weighed(torch.autograd.Function):
    """p ⊙ h, with its derivatives by hand, of which one is not the true one."""

    @staticmethod
    def forward(ctx, h, p):
        ctx.save_for_backward(h, p)
        return p * h

    @staticmethod
    def backward(ctx, g):
        h, p = ctx.saved_tensors
        return g * p, (5 * g * h).sum(0)


class Unheard(torch.autograd.Function):
    """The identity in h; on the way back k gets something too."""

    @staticmethod
    def forward(ctx, h, k):
        ctx.save_for_backward(h)
        return h.clone()

    @staticmethod
    def backward(ctx, g):
        (h,) = ctx.saved_tensors
        return g, (g * h).sum(0)


def hooked(x: Tensor, by) -> Tensor:
    x.register_hook(by)
    return x


def rounded(p: Tensor) -> Tensor:
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: 2 * x):
        return torch.sin(p)


def without(p: Tensor) -> Tensor:
    with torch.no_grad():
        sign = torch.sign(p)
    return p + (sign - p.detach())


OWN_WAYS = {
    "a derivative of its own": lambda self, a, h, W: torch.tanh(a) + Through.apply(W["more"]) * h,
    "of what is made of a parameter": lambda self, a, h, W: torch.tanh(a) + Through.apply(W["more"].sin()) * h,
    "and made more of": lambda self, a, h, W: torch.tanh(a) + torch.exp(Through.apply(W["more"])) * h,
    "one that says nothing here": lambda self, a, h, W: torch.tanh(a) + Masked.apply(W["more"]) * h,
    "of the state and a parameter": lambda self, a, h, W: torch.tanh(a + Mixed.apply(h, W["more"])),
    "of a parameter that the numbers do not hang on": lambda self, a, h, W: torch.tanh(Unheard.apply(a, W["more"])),
    "of what is made of such a parameter": lambda self, a, h, W: torch.tanh(Unheard.apply(a, W["more"].sin())),
    "a hook on a vector": lambda self, a, h, W: torch.tanh(a) + hooked(W["more"] * 1.0, lambda g: 3 * g) * h,
    "a hook on the way to a vector": lambda self, a, h, W: torch.tanh(
        a + hooked(W["more"].exp(), lambda g: 3 * g).log()
    ),
    "a hook on the state": lambda self, a, h, W: torch.tanh(a + hooked(h, lambda g: 3 * g)),
    "a hook on what is saved": lambda self, a, h, W: torch.tanh(a) + rounded(W["more"]) * h,
}


@pytest.mark.parametrize("way", OWN_WAYS)
def test_ways_of_its_own_are_left_to_the_reference(way):
    given = case(bent(OWN_WAYS[way]), T, B, H)
    assert isinstance(traced(given.cell, DTYPE), str)
    leaves = list(given.leaves.values())
    if way == "a hook on the state":
        leaves = leaves[2:]
    sent = [
        torch.autograd.grad(
            tt.unroll(given.cell, given.x, given.state, engine=engine).output.sum(), leaves, materialize_grads=True
        )
        for engine in ("auto", "reference")
    ]
    for mine, expected in zip(*sent, strict=True):
        close(mine, expected)


USUAL_WAYS = {
    "a sign, straight through": lambda self, a, h, W: (
        torch.tanh(a) + (W["more"] + (torch.sign(W["more"]) - W["more"]).detach()) * h
    ),
    "the same without gradients": lambda self, a, h, W: torch.tanh(a) + without(W["more"]) * h,
    "a derivative of its own of what the step makes": lambda self, a, h, W: (
        Through.apply(torch.tanh(a)) * 0.1 + W["more"]
    ),
    "one of the state and a vector": lambda self, a, h, W: torch.tanh(a + Weighed.apply(h, W["more"])),
    "one of the state and what is made of a parameter": lambda self, a, h, W: torch.tanh(
        a + Weighed.apply(h, W["more"].sin())
    ),
    "a hook on what the step makes": lambda self, a, h, W: torch.tanh(hooked(a * W["more"], lambda g: 3 * g)),
    "through a softmax": lambda self, a, h, W: torch.tanh(a + torch.softmax(W["more"], 0) * h),
    "that sums to one": lambda self, a, h, W: torch.tanh(a + torch.softmax(W["more"], 0).sum() * h),
    "what is not a number": lambda self, a, h, W: torch.tanh(a + torch.where(W["more"] > 9, W["more"].log(), 0.5) * h),
    "a parameter by itself and what is made of it": lambda self, a, h, W: torch.tanh(
        a * W["more"] + W["more"].exp() * h
    ),
    "one block of the biases": lambda self, a, h, W: torch.tanh(a + W["bias_hh"] * h + W["bias_ih"].cos()),
}


@pytest.mark.compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("way", USUAL_WAYS)
def test_the_usual_ways_are_compiled(way, dtype):
    if way in ("what is not a number", "that sums to one"):  # nothing, or rounding alone, comes to the parameter
        assert isinstance(traced(case(bent(USUAL_WAYS[way]), T, B, H, dtype).cell, dtype), Traced)
    else:
        agrees(case(bent(USUAL_WAYS[way]), T, B, H, dtype))


# What is drawn, and what is caught, is not seen in the numbers of a trace.


def seldom(a: Tensor, h: Tensor, W) -> Tensor:
    return h if getrandbits(64) == 1 else a + h


def seldom_by_numpy(a: Tensor, h: Tensor, W) -> Tensor:
    return h if rand() < 1e-9 else a + h


def seldom_and_normal(a: Tensor, h: Tensor, W) -> Tensor:
    return h if randn() > 99 else a + h


@pytest.mark.parametrize("made", [seldom, seldom_by_numpy, seldom_and_normal])
def test_a_step_that_draws_is_refused_though_nothing_tells(made):
    kind = type("Mine", (Simple,), {"made": lambda self, a, h, W: made(a, h, W)})
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.rand(), np.random.randn()
    random.seed(3)
    np.random.seed(3)
    with pytest.raises(Untraceable, match="draws random numbers"):
        follow(kind(3, 4, dtype=DTYPE), DTYPE)
    assert (random.random(), np.random.rand(), np.random.randn()) == expected


def largest(a: Tensor, h: Tensor, W) -> Tensor:
    try:
        factor = float(h.abs().max())
    except Exception:
        factor = 0.0
    return a + factor * h


def listed(a: Tensor, h: Tensor, W) -> Tensor:
    with contextlib.suppress(Exception):
        return a * W["p"].tolist()[0]
    return a + h


def in_place(a: Tensor, h: Tensor, W) -> Tensor:
    with contextlib.suppress(RuntimeError):  # a is a leaf while it is traced
        a.mul_(2)
    return a + h


class Caught(torch.autograd.Function):
    """tanh; on the way back a decision that is caught."""

    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        with contextlib.suppress(Exception):
            g = g * float(g.abs().max())
        return g * (1 - y * y)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (largest, "aten.max"),
        (listed, "tolist"),
        (in_place, "in-place"),
        (lambda a, h, W: Caught.apply(a + h), "way back.*aten.max"),
    ],
)
def test_a_refusal_that_the_step_catches_stays_one(made, why):
    kind = type("Mine", (Simple,), {"made": lambda self, a, h, W: made(a, h, W)})
    answer = traced(kind(3, 4, dtype=DTYPE), DTYPE)
    assert isinstance(answer, str)
    assert re.search(why, answer), answer
