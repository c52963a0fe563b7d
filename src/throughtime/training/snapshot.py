"""What a checkpoint remembers: where training stands, and everything that was learned or gathered on the way.

Orders, windows and dropout follow from the seed and the position, so no random state is here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from throughtime.cells.cell import State
from throughtime.errors import CheckpointError
from throughtime.models import Net
from throughtime.records import DataCard, Evaluation, ModelCard, Settings, decode, encode
from throughtime.training.checkpoint import Stored

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam remembers of each parameter


@dataclass(frozen=True)
class Position:
    """Where training stands: what has been done, and what comes next."""

    update: int = 0  # optimiser steps taken
    passed: int = 0  # windows passed, with those that had no answer to learn from: the clock of the learning rate
    epoch: int = 0  # of the next window
    batch: int = 0  # of the next window, in its epoch
    window: int = 0  # the next, in its batch
    samples: int = 0  # consumed in this epoch
    stale: int = 0  # evaluations since the best
    seconds: float = 0.0  # that the updates took
    stopped: str = ""  # why training ended; empty while it has not


@dataclass(frozen=True)
class Snapshot:
    """Training at one moment."""

    position: Position
    best: Evaluation | None
    scaler: Mapping[str, Any] | None  # of mixed precision
    weights: Mapping[str, Tensor]
    best_weights: Mapping[str, Tensor]  # empty before the first evaluation
    moments: Mapping[str, Tensor]  # "exp_avg/<parameter>": Adam's
    norms: Tensor  # (seen,) float64, ascending; empty unless clipping goes by percentile
    carried: State | None  # (L·D, B, H) each, the state that the next window starts from


@dataclass(frozen=True)
class Identity:
    """What must be the same for a run to go on."""

    model: ModelCard
    shapes: Mapping[str, tuple[int, ...]]
    settings: Settings
    seed: int
    data: str  # SHA-256

    @classmethod
    def of(cls, net: Net, settings: Settings, seed: int, card: DataCard) -> Identity:
        """Of a run."""
        model = dataclasses.replace(net.card(), engine="")  # another engine gives the same numbers
        shapes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
        return cls(model, shapes, settings, seed, card.digest)

    def check(self, stored: Identity, where: object) -> None:
        """Raise CheckpointError if the checkpoint belongs to another run."""
        if (stored.model.cell, stored.shapes) != (self.model.cell, self.shapes):
            theirs, ours = _spoken(stored.model, self.model), _spoken(self.model, stored.model)
            if theirs == ours:  # the same layers around another input or output
                names = sorted({*stored.shapes, *self.shapes})
                name = next(each for each in names if stored.shapes.get(each) != self.shapes.get(each))
                theirs, ours = (
                    f"one with {name} of shape {tuple(shapes.get(name, ()))}" for shapes in (stored.shapes, self.shapes)
                )
            raise CheckpointError(
                f"{where}: this checkpoint is of {theirs}, and the model is {ours}; "
                "resume with the same model, or train in another folder."
            )
        for there, here in ((stored.model, self.model), (stored.settings, self.settings)):
            for field in dataclasses.fields(here):
                old, new = getattr(there, field.name), getattr(here, field.name)
                if old != new:
                    raise CheckpointError(
                        f"{where}: this run was begun with {field.name}={old!r}, not {new!r}; resume with the same, "
                        "or train in another folder."
                    )
        if (stored.seed, stored.data) != (self.seed, self.data):
            what = (
                f"seed {stored.seed}, not {self.seed}"
                if stored.seed != self.seed
                else "other data (its SHA-256 differs)"
            )
            raise CheckpointError(f"{where}: this run was begun with {what}; resume with the same, or train elsewhere.")


def _spoken(model: ModelCard, beside: ModelCard) -> str:
    """A model in words, with the options in which it is not the other."""
    other = beside.options if beside.cell == model.cell else model.options
    options = "".join(f", {name}={value}" for name, value in model.options.items() if other.get(name) != value)
    directions = ", bidirectional" if model.bidirectional else ""
    return f'cell "{model.cell}" with {model.hidden} units in {model.layers} layers{directions}{options}'


# -- to plain values and tensors, and back


def pack(snapshot: Snapshot, identity: Identity) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """What goes into `state.json`, and the tensors by file."""
    state = {
        "identity": encode(identity, {}),
        "position": encode(snapshot.position, {}),
        "best": encode(snapshot.best, {}),
        "scaler": snapshot.scaler,
    }
    training = {f"adam/{name}": moment for name, moment in snapshot.moments.items()}
    training["clipping/norms"] = snapshot.norms
    if snapshot.carried is not None:
        training |= {f"carried/{part}": tensor for part, tensor in snapshot.carried.items()}
    tensors = {"weights": dict(snapshot.weights), "training": training}
    if snapshot.best_weights:
        tensors["best"] = dict(snapshot.best_weights)
    return state, tensors


def unpack(stored: Stored, identity: Identity, where: object) -> Snapshot:
    """A snapshot from a checkpoint.

    Raises CheckpointError if it belongs to another run, or cannot be read.
    """
    try:
        found, position = decode(Identity, stored.state["identity"], {}), decode(Position, stored.state["position"], {})
        best = decode(Evaluation | None, stored.state["best"], {})
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{where}: this checkpoint cannot be read ({error}); restore it, or train in another folder."
        ) from error
    identity.check(found, where)
    training = stored.tensors["training"]
    carried = {name.removeprefix("carried/"): t for name, t in training.items() if name.startswith("carried/")}
    return Snapshot(
        position=position,
        best=best,
        scaler=stored.state["scaler"],
        weights=stored.tensors["weights"],
        best_weights=stored.tensors.get("best", {}),
        moments={name.removeprefix("adam/"): t for name, t in training.items() if name.startswith("adam/")},
        norms=training["clipping/norms"],
        carried=State(**carried) if carried else None,
    )


def moments_of(net: Net, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What Adam remembers, by parameter name."""
    return {
        f"{moment}/{name}": optimizer.state[parameter][moment]
        for name, parameter in net.named_parameters()
        if parameter in optimizer.state
        for moment in _MOMENTS
    }


def put_moments(net: Net, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Give Adam its memory back."""
    for name, parameter in net.named_parameters():
        if f"step/{name}" in moments:
            optimizer.state[parameter] = {
                moment: moments[f"{moment}/{name}"].to(parameter.device, copy=True) for moment in _MOMENTS
            }
