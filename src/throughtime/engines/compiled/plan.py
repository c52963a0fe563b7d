"""In what order a program is run: stages, each of products and of the nodes that can follow them unit by unit.

A product needs its whole input, all units of it, so what hangs on one waits for the next stage; everything else goes
on while the product's results are at hand. Cells whose products all read the state have one stage; a product that is
given what the step has made itself (`W (r ⊙ h)`) opens another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from throughtime.engines.trace.program import Node, Program


@dataclass(frozen=True)
class Dot:
    """Products of one input with several blocks of weights, side by side."""

    node: tuple[int, ...]  # the node that each makes
    source: int  # which of the program's sources it is given (forward), or whose gradient it makes (back)


@dataclass(frozen=True)
class Stage:
    """Products, then nodes that follow from them."""

    dots: tuple[Dot, ...]
    nodes: tuple[int, ...]  # operators, in order; leaves are loaded where they are used
    handed: tuple[int, ...]  # those of its values that a later stage reads: kept in scratch memory


@dataclass(frozen=True)
class Run:
    """Slots that lie side by side and belong to blocks of a parameter that do."""

    source: int  # the node whose value they are multiplied by
    slot: int
    block: int
    count: int


@dataclass(frozen=True)
class Plan:
    """How a program's step and its way back are run, and where its numbers lie."""

    program: Program
    step: tuple[Stage, ...]
    back: tuple[Stage, ...]
    carried: tuple[tuple[int, ...], ...]  # part -> products that were given the part as it was read
    slots: tuple[int, ...]  # the nodes whose numbers the way back writes down: all blocks of u first; −1 is zero
    of_product: tuple[int, ...]  # the slot of each product
    of_vector: tuple[int, ...]  # the slot of each vector
    read_back: tuple[bool, ...]  # the parts whose every state the way back needs
    reads_u: bool  # whether the way back needs the input's share

    @cached_property
    def weight_runs(self) -> tuple[Run, ...]:
        """What dL/d weight_hh is made of."""
        found = []
        for number, source in enumerate(self.program.sources):
            found += self._runs(source, self.by_source(number), lambda j: self.program.products[j].block)
        return tuple(found)

    @cached_property
    def hears(self) -> tuple[bool, ...]:
        """The parts whose state before a step has a gradient that may be other than zero."""
        return tuple(
            read is not None or bool(products) for read, products in zip(self.program.d_read, self.carried, strict=True)
        )

    @cached_property
    def hears_input(self) -> bool:
        """Whether the input's share has."""
        return any(node is not None for node in self.program.d_u)

    @cached_property
    def blocks(self) -> int:
        """How many blocks of weight_hh have a gradient."""
        return len({block for run in self.weight_runs for block in range(run.block, run.block + run.count)})

    @cached_property
    def bias_runs(self) -> tuple[Run, ...]:
        """What dL/d bias_hh is made of."""
        biased = [j for j, p in enumerate(self.program.products) if p.bias is not None and self.of_product[j] >= 0]
        return tuple(self._runs(-1, biased, lambda j: self.program.products[j].bias or 0))

    def _runs(self, source: int, products: list[int], block_of: Callable[[int], int]) -> list[Run]:
        found: list[Run] = []
        for slot, block in sorted((self.of_product[j], block_of(j)) for j in products):
            last = found[-1] if found else None
            if last is not None and (last.slot + last.count, last.block + last.count) == (slot, block):
                found[-1] = Run(source, last.slot, last.block, last.count + 1)
            else:
                found.append(Run(source, slot, block, 1))
        return found

    @property
    def scratch(self) -> tuple[dict[int, int], dict[int, int]]:
        """Where handed values lie, for the step and the way back: node -> place."""
        return _places(self.step), _places(self.back)

    def inner(self) -> tuple[int, ...]:
        """The sources that the step makes itself, as numbers of `Program.sources`."""
        return tuple(s for s, node in enumerate(self.program.sources) if self.program.nodes[node].op != "read")

    def segments(self, products: Iterable[int]) -> list[tuple[int, list[int]]]:
        """Runs of slots that lie side by side, as (first slot, blocks of weight_hh in that order)."""
        ordered = sorted(products, key=lambda j: self.of_product[j])
        runs = groupby(enumerate(ordered), key=lambda item: self.of_product[item[1]] - item[0])
        found = []
        for _, run in runs:
            some = [j for _, j in run]
            found.append((self.of_product[some[0]], [self.program.products[j].block for j in some]))
        return found

    def by_source(self, source: int) -> list[int]:
        """The products that are given one source and whose gradient is not zero."""
        node = self.program.sources[source]
        found = self.program
        return [j for j, p in enumerate(found.products) if p.source == node and found.d_product[j] is not None]


MOST_TAPS = 4  # products side by side in one pass: as many as leave registers for several rows


