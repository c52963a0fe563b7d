"""torch.compile of a surrounding model: the recurrence is one operator, and the numbers are those of eager calls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

import throughtime as tt
from tests.laws.variants import Own
from tests.tolerances import close
from throughtime.cells import State
from throughtime.engines import opaque
from throughtime.errors import CellError, EngineError

pytestmark = [  # torch.compile's own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function: Callable[..., Any], **keywords: Any) -> Callable[..., Any]:
    return torch.compile(function, **{"fullgraph": True, "backend": "aot_eager", **keywords})


class Model(nn.Module):
    """A layer between others, so that what goes in and what comes out has a graph."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, dtype=torch.float64)
        self.layer = layer
        self.last = nn.Linear(layer.hidden_size * layer.directions, 2, dtype=torch.float64)

    def forward(self, x: Tensor, *state: Any) -> Tensor:
        output, final = self.layer(self.first(x), *state)
        parts = final.values() if isinstance(final, State) else (final,) if isinstance(final, Tensor) else final
        return self.last(output.tanh()).sum() + sum(part.square().sum() for part in parts)


def gradients(model: nn.Module, call: Callable[..., Tensor], *leaves: Tensor, given: Any) -> list[Tensor]:
    loss = call(*given)
    return [loss, *torch.autograd.grad(loss, [*leaves, *model.parameters()])]


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: tt.LSTM(3, 4, 2, bidirectional=True, dtype=torch.float64),
    "GRU, batch first": lambda: tt.GRU(3, 4, batch_first=True, dtype=torch.float64),
    "GRU before": lambda: tt.GRU(3, 4, reset="before", dtype=torch.float64),
    "LSTM with peepholes": lambda: tt.LSTM(3, 4, peephole=True, bias=False, dtype=torch.float64),
    "recomputed": lambda: tt.GRU(3, 4, 2, recompute=True, dtype=torch.float64),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_model_with_a_layer_is_one_graph_with_the_same_numbers(name: str) -> None:
    model = Model(LAYERS[name]())
    layer, x = model.layer, torch.randn(5, 5, 3, dtype=torch.float64, requires_grad=True)
    parts = [
        torch.randn(layer.num_layers * layer.directions, 5, 4).double().requires_grad_() for _ in layer.torch_state
    ]
    state = parts[0] if len(parts) == 1 else tuple(parts)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    whole = compiled(model, backend=backend)
    mine = gradients(model, whole, x, *parts, given=(x, state))
    assert seen.count("throughtime.recurrent.default") == 1
    for a, b in zip(mine, gradients(model, model, x, *parts, given=(x, state)), strict=True):
        close(a, b)
    with torch.no_grad():
        close(whole(x, state), model(x, state))


