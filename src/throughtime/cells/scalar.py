"""The scalar recurrence, one for each unit."""

from typing import Any

from torch import Tensor

from throughtime.cells.activations import Nonlinearity, activation
from throughtime.cells.cell import Cell, Gates, Read, Share, State, Weights


class Scalar(Cell, name="scalar"):
    """h_t = φ(w ⊙ h_{t-1} + U x_t + b): every unit hears itself alone.

    With one unit and one input it is the scalar recurrence `h_t = φ(w h_{t-1} + c x_t + b)`. The parameter
    `weight_self` (H,) is w, drawn from U(−1, 1): a unit has one recurrent input, itself.

    Source: Li et al., "Independently recurrent neural network", 2018; lectures: scalar recurrences, which settle
    (logistic), linger (tanh, w near 1) or blow up (relu, w > 1).
    """

    parts = ("h",)
    reads = {"recurrent": "h"}  # noqa: RUF012
    inputs = ("hidden",)
    recurrent = ()

    def __init__(
        self, input_size: int, hidden_size: int, *, nonlinearity: Nonlinearity = "tanh", **kwargs: Any
    ) -> None:
        self.phi = activation(nonlinearity)
        self.steepest = self.phi.steepest
        super().__init__(input_size, hidden_size, options={"nonlinearity": nonlinearity}, **kwargs)

    def extra(self) -> dict[str, tuple[int, ...]]:
        """One weight a unit, w."""
        return {"weight_self": (self.hidden_size,)}

    def spread(self, parameter: str) -> float:
        """One recurrent input a unit, so 1 for w."""
        return 1.0 if parameter == "weight_self" else super().spread(parameter)

    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        """The equation above; there is no gate to watch."""
        return State(h=self.phi.function(u.hidden + W["weight_self"] * read.recurrent)), Gates()

    def slopes(self, u: Share, read: Read, W: Weights) -> Tensor:
        """φ'(a) of the one pre-activation."""
        return self.phi.slope(u.hidden + W["weight_self"] * read.recurrent)

    def matrix(self, u: Share, W: Weights) -> Tensor:
        """D(w)."""
        return W["weight_self"].diag()
