"""What is timed in `engines`: the cells, and the bare matrix products that each cannot do without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import throughtime as tt
from throughtime.cells import Cell, Gates, Read, Share, State, Weights, find, known
from throughtime.modules import Recurrent

# T steps, B sequences, I inputs, H units


class MadeUp(Cell):
    """m_t = exp(−exp(λ)) ⊙ m_{t-1} + k_t / (1 + k_t) ⊙ v_t, h_t = σ(U x_t + W (k_t ⊙ m_t) + b) ⊙ tanh(m_t).

    k_t = log(1 + exp(…)), v_t = tanh(…). Nobody's cell, and nothing is tuned for it: two parts, a product of what the
    step itself has made, a decay that hangs on a parameter (H,) alone.
    """

    parts = ("m", "h")
    reads = {"carousel": "m", "strength": "h", "content": "h"}  # noqa: RUF012
    inputs = ("strength", "content", "answer")

    def extra(self) -> dict[str, tuple[int, ...]]:
        return {"weight_decay": (self.hidden_size,)}

    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        k = F.softplus(u.strength + W.strength(read.strength))
        v = torch.tanh(u.content + W.content(read.content))
        m = torch.exp(-torch.exp(W["weight_decay"])) * read.carousel + k / (1 + k) * v
        o = torch.sigmoid(u.answer + W.answer(k * m))
        return State(m=m, h=o * torch.tanh(m)), Gates(strength=k, answer=o)


def made_up(inputs: int, units: int, **options: Any) -> Recurrent:
    """A layer of it. It gets its name here, so that importing this file adds no cell to those that are known."""
    name = "made-up-for-benchmarks"
    if name not in known():
        type("NamedMadeUp", (MadeUp,), {}, name=name)
    assert issubclass(find(name), MadeUp)
    return Recurrent(name, inputs, units, **options)


@dataclass(frozen=True)
class Family:
    """One cell, and what is promised of it."""

    name: str  # as in benchmarks.scan.CELLS
    make: Callable[..., Recurrent]  # of inputs, units and an engine
    products: tuple[int, ...]  # the step's recurrent products one after another, each with how many blocks of H rows
    theirs: type[nn.RNNBase] | None = None  # the same in torch.nn
    options: dict[str, Any] = field(default_factory=dict)

    def layer(self, inputs: int, units: int, engine: str = "auto") -> Recurrent:
        return self.make(inputs, units, engine=engine, **self.options)


STANDARD = (
    Family("RNN", tt.RNN, (1,), nn.RNN),
    Family("GRU", tt.GRU, (3,), nn.GRU),
    Family("LSTM", tt.LSTM, (4,), nn.LSTM),
)
OTHERS = (
    Family("GRU of the lectures", tt.GRU, (2, 1), options={"reset": "before"}),
    Family("LSTM, logistic candidate", tt.LSTM, (4,), options={"candidate": "sigmoid"}),
    Family("LSTM, no forget gate", tt.LSTM, (3,), options={"forget_gate": False}),
    Family("LSTM with peepholes", tt.LSTM, (4,), options={"peephole": True}),
    Family("a cell made up here", made_up, (2, 1)),
)


def bare_products(T: int, B: int, I: int, H: int, products: tuple[int, ...]) -> Callable[[], None]:  # noqa: E741
    """The matrix products of one forward and backward pass, without what lies between them.

    The input's and the weights' gradient are one product each for the whole sequence; a step of the recurrence, and a
    step of the way back, is one product for each member of `products`.
    """
    blocks = sum(products)
    x, weight_ih, u = torch.randn(T * B, I), torch.randn(blocks * H, I), torch.empty(T * B, blocks * H)
    d_weight_ih, h, d_h = torch.empty(blocks * H, I), torch.randn(T * B, H), torch.empty(B, H)
    weights = [torch.randn(count * H, H) / H for count in products]
    d_weights = [torch.empty_like(weight) for weight in weights]
    wholes = [torch.empty(T * B, count * H) for count in products]
    each = list(zip(h.split(B), *(whole.split(B) for whole in wholes), strict=True))

    def work() -> None:
        torch.mm(x, weight_ih.T, out=u)
        for h_t, *a_t in each:
            for weight, a in zip(weights, a_t, strict=True):
                torch.mm(h_t, weight.T, out=a)
        for _, *a_t in reversed(each):
            for weight, a in zip(weights, a_t, strict=True):
                torch.mm(a, weight, out=d_h)
        for whole, d_weight in zip(wholes, d_weights, strict=True):
            torch.mm(whole.T, h, out=d_weight)
        torch.mm(u.T, x, out=d_weight_ih)

    return work