def plan(program: Program) -> Plan:
    """Put a program's nodes into stages and its numbers into places."""
    slots = [-1 if node is None else node for node in program.d_u]
    of_product = tuple(_slot(slots, node, j) for j, node in enumerate(program.d_product))
    of_vector = tuple(_slot(slots, node, None) for node in program.d_vector)
    carried = tuple(
        tuple(
            j
            for j, product in enumerate(program.products)
            if _reads(program, product.source, part) and program.d_product[j] is not None
        )
        for part in range(len(program.parts))
    )
    reads = {node.at for node in _arguments(program, program.forward) if node.op == "read"}
    reads |= {p.at for product in program.products if (p := program.nodes[product.source]).op == "read"}
    states = {n for node in program.nodes[program.forward :] for n in node.args if n < program.forward}
    # The gradient of a recurrent weight is made of what its products were given, a new state among that.
    states |= {product.source for product, slot in zip(program.products, of_product, strict=True) if slot >= 0}
    outputs = {*program.d_u, *program.d_product, *program.d_vector, *program.d_read}
    read_back = tuple(part in reads or program.states[part] in states | outputs for part in range(len(program.parts)))
    return Plan(
        program=program,
        step=_step(program),
        back=_back(program, slots),
        carried=carried,
        slots=tuple(slots),
        of_product=of_product,
        of_vector=of_vector,
        read_back=read_back,
        reads_u=any(node.op == "u" for node in _arguments(program, program.forward)),
    )


def _reads(program: Program, node: int, part: int) -> bool:
    return program.nodes[node].op == "read" and program.nodes[node].at == part


def _arguments(program: Program, first: int) -> list[Node]:
    """What operators from a node on are given, and what is written down as it is, of the leaves."""
    given = {n for node in program.nodes[first:] for n in node.args}
    given |= {n for n in (*program.d_u, *program.d_product, *program.d_vector, *program.d_read) if n is not None}
    return [program.nodes[n] for n in given]


def _slot(slots: list[int], node: int | None, at: int | None) -> int:
    """Where a node is written down: once for all that it is the gradient of, at place `at` where that holds it."""
    if node is None:
        return -1
    if at is not None and at < len(slots) and slots[at] == node:
        return at
    if node in slots:
        return slots.index(node)
    slots.append(node)
    return len(slots) - 1


def _step(program: Program) -> tuple[Stage, ...]:
    wanted = {*program.states, *program.opened, *program.saved, *(p.source for p in program.products)}
    levels: dict[int, int] = {}
    for n, node in enumerate(program.nodes[: program.forward]):
        if node.op == "product":
            source = program.products[int(node.at)].source
            levels[n] = 0 if program.nodes[source].op == "read" else levels[source] + 1
        else:
            levels[n] = max((levels[a] for a in node.args), default=0)
    dots: dict[int, list[Dot]] = {}
    product_nodes = {int(node.at): n for n, node in enumerate(program.nodes[: program.forward]) if node.op == "product"}
    for number, source in enumerate(program.sources):
        made = [product_nodes[j] for j, p in enumerate(program.products) if p.source == source and j in product_nodes]
        for first in range(0, len(made), MOST_TAPS):
            some = tuple(made[first : first + MOST_TAPS])
            dots.setdefault(levels[some[0]], []).append(Dot(some, number))
    kept = {n for n, node in enumerate(program.nodes) if node.op in ("u", "read", "vector", "constant")}
    return _stages(program, range(program.forward), wanted, levels, dots, kept)


def _back(program: Program, slots: Iterable[int]) -> tuple[Stage, ...]:
    wanted = {n for n in (*slots, *program.d_read) if n is not None and n >= 0}
    levels: dict[int, int] = dict.fromkeys(range(program.forward), 0)
    dots: dict[int, list[Dot]] = {}
    for n, node in enumerate(program.nodes[program.forward :], program.forward):
        if node.op == "pulled":
            source = program.sources[int(node.at)]
            given = [d for p, d in zip(program.products, program.d_product, strict=True) if p.source == source]
            levels[n] = 1 + max((levels[d] for d in given if d is not None), default=0)
            dots.setdefault(levels[n], []).append(Dot((n,), int(node.at)))
        else:
            levels[n] = max((levels[a] for a in node.args), default=0)
    kept = {n for n, node in enumerate(program.nodes) if n < program.forward or node.op in ("vector", "constant")}
    return _stages(program, range(program.forward, len(program.nodes)), wanted, levels, dots, kept)


def _stages(
    program: Program,
    among: range,
    wanted: set[int],
    levels: dict[int, int],
    dots: dict[int, list[Dot]],
    kept: set[int],
) -> tuple[Stage, ...]:
    """`kept` are nodes that lie in memory anyway, so that any stage can read them."""
    last = max([levels[n] for n in among] + [*dots, 0])
    readers: dict[int, int] = {}  # node -> the last stage that reads it
    for n in among:
        for argument in program.nodes[n].args:
            readers[argument] = max(readers.get(argument, 0), levels[n])
    found = []
    for level in range(last + 1):
        here = [n for n in among if levels[n] == level]
        handed = tuple(n for n in here if n not in kept and readers.get(n, 0) > level)
        operators = tuple(n for n in here if program.nodes[n].args and (n in readers or n in wanted))
        found.append(Stage(tuple(dots.get(level, ())), operators, handed))
    return tuple(found)


def _places(stages: Iterable[Stage]) -> dict[int, int]:
    handed = [n for stage in stages for n in stage.handed]
    return {n: place for place, n in enumerate(handed)}
