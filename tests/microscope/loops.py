"""Loops over cells as people write them, and δ of their states by leaves put into the loop. Nothing from the package.

Dimensions: T steps, B sequences, S source steps, I inputs, H units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Parts = tuple[Tensor, ...]
After = Callable[[int, Parts], tuple[Parts, Parts]]  # step, state -> what the next step gets, what all else gets
TORCH = {
    "RNNCell": nn.RNNCell,
    "RNNCell-relu": lambda *sizes, **kw: nn.RNNCell(*sizes, nonlinearity="relu", **kw),
    "LSTMCell": nn.LSTMCell,
    "GRUCell": nn.GRUCell,
}


def nothing(t: int, parts: Parts) -> tuple[Parts, Parts]:
    return parts, parts


def parts_of(state: Any) -> Parts:
    return (state,) if isinstance(state, Tensor) else tuple(state)


class Translator(nn.Module):
    """Encoder, and a decoder that calls its cell step by step: attention, teacher forcing, and input feeding if asked.

    The state is used three times outside the cell: by the attention, by the head, and by a penalty after the loop.
    """

    def __init__(self, kind: str, *, feeding: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.feeding = feeding
        self.embedding = nn.Embedding(7, 3)
        self.encoder = nn.GRU(3, 5)
        self.cell = TORCH[kind](3 + 5 * feeding, 5)
        self.query = nn.Linear(5, 5)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(10, 7)

    def forward(self, source: Tensor, target: Tensor, after: After = nothing) -> Tensor:
        """The loss."""
        memory, final = self.encoder(self.embedding(source))
        context = torch.zeros_like(final[0])
        goes_on: Any = (torch.tanh(final[0]), torch.zeros_like(final[0]))
        goes_on = goes_on if isinstance(self.cell, nn.LSTMCell) else goes_on[:1]
        logits, states = [], []
        for t in range(len(target) - 1):
            x = self.embedding(target[t])
            x = torch.cat([x, context], dim=-1) if self.feeding else x
            new = self.cell(x, goes_on if isinstance(self.cell, nn.LSTMCell) else goes_on[0])
            goes_on, out = after(t, parts_of(new))
            scores = torch.einsum("sbh,bh->sb", memory, self.query(out[0]))
            context = torch.einsum("sb,sbh->bh", scores.softmax(0), memory)
            logits.append(self.head(self.dropout(torch.cat([out[0], context], dim=-1))))
            states.append(out[0])
        loss = nn.functional.cross_entropy(torch.stack(logits).flatten(0, 1), target[1:].flatten())
        return loss + 0.01 * torch.stack(states).square().sum()


def sentences(B: int = 3, S: int = 6, T: int = 9) -> tuple[Tensor, Tensor]:
    return torch.randint(7, (S, B)), torch.randint(7, (T, B))


def by_leaves(run: Callable[[After], Tensor], parts: int, T: int, B: int, H: int) -> tuple[Tensor, Tensor]:
    """δ and dL/dz of a loop in float64, (P, T, B, H) each: by zeros that are added to what the states are used for."""

    def gradient(everywhere: bool) -> Tensor:
        leaves = torch.zeros(parts, T, B, H, dtype=torch.float64, requires_grad=True)

        def after(t: int, state: Parts) -> tuple[Parts, Parts]:
            out = tuple(part + leaves[p, t] for p, part in enumerate(state))
            return (out if everywhere else state), out

        return torch.autograd.grad(run(after), leaves)[0]

    return gradient(everywhere=False), gradient(everywhere=True)
