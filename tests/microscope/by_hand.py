"""torch.nn's stacked recurrent layers the slow way: their cells, one sequence and one step at a time, and autograd.

Nothing here comes from the package. Dimensions: T steps, B sequences, H units, L layers, D directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]  # of one sequence: (h,), or (h, c) for an LSTM; each (H,)
After = Callable[[int, int, State], tuple[State, State]]  # sequence, step, state -> what goes on, what is put out
Loss = Callable[[Tensor, tuple[Tensor, ...]], Tensor]

CELLS: dict[str, type[nn.RNNCellBase]] = {
    "LSTM": nn.LSTMCell,
    "GRU": nn.GRUCell,
    "RNN_TANH": nn.RNNCell,
    "RNN_RELU": nn.RNNCell,
}


def _nothing(b: int, k: int, state: State) -> tuple[State, State]:
    return state, state


@dataclass
class ByHand:
    """A module's weights, the batch it ran on, and a loss of its padded output (T, B, D·H) and final states."""

    module: Any
    x: Tensor  # (T, B, I)
    lengths: Sequence[int]
    loss: Loss
    masks: Sequence[Tensor] = ()  # L − 1 of (T, B, D·H)
    initial: tuple[Tensor, ...] | None = None  # (L·D, B, H) each

    def __post_init__(self) -> None:
        self.D = 2 if self.module.bidirectional else 1
        self.H = self.module.hidden_size
        self.parts = 2 if self.module.mode == "LSTM" else 1
        self.cells = {}
        for layer in range(self.module.num_layers):
            for d in range(self.D):
                options = {"nonlinearity": "relu"} if self.module.mode == "RNN_RELU" else {}
                inputs = self.module.input_size if layer == 0 else self.D * self.H
                cell = CELLS[self.module.mode](inputs, self.H, bias=self.module.bias, **options).double()
                for name, parameter in cell.named_parameters():
                    parameter.data = getattr(self.module, f"{name}_l{layer}{'_reverse' * d}").detach().double().clone()
                self.cells[layer, d] = cell

    def run(self, at: tuple[int, int] | None = None, after: After = _nothing) -> Tensor:
        """The loss; `after` is asked after every step of the layer and direction `at`."""
        x, finals = self.x.detach().double(), []
        for layer in range(self.module.num_layers):
            sides = []
            for d in range(self.D):
                side, final = self._side(layer, d, x, after if at == (layer, d) else _nothing)
                sides.append(side)
                finals.append(final)
            x = torch.cat(sides, dim=-1)
            if layer < len(self.masks):
                x = x * self.masks[layer]
        return self.loss(x, tuple(torch.stack([final[p] for final in finals]) for p in range(self.parts)))

    def _side(self, layer: int, d: int, x: Tensor, after: After) -> tuple[Tensor, State]:
        outputs, ends = [], []
        for b, length in enumerate(self.lengths):
            state = self._start(layer, d, b)
            order = range(length)[::-1] if d else range(length)
            put_out: dict[int, Tensor] = {}
            for k, t in enumerate(order):
                given = state if self.parts > 1 else state[0]
                new = self.cells[layer, d](x[t, b], given)
                new = new if isinstance(new, tuple) else (new,)
                state, out = after(b, k, new)
                put_out[t] = out[0]
                last = out
            zero = torch.zeros(self.H, dtype=torch.float64)
            outputs.append(torch.stack([put_out.get(t, zero) for t in range(len(x))]))
            ends.append(last)
        return torch.stack(outputs, dim=1), tuple(torch.stack([end[p] for end in ends]) for p in range(self.parts))

    def _start(self, layer: int, d: int, b: int) -> State:
        if self.initial is None:
            return (torch.zeros(self.H, dtype=torch.float64),) * self.parts
        return tuple(part[layer * self.D + d, b].detach().double() for part in self.initial)

    # -- what is to be measured; steps in reading order, parts as the package has them: (s, h) for an LSTM

    def delta(self, layer: int, d: int) -> Tensor:
        """δ (T, B, P·H): each step goes on from a copy, so that nothing comes back through the step after it."""
        kept: dict[tuple[int, int], State] = {}

        def cut(b: int, k: int, state: State) -> tuple[State, State]:
            # A node of its own for each part, so that the path from s to h inside the step does not count.
            leaves = tuple(part.detach().requires_grad_() for part in state)
            kept[b, k] = leaves
            return tuple(part.detach() for part in state), leaves

        loss = self.run((layer, d), cut)
        return self._gather(loss, kept)

    def adjoint(self, layer: int, d: int) -> Tensor:
        """dL/dz_k, (T, B, P·H), with fresh leaves in the place of z_k, one step after the other."""
        kept: dict[tuple[int, int], State] = {}
        T = max(self.lengths)
        found = torch.zeros(len(self.x), len(self.lengths), self.parts * self.H, dtype=torch.float64)
        for at in range(T):
            kept.clear()

            def put_in(b: int, k: int, state: State, at: int = at) -> tuple[State, State]:
                if k != at:
                    return state, state
                leaves = tuple(part.detach().requires_grad_() for part in state)
                kept[b, k] = leaves
                return leaves, leaves

            found[at] = self._gather(self.run((layer, d), put_in), kept)[at]
        return found

    def credit(self, layer: int, d: int) -> Tensor:
        """‖δ_tᵀ P(t, k)‖, (T, T, B)."""
        delta = self.delta(layer, d).unflatten(-1, (self.parts, self.H)).flip(-2)  # (h, c)
        T, B = delta.shape[:2]
        found = torch.zeros(T, T, B, dtype=torch.float64)
        for at in range(T):
            start: dict[int, State] = {}
            later: dict[tuple[int, int], State] = {}

            def follow(b: int, k: int, state: State, at: int = at, start: Any = start, later: Any = later) -> Any:
                if k == at:
                    state = start[b] = tuple(part.detach().requires_grad_() for part in state)
                if k >= at:
                    later[b, k] = state
                return state, state

            self.run((layer, d), follow)
            for (b, t), state in later.items():
                made = sum((delta[t, b, p] * part).sum() for p, part in enumerate(state))
                rows = torch.autograd.grad(made, start[b], retain_graph=True, allow_unused=True)
                rows = [torch.zeros_like(s) if g is None else g for s, g in zip(start[b], rows, strict=True)]
                found[t, at, b] = torch.cat(rows).norm()
        return found

    def _gather(self, loss: Tensor, kept: dict[tuple[int, int], State]) -> Tensor:
        found = torch.zeros(len(self.x), len(self.lengths), self.parts, self.H, dtype=torch.float64)
        if loss.requires_grad:
            leaves = [part for state in kept.values() for part in state]
            gradients = iter(torch.autograd.grad(loss, leaves, allow_unused=True))
            for (b, k), state in kept.items():
                for p in range(len(state)):
                    gradient = next(gradients)
                    if gradient is not None:
                        found[k, b, p] = gradient
        return found.flip(-2).flatten(-2)
