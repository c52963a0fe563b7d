"""From a graph of a step and its way back to a program: what is needed, in order, and what is saved between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from throughtime.engines.trace.graph import Graph, Ref
from throughtime.engines.trace.program import CHEAP, MASKS, Node, Product, Program

_FREE = ("u", "read", "vector", "constant")  # lie in memory on the way back too


@dataclass(frozen=True)
class Found:
    """A step and its way back as nodes of one graph."""

    graph: Graph
    parts: tuple[str, ...]
    inputs: int
    vectors: int
    products: tuple[Product, ...]  # leaf "product" j is number j of these
    sources: tuple[Ref, ...]  # leaf "pulled" s is number s of these
    states: tuple[Ref, ...]
    gates: dict[str, Ref]
    d_u: tuple[Ref | None, ...]
    d_product: tuple[Ref | None, ...]
    d_vector: tuple[Ref | None, ...]
    d_read: tuple[Ref | None, ...]


def derive(found: Found) -> tuple[Program, tuple[int, ...]]:
    """The program, and which of the vectors it still has."""
    nodes = found.graph.nodes
    gradients = [ref for ref in (*found.d_u, *found.d_product, *found.d_vector, *found.d_read) if ref is not None]

    step = _with_products(found, _ancestors(nodes, [*found.states, *found.gates.values()]))
    steps_products = sorted(int(nodes[n].at) for n in step if nodes[n].op == "product")
    made = {found.products[j].source for j in steps_products}
    inner = [source for source in found.sources if source in made and nodes[source].op != "read"]

    free = {*found.states, *inner}
    back = _until(nodes, gradients, lambda n: n in step or nodes[n].op in _FREE)
    needed = {a for n in (*back, *gradients) for a in ((n,) if n in step else nodes[n].args) if a in step}
    saved = _fewest(nodes, needed, free)
    kept = {*saved, *free}
    again = _until(nodes, [n for n in needed if n not in kept], lambda n: n in kept or nodes[n].op in _FREE)

    way = _ancestors_within(nodes, gradients, {*back, *again})
    loads = {n for n in _reached(nodes, gradients, way) if nodes[n].op in ("u", "read", "vector")}
    first = sorted(step | loads)
    order: dict[int, int] = {n: place for place, n in enumerate(first)}
    written = [nodes[n] for n in first]
    place = dict(order)  # on the way back: what is made again has a place of its own
    second = _in_order(
        found, way | {n for n in _reached(nodes, gradients, way) if nodes[n].op == "constant" and n not in order}
    )
    for number, n in enumerate(second):
        place[n] = len(first) + number
    written = [_placed(nodes[n], order) for n in first] + [_placed(nodes[n], place) for n in second]

    number_of = {j: number for number, j in enumerate(steps_products)}
    sources = list(dict.fromkeys(found.products[j].source for j in steps_products))
    vectors = sorted({int(nodes[n].at) for n in first if nodes[n].op == "vector"})
    renumbered = {
        "product": number_of,
        "pulled": {s: sources.index(source) for s, source in enumerate(found.sources) if source in sources},
        "vector": {v: number for number, v in enumerate(vectors)},
    }
    final = tuple(
        Node(node.op, node.args, renumbered[node.op][int(node.at)]) if node.op in renumbered else node
        for node in written
    )

    def at(refs: Sequence[Ref | None]) -> tuple[int | None, ...]:
        return tuple(None if ref is None else place[ref] for ref in refs)

    program = Program(
        parts=found.parts,
        gates=tuple(found.gates),
        inputs=found.inputs,
        vectors=len(vectors),
        nodes=final,
        forward=len(first),
        products=tuple(Product(p.block, p.bias, order[p.source]) for p in (found.products[j] for j in steps_products)),
        sources=tuple(order[source] for source in sources),
        states=tuple(order[ref] for ref in found.states),
        opened=tuple(order[ref] for ref in found.gates.values()),
        saved=tuple(sorted(order[n] for n in {*saved, *inner})),
        d_u=at(found.d_u),
        d_product=at([found.d_product[j] for j in steps_products]),
        d_vector=at([found.d_vector[v] for v in vectors]),
        d_read=at(found.d_read),
    )
    return program, tuple(vectors)


def _in_order(found: Found, way: set[int]) -> list[int]:
    """The way back's nodes so that every one stands after its arguments, and "pulled" after what is pulled back."""
    nodes = found.graph.nodes
    order: dict[int, None] = {}

    def visit(n: int) -> None:
        if n in order or n not in way:
            return
        before = nodes[n].args
        if nodes[n].op == "pulled":
            source = found.sources[int(nodes[n].at)]
            given = (d for p, d in zip(found.products, found.d_product, strict=True) if p.source == source)
            before = tuple(d for d in given if d is not None)
        for a in before:
            visit(a)
        order[n] = None

    for n in sorted(way):
        visit(n)
    return list(order)


