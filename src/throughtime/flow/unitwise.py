"""The linearised step of a cell that keeps its units apart everywhere but in its recurrent maps.

The step is cut at the maps: each `W.block(v)` gives a leaf a of its own. What is left, from reads and a to the new
parts and the v, is elementwise, so each derivative is a diagonal, and one backward pass from ones gives it for all
steps and sequences at once. The maps are put back as matrix products that all rows share.

Dimensions: as in tangent.py; N = T·B.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from throughtime.cells.cell import Linear, Read, State, Weights
from throughtime.errors import FlowError
from throughtime.flow.tangent import At, Tangent
from throughtime.flow.trajectory import Trajectory
from throughtime.flow.watching import Watch, handwritten

_CACHED = 1 << 18  # numbers in a block of rows: small enough to stay in the processor's cache between passes


@dataclass(frozen=True)
class _Call:
    """One use of a recurrent map, a = W v + b."""

    weight: Tensor  # (H, H)
    v: Tensor  # (N, H)
    a: Tensor  # (N, H), a leaf


class _Tap:
    """Stands in for a Linear: the product as it is, but cut off from what came before."""

    def __init__(self, linear: Linear, watch: Watch, calls: list[_Call]) -> None:
        self.weight, self.bias = linear
        self._watch, self._calls = watch, calls

    def __call__(self, v: Tensor) -> Tensor:
        if v not in self._watch:  # not one value a unit, or not of the state: nothing to cut
            return F.linear(v, self.weight, self.bias)
        with self._watch.paused():
            a = F.linear(v.detach(), self.weight, self.bias).requires_grad_()
        self._watch.follow(a)
        self._calls.append(_Call(self.weight, v, a))
        return a


@dataclass(frozen=True)
class _Term:
    """One summand of a derivative: rows number `source` (of the parts, or of the calls), times a diagonal."""

    source: int
    of_call: bool
    table: Tensor  # (T, B, H)


class UnitWise(Tangent):
    """Diagonals around shared maps; made by `unitwise`."""

    def __init__(
        self,
        along: Trajectory,
        new: State,
        calls: Sequence[_Call],
        ports: Mapping[str, Tensor],
        u: Mapping[str, Tensor],
    ) -> None:
        super().__init__(along)
        self._z = [new[part] for part in self.parts]
        self._calls = calls
        self._u = u
        of_leaf = {id(leaf): port for port, leaf in ports.items()}
        self._direct = [of_leaf.get(id(call.v)) for call in calls]  # the port a map reads as it is, if it does
        self._by_a = self._terms([call.a for call in calls])
        self._by_port = dict(zip(ports, self._terms(list(ports.values())), strict=True))
        self._groups = {
            part: [c for c, port in enumerate(self._direct) if port is not None and self.cell.reads[port] == part]
            for part in self.parts
        }
        self._stacked = {
            part: torch.cat([calls[c].weight for c in group]) for part, group in self._groups.items() if group
        }

    # -- the diagonals

    def _terms(self, leaves: Sequence[Tensor]) -> list[list[_Term]]:
        """For each leaf, what depends on it, with the diagonal; a map's v that is itself a port's leaf is left out."""
        terms: list[list[_Term]] = [[] for _ in leaves]
        inner = [(c, True, call.v) for c, call in enumerate(self._calls) if self._direct[c] is None]
        for source, of_call, made in [(p, False, z) for p, z in enumerate(self._z)] + inner:
            for leaf, table in enumerate(_diagonals(made, leaves)):
                if table is not None:
                    terms[leaf].append(_Term(source, of_call, self._by_step(table)))
        return terms

    def _by_step(self, table: Tensor) -> Tensor:
        return table.view(self.along.T, self.along.B, self.H)

    @cached_property
    def _by_input(self) -> dict[str, list[_Term]]:
        return dict(zip(self._u, self._terms(list(self._u.values())), strict=True))

    @cached_property
    def _inside(self) -> list[list[_Term]]:
        """For each part q, the diagonals ∂z_p/∂z_q inside a step, p ≠ q."""
        inside: list[list[_Term]] = []
        for q, made in enumerate(self._z):
            others = [p for p in range(self.P) if p != q and made.grad_fn is not None]
            tables = {p: _diagonals(self._z[p], [made])[0] for p in others}
            inside.append([_Term(p, False, self._by_step(t)) for p, t in tables.items() if t is not None])
        return inside

    # -- rows, from the new state back

    def pull(self, rows: Tensor, at: At, *, out: Tensor | None = None) -> Tensor:
        """See Tangent."""
        out = torch.empty_like(rows) if out is None else out
        for some, here in self._blocks(rows, at):
            g, o = rows[:, some], out[:, some]
            chained = self._chained(g, here)
            for q, part in enumerate(self.parts):
                group = self._groups[part]
                if group:
                    into = g.new_empty(*g.shape[1:3], len(group), self.H)
                    for place, c in enumerate(group):
                        _add_up(self._by_a[c], g, chained, here, into[:, :, place])
                    torch.mm(into.view(-1, len(group) * self.H), self._stacked[part], out=o[q].view(-1, self.H))
                else:
                    o[q].zero_()
                for port, terms in self._by_port.items():
                    if self.cell.reads[port] == part:
                        for term in terms:
                            o[q].addcmul_(_source(term, g, chained), term.table[here])
        return out

    def pull_ports(self, rows: Tensor, at: At) -> dict[str, Tensor]:
        """See Tangent."""
        chained = self._chained(rows, at)
        by_port = {port: _add_up(terms, rows, chained, at) for port, terms in self._by_port.items()}
        for c, port in enumerate(self._direct):
            if port is not None:
                by_port[port] += _add_up(self._by_a[c], rows, chained, at) @ self._calls[c].weight
        return by_port

    def pull_inputs(self, rows: Tensor, at: At) -> dict[str, Tensor]:
        """See Tangent."""
        chained = self._chained(rows, at)
        return {block: _add_up(terms, rows, chained, at) for block, terms in self._by_input.items()}

    def node(self, rows: Tensor, at: At) -> Tensor:
        """See Tangent."""
        out = rows.clone()
        for q, terms in enumerate(self._inside):
            for term in terms:
                out[q].addcmul_(rows[term.source], term.table[at])
        return out

    def _chained(self, g: Tensor, at: At) -> dict[int, Tensor]:
        """The rows at the v of every map that does not read a port as it is; later maps first."""
        chained: dict[int, Tensor] = {}
        for c in reversed(range(len(self._calls))):
            if self._direct[c] is None:
                chained[c] = _add_up(self._by_a[c], g, chained, at) @ self._calls[c].weight
        return chained

    def _blocks(self, rows: Tensor, at: At) -> Iterator[tuple[slice, At]]:
        R, B = rows.shape[1:3]
        width = max(1, *(len(group) for group in self._groups.values())) * B * self.H
        size = max(1, _CACHED // width)
        for first in range(0, R, size):
            last = min(first + size, R)
            offset = at.start or 0 if isinstance(at, slice) else 0
            yield slice(first, last), at if isinstance(at, int) else slice(offset + first, offset + last)

    # -- columns, from the old state on, and whole matrices

    def push(self, columns: Tensor, at: At) -> Tensor:
        """See Tangent."""
        read = {port: columns[self.parts.index(part)] for port, part in self.cell.reads.items()}
        v: list[Tensor] = []
        a: list[Tensor] = []
        for c, call in enumerate(self._calls):
            port = self._direct[c]
            v.append(read[port] if port is not None else self._onward(c, True, read, a, at))
            a.append(v[c] @ call.weight.T)
        return torch.stack([self._onward(p, False, read, a, at) for p in range(self.P)])

    def _onward(self, made: int, of_call: bool, read: Mapping[str, Tensor], a: Sequence[Tensor], at: At) -> Tensor:
        total = torch.zeros_like(next(iter(read.values())))
        for leaves, terms in [(a, self._by_a), (list(read.values()), [self._by_port[port] for port in read])]:
            for leaf, its in zip(leaves, terms, strict=False):  # maps after this one are not there yet
                for term in its:
                    if (term.source, term.of_call) == (made, of_call):
                        total.addcmul_(leaf, term.table[at])
        return total

    def matrices(self, start: int, stop: int) -> dict[str, Tensor]:
        """See Tangent."""
        at = slice(start, stop)
        n, B, H = stop - start, self.along.B, self.H
        eye = torch.eye(H, dtype=self.along.x.dtype, device=self.along.x.device)
        a: list[dict[str, Tensor]] = []  # for each map, ∂a/∂read by port, (H, H) or (n, B, H, H)

        def onto(made: int, of_call: bool, port: str) -> Tensor | None:
            found: Tensor | None = None
            of_maps = [(its, a[c].get(port)) for c, its in enumerate(self._by_a[: len(a)])]
            for its, matrix in [(self._by_port[port], eye), *of_maps]:
                for term in its:
                    if (term.source, term.of_call) == (made, of_call) and matrix is not None:
                        more = term.table[at].unsqueeze(-1) * matrix
                        found = more if found is None else found.add_(more)
            return found

        for c, call in enumerate(self._calls):
            port = self._direct[c]
            if port is not None:
                a.append({port: call.weight})
            else:
                to_v = {port: onto(c, True, port) for port in self.cell.reads}
                a.append({port: call.weight @ matrix for port, matrix in to_v.items() if matrix is not None})
        whole = {port: eye.new_zeros(n, B, self.P, H, H) for port in self.cell.reads}
        for port, matrix in whole.items():
            for p in range(self.P):
                rows = onto(p, False, port)
                if rows is not None:
                    matrix[:, :, p] = rows
        return {port: matrix.view(n, B, self.P * H, H) for port, matrix in whole.items()}


def _source(term: _Term, g: Tensor, chained: Mapping[int, Tensor]) -> Tensor:
    return chained[term.source] if term.of_call else g[term.source]


def _add_up(
    terms: Sequence[_Term], g: Tensor, chained: Mapping[int, Tensor], at: At, out: Tensor | None = None
) -> Tensor:
    """Σ rows ⊙ diagonal, (R, B, H)."""
    total = torch.empty_like(g[0]) if out is None else out
    if not terms:
        return total.zero_()
    for number, term in enumerate(terms):
        if number == 0:
            torch.mul(_source(term, g, chained), term.table[at], out=total)
        else:
            total.addcmul_(_source(term, g, chained), term.table[at])
    return total


def _diagonals(made: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """∂made/∂leaf for each leaf, as diagonals (N, H); None where it does not depend on it."""
    if not made.requires_grad or not leaves:
        return [None] * len(leaves)
    return torch.autograd.grad(made, leaves, torch.ones_like(made), retain_graph=True, allow_unused=True)


def unitwise(along: Trajectory) -> UnitWise | None:
    """The linearised step as diagonals and maps; None if the cell's step does not keep its units apart.

    Raises FlowError if the step draws random numbers: its Jacobian would be random.
    """
    cell, T = along.cell, along.T
    parts = along.before(0, T).map(lambda part: part.detach())
    ports = {port: parts[part].clone().requires_grad_() for port, part in cell.reads.items()}
    with torch.no_grad():
        u = along.share(0, T)
    leaves = u.map(lambda share: share.clone().requires_grad_())
    shape = next(iter(parts.values())).shape
    watch = Watch([*ports.values(), *(share for share in leaves.values() if share.shape == shape)])
    calls: list[_Call] = []
    whole = cell.weights(along.parameters)
    taps = {block: cast(Linear, _Tap(getattr(whole, block), watch, calls)) for block in whole}
    with torch.enable_grad(), watch:
        new, _ = cell.step(leaves, Read(**ports), Weights(taps, along.parameters))
    if watch.random:
        raise FlowError(
            f'the step of "{cell.name or type(cell).__name__}" draws random numbers (dropout?), so its Jacobian would '
            f"be random; measure it with that switched off."
        )
    made = [*new.values(), *(call.v for call in calls)]
    apart = not watch.mixed and all(z in watch for z in new.values() if z.requires_grad)
    if not apart or any(z.shape != shape for z in new.values()) or handwritten(made):
        return None
    if any(share.shape != shape for share in leaves.values()):
        return None
    for call in calls:  # a map that hears a part of the same step would mix the units inside the node
        if any(_diagonals(call.v, [z])[0] is not None for z in new.values() if z.grad_fn is not None):
            return None
    return UnitWise(along, new, calls, ports, leaves)
