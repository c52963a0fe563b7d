"""A deep feed-forward net, read as a recurrence whose steps are its layers."""

from typing import Any

import torch
from torch import Tensor

from throughtime.cells.activations import Nonlinearity, activation
from throughtime.cells.cell import Cell, Gates, Parameters, Read, Share, State, Weights


class FeedForward(Cell, name="feedforward"):
    """h_l = φ(W_l h_{l-1} + b_l): layer l is step l, and x_l picks it, one-hot over the layers.

    `input_size` is the number of layers L, and x = eye(L) (as (L, 1, L), or expanded to (L, B, L)) runs them in
    order: a step's weights are Σ_j x_l[j] W_j. The data enter as the initial state. Parameters: `weight_layers`
    (L, H, H), or (L, H) with `diagonal`, which keeps the units apart; `bias_layers` (L, H). Holding every step's
    weights costs L·B·H² numbers.

    Source: lectures: Jacobians of a deep net `Y = f_N(W_{N-1} f_{N-1}(… W_0 X))`; with `diagonal=True,
    nonlinearity="identity", bias=False` the diagonal deep linear net (Saxe, McClelland, Ganguli 2014 for the
    general one), whose last layer, (1, 2), is the model's head.
    """

    parts = ("h",)
    reads = {"below": "h"}  # noqa: RUF012
    inputs = ("weight", "bias")
    recurrent = ()

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        diagonal: bool = False,
        nonlinearity: Nonlinearity = "tanh",
        **kwargs: Any,
    ) -> None:
        self.diagonal = diagonal
        self.phi = activation(nonlinearity)
        self.steepest = self.phi.steepest
        options = {"diagonal": diagonal, "nonlinearity": nonlinearity}
        super().__init__(input_size, hidden_size, options=options, **kwargs)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """A weight and a bias for each layer, in place of the recurrent layout."""
        L, H = self.input_size, self.hidden_size
        weight: dict[str, tuple[int, ...]] = {"weight_layers": (L, H) if self.diagonal else (L, H, H)}
        return weight | ({"bias_layers": (L, H)} if self.bias else {})

    def spread(self, parameter: str) -> float:
        """A diagonal unit has one input, the unit below it."""
        return 1.0 if self.diagonal else super().spread(parameter)

    def squares(self, parameters: Parameters) -> tuple[Tensor, ...]:
        """Each layer's matrix."""
        return () if self.diagonal else parameters["weight_layers"].unbind(0)

    def share(self, x: Tensor, parameters: Parameters | None = None) -> Share:
        """The weights (..., H, H) or (..., H) and the bias (..., H) of the layer that x (..., L) picks."""
        p = self.values() if parameters is None else parameters
        return Share(**{name.removesuffix("_layers"): torch.tensordot(x, p[name], dims=1) for name in self.shapes()})

    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        """The equation above; there is no gate to watch."""
        return State(h=self.phi.function(self._preactivation(u, read.below))), Gates()

    def _preactivation(self, u: Share, below: Tensor) -> Tensor:
        a = u.weight * below if self.diagonal else (u.weight @ below.unsqueeze(-1)).squeeze(-1)
        return a + u.bias if self.bias else a

    def slopes(self, u: Share, read: Read, W: Weights) -> Tensor:
        """φ'(a) of the layer."""
        return self.phi.slope(self._preactivation(u, read.below))

    def matrix(self, u: Share, W: Weights) -> Tensor:
        """W_l, (B, H, H): another one at every layer."""
        return torch.diag_embed(u.weight) if self.diagonal else u.weight
