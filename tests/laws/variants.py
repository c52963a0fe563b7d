"""Every known cell with the options that change its equations, and one cell that only the tests know.

Each law of this folder runs over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from throughtime import cells
from throughtime.cells import Cell, Gates, State

T, B, I, H = 5, 2, 3, 3  # noqa: E741


class Own(Cell):
    """A cell of somebody's own: two readings of one part, a block without bias, a parameter of its own."""

    parts = ("m", "h")
    reads = {"carousel": "m", "skip": "m", "candidate": "h"}  # noqa: RUF012
    inputs = ("keep", "candidate")
    recurrent = ("candidate", "skip")
    unbiased = ("skip",)

    def extra(self):
        return {"weight_keep": (self.hidden_size,)}

    def step(self, u, read, W):
        f = torch.sigmoid(u.keep + W["weight_keep"] * read.skip)
        c = torch.tanh(u.candidate + W.candidate(read.candidate) + W.skip(read.skip))
        m = f * read.carousel + (1 - f) * c
        return State(m=m, h=torch.tanh(m)), Gates(keep=f)


@dataclass(frozen=True)
class Variant:
    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, input_size: int = I, hidden_size: int = H, **kwargs: Any) -> Cell:
        """The cell, in float64."""
        torch.manual_seed(1)
        kwargs = {"dtype": torch.float64, **self.options, **kwargs}
        if self.name == "own":
            return Own(input_size, hidden_size, **kwargs)
        return cells.make(self.name, input_size, hidden_size, **kwargs)

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])


def _each(name: str, *options: dict[str, Any]) -> list[Variant]:
    return [Variant(name), *(Variant(name, each) for each in options)]


PHIS = [{"nonlinearity": phi} for phi in ("relu", "sigmoid", "identity")]
SLIDES = {"candidate": "sigmoid", "squash": "sigmoid"}  # φ logistic throughout, as in the slides
VARIANTS = [
    *_each("elman", *PHIS, {"bias": False}),
    *_each("scalar", *PHIS),
    *_each("taps", {"taps": 1}, {"taps": 2, "nonlinearity": "relu"}, {"taps": 4, "bias": False}),
    *_each("carousel", {"nonlinearity": "identity"}),
    *_each("selective-write", SLIDES),
    *_each("selective-read", SLIDES, {"squash": "identity"}),
    *_each(
        "lstm",
        SLIDES,
        {"bias": False},
        {"forget_gate": False},
        {"input_gate": False},
        {"output_gate": False},
        {"squash": "identity"},
        {"coupled": True},
        {"peephole": True},
        {"peephole": True, "coupled": True},
        {"peephole": True, "forget_gate": False},
        {"peephole": True, "input_gate": False, "output_gate": False},
        {"forget_gate": False, "input_gate": False, "output_gate": False},
    ),
    *_each("lstm-fgr", {"peephole": True}, SLIDES),
    *_each("gru", {"reset": "before"}, {"candidate": "sigmoid"}, {"reset": "before", "bias": False}),
    *_each(
        "feedforward",
        {"nonlinearity": "relu"},
        {"diagonal": True},
        {"diagonal": True, "nonlinearity": "identity", "bias": False},
    ),
    Variant("own"),
]


def sequence(cell: Cell, steps: int = T, batch: int = B) -> tuple[Tensor, State]:
    """Inputs (T, B, I) and an initial state that is not zero."""
    x = torch.randn(steps, batch, cell.input_size, dtype=torch.float64)
    state = State(**{part: torch.randn(batch, cell.hidden_size, dtype=torch.float64) / 2 for part in cell.parts})
    return x, state
