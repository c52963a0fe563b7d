"""From a plan to C++: the functions on one vector of units, and what a cell fixes of the loop over time.

What does not hang on the cell stands in vector.h (arithmetic on vectors) and sequence.h (the loop).
"""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files

import torch

from throughtime.engines.compiled.plan import Dot, Plan, Stage
from throughtime.engines.trace.program import MASKS, OPERATORS

REALS = {torch.float32: "float", torch.float64: "double"}
MOST_VECTORS = 4  # of accumulators for each row: taps times vectors of units


def source(plan: Plan, dtype: torch.dtype) -> str:
    """The whole C++ text of a cell's kernels: `forward` and `backward`, with a plain C interface."""
    program = plan.program
    at_step, at_back = plan.scratch
    step = _bodies(plan, plan.step, at_step, back=False)
    back = _bodies(plan, plan.back, at_back, back=True)
    sizes = {
        "PARTS": len(program.parts),
        "INPUTS": program.inputs,
        "GATES": len(program.gates),
        "VECTORS": program.vectors,
        "SOURCES": len(program.sources),
        "SAVED": len(program.saved),
        "SLOTS": len(plan.slots),
        "STEP_SCRATCH": len(at_step),
        "BACK_SCRATCH": len(at_back),
        "MOST_VECTORS": MOST_VECTORS,
    }
    return "\n".join(
        [
            f"typedef {REALS[dtype]} real;",
            f"#define REAL_IS_DOUBLE {int(dtype == torch.float64)}",
            _header("vector.h"),
            *(f"constexpr int {name} = {size};" for name, size in sizes.items()),
            _header("sequence.h"),
            *(body.text() for body in (*step, *back)),
            back[0].done(),
            _tables(step, back),
            _header("kernel.h"),
        ]
    )


@cache
def _header(name: str) -> str:
    return (files("throughtime.engines.cpu") / name).read_text(encoding="utf-8")


def _bodies(plan: Plan, stages: tuple[Stage, ...], places: dict[int, int], *, back: bool) -> list[_Body]:
    found: list[_Body] = []
    for number, stage in enumerate(stages):
        found.append(_Body(plan, number, stage, places, sum(len(body.dots) for body in found), back=back))
    return found


