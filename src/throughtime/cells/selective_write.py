"""The first stage on the way to the LSTM: what the next step hears is chosen."""

from typing import Any, get_args

import torch

from throughtime.cells.activations import Bounded, Squash, activation
from throughtime.cells.cell import Cell, Gates, Read, Share, State, Weights


class SelectiveWrite(Cell, name="selective-write"):
    """o_t = σ(U_o x_t + W_o h_{t-1} + b_o), s_t = φ(U x_t + W h_{t-1} + b), h_t = o_t ⊙ ψ(s_t).

    The output gate of a step decides what of its state the next step reads. `candidate` is φ and `squash` is ψ;
    both are logistic in the slides.

    Source: lectures: selective write, `h_{t-1} = o_{t-1} ⊙ φ(s_{t-1})`. The next stages: "selective-read", then
    "lstm" with `forget_gate=False`, then "lstm".
    """

    parts = ("s", "h")
    reads = {"candidate": "h", "output": "h"}  # noqa: RUF012
    inputs = ("candidate", "output")

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
        o = torch.sigmoid(u.output + W.output(read.output))
        s = self.phi.function(u.candidate + W.candidate(read.candidate))
        return State(s=s, h=o * self.psi.function(s)), Gates(output=o)
