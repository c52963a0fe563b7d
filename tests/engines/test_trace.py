"""Tracing: a program gives what the step and autograd give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.engines.cells import MADE, OwnShare
from tests.laws.variants import VARIANTS
from tests.tolerances import close
from throughtime import cells
from throughtime.cells import Cell, Gates, State
from throughtime.engines.trace import Untraceable, trace
from throughtime.engines.trace.program import MASKS, OPERATORS, Node

DTYPE = torch.float64
B = 4


class Stopped(Cell):
    """Gradients that stop: at a gate, at what a product is given, and at the same value given once more."""

    parts = ("h",)
    reads = {"carousel": "h", "hidden": "h"}  # noqa: RUF012
    inputs = ("a", "b", "c")
    recurrent = ("a", "b", "c", "d")

    def step(self, u, read, W):
        a = torch.sigmoid(u.a + W.a(read.hidden.detach()))
        b = torch.tanh(u.b + W.b(read.hidden))
        c = W.c(b) + W.d(b.detach())
        with torch.no_grad():
            fixed = torch.exp(-u.c)
        return State(h=a.detach() * read.carousel + c * b + fixed * a), Gates(a=a)


class Bent(Cell):
    """Vectors through functions of parameters: views, casts, sums over units, no gradient, constants."""

    parts = ("h",)
    reads = {"h": "h"}  # noqa: RUF012
    inputs = ("a",)
    recurrent = ()

    def extra(self):
        return {"rates": (3 * self.hidden_size,), "one": (), "other": (1,), "table": (2, self.hidden_size)}

    def step(self, u, read, W):
        first, second, third = W["rates"].chunk(3)
        keep = torch.sigmoid(first) * F.softmax(second, -1) + W["table"][1] * W["one"].exp()
        places = torch.linspace(0, 1, self.hidden_size, dtype=first.dtype)
        with torch.no_grad():
            still = torch.tanh(third)
        h = keep * read.h * W["other"] + u.a * places + still * torch.tensor(0.25) + third.detach() + W["one"]
        return State(h=torch.lerp(h, read.h, W["rates"].mean())), Gates(h=h)


class Around(Cell):
    """What gradients must not be lost in: a product nobody hears, one only a gate hears, u given to a product."""

    parts = ("m", "h")
    reads = {"m": "m", "h": "h"}  # noqa: RUF012
    inputs = ("a", "b")
    recurrent = ("a", "b", "c", "d", "e")
    unbiased = ("b", "d")

    def step(self, u, read, W):
        W.a(torch.sin(read.m))
        watched = W.b(torch.cos(read.h) + W.c(u.a))
        m = W.d(u.b) + W.e(W.d(read.h)) + read.m.clamp(-1, 1)
        return State(h=read.m, m=m), Gates(watched=torch.atan(watched))


class Square(torch.autograd.Function):
    """x², whose written derivative is 3x, so that it is seen which one is used."""

    @staticmethod
    def forward(ctx, x):
        y = x * x
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        return g * (3 * x + 0 * y)


class Handwritten(Cell):
    parts = ("h",)
    reads = {"h": "h"}  # noqa: RUF012
    inputs = ("a",)
    recurrent = ("a",)

    def step(self, u, read, W):
        return State(h=Square.apply(torch.tanh(u.a + W.a(read.h)))), Gates()


class Many(Cell):
    """Operators that the other cells do not use."""

    parts = ("h",)
    reads = {"h": "h"}  # noqa: RUF012
    inputs = ("a", "b")
    recurrent = ("a",)

    def step(self, u, read, W):
        a, b = u.a + W.a(read.h), u.b
        positive = a * a + 0.5
        some = torch.where((a > b) & ~(b < -0.5), positive.sqrt() / positive, (b.abs() + 1).log() * positive.rsqrt())
        more = F.mish(a) + F.hardtanh(b) + F.leaky_relu(a, 0.1) + F.selu(b) + F.softsign(a) + F.logsigmoid(b)
        last = F.hardsigmoid(a) + F.gelu(b, approximate="tanh") + torch.addcmul(a, b, some, value=0.3) - b.pow(3)
        mask = (a >= 0).to(a.dtype)
        rest = positive**1.5 + torch.log1p(positive) + torch.expm1(-positive) + b.sign() * positive.reciprocal()
        piled = (a * 0.1).add_(b).mul_(0.5)
        return State(h=0.1 * (some + more + last + mask * rest) + torch.rsub(piled, 1, alpha=2)), Gates(mask=mask)


OWN = (*MADE, Stopped, Bent, Around, Handwritten, Many)
KINDS = {
    **{str(variant): variant.make for variant in VARIANTS},
    **{kind.__name__: lambda inputs, units, kind=kind: kind(inputs, units, dtype=DTYPE) for kind in OWN},
}
MATRICES = {"feedforward", "feedforward-nonlinearity=relu"}
SERVED = sorted(set(KINDS) - MATRICES)


class Once:
    """One step by hand: what torch says, and a program's numbers on the same leaves."""

    def __init__(self, cell: Cell, dtype: torch.dtype = DTYPE) -> None:
        self.cell, self.traced = cell, trace(cell, dtype)
        self.program = self.traced.program
        torch.manual_seed(5)
        shape = (B, cell.hidden_size)
        self.parameters = {
            name: torch.randn(size, dtype=dtype).requires_grad_() for name, size in cell.shapes().items()
        }
        x = torch.randn(B, cell.input_size, dtype=dtype)
        share = cell.share(x, self.parameters)
        self.u = type(share)(**{name: block.detach().requires_grad_() for name, block in share.items()})
        self.state = State(**{part: torch.randn(shape, dtype=dtype).requires_grad_() for part in cell.parts})
        self.W = cell.weights(self.parameters)
        self.new, self.gates = cell.advance(self.u, self.state, self.W)
        self.sent = [torch.randn(shape, dtype=dtype) for _ in cell.parts]
        self.zero = torch.zeros(shape, dtype=dtype)
        self.vectors = self.traced.vectors(self.parameters)
        self.found: list[Tensor] = []
        for node in self.program.nodes:
            self.found.append(self._number(node, dtype).detach())

    def _number(self, node: Node, dtype: torch.dtype) -> Tensor:
        if node.op == "number":
            return self.found[node.args[0]].to(dtype)
        if node.args:
            return OPERATORS[node.op](*(self.found[a] for a in node.args))
        if node.op == "constant":
            return torch.full((), node.at, dtype=dtype)
        program, at = self.program, int(node.at)
        if node.op == "product":
            return self._linear(at)(self.found[program.products[at].source].expand_as(self.zero))
        if node.op == "pulled":
            return self.pulled(program.sources[at])
        if node.op == "u":
            return self.u[self.cell.inputs[at]]
        return {"read": list(self.state.values()), "vector": self.vectors, "grad": self.sent}[node.op][at]

    def _linear(self, product: int):
        made = self.program.products[product]
        linear = getattr(self.W, self.cell.recurrent[made.block])
        assert (made.bias is None) == (linear.bias is None)
        return linear

    def pulled(self, source: int) -> Tensor:
        """Wᵀ dL/da summed over the products that are given this node."""
        total = self.zero
        for j, product in enumerate(self.program.products):
            if product.source == source and self.program.d_product[j] is not None:
                total = total + self.at(self.program.d_product[j]) @ self._linear(j).weight.detach()
        return total

    def at(self, node: int | None) -> Tensor:
        return self.zero if node is None else self.found[node].expand_as(self.zero)

    def expected(self) -> dict[str, Tensor]:
        """dL/d(each leaf) by torch."""
        leaves = {**self.u, **{f"read {part}": z for part, z in self.state.items()}, **self.parameters}
        pairs = [
            (z, g) for z, g in zip((self.new[p] for p in self.cell.parts), self.sent, strict=True) if z.requires_grad
        ]
        if not pairs:
            return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        outputs, gradients = zip(*pairs, strict=True)
        sent = torch.autograd.grad(outputs, list(leaves.values()), gradients, materialize_grads=True)
        return dict(zip(leaves, sent, strict=True))

    def gradients(self) -> dict[str, Tensor]:
        """dL/d(each leaf) from the program's numbers, as an engine puts them together."""
        program, H = self.program, self.cell.hidden_size
        found = {block: self.at(program.d_u[self.cell.inputs.index(block)]) for block in self.u}
        for at, part in enumerate(self.cell.parts):
            reads = [n for n in program.sources if program.nodes[n] == Node("read", (), at)]
            found[f"read {part}"] = sum((self.pulled(n) for n in reads), self.at(program.d_read[at]))
        weights = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        pairs = [(v, self.at(d).sum(0)) for v, d in zip(self.vectors, program.d_vector, strict=True) if v.requires_grad]
        if pairs:
            outputs, shares = zip(*pairs, strict=True)
            through = torch.autograd.grad(outputs, list(self.parameters.values()), shares, materialize_grads=True)
            weights = dict(zip(weights, through, strict=True))
        for j, product in enumerate(program.products):
            d, given = self.at(program.d_product[j]), self.at(product.source)
            weights["weight_hh"][product.block * H : (product.block + 1) * H] += d.mT @ given
            if product.bias is not None:
                weights["bias_hh"][product.bias * H : (product.bias + 1) * H] += d.sum(0)
        return {**found, **weights}


