"""The linearised step: what `∂z_t/∂z_{t-1}` does to rows and columns, at every step of a trajectory.

Two ways to the same numbers. `UnitWise` serves a cell whose step keeps the units apart except in its recurrent
maps, as nearly all do: then every derivative around the maps is a diagonal, and a few passes give them for all
steps at once. `Whole` serves any other cell: it makes the matrices, one backward pass for each row of the state.

Dimensions: T steps, B sequences, H units, P parts, S = P·H the whole state, R rows. Rows are held by part,
(P, R, B, H); with `at` a step they all belong to that step; with `at` a slice of steps, R runs over those steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from throughtime.flow.linear.trajectory import Trajectory

At = int | slice


class Tangent(ABC):
    """The linearised steps of one trajectory."""

    def __init__(self, along: Trajectory) -> None:
        self.along = along
        self.cell = along.cell
        self.parts = along.cell.parts
        self.P, self.H = len(self.parts), along.cell.hidden_size

    @abstractmethod
    def pull(self, rows: Tensor, at: At, *, out: Tensor | None = None, norms: Tensor | None = None) -> Tensor:
        """gᵀ J_t for rows g (P, R, B, H), in their shape, into `out`; its 2-norms (P, R, B) into `norms`, if given."""

    @abstractmethod
    def pull_ports(self, rows: Tensor, at: At) -> dict[str, Tensor]:
        """gᵀ J_t^(p) for each port p: (R, B, H), with respect to the part that the port reads."""

    @abstractmethod
    def pull_inputs(self, rows: Tensor, at: At) -> dict[str, Tensor]:
        """gᵀ ∂⁺z_t/∂u for each block of the input's share: (R, B, ...)."""

    @abstractmethod
    def push(self, columns: Tensor, at: At) -> Tensor:
        """J_t v for columns v (P, R, B, H), in their shape."""

    @abstractmethod
    def node(self, rows: Tensor, at: At) -> Tensor:
        """From the derivative with the other parts held to that of the node: adds `Σ_p g_pᵀ ∂z_p/∂z_q` inside step t.

        The same shape as `rows`, which are gradients with respect to z_t (not z_{t-1}).
        """

    @abstractmethod
    def matrices(self, start: int, stop: int) -> dict[str, Tensor]:
        """J_t^(p) by port for t in start..stop: (stop − start, B, S, H), columns of the part that the port reads."""

    def dense(self, start: int, stop: int) -> Tensor:
        """J_t for t in start..stop: (stop − start, B, S, S)."""
        S = self.P * self.H
        whole = self.along.x.new_zeros(stop - start, self.along.B, S, S)
        for port, matrix in self.matrices(start, stop).items():
            whole[..., self.columns(port)] += matrix
        return whole

    def columns(self, port: str) -> slice:
        """Where the part that a port reads lies in the state."""
        first = self.parts.index(self.cell.reads[port]) * self.H
        return slice(first, first + self.H)

    def identity(self) -> Tensor:
        """The S unit rows of every sequence: (P, S, B, H)."""
        S = self.P * self.H
        eye = torch.eye(S, dtype=self.along.x.dtype, device=self.along.x.device)
        return eye.view(S, self.P, 1, self.H).expand(-1, -1, self.along.B, -1).transpose(0, 1).contiguous()
