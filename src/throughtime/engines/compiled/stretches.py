"""A long run is gone back through in stretches of steps, one after the other from the end of it.

What the way back writes down at every step is read once, for the gradients of the weights, and is as large as all that
the way forward has saved. A stretch of it stays in the caches, and the memory it takes does not grow with the run.

Dimensions: T steps, B sequences, H units, N packed rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from throughtime.engines.compiled.rows import Rows

TOGETHER = 1 << 21  # numbers that are written down in one stretch


class Stretch(NamedTuple):
    """Steps that are gone back through together."""

    rows: Rows  # theirs
    steps: slice | None  # which they are; None: all there are
    initial: list[Tensor]  # the state before them, (B, H) or (1, B, H) a part
    first: bool  # whether they are those with which the run began

    def of(self, tensor: Tensor | None) -> Tensor | None:
        """Their share of a tensor (T, B, …) or (N, …)."""
        if tensor is None or self.steps is None:
            return tensor
        if tensor.ndim == 3:
            return tensor[self.steps]
        return tensor[self.steps.start * self.rows.B : self.steps.stop * self.rows.B]


def stretches(
    rows: Rows, wide: int, initial: list[Tensor], states: Sequence[Tensor | None], *, reverse: bool
) -> Iterator[Stretch]:
    """The stretches of a run in the order in which they are gone back through; sequences that end early are in one.

    `wide` numbers are written down for each row. `states` are those after each step, of the parts that are read back.
    """
    steps = max(1, TOGETHER // (rows.B * wide))
    if rows.batch_sizes is not None or steps >= rows.T:
        yield Stretch(rows, None, initial, True)
        return
    count = -(-rows.T // steps)
    bounds = [rows.T * number // count for number in range(count + 1)]
    order = range(count) if reverse else reversed(range(count))
    for number in order:
        a, b = bounds[number], bounds[number + 1]
        first = number == (count - 1 if reverse else 0)
        before = initial
        if not first:
            at = b if reverse else a - 1
            both = zip(initial, states, strict=True)
            before = [start if made is None else made[at].view_as(start) for start, made in both]
        yield Stretch(Rows.whole(b - a, rows.B), slice(a, b), before, first)
