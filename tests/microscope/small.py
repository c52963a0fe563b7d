"""Small models with recurrent layers, and one training step of theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import throughtime as tt
from tests.microscope.loops import parts_of


class Reader(nn.Module):
    """Words in, one number out: a layer of each kind, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.below = nn.LSTM(3, 4, num_layers=2, bidirectional=True, dropout=0.3)
        self.above = tt.GRU(8, 4)
        self.cell = nn.GRUCell(4, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, words: Tensor) -> Tensor:
        output, _ = self.above(self.below(self.embedding(words))[0])
        state = None
        for step in output:
            state = self.cell(step, state)
        return self.head(state)


LAYERS = ["below.l0", "below.l0_reverse", "below.l1", "below.l1_reverse", "above", "cell"]


class Short(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module] = nn.GRU) -> None:
        super().__init__()
        self.layer = kind(3, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.RNNCellBase):
            state: Any = None
            for step in x:
                state = self.layer(step, state)
            return self.head(parts_of(state)[0])
        return self.head(self.layer(x)[0][-1])


def batch(T: int = 6, B: int = 2) -> Tensor:
    return torch.randn(T, B, 3)


def step(model: nn.Module, optimiser: torch.optim.Optimizer | None = None) -> Tensor:
    loss = model(batch()).square().sum()
    model.zero_grad()
    loss.backward()
    if optimiser is not None:
        optimiser.step()
    return loss.detach()


def assert_no_hooks(model: nn.Module) -> None:
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not any(p._backward_hooks for p in model.parameters())