def test_lengths_and_clipping_while_backpropagating() -> None:
    layer = tt.LSTM(3, 4, 2, dtype=torch.float64)

    def run(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        output, final = layer.run(x, lengths=lengths, damping=0.1)
        return output, final.s

    x = torch.randn(6, 3, 3, dtype=torch.float64, requires_grad=True)
    whole = compiled(run)
    for lengths in (torch.tensor([2, 6, 0]), torch.tensor([6, 6, 6]), torch.tensor([1, 1, 4])):
        found = []
        for call in (whole, run):
            output, s = call(x, lengths)
            found.append((output, s, *torch.autograd.grad(output.square().sum() + s.sum(), [x, *layer.parameters()])))
        for mine, expected in zip(*found, strict=True):
            close(mine, expected)
    with pytest.raises(CellError, match="from 0 to the 6 steps"):
        whole(x, torch.tensor([7, 1, 1]))


@pytest.mark.parametrize("cell", ["lstm", "own"])
def test_a_cell_is_unrolled_with_its_inside(cell: str) -> None:
    made = Own(3, 4, dtype=torch.float64) if cell == "own" else tt.cells.make(cell, 3, 4, dtype=torch.float64)
    x = torch.randn(6, 3, 3, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, lengths: Tensor) -> list[Tensor]:
        result = tt.unroll(made, x, lengths=lengths)
        return [*result.states.values(), *result.gates.values(), *result.final.values()]

    found = []
    for call in (compiled(run), run):
        values = call(x, torch.tensor([2, 6, 0]))
        loss = sum((value * value.cos()).sum() for value in values)
        found.append((*values, *torch.autograd.grad(loss, [x, *made.parameters()])))
    for mine, expected in zip(*found, strict=True):
        close(mine, expected)


def test_other_sizes_need_no_other_code() -> None:
    layer, made = tt.GRU(3, 4, 2, dtype=torch.float64), 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        nonlocal made
        made += 1
        return graph.forward

    whole = compiled(layer, backend=backend, dynamic=True)
    for steps, batch in ((5, 2), (7, 3), (12, 4)):
        x = torch.randn(steps, batch, 3, dtype=torch.float64)
        for mine, expected in zip(whole(x), layer(x), strict=True):
            close(mine, expected)
    assert made == 1


def test_dropout_between_layers() -> None:
    """As many are dropped as asked for, other ones at each call, and the way back knows which."""
    layer = tt.RNN(3, 64, 2, dropout=0.5, nonlinearity="identity", dtype=torch.float64)
    whole, x = compiled(layer), torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(2)
    first = whole(x)[0]
    torch.manual_seed(2)
    expected = layer(x)[0]
    close(first, expected)
    for mine, theirs in zip(
        *(torch.autograd.grad(output.square().sum(), [x, *layer.parameters()]) for output in (first, expected)),
        strict=True,
    ):
        close(mine, theirs)
    assert not torch.equal(whole(x)[0], first)
    layer.eval()
    close(whole(x)[0], layer(x)[0])
    layer.train()
    for rate in (0.25, 0.0):
        layer.dropout = rate
        torch.manual_seed(2)
        mine = whole(x)[0]
        torch.manual_seed(2)
        close(mine, layer(x)[0])


def test_two_calls_of_one_layer_are_two() -> None:
    layer = tt.GRU(3, 3, dtype=torch.float64)

    def twice(x: Tensor) -> Tensor:
        return layer(layer(x)[0])[0] + layer(x)[0]

    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    found = [torch.autograd.grad(call(x).square().sum(), [x, *layer.parameters()]) for call in (compiled(twice), twice)]
    for mine, expected in zip(*found, strict=True):
        close(mine, expected)


def test_backward_twice_and_the_graph_is_let_go() -> None:
    layer = tt.LSTM(3, 4, dtype=torch.float64)
    layer.weight_hh_l0.requires_grad_(False)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    before = len(opaque._RECORDED)
    loss = compiled(layer)(x)[0].square().sum()
    assert len(opaque._RECORDED) == before + 1
    wanted = [x, layer.weight_ih_l0, layer.bias_hh_l0]
    once = torch.autograd.grad(loss, wanted, retain_graph=True)
    assert all(map(torch.equal, once, torch.autograd.grad(loss, wanted)))
    for mine, expected in zip(once, torch.autograd.grad(layer(x)[0].square().sum(), wanted), strict=True):
        close(mine, expected)
    del loss
    assert len(opaque._RECORDED) == before
    with torch.no_grad():
        compiled(layer)(x)
    assert len(opaque._RECORDED) == before


def test_a_copy_and_a_changed_module_are_served_as_they_are() -> None:
    layer = tt.GRU(3, 4, dtype=torch.float64)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight_hh_l0.zero_()
    whole = compiled(lambda module, x: module(x)[0])
    for module in (layer, other, layer):
        close(whole(module, x), module(x)[0])
    layer.engine = "reference"
    close(whole(layer, x), layer(x)[0])
    layer.load_state_dict(other.state_dict())
    close(whole(layer, x), other(x)[0])


def test_under_autocast_the_numbers_are_those_of_the_parameters() -> None:
    layer = tt.GRU(3, 8)
    x = torch.randn(6, 2, 3)

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x @ torch.eye(3))[0]

    output = compiled(run)(x)
    assert output.dtype == torch.float32
    close(output, layer(x.bfloat16().float())[0])
    output.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())


def test_transforms_within_look_into_the_layer() -> None:
    layer = tt.GRU(3, 4, dtype=torch.float64)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    values = {name: value.detach() for name, value in layer.named_parameters()}

    def slopes(x: Tensor) -> dict[str, Tensor]:
        return grad(lambda values: functional_call(layer, values, (x,))[0].square().sum())(values)

    mine, expected = compiled(slopes)(x), slopes(x)
    for name in values:
        close(mine[name], expected[name])


def test_an_exported_program_holds_the_steps_themselves() -> None:
    """A program goes to other processes, where nobody knows what an operator of this one stands for."""
    layer = tt.GRU(3, 4).eval()
    x = torch.randn(4, 2, 3)
    program = torch.export.export(layer, (x,))
    assert not any("throughtime" in str(node.target) for node in program.graph.nodes)
    close(program.module()(x)[0], layer(x)[0])


def test_an_engine_that_cannot_serve_says_so() -> None:
    layer = tt.GRU(3, 4, reset="before", engine="native")
    with pytest.raises(EngineError, match="no kernel for the cell"):
        compiled(layer)(torch.randn(4, 2, 3))


def test_what_is_drawn_with_graph_breaks_and_other_backends() -> None:
    layer = tt.LSTM(3, 4, dtype=torch.float64)
    x = torch.randn(4, 2, 3, dtype=torch.float64)

    def broken(x: Tensor) -> Tensor:
        x = x.sin()
        torch._dynamo.graph_break()
        return layer(x)[0].cos()

    for backend in ("eager", "aot_eager"):
        output = compiled(broken, fullgraph=False, backend=backend)(x)
        close(output, broken(x))
        for mine, expected in zip(
            torch.autograd.grad(output.sum(), layer.parameters()),
            torch.autograd.grad(broken(x).sum(), layer.parameters()),
            strict=True,
        ):
            close(mine, expected)


@pytest.mark.slow
@pytest.mark.compiler
def test_inductor() -> None:
    """The default backend, which reuses memory where it sees that a number is not needed any more."""
    model = Model(tt.LSTM(3, 4, 2, dtype=torch.float64))
    x = torch.randn(5, 3, 3, dtype=torch.float64, requires_grad=True)
    mine = gradients(model, torch.compile(model, fullgraph=True), x, given=(x,))
    for a, b in zip(mine, gradients(model, model, x, given=(x,)), strict=True):
        close(a, b)
