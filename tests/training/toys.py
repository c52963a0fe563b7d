"""Small data to train on, made in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from throughtime.data.dataset import Batch, Dataset
from throughtime.data.streams import Series
from throughtime.records import DataCard


class Held:
    """A split held as lists; it remembers which samples were asked for."""

    def __init__(self, xs: list[Tensor], ys: list[Tensor], each_step: bool = False, counted: bool = False) -> None:
        self.xs, self.ys, self.each_step, self.counted = xs, ys, each_step, counted
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.xs)

    def batch(self, indices: Sequence[int]) -> Batch:
        self.asked += list(indices)
        x = pad_sequence([self.xs[i] for i in indices])
        lengths = torch.tensor([len(self.xs[i]) for i in indices])
        ys = [self.ys[i] for i in indices]
        mask = pad_sequence([torch.arange(len(y)) % 3 == 1 for y in ys]) if self.counted else None
        return Batch(x, lengths, pad_sequence(ys) if self.each_step else torch.stack(ys), self.each_step, mask)

    def lengths(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([len(x) for x in self.xs], dtype=np.int64)

    def words(self, index: int) -> tuple[str, ...]:
        return tuple(str(v) for v in self.xs[index].tolist())


def card(
    kind: Literal["classification", "regression", "next"], tokens: bool, inputs: int, outputs: int, **more: Any
) -> DataCard:
    metric: Any = {"classification": "accuracy", "regression": "mse", "next": "nats" if tokens else "mse"}[kind]
    fields: dict[str, Any] = {
        "name": "toy", "step": "step", "labels": (), "metric": metric, "baseline": 1.0, "baseline_is": "a guess",
        "lag": None, "sizes": {}, "lengths": (1, 1, 1), "digest": "",
    }  # fmt: skip
    return DataCard(kind=kind, tokens=tokens, inputs=inputs, outputs=outputs, **(fields | more))


def classes(
    samples: int = 40, steps: tuple[int, int] = (6, 6), *, tokens: bool = False, held_out: int = 20, seed: int = 0
) -> Dataset:
    """Which of three classes the first step says; lengths between the two."""
    make = torch.Generator().manual_seed(seed)

    def split(n: int) -> Held:
        lengths = torch.randint(steps[0], steps[1] + 1, (n,), generator=make).tolist()
        ys = [torch.tensor(i % 3) for i in range(n)]
        if tokens:
            xs = [torch.randint(3, 7, (k,), generator=make) for k in lengths]
            for x, y in zip(xs, ys, strict=True):
                x[0] = y
        else:
            xs = [torch.randn(k, 2, generator=make) for k in lengths]
            for x, y in zip(xs, ys, strict=True):
                x[0] = torch.tensor([float(y) - 1, 1.0])
        return Held(xs, ys)

    what = card("classification", tokens, 7 if tokens else 2, 3)
    return Dataset(what, split(samples), split(held_out), split(held_out))


def steps(samples: int = 20, lengths: tuple[int, int] = (5, 9), *, counted: bool = False, seed: int = 0) -> Dataset:
    """Values with an answer at each step: the sum of the two values three steps ago."""
    make = torch.Generator().manual_seed(seed)

    def split(n: int) -> Held:
        sizes = torch.randint(lengths[0], lengths[1] + 1, (n,), generator=make).tolist()
        xs = [torch.randn(k, 2, generator=make) for k in sizes]
        ys = [torch.cat((torch.zeros(3, 1), x.sum(-1, keepdim=True)))[: len(x)] for x in xs]
        return Held(xs, ys, each_step=True, counted=counted)

    what = card("regression", False, 2, 1)
    return Dataset(what, split(samples), split(samples), split(samples), answers_each_step=True)


def series(rows: int = 200, *, window: int = 16, noise: float = 0.1, seed: int = 0) -> Dataset:
    """A noisy sine, to predict step by step."""
    make = torch.Generator().manual_seed(seed)

    def split(n: int) -> Series:
        x = torch.sin(torch.arange(n) / 3).unsqueeze(-1) + noise * torch.randn(n, 1, generator=make)
        return Series(x, x, lambda at: tuple(str(v) for v in at.tolist()), window, (n,))

    return Dataset(
        card("next", False, 1, 1), split(rows), split(100), split(100), answers_each_step=True, continues=True
    )
