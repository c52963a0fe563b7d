"""Long short-term memory and its variants."""

from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from throughtime.cells.activations import Bounded, Squash, activation
from throughtime.cells.cell import Cell, Gates, Read, Share, State, Weights
from throughtime.errors import CellError

# The words of memory; source: the lectures' notes on deep nets, after Chen's "Exploring LSTMs", 2017.
MEMORY = {"rem": "forget", "save": "input", "focus": "output", "ltm′": "candidate", "ltm": "s", "wm": "h"}


class LSTM(Cell, name="lstm"):
    """i_t, f_t, o_t = σ(U x_t + W h_{t-1} + b), c_t = φ(…), s_t = f_t ⊙ s_{t-1} + i_t ⊙ c_t, h_t = o_t ⊙ ψ(s_t).

    Options remove or change one thing each (Greff et al. 2017, section 3): `input_gate`, `forget_gate`,
    `output_gate` = False set that gate to 1 (no forget gate: the cell of 1997); `coupled` ties i_t = 1 − f_t;
    `peephole` lets the gates see the cell state (the output gate the new one), weights (3·H,) in the order input,
    forget, output; `candidate` is φ and `squash` is ψ.

    Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000 (forget gate), 2002 (peepholes); lectures: the
    LSTM, all equations, with φ and ψ logistic in the slides; in the words of memory f is rem, i is save,
    o is focus, c is ltm′, s is ltm and h is wm.
    """

    parts = ("s", "h")
    inputs: tuple[str, ...] = ("input", "forget", "candidate", "output")
    also: ClassVar = MEMORY

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        candidate: Bounded = "tanh",
        squash: Squash = "tanh",
        forget_gate: bool = True,
        input_gate: bool = True,
        output_gate: bool = True,
        coupled: bool = False,
        peephole: bool = False,
        **kwargs: Any,
    ) -> None:
        if coupled and not (input_gate and forget_gate):
            raise CellError("coupled gates tie the input gate to the forget gate, so both must be there")
        self.phi = activation(candidate, among=get_args(Bounded))
        self.psi = activation(squash, among=get_args(Squash))
        self.coupled = coupled
        self.peephole = peephole
        here = {
            "input": input_gate,
            "forget": forget_gate and not coupled,
            "candidate": True,
            "output": output_gate,
        }
        self.inputs = tuple(block for block, there in here.items() if there)
        self.reads = {"carousel": "s"} | dict.fromkeys(self.inputs, "h")
        if "forget" in self.inputs:
            self.clock = {"forget": 1} | ({"input": -1} if input_gate else {})
        elif coupled:
            self.clock = {"input": -1}  # f = 1 − i
        if peephole:
            self.reads |= {f"peephole_{gate}": "s" for gate in ("input", "forget") if gate in self.inputs}
        options = {
            "candidate": candidate, "squash": squash, "forget_gate": forget_gate, "input_gate": input_gate,
            "output_gate": output_gate, "coupled": coupled, "peephole": peephole,
        }  # fmt: skip
        super().__init__(input_size, hidden_size, options=options, **kwargs)

    def extra(self) -> dict[str, tuple[int, ...]]:
        """The peepholes' weights, if there are any; the rows of a gate that is not there are not used."""
        return {"weight_ch": (3 * self.hidden_size,)} if self.peephole else {}

    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        """The equations above."""
        peep = dict(zip(("input", "forget", "output"), W["weight_ch"].chunk(3), strict=True)) if self.peephole else {}
        open_ = torch.ones_like(read.carousel)

        def gate(name: str, seen: Tensor | None) -> Tensor:
            if name not in self.inputs:
                return open_
            a = u[name] + getattr(W, name)(read[name])
            return torch.sigmoid(a if seen is None else a + peep[name] * seen)

        i = gate("input", read.get("peephole_input"))
        f = 1 - i if self.coupled else gate("forget", read.get("peephole_forget"))
        c = self.phi.function(u.candidate + W.candidate(read.candidate))
        s = f * read.carousel + i * c
        o = gate("output", s if self.peephole else None)
        watched = {"input": i, "forget": f, "candidate": c, "output": o}
        there = {name: value for name, value in watched.items() if value is not open_}
        return State(s=s, h=o * self.psi.function(s)), Gates(**there)
