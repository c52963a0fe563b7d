"""Cells that exist only in the tests: each holds what the known ones do not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from throughtime.cells import Cell, Gates, State
from throughtime.cells.cell import Share


class Levels(Cell):
    """Three levels of products: a gate feeds one, what comes of that feeds the next, and that a third."""

    parts = ("m", "h")
    reads = {"carousel": "m", "inner": "m", "gate": "h", "skip": "h"}  # noqa: RUF012
    inputs = ("gate", "inner", "outer")
    recurrent = ("gate", "inner", "outer", "last")
    unbiased = ("outer",)

    def step(self, u, read, W):
        g = torch.sigmoid(u.gate + W.gate(read.gate))
        first = torch.tanh(u.inner + W.inner(g * read.inner))
        second = torch.sigmoid(u.outer + W.outer(first - read.skip))
        third = torch.tanh(W.last(second * first))
        m = g * read.carousel + (1 - g) * third
        return State(m=m, h=second * torch.tanh(m)), Gates(gate=g, second=second, third=third)


class Oddments(Cell):
    """One block used twice, a block of the input not at all, parameters that are bent before they are used."""

    parts = ("h",)
    reads = {"carousel": "h", "mixed": "h"}  # noqa: RUF012
    inputs = ("a", "spare", "b")
    recurrent = ("mix",)

    def extra(self):
        return {"rate": (self.hidden_size,), "bounds": (2 * self.hidden_size,), "unheard": (self.hidden_size,)}

    def step(self, u, read, W):
        keep = torch.exp(-F.softplus(W["rate"]))
        low, high = W["bounds"].chunk(2)
        once = W.mix(read.mixed)
        twice = W.mix(torch.tanh(once + u.a))
        bent = torch.where(once > twice, once, 0.5 * twice)
        kept = torch.minimum(torch.maximum(bent, low - 0.3), high.abs() + 0.1)
        lift = F.softplus(u.b + kept).clamp(max=1.5)
        h = keep * read.carousel + (1 - keep) * torch.tanh(kept + u.a) * lift
        return State(h=h), Gates(keep=keep.expand_as(h), kept=kept)


class Swap(Cell):
    """Parts that change places, one that no product reads, a constant one, and a gate that nothing hears."""

    parts = ("a", "b", "fixed", "idle", "h")
    reads = {"first": "a", "second": "b", "fixed": "fixed", "idle": "idle", "hidden": "h"}  # noqa: RUF012
    inputs = ("hidden", "watch")
    recurrent = ("hidden", "never")

    def step(self, u, read, W):
        h = torch.tanh(u.hidden + W.hidden(read.hidden) + 0.3 * read.first - read.fixed * read.second)
        idle = 0.9 * read.idle + u.hidden
        watch = torch.sigmoid(u.watch + read.idle)
        new = State(a=read.second, b=read.first, fixed=torch.full_like(read.fixed, 0.25), idle=idle, h=h)
        return new, Gates(watch=watch, same=h, before=read.first)


class Smooth(Cell):
    """Activations that the known cells do not have, and a reading that no gradient passes."""

    parts = ("m", "h")
    reads = {"carousel": "m", "fixed": "m", "candidate": "h"}  # noqa: RUF012
    inputs = ("a", "b")
    recurrent = ("a", "b")

    def step(self, u, read, W):
        a = F.silu(u.a + W.a(read.candidate))
        b = F.gelu(u.b + W.b(torch.tanh(read.fixed).detach()))
        c = F.elu(a - b) * torch.erf(b + read.candidate)
        m = 0.7 * read.carousel + 0.1 * c - 0.05 * torch.sigmoid(c).detach() * read.fixed
        return State(m=m, h=torch.tanh(m) / (1 + m.square())), Gates(c=c, cut=torch.tanh(a).detach())


class Aliases(Cell):
    """Two parts are one value, the output is the input's share, and gates are what was read."""

    parts = ("c", "d", "h")
    reads = {"c": "c", "d": "d", "h": "h"}  # noqa: RUF012
    inputs = ("candidate", "out")
    recurrent = ("candidate",)

    def step(self, u, read, W):
        c = torch.tanh(u.candidate + W.candidate(read.h)) + 0.5 * read.c - 0.25 * read.d
        return State(c=c, d=c, h=u.out), Gates(c=c, out=u.out, read=read.d)


class Linear(Cell):
    """Its products are given new states, which the gradients of the states themselves do not need."""

    parts = ("a", "b", "h")
    reads = {"carousel": "a"}  # noqa: RUF012
    inputs = ("in",)
    recurrent = ("first", "second")

    def step(self, u, read, W):
        a = u["in"] + 0.5 * read.carousel
        b = 0.3 * a + u["in"]
        return State(a=a, b=b, h=W.first(a) + W.second(b)), Gates()


class OwnShare(Cell):
    """Makes its input's share itself, unit by unit; has no recurrent maps."""

    parts = ("h",)
    reads = {"carousel": "h"}  # noqa: RUF012
    inputs = ("in",)
    recurrent = ()

    def shapes(self):
        return {"scale": (self.hidden_size,), "keep": (self.hidden_size,)}

    def share(self, x, parameters=None):
        p = self.values() if parameters is None else parameters
        return Share(**{"in": x * p["scale"]})

    def step(self, u, read, W):
        keep = torch.sigmoid(W["keep"])
        return State(h=keep * read.carousel + (1 - keep) * torch.tanh(u["in"] + read.carousel)), Gates()


class Simple(Cell):
    """h_t = made(...), which a test's subclass says; with a row and a matrix of parameters."""

    parts = ("h",)
    reads = {"h": "h"}  # noqa: RUF012
    inputs = ("a",)

    def extra(self):
        return {"p": (self.hidden_size,), "square": (self.hidden_size, self.hidden_size)}

    def step(self, u, read, W):
        return State(h=self.made(u.a, read.h, W)), Gates()


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


def bent(bend: Any) -> type[Cell]:
    """`OneMap` with this for its `bend`."""
    return type("OneMap", (OneMap,), {"bend": bend})


MADE = (Levels, Oddments, Swap, Smooth, Aliases, Linear)
