"""Cells of somebody's own that do what no known cell does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from throughtime.cells import Cell, Gates, State


class Mixing(Cell):
    """Its step carries numbers from unit to unit by itself, and a map hears a part of the same step."""

    parts = ("m", "h")
    reads = {"around": "m", "spread": "h"}  # noqa: RUF012
    inputs = ("in",)
    recurrent = ("first", "second")

    def step(self, u, read, W):
        m = torch.tanh(u["in"] + W.first(read.spread)) + read.around.roll(1, dims=-1)
        return State(m=m, h=torch.softmax(m + W.second(m), dim=-1)), Gates()


class HearsItself(Cell):
    """Keeps its units apart but for its maps, one of which hears a part that this very step made."""

    parts = ("m", "h")
    reads = {"first": "h", "carousel": "m"}  # noqa: RUF012
    inputs = ("in",)
    recurrent = ("first", "second")

    def step(self, u, read, W):
        m = torch.tanh(u["in"] + W.first(read.first)) + 0.5 * read.carousel
        return State(m=m, h=torch.tanh(W.second(m))), Gates()


class _Turned(torch.autograd.Function):
    """Elementwise going forward; going backward it mixes the units."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.flip(-1)


class Handwritten(Cell):
    """Has a backward pass of its own, which must be believed."""

    reads = {"recurrent": "h"}  # noqa: RUF012
    inputs = ("in",)

    def step(self, u, read, W):
        return State(h=torch.tanh(u["in"] + getattr(W, "in")(_Turned.apply(read.recurrent)))), Gates()


class Noisy(Cell):
    """Draws random numbers in its step."""

    reads = {"recurrent": "h"}  # noqa: RUF012
    inputs = ("in",)

    def step(self, u, read, W):
        return State(h=torch.tanh(u["in"] + getattr(W, "in")(torch.dropout(read.recurrent, 0.5, train=True)))), Gates()


class HearsOthers(Cell):
    """Takes a mean over the batch, so its sequences hear each other."""

    reads = {"carousel": "h"}  # noqa: RUF012
    inputs = ("in",)
    recurrent = ()

    def step(self, u, read, W):
        return State(h=u["in"] + 0.5 * (read.carousel - read.carousel.mean(0))), Gates()


class Apart(Cell):
    """Two parts that never hear each other: h fades by a quarter a step, m is kept; both start from what h gets."""

    parts = ("m", "h")
    reads = {"keep": "m", "fade": "h", "once": "m"}  # noqa: RUF012
    inputs = ("in",)
    recurrent = ()

    def step(self, u, read, W):
        return State(m=read.keep + u["in"], h=0.25 * read.fade + 1e-3 * read.once), Gates()


class Fickle(Cell):
    """Counts its steps, and mixes its units once it has made six of them."""

    reads = {"carousel": "h"}  # noqa: RUF012
    inputs = ("in",)
    recurrent = ()
    calls = 0

    def step(self, u, read, W):
        type(self).calls += 1
        old = read.carousel if self.calls <= 6 else read.carousel.roll(1, dims=-1)
        return State(h=torch.tanh(u["in"] + old)), Gates()
