"""The linearised step of any cell, as matrices: one backward pass for each row of the state.

Dimensions: as in tangent.py; n steps at a time, N = n·B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from throughtime.cells.cell import Read
from throughtime.errors import FlowError
from throughtime.flow.linear.tangent import At, Tangent
from throughtime.flow.linear.trajectory import Trajectory

_HELD = 1 << 23  # numbers held for a stretch of steps: 64 MiB in float64

_Kind = Literal["ports", "inputs", "inside"]
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class _Stretch:
    """Matrices of the steps start..stop: by port, by block of the input's share, or by part."""

    start: int
    stop: int
    matrices: Mapping[str, Tensor]  # (n, B, S, ...)


class Whole(Tangent):
    """Matrices, made for a stretch of steps when they are asked for."""

    def __init__(self, along: Trajectory) -> None:
        super().__init__(along)
        self._kept: dict[_Kind, _Stretch] = {}  # the last of each kind: a sweep asks for several kinds at every step

    def pull(self, rows: Tensor, at: At, *, out: Tensor | None = None, norms: Tensor | None = None) -> Tensor:
        """See Tangent."""
        out = torch.zeros_like(rows) if out is None else out.zero_()
        for port, pulled in self.pull_ports(rows, at).items():
            out[self.parts.index(self.cell.reads[port])] += pulled
        if norms is not None:
            torch.linalg.vector_norm(out, dim=-1, out=norms)
        return out

    def pull_ports(self, rows: Tensor, at: At) -> dict[str, Tensor]:
        """See Tangent."""
        return self._times(rows, at, "ports")

    def pull_inputs(self, rows: Tensor, at: At) -> dict[str, Tensor]:
        """See Tangent."""
        return self._times(rows, at, "inputs")

    def node(self, rows: Tensor, at: At) -> Tensor:
        """See Tangent."""
        return rows + torch.stack(list(self._times(rows, at, "inside").values()))

    def push(self, columns: Tensor, at: At) -> Tensor:
        """See Tangent."""

        def onward(stretch: _Stretch, here: At, some: slice) -> Tensor:
            equation = "rbx,bsx->rbs" if isinstance(here, int) else "rbx,rbsx->rbs"
            total = columns.new_zeros(())
            for port, matrix in stretch.matrices.items():
                v = columns[self.parts.index(self.cell.reads[port]), some]
                total = total + torch.einsum(equation, v, matrix[here])
            return total

        packed = torch.cat(self._each(columns.shape[1], at, "ports", onward))
        return packed.view(*packed.shape[:-1], self.P, self.H).movedim(-2, 0).contiguous()

    def matrices(self, start: int, stop: int) -> dict[str, Tensor]:
        """See Tangent."""
        return dict(self._make("ports", start, stop).matrices)

    # -- rows times matrices

    def _times(self, rows: Tensor, at: At, kind: _Kind) -> dict[str, Tensor]:
        packed = rows.movedim(0, -2).flatten(-2)  # (R, B, S)

        def back(stretch: _Stretch, here: At, some: slice) -> dict[str, Tensor]:
            equation = "rbs,bs...->rb..." if isinstance(here, int) else "rbs,rbs...->rb..."
            return {name: torch.einsum(equation, packed[some], m[here]) for name, m in stretch.matrices.items()}

        pieces = self._each(rows.shape[1], at, kind, back)
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def _each(self, R: int, at: At, kind: _Kind, what: Callable[[_Stretch, At, slice], _Out]) -> list[_Out]:
        """Do something with each stretch of steps that `at` touches: (stretch, where in it, which rows)."""
        if isinstance(at, int):
            stretch = self._stretch(kind, at)
            return [what(stretch, at - stretch.start, slice(0, R))]
        first, last, _ = at.indices(self.along.T)
        done, found = first, []
        while done < last:
            stretch = self._stretch(kind, done)
            stop = min(last, stretch.stop)
            here = slice(done - stretch.start, stop - stretch.start)
            found.append(what(stretch, here, slice(done - first, stop - first)))
            done = stop
        return found

    def _stretch(self, kind: _Kind, step: int) -> _Stretch:
        kept = self._kept.get(kind)
        if kept is None or not kept.start <= step < kept.stop:
            size = self._size(kind)
            start = step // size * size
            kept = None
            self._kept.pop(kind, None)  # let go of the old one before the new one is made
            kept = self._kept[kind] = self._make(kind, start, min(start + size, self.along.T))
        return kept

    def _size(self, kind: _Kind) -> int:
        columns = {"ports": len(self.cell.reads) * self.H, "inside": self.P * self.H}
        if kind == "inputs":
            columns["inputs"] = sum(share[0].numel() for share in self.along.share(0, 1).values())
        return max(1, _HELD // (self.along.B * self.P * self.H * columns[kind]))

    # -- the matrices themselves

    def _make(self, kind: _Kind, start: int, stop: int) -> _Stretch:
        cell = self.cell
        before = self.along.before(start, stop)
        ports = {port: before[part].clone().requires_grad_() for port, part in cell.reads.items()}
        with torch.no_grad():
            u = self.along.share(start, stop)
        u = u.map(lambda share: share.clone().requires_grad_(kind == "inputs"))
        with torch.enable_grad():
            new, _ = cell.step(u, Read(**ports), cell.weights(self.along.parameters))
        z = [new[part] for part in self.parts]
        self.check_apart(z, start, stop)
        n = stop - start
        made = dict[str, Tensor]()
        if kind == "inside":
            # A part that is handed on as it was read is no node of this step: no inner path leads through it.
            targets = {part: new[part] for part in self.parts if new[part].grad_fn is not None}
            made = self._backward(z, targets, n)
            for p, part in enumerate(self.parts):
                matrix = made.setdefault(part, z[0].new_zeros(n, self.along.B, self.P * self.H, self.H))
                matrix[:, :, p * self.H : (p + 1) * self.H] = 0
            made = {part: made[part] for part in self.parts}
        else:
            made = self._backward(z, ports if kind == "ports" else dict(u), n)
        return _Stretch(start, stop, made)

    def check_apart(self, z: Sequence[Tensor], start: int, stop: int) -> None:
        """All steps side by side must give what they gave one by one, or a sequence's state hangs on the others."""
        ended = ~self.along.running()[start:stop].unsqueeze(-1)
        for part, made in zip(self.parts, z, strict=True):
            seen = self.along.run.states[part][start:stop]
            off = (made.detach().view_as(seen) - seen).masked_fill(ended, 0).abs().amax()
            if off > max(torch.finfo(seen.dtype).eps, self.along.rounding) ** 0.5 * seen.abs().amax():
                raise FlowError(
                    f'the step of "{self.cell.title}" lets the sequences of a batch hear '
                    "each other (a mean over the batch?), so no Jacobian is one sequence's own; let it act on the "
                    "last dimension alone."
                )

    def _backward(self, z: Sequence[Tensor], leaves: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
        """∂z/∂leaf, (n, B, S, ...) for each leaf."""
        S, B = self.P * self.H, self.along.B
        into = {name: leaf.new_zeros(leaf.shape[0], S, *leaf.shape[1:]) for name, leaf in leaves.items()}
        for row in range(S if leaves else 0):
            made, unit = z[row // self.H], row % self.H
            if not made.requires_grad:
                continue
            one = torch.zeros_like(made)
            one[:, unit] = 1
            found = torch.autograd.grad(made, list(leaves.values()), one, retain_graph=True, allow_unused=True)
            for matrix, gradient in zip(into.values(), found, strict=True):
                if gradient is not None:
                    matrix[:, row] = gradient
        return {name: matrix.view(n, B, *matrix.shape[1:]) for name, matrix in into.items()}