def _placed(node: Node, place: dict[int, int]) -> Node:
    return Node(node.op, tuple(place[a] for a in node.args), node.at)


def _ancestors(nodes: Sequence[Node], of: Iterable[int]) -> set[int]:
    """These nodes and all that they are made of."""
    return _until(nodes, of, lambda n: False)


def _until(nodes: Sequence[Node], of: Iterable[int], stop) -> set[int]:  # type: ignore[no-untyped-def]
    """These nodes and what they are made of, as far as nodes where `stop` holds, without those."""
    found: set[int] = set()
    ahead = list(of)
    while ahead:
        n = ahead.pop()
        if n not in found and not stop(n):
            found.add(n)
            ahead.extend(nodes[n].args)
    return found


def _with_products(found: Found, step: set[int]) -> set[int]:
    """With what the products among them are given."""
    nodes = found.graph.nodes
    while True:
        sources = {found.products[int(nodes[n].at)].source for n in step if nodes[n].op == "product"}
        more = _ancestors(nodes, sources) | step
        if more == step:
            return step
        step = more


def _ancestors_within(nodes: Sequence[Node], of: Iterable[int], within: set[int]) -> set[int]:
    return _until(nodes, of, lambda n: n not in within)


def _reached(nodes: Sequence[Node], gradients: Iterable[int], way: set[int]) -> set[int]:
    """What the way back reads, and what it hands on as it is."""
    return {a for n in way for a in nodes[n].args} | set(gradients)


def _fewest(nodes: Sequence[Node], needed: set[int], free: set[int]) -> set[int]:
    """The fewest values to save so that all that is needed can be made again from them by cheap operators.

    That is a smallest cut between what cannot be made again and what is needed (Menger's theorem: as many nodes as
    there are ways that share none), the one nearest to what is needed, so that little is made again. Masks are not
    saved: what they are made of is.
    """

    def given(n: int) -> bool:
        return n in free or nodes[n].op in _FREE

    # Each node n is two, (n, 0) -> (n, 1), with room for one way through where it may be saved.
    room: dict[tuple[object, object], int] = {}
    after: dict[object, list[object]] = {}

    def edge(a: object, b: object, most: int) -> None:
        for x, y, width in ((a, b, most), (b, a, 0)):
            if (x, y) not in room:
                room[x, y] = 0
                after.setdefault(x, []).append(y)
            room[x, y] += width

    endless = len(nodes) + 1
    among = sorted(_until(nodes, needed, lambda n: given(n)))
    for n in among:
        edge((n, 0), (n, 1), endless if nodes[n].op in MASKS or nodes[n].op == "number" else 1)
        if nodes[n].op in CHEAP:
            for a in nodes[n].args:
                if not given(a):
                    edge((a, 1), (n, 0), endless)
        else:
            edge("start", (n, 0), endless)
        if n in needed:
            edge((n, 1), "end", endless)

    def way() -> list[object] | None:
        came: dict[object, object] = {"start": "start"}
        ahead: list[object] = ["start"]
        for x in ahead:
            for y in after.get(x, ()):
                if y not in came and room[x, y] > 0:
                    came[y] = x
                    ahead.append(y)
                    if y == "end":
                        path = [y]
                        while path[-1] != "start":
                            path.append(came[path[-1]])
                        return path[::-1]
        return None

    while (path := way()) is not None:
        for x, y in zip(path, path[1:], strict=False):
            room[x, y] -= 1
            room[y, x] += 1

    open_ = {"end"}  # from where there is room left to the end
    ahead: list[object] = ["end"]
    for y in ahead:
        for x in after.get(y, ()):
            if x not in open_ and room[x, y] > 0:
                open_.add(x)  # type: ignore[arg-type]
                ahead.append(x)
    return {n for n in among if (n, 1) in open_ and (n, 0) not in open_}
