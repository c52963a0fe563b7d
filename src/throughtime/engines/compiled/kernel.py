"""What a kernel of one program does, whatever runs it.

Dimensions: T steps, B sequences, I inputs, H units, N packed rows (T·B, or the sum of the lengths).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from throughtime.engines.compiled.gradients import Asked
from throughtime.engines.compiled.plan import Plan
from throughtime.engines.compiled.rows import Rows
from throughtime.engines.trace.program import Program


class Walked(NamedTuple):
    """What a run forward leaves."""

    u: Tensor | None  # (N, blocks·H) the input's share, if a run back reads it

    states: list[Tensor]  # (…, H) as x for each part; (2·B, H) of one that was not to be kept
    final: list[Tensor]  # as the initial state
    gates: list[Tensor]  # (…, H) as x each, if they were asked for
    saved: Tensor | None  # (N, saved·H)


class Kernel(ABC):
    """A program's step run over a sequence, its way back, and the sums over all rows that follow it."""

    program: Program
    plan: Plan

    @abstractmethod
    def forward(
        self,
        rows: Rows,
        x: Tensor,
        weight_ih: Tensor | None,
        bias_ih: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        vectors: Sequence[Tensor],
        initial: Sequence[Tensor],
        *,
        reverse: bool,
        keep: Sequence[bool],
        gates: bool,
        save: bool,
    ) -> Walked:
        """Run rows x (T, B, I) or (N, I) from the initial state, each part (B, H) or (1, B, H); all are contiguous.

        Where there is no `weight_ih`, x is the input's share itself, (…, blocks·H). `keep` says for each part whether
        its state is wanted at every step, `save` whether a run back follows.
        """

    @abstractmethod
    def backward(
        self,
        rows: Rows,
        u: Tensor | None,
        weight: Tensor | None,
        vectors: Sequence[Tensor],
        initial: Sequence[Tensor],
        states: Sequence[Tensor | None],
        saved: Tensor | None,
        outer: Sequence[Tensor | None],
        last: Sequence[Tensor | None],
        *,
        reverse: bool,
        first: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Carry the gradient back through what `forward` ran, from dL/dz_t `outer` (N, H) and dL/d final `last` (B, H).

        `u`, a part's `states` and `saved` are given where the plan reads them on the way back. Returns the slots of
        the plan (N, slots·H), and dL/d initial, in its shape, for each part for which `first` asks.
        """

    @abstractmethod
    def gradients(self, slots: Tensor, asked: Asked) -> None:
        """Fill in the sums that were asked for, from the slots (N, slots·H)."""
