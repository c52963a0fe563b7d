"""Where a cell's parameters start."""

from __future__ import annotations

import math

import pytest
import torch

import throughtime as tt
from tests.laws.variants import VARIANTS, Variant
from tests.tolerances import near
from throughtime import cells
from throughtime.cells import Cell, initialise
from throughtime.errors import CellError

I, H = 3, 64  # noqa: E741


def fresh(name: str, **options) -> tuple[Cell, dict[str, torch.Tensor]]:
    """A template, and tensors of its shapes that it does not own."""
    cell = cells.make(name, I, H, device="meta", **options)
    return cell, {key: torch.full(shape, torch.nan, dtype=torch.float64) for key, shape in cell.shapes().items()}


def together(cell: Cell, parameters: dict[str, torch.Tensor], block: str) -> torch.Tensor:
    """The two biases of a block, added."""
    place = slice(cell.inputs.index(block) * H, (cell.inputs.index(block) + 1) * H)
    return parameters["bias_ih"][place] + parameters["bias_hh"][place]


@pytest.mark.parametrize(("name", "peer"), [("elman", torch.nn.RNN), ("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU)])
def test_the_default_is_torchs_number_for_number(name: str, peer: type) -> None:
    cell = cells.make(name, I, H)
    parameters = {key: torch.empty(shape) for key, shape in cell.shapes().items()}
    torch.manual_seed(7)
    initialise(cell, parameters)
    torch.manual_seed(7)
    for value, expected in zip(parameters.values(), peer(I, H).parameters(), strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_everything_is_drawn_within_its_spread(variant: Variant) -> None:
    cell = variant.make(I, H)
    parameters = {key: torch.full(shape, torch.nan) for key, shape in cell.shapes().items()}
    initialise(cell, parameters, generator=torch.Generator().manual_seed(0))
    again = {key: torch.full(shape, torch.nan) for key, shape in cell.shapes().items()}
    initialise(cell, again, generator=torch.Generator().manual_seed(0))
    for key, value in parameters.items():
        assert value.abs().max() <= cell.spread(key)
        assert value.abs().max() > 0.8 * cell.spread(key)
        assert torch.equal(value, again[key])


@pytest.mark.parametrize("name", ["elman", "taps", "lstm", "lstm-fgr", "gru", "selective-write", "feedforward"])
@pytest.mark.parametrize("recurrent", ["orthogonal", "identity"])
def test_recurrent_matrices(name: str, recurrent: str) -> None:
    cell, parameters = fresh(name)
    initialise(cell, parameters, recurrent=recurrent)
    squares = cell.squares(parameters)
    assert (
        sum(square.numel() for square in squares)
        == parameters["weight_layers" if name == "feedforward" else "weight_hh"].numel()
    )
    eye = torch.eye(H, dtype=torch.float64)
    for square in squares:
        near(square @ square.T, eye)
        assert torch.equal(square, eye) == (recurrent == "identity")
    if len(squares) > 1 and recurrent == "orthogonal":
        assert not torch.allclose(squares[0], squares[1])


@pytest.mark.parametrize("name", ["scalar", "carousel"])
def test_no_recurrent_matrix(name: str) -> None:
    cell, parameters = fresh(name)
    with pytest.raises(CellError, match="no recurrent matrix"):
        initialise(cell, parameters, recurrent="orthogonal")


def test_recurrent_weights_have_two_kinds() -> None:
    cell, parameters = fresh("elman")
    with pytest.raises(CellError, match="orthogonal"):
        initialise(cell, parameters, recurrent="xavier")


@pytest.mark.parametrize(
    ("name", "options", "gate"),
    [
        ("lstm", {}, "forget"),
        ("lstm", {"input_gate": False}, "forget"),
        ("lstm", {"coupled": True}, "forget"),
        ("lstm", {"peephole": True}, "forget"),
        ("lstm-fgr", {}, "forget"),
        ("gru", {}, "update"),
        ("gru", {"reset": "before"}, "update"),
    ],
)
@pytest.mark.parametrize("value", [-1.0, 0.0, 5.0])
def test_forget_bias(name: str, options: dict, gate: str, value: float) -> None:
    """On nothing at all the gate that keeps memory opens to σ(value); the other biases stay as they were drawn."""
    cell, parameters = fresh(name, **options)
    torch.manual_seed(0)
    initialise(cell, parameters)
    before = {key: tensor.clone() for key, tensor in parameters.items()}
    torch.manual_seed(0)
    initialise(cell, parameters, forget_bias=value)
    block = gate if gate in cell.inputs else "input"
    sign = 1 if gate in cell.inputs else -1
    assert torch.equal(together(cell, parameters, block), torch.full((H,), sign * value, dtype=torch.float64))
    nothing = torch.zeros(1, 1, I, dtype=torch.float64)
    opening = tt.unroll(cell, nothing, parameters=parameters, engine="reference").gates[gate]
    assert torch.allclose(opening, torch.tensor(1 / (1 + math.exp(-value)), dtype=torch.float64), rtol=1e-14)
    for other in set(cell.inputs) - {block}:
        assert torch.equal(together(cell, parameters, other), together(cell, before, other))
    for weight in ("weight_ih", "weight_hh"):
        assert torch.equal(parameters[weight], before[weight])


@pytest.mark.parametrize(
    ("name", "options"), [("lstm", {}), ("lstm-fgr", {}), ("gru", {}), ("lstm", {"coupled": True})]
)
def test_chrono(name: str, options: dict) -> None:
    """exp(b) is uniform on 1 … longest − 1, and what keeps in one gate is let in by so much less in the other."""
    cell, parameters = fresh(name, **options)
    longest = 100
    initialise(cell, parameters, chrono=longest, generator=torch.Generator().manual_seed(0))
    (block, sign), *others = cell.clock.items()
    scales = (sign * together(cell, parameters, block)).exp()
    assert scales.min() >= 1 - 1e-6
    assert scales.max() <= longest - 1 + 1e-3
    assert scales.mean() == pytest.approx(longest / 2, rel=0.15)
    for other, opposite in others:
        assert opposite == -sign
        assert torch.equal(together(cell, parameters, other), -together(cell, parameters, block))


def test_chrono_of_the_shortest_lag_is_a_bias_of_nothing() -> None:
    cell, parameters = fresh("lstm")
    initialise(cell, parameters, chrono=2)
    assert torch.equal(together(cell, parameters, "forget"), torch.zeros(H, dtype=torch.float64))


@pytest.mark.parametrize("asked", [{"forget_bias": 1.0}, {"chrono": 10}])
@pytest.mark.parametrize(
    ("name", "options"),
    [("elman", {}), ("taps", {}), ("carousel", {}), ("selective-read", {}), ("lstm", {"forget_gate": False})],
)
def test_no_gate_that_keeps_memory(name: str, options: dict, asked: dict) -> None:
    cell, parameters = fresh(name, **options)
    with pytest.raises(CellError, match=f'cell "{name}".*no gate that keeps memory'):
        initialise(cell, parameters, **asked)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"forget_bias": 1.0, "chrono": 10}, "choose one"),
        ({"chrono": 1}, "2 or more"),
        ({"chrono": math.inf}, "2 or more"),
        ({"forget_bias": math.nan}, "finite"),
    ],
)
def test_what_cannot_be(asked: dict, complaint: str) -> None:
    cell, parameters = fresh("lstm")
    with pytest.raises(CellError, match=complaint):
        initialise(cell, parameters, **asked)


def test_no_bias_to_set() -> None:
    cell, parameters = fresh("lstm", bias=False)
    with pytest.raises(CellError, match="need the cell's biases"):
        initialise(cell, parameters, forget_bias=1.0)


def test_parameters_that_learn_may_be_set() -> None:
    cell = cells.make("lstm", I, H)
    initialise(cell, cell.values(), recurrent="identity", chrono=20)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in cell.parameters())


def test_lecun_inputs_make_preactivations_of_size_one_whatever_their_number():
    for inputs in (1, 7, 200):
        cell = cells.make("lstm", inputs, 300)
        initialise(cell, cell.values(), inputs="lecun")
        u = torch.randn(400, inputs) @ cell.weight_ih.T
        assert abs(float(u.detach().var()) - 1) < 0.25
    layers = cells.make("feedforward", 3, 4)
    with pytest.raises(CellError, match="no input weights"):
        initialise(layers, layers.values(), inputs="lecun")
    with pytest.raises(CellError, match="lecun"):
        initialise(cell, cell.values(), inputs="he")
