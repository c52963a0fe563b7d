"""The linearised step of a cell that keeps its units apart everywhere but in its recurrent maps.

The step is cut at the maps: each `W.block(v)` gives a leaf a of its own. What is left, from reads and a to the new
parts and the v, is elementwise, so each derivative is a diagonal, and one backward pass from ones gives it for many
steps and all sequences at once. The maps are put back as matrix products that all rows share.

Dimensions: as in tangent.py; N = n·B for a stretch of n steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from throughtime.cells.cell import Linear, Read, Weights
from throughtime.errors import FlowError
from throughtime.flow.linear.diagonals import Call, Diagonals, derivatives
from throughtime.flow.linear.tangent import At, Tangent
from throughtime.flow.linear.trajectory import Trajectory
from throughtime.flow.linear.watching import Watch, handwritten

_HELD = 1 << 22  # numbers in the diagonals of a stretch of steps, about: 32 MiB in float64
_STRETCHES = 6  # kept at a time


class UnitWise(Tangent):
    """Diagonals around shared maps, made for a stretch of steps when they are asked for; made by `unitwise`."""

    def __init__(self, along: Trajectory, size: int, first: Diagonals) -> None:
        super().__init__(along)
        self._size = size
        self._kept = {0: first}  # by the stretch's number

    def pull(self, rows: Tensor, at: At, *, out: Tensor | None = None, norms: Tensor | None = None) -> Tensor:
        """See Tangent."""
        out = torch.empty_like(rows) if out is None else out
        if isinstance(at, int):
            number, step = divmod(at, self._size)
            self._stretch(number).pull(rows, step, out, norms)
            return out
        for stretch, here, some in self._pieces(at, rows.shape[1]):
            stretch.pull(rows[:, some], here, out[:, some], None if norms is None else norms[:, some])
        return out

    def pull_ports(self, rows: Tensor, at: At) -> dict[str, Tensor]:
        """See Tangent."""
        pieces = [stretch.pull_ports(rows[:, some], here) for stretch, here, some in self._pieces(at, rows.shape[1])]
        return _together(pieces)

    def pull_inputs(self, rows: Tensor, at: At) -> dict[str, Tensor]:
        """See Tangent."""
        pieces = [stretch.pull_inputs(rows[:, some], here) for stretch, here, some in self._pieces(at, rows.shape[1])]
        return _together(pieces)

    def node(self, rows: Tensor, at: At) -> Tensor:
        """See Tangent."""
        pieces = [stretch.node(rows[:, some], here) for stretch, here, some in self._pieces(at, rows.shape[1])]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def push(self, columns: Tensor, at: At) -> Tensor:
        """See Tangent."""
        pieces = [s.push(columns[:, some], here) for s, here, some in self._pieces(at, columns.shape[1])]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def matrices(self, start: int, stop: int) -> dict[str, Tensor]:
        """See Tangent."""
        return _together(
            [
                s.matrices(here)
                for s, here, _ in self._pieces(slice(start, stop), stop - start)
                if isinstance(here, slice)
            ]
        )

    def _pieces(self, at: At, rows: int) -> Iterator[tuple[Diagonals, At, slice]]:
        """Each stretch that `at` touches, where in it, and whose rows."""
        if isinstance(at, int):
            number, step = divmod(at, self._size)
            yield self._stretch(number), step, slice(0, rows)
            return
        first, last, _ = at.indices(self.along.T)
        done = first
        while done < last:
            number, step = divmod(done, self._size)
            stop = min(last, (number + 1) * self._size)
            yield self._stretch(number), slice(step, step + stop - done), slice(done - first, stop - first)
            done = stop

    def _stretch(self, number: int) -> Diagonals:
        found = self._kept.get(number)
        if found is None:
            while len(self._kept) >= _STRETCHES:
                del self._kept[next(iter(self._kept))]
            start = number * self._size
            found = _cut(self.along, start, min(start + self._size, self.along.T))
            if found is None:
                raise FlowError(
                    f'the step of "{self.cell.title}" goes another way at step {start} than '
                    "at the first; a step may not look at its number, nor choose by the numbers it sees."
                )
            self._kept[number] = found
        return found


def unitwise(along: Trajectory) -> UnitWise | None:
    """The linearised step as diagonals and maps; None if the cell's step does not keep its units apart.

    Raises FlowError if the step draws random numbers: its Jacobian would be random.
    """
    cell = along.cell
    maps = len(cell.squares(along.parameters))
    each = along.B * cell.hidden_size * len(cell.parts) * (maps + len(cell.reads) + 1)
    size = max(1, min(along.T, _HELD // each))
    first = _cut(along, 0, size)
    return None if first is None else UnitWise(along, size, first)


class _Tap(Linear):
    """Stands in for a Linear: the product as it is, but cut off from what came before."""

    _watch: Watch
    _calls: list[Call]

    @classmethod
    def of(cls, linear: Linear, watch: Watch, calls: list[Call]) -> _Tap:
        tap = cls(*linear)
        tap._watch, tap._calls = watch, calls
        return tap

    def __call__(self, v: Tensor) -> Tensor:
        if v not in self._watch:  # not one value a unit, or not of the state: nothing to cut
            return F.linear(v, self.weight, self.bias)
        with self._watch.paused():
            a = F.linear(v.detach(), self.weight, self.bias).requires_grad_()
        self._watch.follow(a)
        self._calls.append(Call(self.weight, v, a))
        return a


def _cut(along: Trajectory, start: int, stop: int) -> Diagonals | None:
    cell = along.cell
    parts = along.before(start, stop)
    ports = {port: parts[part].detach().requires_grad_() for port, part in cell.reads.items()}
    with torch.no_grad():
        u = along.share(start, stop)
    leaves = u.map(lambda share: share.detach().requires_grad_())
    shape = next(iter(parts.values())).shape
    watch = Watch([*ports.values(), *(share for share in leaves.values() if share.shape == shape)])
    calls: list[Call] = []
    whole = cell.weights(along.parameters)
    taps: dict[str, Linear] = {block: _Tap.of(getattr(whole, block), watch, calls) for block in whole}
    with torch.enable_grad(), watch:
        new, _ = cell.step(leaves, Read(**ports), Weights(taps, along.parameters))
    if watch.random:
        raise FlowError(
            f'the step of "{cell.title}" draws random numbers (dropout?), so its Jacobian would '
            f"be random; measure it with that switched off."
        )
    z = [new[part] for part in cell.parts]
    apart = not watch.mixed and all(made in watch for made in z if made.requires_grad)
    if not apart or any(of.shape != shape for of in (*z, *leaves.values())):
        return None
    if handwritten([*z, *(call.v for call in calls)]):
        return None
    nodes = [made for made in z if made.grad_fn is not None]
    if any(table is not None for call in calls for table in derivatives(call.v, nodes)):
        return None  # a map that hears a part of the same step mixes the units inside the node
    return Diagonals(cell, along.B, z, calls, ports, leaves)


def _together(pieces: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return pieces[0] if len(pieces) == 1 else {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
