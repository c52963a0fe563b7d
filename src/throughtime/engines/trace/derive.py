"""From a graph of a step and its way back to a program: what is needed, in order, and what is saved between them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from throughtime.engines.trace.graph import Graph, Ref
from throughtime.engines.trace.program import CHEAP, MASKS, Node, Product, Program

_FREE = ("u", "read", "vector", "constant")  # lie in memory on the way back too


@dataclass(frozen=True)
class Found:
    """A step and its way back as nodes of one graph."""

    graph: Graph
    parts: tuple[str, ...]
    inputs: int
    products: tuple[Product, ...]  # leaf "product" j is number j of these
    sources: tuple[Ref, ...]  # leaf "pulled" s is number s of these
    states: tuple[Ref, ...]
    gates: dict[str, Ref]
    d_u: tuple[Ref | None, ...]
    d_product: tuple[Ref | None, ...]
    d_vector: tuple[Ref | None, ...]
    d_read: tuple[Ref | None, ...]


@dataclass(frozen=True)
class Derived:
    """A program, and what its leaves were numbered before those that nobody hears were left out."""

    program: Program
    vectors: tuple[int, ...]
    products: tuple[int, ...]
    sources: tuple[int, ...]


def derive(found: Found) -> Derived:
    """The program: without what nobody hears, with the fewest numbers saved between the step and the way back."""
    nodes = found.graph.nodes
    gradients = [ref for ref in (*found.d_u, *found.d_product, *found.d_vector, *found.d_read) if ref is not None]

    step = _with_sources(found, _until(nodes, [*found.states, *found.gates.values()]))
    products = tuple(sorted(int(nodes[n].at) for n in step if nodes[n].op == "product"))
    given = tuple(dict.fromkeys(found.products[j].source for j in products))
    inner = {source for source in given if nodes[source].op != "read"}

    kept = {*found.states, *inner}
    back = _until(nodes, gradients, step | {n for n, node in enumerate(nodes) if node.op in _FREE})
    needed = {a for n in back for a in nodes[n].args if a in step} | (set(gradients) & step)
    saved = inner | _fewest(nodes, needed, kept)
    at_hand = kept | saved | {n for n, node in enumerate(nodes) if node.op in _FREE}
    way = back | _until(nodes, needed, at_hand)
    loaded = {a for n in way for a in nodes[n].args} | set(gradients)

    first = sorted(step | {n for n in loaded if nodes[n].op in ("u", "read", "vector")})
    second = _in_order(found, way | {n for n in loaded - set(first) if nodes[n].op == "constant"})
    forth = {n: place for place, n in enumerate(first)}
    place = forth | {n: len(first) + number for number, n in enumerate(second)}  # some are made again, at new places

    vectors = tuple(sorted(int(nodes[n].at) for n in first if nodes[n].op == "vector"))
    sources = tuple(found.sources.index(source) for source in given)
    numbers = {"product": products, "pulled": sources, "vector": vectors}

    def written(n: int, places: Mapping[int, int]) -> Node:
        node = nodes[n]
        at = numbers[node.op].index(int(node.at)) if node.op in numbers else node.at
        return Node(node.op, tuple(places[a] for a in node.args), at)

    def at(refs: Iterable[Ref | None]) -> tuple[int | None, ...]:
        return tuple(None if ref is None else place[ref] for ref in refs)

    made = [found.products[j] for j in products]
    program = Program(
        parts=found.parts,
        gates=tuple(found.gates),
        inputs=found.inputs,
        vectors=len(vectors),
        nodes=(*(written(n, forth) for n in first), *(written(n, place) for n in second)),
        forward=len(first),
        products=tuple(Product(product.block, product.bias, forth[product.source]) for product in made),
        sources=tuple(forth[source] for source in given),
        states=tuple(forth[ref] for ref in found.states),
        opened=tuple(forth[ref] for ref in found.gates.values()),
        saved=tuple(sorted(forth[n] for n in saved)),
        d_u=at(found.d_u),
        d_product=at(found.d_product[j] for j in products),
        d_vector=at(found.d_vector[v] for v in vectors),
        d_read=at(found.d_read),
    )
    return Derived(program, vectors, products, sources)


def _until(nodes: Sequence[Node], of: Iterable[int], stop: Collection[int] = ()) -> set[int]:
    """These nodes and what they are made of, as far as `stop`, without that."""
    found: set[int] = set()
    ahead = list(of)
    while ahead:
        n = ahead.pop()
        if n not in found and n not in stop:
            found.add(n)
            ahead.extend(nodes[n].args)
    return found


def _with_sources(found: Found, step: set[int]) -> set[int]:
    """With what the products among them are given."""
    nodes = found.graph.nodes
    while True:
        sources = {found.products[int(nodes[n].at)].source for n in step if nodes[n].op == "product"}
        more = step | _until(nodes, sources)
        if more == step:
            return step
        step = more


def _in_order(found: Found, way: Collection[int]) -> list[int]:
    """The way back's nodes so that every one stands after its arguments, and "pulled" after what is pulled back."""
    nodes = found.graph.nodes
    order: dict[int, None] = {}

    def before(n: int) -> list[int]:
        if nodes[n].op != "pulled":
            return list(nodes[n].args)
        source = found.sources[int(nodes[n].at)]
        given = zip(found.products, found.d_product, strict=True)
        return [d for product, d in given if product.source == source and d is not None]

    for first in sorted(way):
        ahead = [first]
        while ahead:
            missing = [a for a in before(ahead[-1]) if a in way and a not in order]
            if missing and ahead[-1] not in order:
                ahead += reversed(missing)
            else:
                order[ahead.pop()] = None
    return list(order)


