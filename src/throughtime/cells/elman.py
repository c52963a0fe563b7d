"""The vanilla recurrent net."""

from typing import Any

from torch import Tensor

from throughtime.cells.activations import Nonlinearity, activation
from throughtime.cells.cell import Cell, Gates, Read, Share, State, Weights


class Elman(Cell, name="elman"):
    """h_t = φ(U x_t + W h_{t-1} + b).

    Source: Elman, "Finding structure in time", 1990; lectures: the vanilla net `s_t = φ(W s_{t-1} + U x_t + b)`
    (its readout `y_t = V s_t` is the model's head).
    """

    parts = ("h",)
    reads = {"recurrent": "h"}  # noqa: RUF012
    inputs = ("hidden",)

    def __init__(
        self, input_size: int, hidden_size: int, *, nonlinearity: Nonlinearity = "tanh", **kwargs: Any
    ) -> None:
        self.phi = activation(nonlinearity)
        self.steepest = self.phi.steepest
        super().__init__(input_size, hidden_size, options={"nonlinearity": nonlinearity}, **kwargs)

    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        """The equation above; there is no gate to watch."""
        return State(h=self.phi.function(u.hidden + W.hidden(read.recurrent))), Gates()

    def slopes(self, u: Share, read: Read, W: Weights) -> Tensor:
        """φ'(a) of the one pre-activation."""
        return self.phi.slope(u.hidden + W.hidden(read.recurrent))

    def matrix(self, u: Share, W: Weights) -> Tensor:
        """W, the same at every step."""
        return W.hidden.weight