@pytest.mark.parametrize("units", [1, 3, 6])
@pytest.mark.parametrize("kind", SERVED)
def test_a_program_gives_what_the_step_and_autograd_give(kind, units):
    once = Once(KINDS[kind](3, units))
    program = once.program
    for part, node in zip(program.parts, program.states, strict=True):
        close(once.at(node), once.new[part])
    assert program.gates == tuple(once.gates)
    for gate, node in zip(program.gates, program.opened, strict=True):
        close(once.at(node), once.gates[gate])
    found = once.gradients()
    for name, value in once.expected().items():
        if name not in ("weight_ih", "bias_ih"):  # these hang on u alone
            close(found[name], value)


@pytest.mark.parametrize("kind", SERVED)
def test_the_way_back_reads_leaves_new_states_and_what_is_saved(kind):
    program = trace(KINDS[kind](3, 4), DTYPE).program
    nodes, first = program.nodes, program.forward
    leaves = {n for n, node in enumerate(nodes) if node.op in ("u", "read", "vector", "constant")}
    at_hand = {*program.saved, *program.states} | leaves
    for n, node in enumerate(nodes):
        assert all(a < n for a in node.args)
        if n < first:
            assert node.op not in ("grad", "pulled")
        else:
            assert node.op not in ("u", "read", "vector", "product")
            assert all(a >= first or a in at_hand for a in node.args)
        if node.op == "pulled":
            source = program.sources[int(node.at)]
            assert nodes[source].op != "read"
            before = [d for p, d in zip(program.products, program.d_product, strict=True) if p.source == source]
            assert all(d is None or d < n for d in before)
            assert any(d is not None for d in before)
    for n in (*program.d_u, *program.d_product, *program.d_vector, *program.d_read):
        assert n is None or n >= first or n in at_hand
    assert set(program.saved) >= {n for n in program.sources if nodes[n].op != "read"}
    assert not any(nodes[n].op in MASKS for n in program.saved)
    assert tuple(sorted(set(program.saved))) == program.saved


