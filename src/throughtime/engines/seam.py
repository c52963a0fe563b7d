"""The seam: what is asked of an engine, and what it answers.

Two kinds of work: a `Job` is one cell over one batch in one direction; a `Stack` is the layers of a module, in one
or two directions. Compiled kernels and torch.nn's have a stack engine of their own; every other engine serves stacks
through `layers.LayerByLayer`.

Dimensions: T steps, B sequences, I inputs, H units, L layers, D directions, N packed rows (the sum of the lengths).
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

    Past a sequence's length its state stays as it was at its last step, and gates are 0; `lengths` says where that is.
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


@dataclass(frozen=True)
class Stack:
    """The layers of one cell over one batch of sequences, in one direction or both.

    `x` is (T, B, I), or (N, I) packed as in torch's PackedSequence if `batch_sizes` is given; layer l > 0 reads the
    outputs of both directions side by side.
    """

    cells: tuple[Cell, ...]  # L, one a layer
    parameters: tuple[Parameters, ...]  # L·D, in the order layer, direction
    x: Tensor
    state: State  # before the first step, each part (L·D, B, H)
    directions: int = 1  # D
    batch_sizes: Tensor | None = None  # (T,) on the CPU: how many of the sequences, longest first, still run at step t
    dropout: float = 0.0  # the probability of zeroing an output of any layer but the last, while training
    training: bool = False
    damping: float | None = None  # as in Job, in every layer


@dataclass(frozen=True)
class Stacked:
    """A stack run over time."""

    output: Tensor  # (T, B, H·D), or (N, H·D) if the stack was packed
    final: State  # each part (L·D, B, H)
    engine: str  # the name of the engine that served


class StackEngine(ABC):
    """A way to run a stack. One that cannot serve says why in a sentence, and the next is asked."""

    name: str

    @abstractmethod
    def why_not(self, stack: Stack) -> str | None:
        """Why this engine cannot serve the stack, in one sentence; None if it can."""

    @abstractmethod
    def run(self, stack: Stack) -> Stacked:
        """Run the stack; differentiable with respect to x, the state and the parameters."""


def compiling() -> bool:
    """Whether torch.compile is at work here, and wants one operator that it need not look into (`opaque`).

    torch.func's transforms and torch.export look into everything.
    """
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    from throughtime.engines.opaque import transformed

    return not transformed()


def hold(new: Tensor, old: Tensor, t: int, lengths: Tensor | None) -> Tensor:
    """The new state where the sequence still runs at step t, else the old one; (B, H) each."""
    if lengths is None:
        return new
    return torch.where((lengths > t).unsqueeze(-1), new, old)


def unknown(name: str, names: list[str]) -> EngineError:
    """The error for an engine nobody knows."""
    return EngineError(f'no engine is named "{name}"; there is auto, {", ".join(names)}')
