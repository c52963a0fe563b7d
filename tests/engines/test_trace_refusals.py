"""Tracing: steps that are refused, each with a reason in one sentence."""

from __future__ import annotations

import os
import random
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.engines.cells import Simple
from throughtime.engines.trace import Untraceable, trace, traced

DTYPE = torch.float64
OUTSIDE = torch.ones(4, dtype=DTYPE)


def refusal(made) -> str:
    kind = type("Mine", (Simple,), {"made": lambda self, a, h, W: made(a, h, W)})
    answer = traced(kind(3, 4, dtype=DTYPE), DTYPE)
    assert isinstance(answer, str), "this should be refused"
    assert answer.endswith(".")
    assert '"Mine"' in answer
    assert "\n" not in answer
    return answer


ON = torch.is_grad_enabled


def asked_deep(h: Tensor) -> Tensor:
    return h if not torch.is_grad_enabled() else 2 * h


def written_to(x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        x.mul_(2)
    return x + y


def looped(a: Tensor, h: Tensor, W) -> Tensor:
    while (h > 0).any():
        h = h - 1
    return h


def tail(a: Tensor, h: Tensor, W) -> Tensor:
    kept = a * h
    W.a(kept)
    return kept.add_(1)


REFUSED = {
    "matmul": (lambda a, h, W: h @ W["square"], "aten.mm"),
    "mask of parameters": (lambda a, h, W: torch.where(W["p"] > 0, h, a), "parameters as"),
    "matrix": (lambda a, h, W: torch.addmm(h, a, W["square"]), "aten.addmm"),
    "sum": (lambda a, h, W: h - h.sum(-1, keepdim=True), "aten.sum"),
    "mean over the batch": (lambda a, h, W: h - h.mean(0), "aten.mean"),
    "softmax": (lambda a, h, W: torch.softmax(h, -1), "softmax"),
    "norm": (lambda a, h, W: F.layer_norm(h, (4,)), "layer_norm"),
    "cumsum": (lambda a, h, W: torch.cumsum(h, -1), "aten.cumsum"),
    "index": (lambda a, h, W: h[:, :1] + a, "aten.slice"),
    "flip": (lambda a, h, W: h.flip(-1), "aten.flip"),
    "roll": (lambda a, h, W: h.roll(1, -1), "aten.roll"),
    "cat": (lambda a, h, W: torch.cat([h[:, 2:], a[:, :2]], -1), "aten.slice"),
    "transpose": (lambda a, h, W: (h.mT + 1).mT, "aten"),
    "dropout": (lambda a, h, W: F.dropout(h, 0.5), "random"),
    "noise": (lambda a, h, W: h + torch.randn_like(h), "random"),
    "noise for a parameter": (lambda a, h, W: h + torch.rand(4, dtype=DTYPE), "random"),
    "python's noise": (lambda a, h, W: h * random.random(), "random"),
    "the batch's size": (lambda a, h, W: h / h.shape[0], "not the same"),
    "if": (lambda a, h, W: h if h.sum() > 0 else a, "aten.sum"),
    "while": (looped, "aten.any"),
    "item": (lambda a, h, W: h * W["p"].max().item(), "Python"),
    "numpy": (lambda a, h, W: h * torch.from_numpy(h.detach().numpy()), "numpy"),
    "tolist": (lambda a, h, W: h * W["p"].tolist()[0], "tolist"),
    "outside": (lambda a, h, W: h * OUTSIDE, "neither u, read nor W's"),
    "outside, one number": (lambda a, h, W: h * OUTSIDE[0], "neither u, read nor W's"),
    "half": (lambda a, h, W: h.float().tanh().double(), "aten._to_copy|float32"),
    "integers": (lambda a, h, W: h * h.long(), "aten._to_copy|int64"),
    "round": (lambda a, h, W: h.round() + a, "aten.round"),
    "the part is written to": (lambda a, h, W: written_to(h, a), "aten.mul_"),
    "a leaf is written to": (lambda a, h, W: a.add_(h), "in-place"),
    "what a product was given is written to": (tail, "aten.add_"),
    "a parameter is written to": (lambda a, h, W: h * W["p"].exp().detach().add_(1), "aten.add_"),
    "written by index": (lambda a, h, W: (h * 1).index_fill_(1, torch.tensor([0]), 0.0), "aten.index_fill_"),
    "out": (lambda a, h, W: torch.add(a.detach(), h.detach(), out=torch.zeros_like(h)), "aten.add"),
    "a block's weight": (lambda a, h, W: F.linear(h, W.a.weight), "W.a.weight"),
    "the weights": (lambda a, h, W: F.linear(h, W["weight_hh"]), "parameters as"),
    "a row to a product": (lambda a, h, W: h + W.a(W["p"]), "W.a"),
    "a row as the state": (lambda a, h, W: W["p"] * 2, r"\(4,\)"),
    "a mask as the state": (lambda a, h, W: h > 0, "bool"),
    "gradients are on": (lambda a, h, W: a + h if torch.is_grad_enabled() else a, "is_grad_enabled"),
    "gradients are on, further in": (lambda a, h, W: asked_deep(h), "is_grad_enabled"),
    "gradients are on, by another name": (lambda a, h, W: a + h if ON() else a, "is_grad_enabled"),
    "autocast is on": (lambda a, h, W: a if torch.is_autocast_enabled("cpu") else h + a, "is_autocast_enabled"),
    "u requires gradients": (lambda a, h, W: a + h if a.requires_grad else a, "requires_grad"),
    "what is made requires gradients": (lambda a, h, W: a + h if (a * h).requires_grad else a, "requires_grad"),
    "a parameter requires gradients": (lambda a, h, W: a + h if W["p"].requires_grad else a, "requires_grad"),
    "by a name put together": (lambda a, h, W: a + h if getattr(a, "requires" + "_grad") else a, "requires_grad"),
    "the state is a leaf": (lambda a, h, W: a + h if h.is_leaf else a, "is_leaf"),
    "the state was made": (lambda a, h, W: a + h if h.grad_fn is None else a, "grad_fn"),
    "on a GPU": (lambda a, h, W: a + h if h.is_cuda else a, "is_cuda"),
    "a parameter by its type": (lambda a, h, W: a + h if type(W["p"]) is nn.Parameter else a, "Parameter"),
    "the environment": (lambda a, h, W: a + h if os.environ.get("NAME") else a, "environ"),
    "the environment, by a function": (lambda a, h, W: a + h if os.getenv("NAME") else a, "getenv"),
    "globals": (lambda a, h, W: a * globals()["SCALE"] + h, "globals"),
    "another error": (lambda a, h, W: h * W["nothing"], "nothing"),
    "no such operator": (lambda a, h, W: torch.special.bessel_j0(h.detach()), "bessel_j0"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_refused(case):
    made, why = REFUSED[case]
    answer = refusal(made)
    assert re.search(why, answer), answer


def test_a_refusal_says_where():
    line = REFUSED["flip"][0].__code__.co_firstlineno
    assert f"at test_trace_refusals.py:{line}" in refusal(REFUSED["flip"][0])


def test_a_cell_that_binds_its_weights_itself_is_refused():
    class Binds(Simple):
        def weights(self, parameters=None):
            return super().weights(parameters)

        def made(self, a, h, W):
            return h + a

    with pytest.raises(Untraceable, match="weights"):
        trace(Binds(3, 4), DTYPE)


def test_a_buffer_is_refused_and_a_plain_number_is_not():
    class Buffered(Simple):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.register_buffer("scale", torch.tensor(2.0))

        def made(self, a, h, W):
            return h * self.scale

    assert "neither u, read nor W's" in traced(Buffered(3, 4), torch.float32)


def test_a_step_that_keeps_count_is_refused():
    class Counts(Simple):
        def made(self, a, h, W):
            self.count = getattr(self, "count", 0) + 1
            return h + a

    assert "changes what it reads" in traced(Counts(3, 4), torch.float32)