@pytest.mark.parametrize(
    ("name", "options", "saved"),
    [
        ("lstm", {}, ["sigmoid", "sigmoid", "tanh", "sigmoid", "tanh"]),  # i, f, c, o, tanh(s)
        ("gru", {}, ["sigmoid", "sigmoid", "product", "tanh"]),  # r, z, W h + b, c
        ("gru", {"reset": "before"}, ["sigmoid", "sigmoid", "mul", "tanh"]),  # r, z, r ⊙ h, c
        ("elman", {}, []),  # the new state says all
        ("elman", {"nonlinearity": "relu"}, []),
    ],
)
def test_little_is_saved(name, options, saved):
    program = trace(cells.make(name, 3, 4, **options), torch.float32).program
    assert sorted(program.nodes[n].op for n in program.saved) == sorted(saved)


@pytest.mark.parametrize("kind", ["lstm", "gru", "Oddments", "Bent"])
def test_a_program_knows_no_sizes_and_does_not_change(kind):
    programs = {repr(trace(KINDS[kind](3, units), DTYPE).program) for units in (4, 4, 7, 30)}
    assert len(programs) == 1


def test_on_the_meta_device():
    cell = cells.make("lstm", 3, 4, peephole=True, device="meta")
    here = cells.make("lstm", 3, 4, peephole=True)
    assert trace(cell, torch.float32).program == trace(here, torch.float32).program


def test_an_own_share_of_the_usual_shape_is_served():
    assert trace(OwnShare(4, 4), DTYPE).program.inputs == 1


@pytest.mark.parametrize("kind", sorted(MATRICES))
def test_a_share_of_matrices_is_refused(kind):
    with pytest.raises(Untraceable, match="share"):
        trace(KINDS[kind](3, 4), DTYPE)
