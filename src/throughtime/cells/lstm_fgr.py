"""Long short-term memory whose gates hear all gates of the step before."""

from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from throughtime.cells.activations import Bounded, Squash, activation
from throughtime.cells.cell import Cell, Gates, Read, Share, State, Weights
from throughtime.cells.lstm import MEMORY

GATES = ("input", "forget", "output")


class FullGateLSTM(Cell, name="lstm-fgr"):
    """The LSTM with full gate recurrence: each gate g_t = σ(U x_t + W h_{t-1} + Σ_q R_gq q_{t-1} + b), q = i, f, o.

    c_t = φ(U x_t + W h_{t-1} + b), s_t = f_t ⊙ s_{t-1} + i_t ⊙ c_t, h_t = o_t ⊙ ψ(s_t). The gates are parts of the
    state, zero before the first step; port "forget_from_input" is where the forget gate hears i_{t-1}. `peephole`
    lets the gates see the cell state as in "lstm"; `candidate` is φ and `squash` is ψ.

    Source: Greff et al., "LSTM: a search space odyssey", 2017, variant FGR (there with peepholes), after Hochreiter
    and Schmidhuber 1997; lectures: LSTM variants.
    """

    parts = (*GATES, "s", "h")
    inputs = ("input", "forget", "candidate", "output")
    unbiased = tuple(f"{gate}_from_{heard}" for gate in GATES for heard in GATES)
    recurrent = (*inputs, *unbiased)
    also: ClassVar = MEMORY
    clock = {"forget": 1, "input": -1}  # noqa: RUF012

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        candidate: Bounded = "tanh",
        squash: Squash = "tanh",
        peephole: bool = False,
        **kwargs: Any,
    ) -> None:
        self.phi = activation(candidate, among=get_args(Bounded))
        self.psi = activation(squash, among=get_args(Squash))
        self.peephole = peephole
        heard = {f"{gate}_from_{other}": other for gate in GATES for other in GATES}
        self.reads = {"carousel": "s"} | dict.fromkeys(self.inputs, "h") | heard
        if peephole:
            self.reads |= {"peephole_input": "s", "peephole_forget": "s"}
        options = {"candidate": candidate, "squash": squash, "peephole": peephole}
        super().__init__(input_size, hidden_size, options=options, **kwargs)

    def extra(self) -> dict[str, tuple[int, ...]]:
        """The peepholes' weights in the order input, forget, output, if there are any."""
        return {"weight_ch": (3 * self.hidden_size,)} if self.peephole else {}

    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        """The equations above."""
        peep = dict(zip(GATES, W["weight_ch"].chunk(3), strict=True)) if self.peephole else {}

        def gate(name: str, seen: Tensor | None) -> Tensor:
            a = u[name] + getattr(W, name)(read[name])
            for other in GATES:
                port = f"{name}_from_{other}"
                a = a + getattr(W, port)(read[port])
            return torch.sigmoid(a if seen is None else a + peep[name] * seen)

        i = gate("input", read.get("peephole_input"))
        f = gate("forget", read.get("peephole_forget"))
        c = self.phi.function(u.candidate + W.candidate(read.candidate))
        s = f * read.carousel + i * c
        o = gate("output", s if self.peephole else None)
        state = State(input=i, forget=f, output=o, s=s, h=o * self.psi.function(s))
        return state, Gates(input=i, forget=f, candidate=c, output=o)
