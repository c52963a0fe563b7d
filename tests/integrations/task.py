"""A model and data small enough to train in a moment, as a stranger would write them, and what a tracker wrote."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

T, BATCHES, B = 12, 6, 4


class Model(nn.Module):
    """Reads a sequence, says one number."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.dropout = nn.Dropout(0.2)  # so that a random number drawn too many would be seen
        self.head = nn.Linear(5, 1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        output, _ = self.lstm(x)
        made = self.head(self.dropout(output[:, -1]))[:, 0]
        return {"logits": made} if labels is None else {"loss": nn.functional.mse_loss(made, labels), "logits": made}


class Flat(nn.Module):
    """One without a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(T * 3, 1)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.mse_loss(self.head(x.flatten(1))[:, 0], labels)}


def made() -> Model:
    torch.manual_seed(0)
    return Model()


def data() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCHES * B, T, 3, generator=generator)
    return [{"x": each, "labels": each[0, 0]} for each in x]


def written(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value) of all TensorBoard files under a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.rglob("events.out.tfevents*")):
        events = EventAccumulator(str(file))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend((event.step, event.value) for event in events.Scalars(tag))
    return found