class _Body:
    """One stage as C++: a struct with its function on a vector of units, and its run over rows."""

    def __init__(
        self, plan: Plan, number: int, stage: Stage, places: dict[int, int], first: int, *, back: bool
    ) -> None:
        self.plan, self.program, self.number, self.stage = plan, plan.program, number, stage
        self.places, self.back = places, back
        self.first = first  # where its packed weights stand among all
        self.dots = stage.dots
        if back and number == 0:  # what comes back from the step after, for each part that products were given
            self.dots = tuple(Dot((-1,), part) for part, products in enumerate(plan.carried) if products)
        # As many vectors of units at a time as, with the products side by side, fill the registers.
        self.wide = max(1, MOST_VECTORS // max((len(dot.node) for dot in self.dots), default=MOST_VECTORS))
        self.lines: list[str] = []
        self.names: dict[int, str] = {}

    def gathered(self, dot: Dot) -> list[tuple[int, list[int]]]:
        """On the way back: the runs of slots that a product goes through, with their blocks of weights."""
        found = self.plan.carried[dot.source] if self.number == 0 else self.plan.by_source(dot.source)
        return self.plan.segments(found)

    def text(self) -> str:
        """The stage."""
        for index, dot in enumerate(self.dots):
            for tap, node in enumerate(dot.node):
                if node >= 0:
                    self.names[node] = self._let(node, f"load(m{index} + {tap} * {self.wide} * VL)")
        if self.back:
            self._back()
        else:
            self._step()
        kind = "Back" if self.back else "Step"
        return self._struct(f"{kind}{self.number}", kind)

    def done(self) -> str:
        """What is left of the first stage after the first step: the gradient of the initial state."""
        pulled = {dot.source: f" + load(m{index})" for index, dot in enumerate(self.dots)}
        self.lines = []
        for part in range(len(self.program.parts)):
            self.lines.append(f"if (w.c.first[{part}])")
            value = f"load(w.carry({part}, b) + unit){pulled.get(part, '')}"
            self.lines.append(f"    put<TAIL>(w.c.first[{part}] + b * w.c.H + unit, {value}, n);")
        return self._struct("Done", "Back")

    def _struct(self, name: str, kind: str) -> str:
        tiles = "".join(f", const real* m{index}" for index in range(len(self.dots)))
        body = "\n".join(f"        {line}" for line in self.lines)
        return (
            f"struct {name} {{\n"
            f"    static constexpr int WIDE = {self.wide};\n"
            f"    template <bool TAIL>\n"
            f"    static inline void units(const {kind}Walk& w, idx b, idx unit, int n{tiles}) {{\n"
            f"{body}\n    }}\n{self._run(kind)}}};\n"
        )

    # -- the function on a vector of units

    def _step(self) -> None:
        program = self.program
        for node in self.stage.nodes:
            self._operator(node)
        own = set(self.stage.nodes) | {n for dot in self.dots for n in dot.node}
        first = self.number == 0

        def here(node: int) -> bool:
            return node in own or (first and not program.nodes[node].args and program.nodes[node].op != "product")

        for part, node in enumerate(program.states):
            if here(node):
                self._put(f"w.now({part}, b) + unit", node)
        for gate, node in enumerate(program.opened):
            if here(node):
                self.lines.append(f"if (w.c.gates[{gate}])")
                self._put(f"w.c.gates[{gate}] + (w.row0 + b) * w.c.H + unit", node)
        kept = [(place, node) for place, node in enumerate(program.saved) if here(node)]
        if kept:
            values = [(place, self._value(node)) for place, node in kept]
            self.lines.append("if (w.c.saved) {")
            self.lines.append("    real* saved = w.c.saved + (w.row0 + b) * (SAVED * w.c.H) + unit;")
            self.lines += [f"    put<TAIL>(saved + {place} * w.c.H, {name}, n);" for place, name in values]
            self.lines.append("}")
        self._hand_over()
        for source in self.plan.inner():
            node = program.sources[source]
            if here(node):
                self.lines.append(f"store(w.given({source}, b) + unit, {self._value(node)});")

    def _back(self) -> None:
        program, plan = self.program, self.plan
        if self.number == 0:
            from_product = {dot.source: index for index, dot in enumerate(self.dots)}
            nodes = {int(node.at): n for n, node in enumerate(program.nodes) if node.op == "grad"}
            for part in range(len(program.parts)):
                pulled = f" + load(m{from_product[part]})" if part in from_product else ""
                name = f"g{part}"
                self.lines.append(f"V {name} = load(w.carry({part}, b) + unit){pulled};")
                self.lines.append(f"if (w.c.outer[{part}])")
                self.lines.append(
                    f"    {name} = {name} + get<TAIL>(w.c.outer[{part}] + (w.row0 + b) * w.c.H + unit, n);"
                )
                if part in nodes:
                    self.names[nodes[part]] = name
        for node in self.stage.nodes:
            self._operator(node)
        own = set(self.stage.nodes) | {n for dot in self.dots for n in dot.node}

        def here(node: int) -> bool:
            return node in own or (self.number == 0 and node not in self._elsewhere())

        for slot, node in enumerate(plan.slots):
            if node < 0 and self.number == 0:
                self.lines.append(f"put<TAIL>(w.slot({slot}, b) + unit, splat(0), n);")
            elif node >= 0 and here(node):
                self._put(f"w.slot({slot}, b) + unit", node)
        for part, read in enumerate(program.d_read):
            if read is None and self.number == 0:
                self.lines.append(f"store(w.carry({part}, b) + unit, splat(0));")
            elif read is not None and here(read):
                self.lines.append(f"store(w.carry({part}, b) + unit, {self._value(read)});")
        self._hand_over()

    def _elsewhere(self) -> set[int]:
        """Nodes that later stages make."""
        later = self.plan.back[self.number + 1 :]
        return {n for stage in later for n in (*stage.nodes, *(m for dot in stage.dots for m in dot.node))}

    def _hand_over(self) -> None:
        for node in self.stage.handed:
            value = self._value(node)
            if self.program.nodes[node].op in MASKS:
                value = f"v_number({value})"
            self.lines.append(f"store(w.scratch({self.places[node]}, b) + unit, {value});")

    def _put(self, where: str, node: int) -> None:
        value = self._value(node)
        self.lines.append(f"put<TAIL>({where}, {value}, n);")

    def _let(self, node: int, expression: str) -> str:
        kind = "M" if self.program.nodes[node].op in MASKS else "V"
        name = f"x{node}"
        self.lines.append(f"const {kind} {name} = {expression};")
        return name

    def _operator(self, node: int) -> None:
        what = self.program.nodes[node]
        arguments = ", ".join(self._value(argument) for argument in what.args)
        assert what.op in OPERATORS
        self.names[node] = self._let(node, f"v_{what.op}({arguments})")

    def _value(self, node: int) -> str:
        """The name of a value, loaded first if it must be. What is used inside a branch is loaded before it."""
        name = self.names.get(node)
        if name is None:
            expression = self._load(node)
            position = len(self.lines)
            if position and self.lines[-1].startswith("if (") and not self.lines[-1].endswith("{"):
                position -= 1
            self.names[node] = name = f"x{node}"
            if self.program.nodes[node].op in MASKS:
                self.lines.insert(position, f"const M {name} = v_ne({expression}, splat(0));")
            else:
                self.lines.insert(position, f"const V {name} = {expression};")
        return name

    def _load(self, node: int) -> str:
        program, what = self.program, self.program.nodes[node]
        at = int(what.at) if what.op != "constant" else 0
        if what.op == "constant":
            return f"splat({_number(float(what.at))})"
        if what.op == "vector":
            return f"get<TAIL>(w.c.vectors[{at}] + unit, n)"
        if what.op == "u":
            return f"get<TAIL>(w.share(b) + {at} * w.c.H + unit, n)"
        if what.op == "read":
            return f"get<TAIL>(w.before({at}, b) + unit, n)"
        if node in self.places:
            return f"load(w.scratch({self.places[node]}, b) + unit)"
        if not self.back:
            raise AssertionError(f"node {node} ({what.op}) is not at hand")
        if node in program.saved:
            place = program.saved.index(node)
            return f"get<TAIL>(w.c.saved + (w.row0 + b) * (SAVED * w.c.H) + {place} * w.c.H + unit, n)"
        if node in program.states:
            return f"get<TAIL>(w.c.states[{program.states.index(node)}] + (w.row0 + b) * w.c.H + unit, n)"
        if what.op in ("grad", "pulled"):
            return "splat(0)"
        raise AssertionError(f"node {node} ({what.op}) is not kept for the way back")

    # -- its run over rows

    def _run(self, kind: str) -> str:
        lines = [f"    static void run(const {kind}Walk& w, idx from, idx to, bool fresh) {{"]
        lines += [
            "        const idx H = w.c.H;",
            "        for (idx b0 = from; b0 < to; b0 += BLOCK) {",
            "            const idx many = least(BLOCK, to - b0);",
            "            for (idx unit = 0, panel = 0; unit < H; unit += WIDE * VL, panel++) {",
        ]
        for index, dot in enumerate(self.dots):
            lines += self._product(index, dot)
        tiles = "".join(f", tile{index} + (r * {len(dot.node)} * WIDE + v) * VL" for index, dot in enumerate(self.dots))
        lines += [
            "                for (idx r = 0; r < many; r++)",
            "                    for (int v = 0; v < WIDE; v++) {",
            "                        const idx here = unit + v * VL;",
            f"                        if (here + VL <= H) units<false>(w, b0 + r, here, VL{tiles});",
            f"                        else if (here < H) units<true>(w, b0 + r, here, (int)(H - here){tiles});",
            "                    }",
            "            }",
            "        }",
            "    }",
        ]
        return "\n".join(lines) + "\n"

    def _product(self, index: int, dot: Dot) -> list[str]:
        taps = len(dot.node)
        size = f"{taps} * WIDE * VL"
        lines = [
            f"                real* tile{index} = w.tile + {index} * (BLOCK * MOST_VECTORS * VL);",
            f"                const real* w{index} = w.packed[{self.first + index}];",
        ]
        if self.back:
            lines += [
                f"                memset(tile{index}, 0, sizeof(real) * many * {size});",
                "                if (!fresh) {",
                "                    const real* a[BLOCK];",
            ]
            rows = "w.later" if self.number == 0 else "w.written"
            depth = sum(len(blocks) for _, blocks in self.gathered(dot))
            lines.append(f"                    w{index} += panel * (H * {depth} * WIDE * VL);")
            for slot, blocks in self.gathered(dot):
                lines += [
                    f"                    for (idx r = 0; r < many; r++) a[r] = {rows}(b0 + r) + {slot} * H;",
                    f"                    deep_product<WIDE>(many, tile{index}, a, w{index}, {len(blocks)} * H);",
                    f"                    w{index} += {len(blocks)} * H * WIDE * VL;",
                ]
            return [*lines, "                }"]
        source = self.program.sources[dot.source]
        node = self.program.nodes[source]
        given = f"w.before({node.at}, b0 + r)" if node.op == "read" else f"w.given({dot.source}, b0 + r)"
        return [
            *lines,
            f"                w{index} += panel * (H * {size});",
            f"                const real* bias{index} = w.biases[{self.first + index}] + panel * ({size});",
            "                for (idx r = 0; r < many; r++)",
            f"                    memcpy(tile{index} + r * {size}, bias{index}, sizeof(real) * {size});",
            "                {",
            "                    const real* a[BLOCK];",
            f"                    for (idx r = 0; r < many; r++) a[r] = {given};",
            f"                    deep_product<{taps} * WIDE>(many, tile{index}, a, w{index}, H);",
            "                }",
        ]


def _tables(step: list[_Body], back: list[_Body]) -> str:
    """Which weights each product reads, and the stages in order."""
    products = step[0].program.products
    lines = []
    rows = []
    for body in step:
        for dot in body.dots:
            made = [products[int(body.program.nodes[node].at)] for node in dot.node]
            blocks = ", ".join(str(product.block) for product in made)
            biases = ", ".join(str(-1 if product.bias is None else product.bias) for product in made)
            rows.append(f"{{{len(made)}, {body.wide}, {{{blocks}}}, {{{biases}}}}}")
    lines.append(f"constexpr int STEP_DOTS_COUNT = {len(rows)};")
    lines.append(f"static const StepDot STEP_DOTS[] = {{{', '.join(rows) or '{}'}}};")
    rows = []
    for body in back:
        for dot in body.dots:
            read = [block for _, run in body.gathered(dot) for block in run]
            name = f"BLOCKS_{len(rows)}"
            lines.append(f"static const idx {name}[] = {{{', '.join(map(str, read))}}};")
            rows.append(f"{{{len(read)}, {body.wide}, {name}}}")
    lines.append(f"constexpr int BACK_DOTS_COUNT = {len(rows)};")
    lines.append(f"static const BackDot BACK_DOTS[] = {{{', '.join(rows) or '{}'}}};")
    run = " ".join(f"Step{body.number}::run(w, from, to, false);" for body in step)
    lines.append(f"static void run_step(const StepWalk& w, idx from, idx to) {{ {run} }}")
    run = " ".join(f"Back{body.number}::run(w, from, to, {'false' if body.number else 'fresh'});" for body in back)
    lines.append(f"static void run_back(const BackWalk& w, idx from, idx to, bool fresh) {{ {run} }}")
    return "\n".join(lines)


def _number(value: float) -> str:
    if math.isnan(value):
        return '(real)__builtin_nan("")'
    if math.isinf(value):
        return "(real)__builtin_inf()" if value > 0 else "-(real)__builtin_inf()"
    return f"(real){value.hex()}"
