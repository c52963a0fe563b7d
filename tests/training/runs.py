"""Small trainings that tests repeat: the same everywhere, in this process or in another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.training import toys
from throughtime import history
from throughtime.data.dataset import Dataset
from throughtime.models import Net
from throughtime.records import Evaluation, Settings, Update
from throughtime.training import Training, train

# name -> (data, model, settings): every kind of state that a checkpoint has to remember is in one of them
KINDS: dict[str, tuple[Any, dict[str, Any], Settings]] = {
    "full": (
        lambda: toys.classes(23, (2, 9), tokens=True),
        {"cell": "lstm", "hidden": 6, "dropout": 0.3, "layers": 2},
        Settings(epochs=4, batch_size=5, rate=1e-2, clip=40.0, clip_by="percentile", checkpoint_every=3),
    ),
    "truncated": (
        lambda: toys.series(90),
        {"cell": "gru", "hidden": 5},
        Settings(epochs=3, batch_size=3, rate=1e-2, window=7, stride=4, evaluate_every=5, checkpoint_every=1),
    ),
    "uneven": (
        lambda: toys.steps(11, (3, 12), counted=True),
        {"cell": "elman", "hidden": 5, "readout": "every"},
        Settings(epochs=3, batch_size=4, rate=1e-2, window=4, stride=2, clip=0.5, clip_by="always", weight_decay=0.1),
    ),
    "backward": (
        lambda: toys.classes(20, (4, 9)),
        {"cell": "lstm", "hidden": 5},
        Settings(epochs=3, batch_size=4, rate=1e-2, window=3, clip=0.01, clip_by="backward", checkpoint_every=2),
    ),
}


def begin(kind: str, folder: Path | None = None, *, resume: bool = False, **changes: Any) -> Training:
    """A training of this kind."""
    make, model, settings = KINDS[kind]
    data: Dataset = make()
    net = Net.build(data.card, seed=3, **(model | changes))
    return train(net, data, settings, seed=11, folder=folder, resume=resume, device="cpu")


def timeless(update: Update) -> tuple[Any, ...]:
    """Everything of an update that must repeat."""
    return tuple(value for name, value in vars(update).items() if name != "seconds")


def outcome(
    folder: Path, training: Training
) -> tuple[list[tuple[Any, ...]], tuple[Evaluation, ...], dict[str, Tensor]]:
    """The history and the weights of a run that ended."""
    past = history.read(folder / "events.jsonl")
    return [timeless(update) for update in past.updates], past.evaluations, dict(training.net.state_dict())


def same(a: tuple[Any, Any, dict[str, Tensor]], b: tuple[Any, Any, dict[str, Tensor]]) -> bool:
    """Bitwise."""
    return a[:2] == b[:2] and a[2].keys() == b[2].keys() and all(torch.equal(a[2][name], b[2][name]) for name in a[2])