_Side = tuple[int, int]  # node and 0, where ways enter it, or 1, where they leave
_START, _END = (-1, 0), (-1, 1)


def _fewest(nodes: Sequence[Node], needed: Collection[int], kept: Collection[int]) -> set[int]:
    """The fewest values to save so that all that is needed can be made again from them by cheap operators.

    That is a smallest cut between what cannot be made again and what is needed (Menger's theorem: as many nodes as
    there are ways that share none), the one nearest to what is needed, so that little is made again. Masks are not
    saved: what they are made of is.
    """
    room: dict[tuple[_Side, _Side], float] = {}
    after: dict[_Side, list[_Side]] = {}

    def edge(a: _Side, b: _Side, most: float) -> None:
        for x, y, width in ((a, b, most), (b, a, 0)):
            if (x, y) not in room:
                room[x, y] = 0
                after.setdefault(x, []).append(y)
            room[x, y] += width

    at_hand = {n for n, node in enumerate(nodes) if n in kept or node.op in _FREE}
    among = sorted(_until(nodes, needed, at_hand))
    for n in among:
        edge((n, 0), (n, 1), math.inf if nodes[n].op in MASKS else 1)
        if n in needed:
            edge((n, 1), _END, math.inf)
        if nodes[n].op in CHEAP:
            for a in nodes[n].args:
                if a not in at_hand:
                    edge((a, 1), (n, 0), math.inf)
        else:
            edge(_START, (n, 0), math.inf)

    while way := _way(after, room):
        for x, y in pairwise(way):
            room[x, y] -= 1
            room[y, x] += 1

    reach = {_END}  # from where a way to the end has room left
    ahead = [_END]
    for y in ahead:
        for x in after.get(y, ()):
            if x not in reach and room[x, y] > 0:
                reach.add(x)
                ahead.append(x)
    return {n for n in among if (n, 1) in reach and (n, 0) not in reach}


def _way(after: Mapping[_Side, list[_Side]], room: Mapping[tuple[_Side, _Side], float]) -> list[_Side]:
    """A shortest way from the start to the end that has room; empty if there is none."""
    came = {_START: _START}
    ahead = [_START]
    for x in ahead:
        for y in after.get(x, ()):
            if y not in came and room[x, y] > 0:
                came[y] = x
                ahead.append(y)
    if _END not in came:
        return []
    way = [_END]
    while way[-1] != _START:
        way.append(came[way[-1]])
    return way[::-1]
