"""From a plan to what the kernels unroll while Triton compiles them: for each stage a tuple of instructions.

Nothing is generated as text. The kernels of `kernels.py` are ordinary functions, and a program reaches them as a
constant argument; so no file is written, none is loaded, and what runs is what stands there.

An instruction is (operation, a, b, c). It makes the next value of its stage: a leaf takes `a` as which one, an
operator takes numbers of earlier values of the stage. What is written down follows as (where, which, value).

Leaves, beside "u", "read", "vector", "constant" and "grad" as in `trace.program`:
  "given part"     several values: products of part `a` before the step with the blocks `b` of the weights, each plus
                   its bias of `c` (−1: none)
  "given scratch"  the same of what lies at place `a` of the scratch memory
  "pulled"         Wᵀ dL/da, summed over the products of run `a`
  "new"            part `a` after the step
  "saved", "scratch"  what lies at place `a`, a number; "mask" the same, as a mask
"""

from __future__ import annotations

from dataclasses import dataclass

from throughtime.engines.compiled.plan import Plan, Stage
from throughtime.engines.trace.program import MASKS

Instruction = tuple[str, int | float, int | tuple[int, ...], int | tuple[int, ...]]
Write = tuple[str, int, int]
Run = tuple[tuple[int, int], ...]  # (slot, block of the weights) of products whose gradients are summed


@dataclass(frozen=True)
class Code:
    """One direction of a program: what each stage computes, and what it writes down."""

    stages: tuple[tuple[Instruction, ...], ...]
    writes: tuple[tuple[Write, ...], ...]
    runs: tuple[Run, ...]  # on the way back: of each part, then of each source of products
    scratch: int  # places of scratch memory, (B, H) each


def step_code(plan: Plan) -> Code:
    """The step."""
    places = plan.scratch[0]
    given = {node: len(places) + n for n, node in enumerate(_inner(plan))}
    stages = [_Stage(plan, number, stage, places, back=False) for number, stage in enumerate(plan.step)]
    for stage in stages:
        stage.step(given)
    return _code(stages, (), len(places) + len(given))


def back_code(plan: Plan) -> Code:
    """The way back."""
    places = plan.scratch[1]
    stages = [_Stage(plan, number, stage, places, back=True) for number, stage in enumerate(plan.back)]
    for stage in stages:
        stage.back()
    gathered = [*plan.carried, *(plan.by_source(source) for source in range(len(plan.program.sources)))]
    runs = tuple(tuple((plan.of_product[j], plan.program.products[j].block) for j in some) for some in gathered)
    return _code(stages, runs, len(places))


def _code(stages: list[_Stage], runs: tuple[Run, ...], scratch: int) -> Code:
    return Code(
        tuple(tuple(stage.code) for stage in stages), tuple(tuple(stage.writes) for stage in stages), runs, scratch
    )


def _inner(plan: Plan) -> list[int]:
    """The nodes of the step that products are given."""
    return [plan.program.sources[source] for source in plan.inner()]


class _Stage:
    """One stage's instructions while they are put together."""

    def __init__(self, plan: Plan, number: int, stage: Stage, places: dict[int, int], *, back: bool) -> None:
        self.plan, self.program, self.number, self.stage = plan, plan.program, number, stage
        self.places, self.is_back = places, back
        self.code: list[Instruction] = []
        self.writes: list[Write] = []
        self.values = 0  # that the code makes
        self.at: dict[int, int] = {}  # node -> its number among them
        stages = plan.back if back else plan.step
        later = stages[number + 1 :]
        self.own = {*stage.nodes, *(n for dot in stage.dots for n in dot.node)}
        self.elsewhere = {n for other in later for n in (*other.nodes, *(m for dot in other.dots for m in dot.node))}

    def step(self, given: dict[int, int]) -> None:
        """The step's own: products, operators, then states, gates and what is kept."""
        program = self.program
        for dot in self.stage.dots:
            source = program.sources[dot.source]
            leaf = program.nodes[source]
            made = [program.products[int(program.nodes[node].at)] for node in dot.node]
            blocks = tuple(product.block for product in made)
            biases = tuple(-1 if product.bias is None else product.bias for product in made)
            which = ("given part", int(leaf.at)) if leaf.op == "read" else ("given scratch", given[source])
            self._make(dot.node, *which, blocks, biases)
        self._operators()
        self._write("state", program.states)
        self._write("gate", program.opened)
        self._write("saved", program.saved)
        self._hand_over()
        for node, place in given.items():
            if self._here(node):
                self.writes.append(("scratch", place, self._value(node)))

    def back(self) -> None:
        """The way back's own: gradients, products, operators, then the slots and what is carried on."""
        program = self.program
        if self.number == 0:
            for node, leaf in enumerate(program.nodes):
                if leaf.op == "grad":
                    self._make((node,), "grad", int(leaf.at))
        for dot in self.stage.dots:
            self._make(dot.node, "pulled", len(program.parts) + dot.source)
        self._operators()
        self._write("slot", self.plan.slots)
        self._write("carry", program.d_read)
        self._hand_over()

    def _make(
        self,
        nodes: tuple[int, ...],
        op: str,
        a: int | float,
        b: int | tuple[int, ...] = 0,
        c: int | tuple[int, ...] = 0,
    ) -> int:
        self.code.append((op, a, b, c))
        first, self.values = self.values, self.values + max(len(nodes), 1)
        self.at |= {node: first + n for n, node in enumerate(nodes)}
        return first

    def _operators(self) -> None:
        for node in self.stage.nodes:
            what = self.program.nodes[node]
            a, b, c, *_ = (*(self._value(argument) for argument in what.args), 0, 0, 0)
            self._make((node,), what.op, a, b, c)

    def _value(self, node: int) -> int:
        found = self.at.get(node)
        return self._make((node,), *self._leaf(node)) if found is None else found

    def _leaf(self, node: int) -> tuple[str, int | float]:
        program, what = self.program, self.program.nodes[node]
        if what.op in ("constant", "vector", "u", "read"):
            return what.op, what.at
        if node in self.places:
            return "mask" if what.op in MASKS else "scratch", self.places[node]
        if self.is_back and node in program.saved:
            return "saved", program.saved.index(node)
        if self.is_back and node in program.states:
            return "new", program.states.index(node)
        raise AssertionError(f"node {node} ({what.op}) is not at hand")

    def _here(self, node: int) -> bool:
        """Whether this is the stage that writes a node down."""
        return node in self.own or (self.number == 0 and node not in self.elsewhere)

    def _write(self, where: str, nodes: tuple[int | None, ...]) -> None:
        """Write nodes down in their order; None and −1 are zero."""
        for which, node in enumerate(nodes):
            if node is None or node < 0:
                if self.number == 0:
                    self.writes.append((where, which, self._make((), "constant", 0.0)))
            elif self._here(node):
                self.writes.append((where, which, self._value(node)))

    def _hand_over(self) -> None:
        for node in self.stage.handed:
            self.writes.append(("scratch", self.places[node], self._value(node)))
