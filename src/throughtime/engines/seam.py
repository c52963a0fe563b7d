"""The seam: what is asked of an engine, and what it answers.

Dimensions: T steps, B sequences, I inputs, H units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.errors import EngineError


@dataclass(frozen=True)
class Job:
    """One cell over one batch of sequences, in one direction."""

    cell: Cell
    parameters: Parameters
    x: Tensor  # (T, B, I)
    state: State  # before the first step, each part (B, H)
    lengths: Tensor | None = None  # (B,) steps of each sequence, on x's device; None: all T
    inside: bool = True  # whether the states of every step and the gates are asked for, or the output alone
    damping: float | None = None  # while backpropagating: the largest norm of each sequence's dL/dz_t; None: no limit


@dataclass(frozen=True)
class Unrolled:
    """A cell run over time.

    Past a sequence's length its state stays as it was at its last step; `lengths` says where that is.
    """

    cell: Cell
    states: Mapping[str, Tensor]  # part -> (T, B, H); only the output if the job did not ask for the inside
    gates: Mapping[str, Tensor]  # gate -> (T, B, H); empty if the job did not ask for the inside
    final: State  # each part (B, H)
    engine: str  # the name of the engine that served
    initial: State = field(repr=False)
    lengths: Tensor | None = None

    @property
    def output(self) -> Tensor:
        """The last part at every step: (T, B, H)."""
        return self.states[self.cell.parts[-1]]


class Engine(ABC):
    """A way to run a sequence. One that cannot serve says why in a sentence, and the next is asked."""

    name: ClassVar[str]

    @abstractmethod
    def why_not(self, job: Job) -> str | None:
        """Why this engine cannot serve the job, in one sentence; None if it can."""

    @abstractmethod
    def run(self, job: Job) -> Unrolled:
        """Run the job; differentiable with respect to x, the state and the parameters."""


def hold(new: Tensor, old: Tensor, t: int, lengths: Tensor | None) -> Tensor:
    """The new state where the sequence still runs at step t, else the old one; (B, H) each."""
    if lengths is None:
        return new
    return torch.where((lengths > t).unsqueeze(-1), new, old)


def unknown(name: str, names: list[str]) -> EngineError:
    """The error for an engine nobody knows."""
    return EngineError(f'no engine is named "{name}"; there is auto, {", ".join(names)}')
