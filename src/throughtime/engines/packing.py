"""Packed and padded sequences, by plain indexing, so that every derivative of every order is there.

Dimensions: T steps, B sequences, N packed rows (the sum of the lengths), longest sequence first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.cells.cell import State
from throughtime.errors import CellError


@dataclass(frozen=True)
class Packing:
    """Where each packed row stands in a padded batch (T, B, ...)."""

    batch_sizes: Tensor  # (longest length,) on the CPU: how many sequences still run at each step
    rows: Tensor  # (N,) the row t·B + b of each packed row, on the data's device
    steps: int  # T of the padded batch
    batch: int  # B

    @classmethod
    def by_length(cls, lengths: Tensor, order: Tensor, steps: int, device: torch.device) -> Packing:
        """For lengths (B,) on the CPU, and the order that sorts them, longest first."""
        longest = int(lengths.max()) if len(lengths) else 0
        batch_sizes = (lengths > torch.arange(longest).unsqueeze(-1)).sum(-1)
        return cls._of(batch_sizes, order, steps, device)

    @classmethod
    def as_packed(cls, batch_sizes: Tensor, batch: int, device: torch.device) -> Packing:
        """For a packed batch whose sequences stay in their packed order; T is the longest length."""
        return cls._of(batch_sizes, torch.arange(batch), len(batch_sizes), device)

    @classmethod
    def _of(cls, batch_sizes: Tensor, order: Tensor, steps: int, device: torch.device) -> Packing:
        t = torch.repeat_interleave(torch.arange(len(batch_sizes)), batch_sizes)
        started = batch_sizes.cumsum(0) - batch_sizes
        rank = torch.arange(len(t)) - started[t]
        return cls(batch_sizes, (t * len(order) + order[rank]).to(device), steps, len(order))

    @property
    def lengths(self) -> Tensor:
        """The length of each sequence, longest first: (B,), on the data's device."""
        return (self.batch_sizes.unsqueeze(-1) > torch.arange(self.batch)).sum(0).to(self.rows.device)

    def pack(self, padded: Tensor) -> Tensor:
        """(T, B, ...) to (N, ...)."""
        return padded.flatten(0, 1).index_select(0, self.rows)

    def pad(self, packed: Tensor) -> Tensor:
        """(N, ...) to (T, B, ...), zero past each length."""
        flat = packed.new_zeros(self.steps * self.batch, *packed.shape[1:])
        return flat.index_copy(0, self.rows, packed).reshape(self.steps, self.batch, *packed.shape[1:])


def run_padded(
    run: Callable[[Tensor, State, Tensor | None], tuple[Tensor, State]], x: Tensor, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Call `run` with packed rows, a state in their order, and how many run at each step; unpack what it answers.

    Without lengths, or where all sequences have the T steps of x (T, B, I), it gets x as it is, and None.

    Raises CellError as `lengths_on_cpu`.
    """
    steps, batch = x.shape[:2]
    ends = None if lengths is None else lengths_on_cpu(lengths, steps, batch)
    if ends is None or bool((ends == steps).all()):
        return run(x, state, None)
    order = torch.argsort(ends, descending=True, stable=True)
    packing = Packing.by_length(ends, order, steps, x.device)
    there, back = order.to(x.device), torch.argsort(order).to(x.device)
    start = state.map(lambda part: part.index_select(1, there))
    output, final = run(packing.pack(x), start, packing.batch_sizes)
    return packing.pad(output), final.map(lambda part: part.index_select(1, back))


def backwards(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Turn each sequence of x (T, B, ...) round within its length; what stands past it stays where it is."""
    if lengths is None:
        return x.flip(0)
    t = torch.arange(x.shape[0], device=x.device).unsqueeze(-1)
    source = torch.where(t < lengths, lengths - 1 - t, t)
    return x[source, torch.arange(x.shape[1], device=x.device)]


def lengths_on_cpu(lengths: Tensor | Sequence[int], steps: int, batch: int) -> Tensor:
    """The lengths of sequences in a padded batch, a tensor or a list, as a tensor on the CPU.

    Raises CellError if they are not (B,) whole numbers from 0 to T.
    """
    try:
        lengths = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        raise CellError(f"lengths must be ({batch},) whole numbers, got {lengths!r}") from None
    if lengths.shape != (batch,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise CellError(f"lengths must be ({batch},) whole numbers, got {tuple(lengths.shape)} of {lengths.dtype}")
    ends = lengths.detach().to("cpu", torch.int64)
    if batch and not 0 <= int(ends.min()) <= int(ends.max()) <= steps:
        raise CellError(
            f"lengths must lie from 0 to the {steps} steps of x, got {int(ends.min())} to {int(ends.max())}"
        )
    return ends
