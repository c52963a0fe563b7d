"""A training step under tt.watch beside the same step without it: with the default cadence, and every step measured.

The model is a small classifier of texts as one would write it: an embedding, a layer of torch.nn, a head on the mean
of its outputs or on the last one. A step is the forward pass, the backward pass and Adam's update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import throughtime as tt
from benchmarks.table import Row, paired

T, B, I, H = 100, 32, 64, 128  # noqa: E741
WORDS, CLASSES = 5000, 2
CADENCE = 50  # the default of tt.watch
# how many steps one timing holds, what is measured, the promise
EVERY = ((1, 1, 2.0), (CADENCE, CADENCE, 1.05))


class Classifier(nn.Module):
    """Reads words, answers from the last output or from the mean of all."""

    def __init__(self, kind: Any, readout: str) -> None:
        super().__init__()
        self.embedding, self.rnn, self.head = (
            nn.Embedding(WORDS, I),
            kind(I, H, batch_first=True),
            nn.Linear(H, CLASSES),
        )
        self.readout = readout

    def forward(self, words: Tensor) -> Tensor:
        output, _ = self.rnn(self.embedding(words))
        return self.head(output[:, -1] if self.readout == "last" else output.mean(1))


def rows() -> list[Row]:
    """By layer, readout and cadence."""
    torch.manual_seed(0)
    return [
        _row(kind, readout, steps, every, limit)
        for steps, every, limit in EVERY
        for kind in (nn.LSTM, nn.GRU)
        for readout in (("last", "mean") if every == 1 else ("last",))
    ]


def _row(kind: Any, readout: str, steps: int, every: int, limit: float) -> Row:
    watched, plain = (_step(kind, readout) for _ in range(2))
    with tt.watch(watched[0], every=every):
        pair = paired(
            lambda: _several(watched[1], steps),
            lambda: _several(plain[1], steps),
            repeats=5 if steps == 1 else 2,
            warmup=1,
        )
    size = f"nn.{kind.__name__}, {readout} output, T={T} B={B} I={I} H={H}, " + (
        "every step" if every == 1 else f"{steps} steps, one measured"
    )
    return pair.row("a training step that is watched", size, "the same, not watched", limit=limit)


def _step(kind: Any, readout: str) -> tuple[nn.Module, Callable[[], None]]:
    model = Classifier(kind, readout)
    optimiser = torch.optim.Adam(model.parameters())
    words, answers = torch.randint(WORDS, (B, T)), torch.randint(CLASSES, (B,))

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(model(words), answers).backward()
        optimiser.step()

    return model, step


def _several(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()
