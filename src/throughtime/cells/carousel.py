"""The identity mapping: a state that only ever has something added to it."""

from typing import Any

from throughtime.cells.activations import Nonlinearity, activation
from throughtime.cells.cell import Cell, Gates, Read, Share, State, Weights


class Carousel(Cell, name="carousel"):
    """h_t = h_{t-1} + φ(U x_t + b), so ∂h_t/∂h_{t-1} = I: nothing that was written is lost, nothing is erased.

    Source: Hochreiter and Schmidhuber 1997, section 3.2 (constant error carousel); lectures: the identity mapping
    `h_t = h_{t-1} + F(x_t)`.
    """

    parts = ("h",)
    reads = {"carousel": "h"}  # noqa: RUF012
    inputs = ("candidate",)
    recurrent = ()

    def __init__(
        self, input_size: int, hidden_size: int, *, nonlinearity: Nonlinearity = "tanh", **kwargs: Any
    ) -> None:
        self.phi = activation(nonlinearity)
        super().__init__(input_size, hidden_size, options={"nonlinearity": nonlinearity}, **kwargs)

    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        """The equation above."""
        c = self.phi.function(u.candidate)
        return State(h=read.carousel + c), Gates(candidate=c)
