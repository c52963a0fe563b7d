"""A stretch of steps whose units are kept apart but for the recurrent maps: diagonals, and the maps between them.

Dimensions: as in tangent.py; n steps, N = n·B, G maps side by side, S sources. A source is what rows can come from: a
new part of the state (0 to P−1), then each inner map (from P on), one that is given what the step itself has made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from throughtime.cells.cell import Cell
from throughtime.flow.linear.compiled import Pull, Stage, compiled
from throughtime.flow.linear.tangent import At

_CACHED = 1 << 18  # numbers in a block of rows: small enough to stay in the processor's cache between passes
_MADE = 1 << 20  # numbers in the matrices that are made for some sequences at a time
_MAKING = 16  # what it takes to make such a matrix, in rows multiplied by it; measured

Terms = dict[int, Tensor]  # how sources depend on one leaf: source -> diagonals (n, B, H)


@dataclass(frozen=True)
class Call:
    """One use of a recurrent map, a = W v + b."""

    weight: Tensor  # (H, H)
    v: Tensor  # (N, H)
    a: Tensor  # (N, H), a leaf


class _Tables:
    """Diagonals (n, B, ..., H) for several sources, with those of every step at hand."""

    def __init__(self, terms: Mapping[int, Tensor]) -> None:
        self.whole = terms
        self._by_step = list(zip(*(table.unbind(0) for table in terms.values()), strict=True))

    def at(self, at: At) -> Iterable[tuple[int, Tensor]]:
        """Each source with its diagonals, (B, ..., H) for a step, (n, B, ..., H) for some."""
        if isinstance(at, int) and self.whole:
            return zip(self.whole, self._by_step[at], strict=True)
        return _at(self.whole, at)


@dataclass(frozen=True)
class _Group:
    """The maps that are given one part as it was read, side by side: J = Σ_c D(d_c) W_c for each source."""

    calls: Sequence[int]
    weight: Tensor  # (G·H, H), one W_c under the other
    by_unit: Tensor  # (H, G, H), the rows of one unit together
    sources: Sequence[int]
    d: Tensor  # (n, S, B, G, H), the d_c; zero where no path leads
    tables: _Tables  # the same, (n, B, G, H) for each source

    def pull(self, sources: Mapping[int, Tensor], at: At, out: Tensor) -> None:
        """Σ over sources of g J, into `out` (R, B, H)."""
        if isinstance(at, int) and self._pays(len(out)):
            self._pull_by_sequence(sources, at, out)
        else:
            self._pull_by_map(sources, at, out)

    def push(self, v: Tensor, at: At, totals: Sequence[Tensor]) -> None:
        """Adds J v, v (R, B, H), to the total of each source."""
        if isinstance(at, int) and self._pays(len(v)):
            for some in self._some():
                for source, J in zip(self.sources, self._matrices(at, some), strict=True):
                    totals[source][:, some].add_(torch.bmm(v[:, some].transpose(0, 1), J.mT).transpose(0, 1))
            return
        a = (v @ self.weight.T).view(*v.shape[:2], len(self.calls), -1)
        for source, d in self.tables.at(at):
            totals[source].add_((a * d).sum(-2))

    def _pays(self, rows: int) -> bool:
        """Whether to make J for each sequence and source, and multiply by it, is less work than map by map."""
        G, S = len(self.calls), len(self.sources)
        return rows * (G - S) > _MAKING * S

    def _pull_by_map(self, sources: Mapping[int, Tensor], at: At, out: Tensor) -> None:
        """Rows times diagonals for all maps at once, in blocks, then one product with the maps."""
        (R, B, H), G = out.shape, len(self.calls)
        size = max(1, _CACHED // (G * B * H))
        block = out.new_empty(min(R, size), B, G, H)
        for first in range(0, R, size):
            some = slice(first, min(first + size, R))
            into, to, here = (
                (block, out, at) if size >= R else (block[: some.stop - first], out[some], _within(at, some))
            )
            for number, (source, d) in enumerate(self.tables.at(here)):
                g = (sources[source] if size >= R else sources[source][some]).unsqueeze(2)
                torch.mul(g, d, out=into) if number == 0 else into.addcmul_(g, d)
            torch.mm(into.view(-1, G * H), self.weight, out=to.view(-1, H))

    def _pull_by_sequence(self, sources: Mapping[int, Tensor], step: int, out: Tensor) -> None:
        for some in self._some():
            total: Tensor | None = None
            for source, J in zip(self.sources, self._matrices(step, some), strict=True):
                g = sources[source][:, some].transpose(0, 1)
                total = torch.bmm(g, J) if total is None else total.baddbmm_(g, J)
            if total is not None:
                out[:, some] = total.transpose(0, 1)

    def _matrices(self, step: int, some: slice) -> Tensor:
        """J for each source and the sequences `some`, (S, b, H, H)."""
        d = self.d[step, :, some]
        S, b, _, H = d.shape
        made = torch.bmm(d.flatten(0, 1).permute(2, 0, 1).contiguous(), self.by_unit)
        return made.view(H, S, b, H).permute(1, 2, 0, 3)

    def _some(self) -> list[slice]:
        _, S, B, _, H = self.d.shape
        size = max(1, _MADE // (S * H * H))
        return [slice(first, min(first + size, B)) for first in range(0, B, size)]


class Diagonals:
    """The linearised steps of one stretch; methods as in Tangent, `at` counted from where the stretch starts."""

    def __init__(
        self,
        cell: Cell,
        B: int,
        z: Sequence[Tensor],
        calls: Sequence[Call],
        ports: Mapping[str, Tensor],
        u: Mapping[str, Tensor],
    ) -> None:
        self.P, self.B, self.H = len(z), B, cell.hidden_size
        self._like = z[0].new_empty(0)
        of_leaf = {id(leaf): port for port, leaf in ports.items()}
        self._weights = [call.weight for call in calls]
        self._direct = [of_leaf.get(id(call.v)) for call in calls]  # the port a map is given as it was read, if it is
        inner = [c for c, port in enumerate(self._direct) if port is None]
        self._inner = dict(enumerate(inner, self.P))  # source -> map
        nodes = {q: made for q, made in enumerate(z) if made.grad_fn is not None}  # not handed on as they were read

        wanted = [*(call.a for call in calls), *ports.values(), *u.values(), *nodes.values()]
        terms: list[Terms] = [{} for _ in wanted]
        for source, made in enumerate([*z, *(calls[c].v for c in inner)]):
            views: dict[int, Tensor] = {}  # what is added up shares a table
            for its, table in zip(terms, derivatives(made, wanted), strict=True):
                if table is not None:
                    its[source] = views.setdefault(id(table), table.reshape(-1, B, self.H))
        rest = iter(terms)
        self._by_call = [next(rest) for _ in calls]
        self._by_port = {port: next(rest) for port in ports}
        self._by_input = {block: next(rest) for block in u}
        self._inside = {q: {p: t for p, t in next(rest).items() if p < self.P and p != q} for q in nodes}
        reading = [{port for port in ports if cell.reads[port] == part} for part in cell.parts]
        self._groups = [self._group(its) for its in reading]
        self._through = [_Tables(_sums(self._by_port[port] for port in ports if port in its)) for its in reading]

    def _group(self, ports: Set[str]) -> _Group | None:
        calls = [c for c, port in enumerate(self._direct) if port in ports]
        sources = sorted({source for c in calls for source in self._by_call[c]})
        if not sources:
            return None
        n, B, H = next(iter(self._by_call[calls[0]].values())).shape
        d = self._like.new_zeros(n, len(sources), B, len(calls), H)
        kept: dict[int, Tensor] = {}
        for place, c in enumerate(calls):
            for source, table in self._by_call[c].items():
                kept[id(table)] = d[:, sources.index(source), :, place].copy_(table)
        for terms in (*self._by_input.values(), *self._by_call):  # one copy of the numbers is enough
            terms.update({source: kept[id(table)] for source, table in terms.items() if id(table) in kept})
        weights = [self._weights[c] for c in calls]
        tables = _Tables(dict(zip(sources, d.unbind(1), strict=True)))
        return _Group(calls, torch.cat(weights), torch.stack(weights, dim=1), sources, d, tables)

    # -- rows, from the new state back

    def pull(self, rows: Tensor, at: At, out: Tensor, norms: Tensor | None = None) -> None:
        """See Tangent."""
        if isinstance(at, int) and self._compiled and rows.stride(-1) == out.stride(-1) == 1:
            self._compiled(rows, at, out, norms)
            return
        self._pull(rows, at, out)
        if norms is not None:
            torch.linalg.vector_norm(out, dim=-1, out=norms)

    def _pull(self, rows: Tensor, at: At, out: Tensor) -> None:
        sources = self._sources(rows, at)
        for o, group, through in zip(out.unbind(0), self._groups, self._through, strict=True):
            if group is None:
                _add_up(through.at(at), sources, o)
            else:
                group.pull(sources, at, o)
                for source, table in through.at(at):
                    o.addcmul_(sources[source], table)

    def pull_ports(self, rows: Tensor, at: At) -> dict[str, Tensor]:
        """See Tangent."""
        sources = self._sources(rows, at)
        by_port = {port: _add_up(_at(terms, at), sources) for port, terms in self._by_port.items()}
        for c, port in enumerate(self._direct):
            if port is not None:
                by_port[port] += _add_up(_at(self._by_call[c], at), sources) @ self._weights[c]
        return by_port

    def pull_inputs(self, rows: Tensor, at: At) -> dict[str, Tensor]:
        """See Tangent."""
        sources = self._sources(rows, at)
        return {block: _add_up(_at(terms, at), sources) for block, terms in self._by_input.items()}

    def node(self, rows: Tensor, at: At) -> Tensor:
        """See Tangent."""
        out = rows.clone()
        for q, terms in self._inside.items():
            for p, table in terms.items():
                out[q].addcmul_(rows[p], table[at])
        return out

    @cached_property
    def _compiled(self) -> Pull | None:
        """The stages of `pull` as one function: inner maps, later ones first, then the parts."""
        inner = [
            Stage(source, {}, [(self._weights[c], self._by_call[c])]) for source, c in reversed(self._inner.items())
        ]
        parts = [
            Stage(part, through.whole, [(self._weights[c], self._by_call[c]) for c in (group.calls if group else ())])
            for part, (group, through) in enumerate(zip(self._groups, self._through, strict=True))
        ]
        return compiled([*inner, *parts], self.P, len(inner), self._like)

    def _sources(self, rows: Tensor, at: At) -> dict[int, Tensor]:
        """The rows of the parts, and those at the v of every inner map; later maps first."""
        sources = dict(enumerate(rows.unbind(0)))
        for source, c in reversed(self._inner.items()):
            sources[source] = _add_up(_at(self._by_call[c], at), sources) @ self._weights[c]
        return sources

    # -- columns, from the old state on, and whole matrices

    def push(self, columns: Tensor, at: At) -> Tensor:
        """See Tangent."""
        out = torch.zeros_like(columns)
        totals = [*out, *(torch.zeros_like(columns[0]) for _ in self._inner)]
        for v, group, through in zip(columns, self._groups, self._through, strict=True):
            if group is not None:
                group.push(v, at, totals)
            for source, table in through.at(at):
                totals[source].addcmul_(v, table)
        for source, c in self._inner.items():
            a = totals[source] @ self._weights[c].T
            for made, table in self._by_call[c].items():
                totals[made].addcmul_(a, table[at])
        return out

    def matrices(self, at: slice) -> dict[str, Tensor]:
        """See Tangent."""
        n, B, H = at.stop - at.start, self.B, self.H
        found: dict[str, Tensor] = {}
        for port, direct in self._by_port.items():
            onto = {p: self._like.new_zeros(n, B, H, H) for p in range(self.P)}  # source -> ∂source/∂read
            maps: list[tuple[Terms, Tensor]] = [(direct, torch.eye(H).to(self._like))]
            maps += [(self._by_call[c], self._weights[c]) for c, its in enumerate(self._direct) if its == port]
            for terms, matrix in maps:
                _multiply(terms, matrix, at, onto)
            for source, c in self._inner.items():
                if source in onto:
                    _multiply(self._by_call[c], self._weights[c] @ onto[source], at, onto)
            found[port] = torch.cat([onto[p] for p in range(self.P)], dim=2)
        return found


def derivatives(made: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """∂made/∂leaf for each leaf, as diagonals (N, H); None where it does not depend on it."""
    if not made.requires_grad or not leaves:
        return [None] * len(leaves)
    return torch.autograd.grad(made, leaves, torch.ones_like(made), retain_graph=True, allow_unused=True)


def _add_up(terms: Iterable[tuple[int, Tensor]], sources: Mapping[int, Tensor], out: Tensor | None = None) -> Tensor:
    """Σ rows ⊙ diagonal, (R, B, H)."""
    total = torch.empty_like(sources[0]) if out is None else out
    number = 0
    for number, (source, table) in enumerate(terms, 1):
        torch.mul(sources[source], table, out=total) if number == 1 else total.addcmul_(sources[source], table)
    return total if number else total.zero_()


def _at(terms: Mapping[int, Tensor], at: At) -> Iterable[tuple[int, Tensor]]:
    return ((source, table[at]) for source, table in terms.items())


def _within(at: At, some: slice) -> At:
    """The steps of some of the rows."""
    return at if isinstance(at, int) else slice(at.start + some.start, at.start + some.stop)


def _multiply(terms: Terms, matrix: Tensor, at: slice, onto: dict[int, Tensor]) -> None:
    """Adds D(table) matrix to each source's."""
    for source, table in terms.items():
        more = table[at].unsqueeze(-1) * matrix
        onto[source] = onto[source].add_(more) if source in onto else more


def _sums(each: Iterable[Terms]) -> Terms:
    """The diagonals of several leaves together, where the leaves are one and the same number."""
    together: Terms = {}
    for terms in each:
        for source, table in terms.items():
            together[source] = together[source] + table if source in together else table
    return together
