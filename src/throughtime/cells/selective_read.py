"""The second stage on the way to the LSTM: what the new state takes in is chosen too."""

from typing import Any, get_args

import torch

from throughtime.cells.activations import Bounded, Squash, activation
from throughtime.cells.cell import Cell, Gates, Read, Share, State, Weights


class SelectiveRead(Cell, name="selective-read"):
    """i_t, o_t = σ(U x_t + W h_{t-1} + b), c_t = φ(…), s_t = i_t ⊙ c_t, h_t = o_t ⊙ ψ(s_t).

    The input gate decides what of the candidate c_t (the slides' s̃_t) becomes the state. `candidate` is φ and
    `squash` is ψ; both are logistic in the slides.

    Source: lectures: selective write, then selective read, `i_t ⊙ s̃_t`. The next stages: "lstm" with
    `forget_gate=False` (s_t = s_{t-1} + i_t ⊙ c_t, the cell of 1997), then "lstm".
    """

    parts = ("s", "h")
    reads = {"input": "h", "candidate": "h", "output": "h"}  # noqa: RUF012
    inputs = ("input", "candidate", "output")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        candidate: Bounded = "tanh",
        squash: Squash = "tanh",
        **kwargs: Any,
    ) -> None:
        self.phi = activation(candidate, among=get_args(Bounded))
        self.psi = activation(squash, among=get_args(Squash))
        super().__init__(input_size, hidden_size, options={"candidate": candidate, "squash": squash}, **kwargs)

    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        """The equations above."""
        i = torch.sigmoid(u.input + W.input(read.input))
        c = self.phi.function(u.candidate + W.candidate(read.candidate))
        o = torch.sigmoid(u.output + W.output(read.output))
        s = i * c
        return State(s=s, h=o * self.psi.function(s)), Gates(input=i, candidate=c, output=o)
