"""The gated recurrent unit, in its two arrangements."""

from typing import Any, Literal, get_args

import torch

from throughtime.cells.activations import Bounded, activation
from throughtime.cells.cell import Cell, Gates, Read, Share, State, Weights
from throughtime.errors import CellError


class GRU(Cell, name="gru"):
    """r_t = σ(…), z_t = σ(…), c_t = φ(…), h_t = z_t ⊙ h_{t-1} + (1 − z_t) ⊙ c_t.

    reset="after": c_t = φ(U x_t + b + r_t ⊙ (W h_{t-1} + b′)), as torch.nn and cuDNN have it.
    reset="before": c_t = φ(U x_t + b + W (r_t ⊙ h_{t-1}) + b′), the lectures' `W (o_t ⊙ s_{t-1})`; their i_t is
    1 − z_t (the tie the other way round), their o_t is r_t.

    Source: Cho et al. 2014 ("before"); lectures: gated recurrent units, all equations.
    """

    parts = ("h",)
    reads = {"carousel": "h", "reset": "h", "update": "h", "candidate": "h"}  # noqa: RUF012
    inputs = ("reset", "update", "candidate")
    clock = {"update": 1}  # noqa: RUF012

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        reset: Literal["after", "before"] = "after",
        candidate: Bounded = "tanh",
        **kwargs: Any,
    ) -> None:
        if reset not in ("after", "before"):
            raise CellError(f'reset is "after" or "before", got {reset!r}')
        self.before = reset == "before"
        self.phi = activation(candidate, among=get_args(Bounded))
        super().__init__(input_size, hidden_size, options={"reset": reset, "candidate": candidate}, **kwargs)

    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        """The equations above."""
        r = torch.sigmoid(u.reset + W.reset(read.reset))
        z = torch.sigmoid(u.update + W.update(read.update))
        recalled = W.candidate(r * read.candidate) if self.before else r * W.candidate(read.candidate)
        c = self.phi.function(u.candidate + recalled)
        return State(h=z * read.carousel + (1 - z) * c), Gates(reset=r, update=z, candidate=c)
