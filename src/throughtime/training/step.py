"""One optimiser step: forward, back, clip, and only then the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.cells.cell import State
from throughtime.data.dataset import Batch
from throughtime.errors import TrainingError
from throughtime.models import Net
from throughtime.records import Settings
from throughtime.training.bptt import Truncation, Window, answers
from throughtime.training.clipping import ByPercentile, Clipped, clipping
from throughtime.training.machine import Machine
from throughtime.training.order import Indices, stream_seed
from throughtime.training.trouble import explain

HALVINGS = 40  # of the loss scale of fp16, before it counts as overflow


@dataclass(frozen=True)
class Work:
    """What one step is taken on."""

    update: int  # its number, counted from 1
    batch: Batch  # this process's share, on the host
    counts: bool  # whether it has a share: else `batch` stands in, and its loss must not count
    window: Window
    indices: Indices  # the samples of the batch over all processes


class Stepper:
    """Takes steps; it holds what is learned and gathered on the way: weights, Adam's memory, the carried state."""

    def __init__(self, net: Net, settings: Settings, truncation: Truncation, seed: int, machine: Machine) -> None:
        self.carried: State | None = None  # what the next window starts from; None: zeros
        self.clip = clipping(settings)
        self._net, self._settings, self._truncation = net, settings, truncation
        self._seed, self._machine = seed, machine
        self._damping = settings.clip if settings.clip_by == "backward" else None
        self._parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.optimizer = _adam(self._parameters, settings)

    @property
    def norms(self) -> list[float]:
        """The norms that clipping by percentile has seen, ascending; empty for the others."""
        return self.clip.norms if isinstance(self.clip, ByPercentile) else []

    @norms.setter
    def norms(self, seen: list[float]) -> None:
        if isinstance(self.clip, ByPercentile):
            self.clip.norms = seen

    def take(self, work: Work, rate: float) -> tuple[float, Clipped] | None:
        """Take a step; the loss and what clipping saw, or None if the window holds no answer to learn from.

        Raises TrainingError, the weights untouched, if the loss or the gradient is not finite.
        """
        count = self._machine.sum_count(answers(work.batch, work.window) if work.counts else 0)
        if not self._net.training:
            self._net.train()
        self.optimizer.zero_grad(set_to_none=True)
        if count == 0:
            with torch.no_grad(), self._drawing(work):
                self.carried = self._forward(work, 0.0)[1]
            return None
        loss, carried, clipped = self._backward(work, 1 / count if work.counts else 0.0)
        if not (math.isfinite(loss) and math.isfinite(clipped.norm)):
            raise TrainingError(explain(work.update, loss, clipped.norm, work.batch, work.indices, self._settings))
        self.carried = carried
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        scaler = self._machine.scaler
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        return loss, clipped

    def _backward(self, work: Work, weight: float) -> tuple[float, State | None, Clipped]:
        """Forward and back; the gradients are summed over processes and clipped.

        In fp16 a scale of the loss that overflows is halved, and the same samples are taken again.
        """
        scaler = self._machine.scaler
        for _ in range(HALVINGS):
            with self._drawing(work):
                own_loss, carried = self._forward(work, weight)
                (own_loss if scaler is None else scaler.scale(own_loss)).backward()  # type: ignore[no-untyped-call]
            loss = float(self._machine.sum_gradients(self._parameters, own_loss.detach()))
            if scaler is not None:
                scaler.unscale_(self.optimizer)
            clipped = self.clip(self._parameters)
            if scaler is None or math.isfinite(clipped.norm) or not math.isfinite(loss):
                break
            scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        return loss, carried, clipped

    def _forward(self, work: Work, weight: float) -> tuple[Tensor, State | None]:
        with self._machine.autocast():
            tally, carried = self._truncation.tally(
                self._net,
                work.batch,
                work.window,
                self.carried,
                device=self._machine.device,
                damping=self._damping,
            )
        return tally.loss * weight, carried

    def _drawing(self, work: Work) -> AbstractContextManager[None]:
        return self._machine.drawing(stream_seed(self._seed, work.update, self._machine.process))


def _adam(parameters: Sequence[Tensor], settings: Settings) -> torch.optim.AdamW:
    """Adam; with weight decay AdamW, which acts on matrices and leaves biases alone.

    Source: Kingma and Ba 2015; Loshchilov and Hutter 2019.
    """
    if not settings.weight_decay:
        return torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=0.0, fused=True)
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.rate, fused=True)
