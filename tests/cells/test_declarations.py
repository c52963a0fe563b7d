"""What a cell's class must declare: names that can be used, and every number that a layer is to keep."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import throughtime as tt
from tests.laws.variants import VARIANTS
from tests.tolerances import close
from throughtime.cells import Cell, Gates, State
from throughtime.cells import cell as registry_of
from throughtime.cells.contract import require_parameters_declared
from throughtime.errors import CellError
from throughtime.modules import Recurrent

INPUTS, H = 2, 4


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells made known here are forgotten afterwards."""
    monkeypatch.setattr(registry_of, "_KNOWN", dict(registry_of._KNOWN))


def cell_class(**attributes) -> type[Cell]:
    """An Elman cell, with these attributes in place of its own."""

    def step(self, u, read, W):
        return State(h=torch.tanh(u.a + W.a(read.h))), Gates()

    usual = {"reads": {"h": "h"}, "inputs": ("a",), "step": step}
    return type("Mine", (Cell,), {**usual, **attributes}, name="mine")


METHODS = ("keys", "values", "items", "get", "map")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["part", "port", "block", "gate"])
def test_name_that_a_method_hides_is_refused(kind: str, name: str) -> None:
    def gated(self, u, read, W):
        return State(h=torch.tanh(u.a + W.a(read.h))), Gates(**{name: u.a})

    attributes = {
        "part": {"parts": (name, "h")},
        "port": {"reads": {name: "h"}},
        "block": {"inputs": (name,)},
        "gate": {"step": gated},
    }[kind]
    with pytest.raises(CellError, match=f'cannot be called "{name}"'):
        tt.unroll(cell_class(**attributes)(INPUTS, H), torch.zeros(3, 1, INPUTS))


def test_self_names_a_block_a_port_and_a_gate() -> None:
    def step(self, u, read, W):
        return State(h=torch.tanh(u.self + getattr(W, "self")(read.self))), Gates(self=u.self)  # noqa: B009

    cell = cell_class(reads={"self": "h"}, inputs=("self",), step=step)(INPUTS, H, dtype=torch.float64)
    x = torch.randn(3, 1, INPUTS, dtype=torch.float64)
    close(tt.unroll(cell, x).output, tt.unroll(cell, x, engine="reference").output)
    assert tt.unroll(cell, x).gates["self"].shape == (3, 1, H)


@pytest.mark.parametrize("attribute", ["inputs", "recurrent"])
def test_block_named_twice_is_refused(attribute: str) -> None:
    with pytest.raises(CellError, match='block "a" is named twice'):
        cell_class(**{attribute: ("a", "a")})(INPUTS, H)


@pytest.mark.parametrize("name", ["bias", "weight_ih", "training", "step", "parts", "a.b"])
def test_extra_parameter_with_a_taken_name_is_refused(name: str) -> None:
    with pytest.raises(CellError, match=f'parameter "{re.escape(name)}", and that name is taken'):
        cell_class(extra=lambda self: {name: (H,)})(INPUTS, H)


RETURNS = {
    "State": lambda h: State(h=h),
    "Tensor": lambda h: h,
    "(Tensor, Gates)": lambda h: (h, Gates()),
    "(State, dict)": lambda h: (State(h=h), {}),
    "(State, Gates, int)": lambda h: (State(h=h), Gates(), 1),
    "NoneType": lambda h: None,
}


@pytest.mark.parametrize("returned", RETURNS)
def test_step_result_that_is_no_state_and_gates_is_refused(returned: str) -> None:
    cell = cell_class(step=lambda self, u, read, W: RETURNS[returned](torch.tanh(u.a)))(INPUTS, H)
    x = torch.zeros(3, 1, INPUTS)
    for attempt in (
        lambda: tt.unroll(cell, x),
        lambda: cell(x[0]),
        lambda: tt.flow.jacobians(cell, x),
        lambda: Recurrent("mine", INPUTS, H)(x),
    ):
        with pytest.raises(CellError, match=re.escape(f"returned {returned}; it must return the new state")):
            attempt()


def test_blocks_that_are_all_unbiased_have_no_recurrent_bias() -> None:
    cell = cell_class(unbiased=("a",))(INPUTS, H, dtype=torch.float64)
    assert "bias_hh" not in cell.shapes()
    x = torch.randn(5, 2, INPUTS, dtype=torch.float64)
    h = torch.zeros(2, H, dtype=torch.float64)
    for x_t in x:
        h = torch.tanh(F.linear(x_t, cell.weight_ih, cell.bias_ih) + h @ cell.weight_hh.T)
    for engine in ("auto", "reference"):
        close(tt.unroll(cell, x, engine=engine).output[-1], h)
    close(cell(x[0]).h, tt.unroll(cell, x[:1]).output[0])
    assert tt.flow.jacobians(cell, x).shape == (5, 2, H, H)
    layer = Recurrent("mine", INPUTS, H)
    assert set(layer.state_dict()) == {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0"}
    assert layer(torch.zeros(3, 1, INPUTS))[0].shape == (3, 1, H)


# -- what a layer keeps


def _with(make) -> type[Cell]:
    def __init__(self, *args, **kwargs):
        Cell.__init__(self, *args, **kwargs)
        make(self)

    return cell_class(__init__=__init__)


HELD = {
    "a parameter of its own, gain": lambda cell: setattr(cell, "gain", nn.Parameter(torch.full((H,), 3.0))),
    "a parameter of its own, norm.weight": lambda cell: setattr(cell, "norm", nn.LayerNorm(H)),
    "a buffer, mask": lambda cell: cell.register_buffer("mask", torch.ones(H)),
    "a buffer, norm.running_mean": lambda cell: setattr(cell, "norm", nn.BatchNorm1d(H, affine=False)),
    "a tensor that requires gradients, gain": lambda cell: setattr(cell, "gain", torch.ones(H, requires_grad=True)),
}


@pytest.mark.parametrize("says", HELD)
def test_layer_of_a_cell_that_holds_numbers_of_its_own_is_refused(says: str) -> None:
    kind = _with(HELD[says])
    assert tt.unroll(kind(INPUTS, H), torch.zeros(3, 1, INPUTS)).output.shape == (3, 1, H)
    for make in (
        lambda: Recurrent("mine", INPUTS, H),
        lambda: tt.Net.build(tt.data.load("adding").card, "mine", hidden=H),
    ):
        with pytest.raises(CellError, match=re.escape(f'the cell "mine" holds {says}')):
            make()


def test_layer_of_a_cell_that_sets_a_parameter_in_init_is_refused() -> None:
    def set_it(cell):
        with torch.no_grad():
            cell.bias_ih.fill_(3.0)

    _with(set_it)
    with pytest.raises(CellError, match="sets bias_ih in __init__"):
        Recurrent("mine", INPUTS, H)


def test_start_value_in_reset_parameters_is_kept_in_every_layer() -> None:
    def reset_parameters(self, parameters=None, *, generator=None):
        Cell.reset_parameters(self, parameters, generator=generator)
        nn.init.constant_((self.values() if parameters is None else parameters)["gain"], 3.0)

    def step(self, u, read, W):
        return State(h=torch.tanh(W["gain"] * F.layer_norm(u.a + W.a(read.h), (self.hidden_size,)))), Gates()

    kind = cell_class(reset_parameters=reset_parameters, step=step, extra=lambda self: {"gain": (self.hidden_size,)})
    assert kind(INPUTS, H).gain.tolist() == [3.0] * H
    layer = Recurrent("mine", INPUTS, H, num_layers=2, bidirectional=True)
    gains = {name: value for name, value in layer.named_parameters() if name.startswith("gain")}
    assert len(gains) == 4
    assert all(value.tolist() == [3.0] * H for value in gains.values())
    layer(torch.randn(3, 2, INPUTS))[0].sum().backward()
    assert all(value.grad is not None and bool(value.grad.any()) for value in gains.values())
    again = Recurrent("mine", INPUTS, H, num_layers=2, bidirectional=True)
    with torch.no_grad():
        layer.gain_l1.fill_(0.5)
    again.load_state_dict(layer.state_dict())
    x = torch.randn(3, 2, INPUTS)
    close(again(x)[0], layer(x)[0])


def test_evaluation_mode_reaches_the_cells() -> None:
    def dropping(self, u, read, W):
        return State(h=F.dropout(torch.tanh(u.a + W.a(read.h)), 0.5, self.training)), Gates()

    cell_class(step=dropping)
    layer, x = Recurrent("mine", INPUTS, H, num_layers=2), torch.randn(9, 2, INPUTS)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    model = nn.Sequential(layer).train()
    assert not torch.equal(layer(x)[0], layer(x)[0])
    model.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


def test_module_without_numbers_is_part_of_a_cell() -> None:
    def step(self, u, read, W):
        return State(h=self.act(u.a + W.a(read.h))), Gates()

    def __init__(self, *args, **kwargs):
        Cell.__init__(self, *args, **kwargs)
        self.act = nn.Softsign()

    cell_class(__init__=__init__, step=step)
    assert Recurrent("mine", INPUTS, H)(torch.zeros(3, 1, INPUTS))[0].shape == (3, 1, H)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.name in tt.cells.known()], ids=str)
def test_cells_of_the_package_declare_what_they_hold(variant) -> None:
    def make() -> Cell:
        return tt.cells.make(variant.name, 3, 4, **variant.options)

    require_parameters_declared(make(), make)


OPTIONS = {
    "gain=0.5": ({"gain": 0.5}, None),
    "gain=1": ({"gain": 1}, None),
    "gain=text": ({"gain": "x"}, "gain is a number; got 'x'"),
    "gain=True": ({"gain": True}, "gain is a number; got True"),
    "taps=2": ({"taps": 2}, None),
    "taps=2.5": ({"taps": 2.5}, "taps is a whole number; got 2.5"),
    "limit=None": ({"limit": None}, None),
    "limit=1.5": ({"limit": 1.5}, None),
    "limit=text": ({"limit": "x"}, "limit is a number or None; got 'x'"),
    "word=1": ({"word": 1}, "word is a text; got 1"),
    "plain=0.5": ({"plain": 0.5}, None),
    "plain=text": ({"plain": "x"}, "plain is a number; got 'x'"),
    "free=anything": ({"free": [1]}, None),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_option_value_is_of_its_kind(case: str) -> None:
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        gain: float = 1.0,
        taps: int = 1,
        limit: float | None = None,
        word: str = "a",
        plain=0.1,
        free=None,
        **kwargs,
    ):
        Cell.__init__(self, input_size, hidden_size, **kwargs)

    cell_class(__init__=__init__)
    given, says = OPTIONS[case]
    if says is None:
        tt.cells.make("mine", INPUTS, H, **given)
        return
    with pytest.raises(CellError, match=re.escape(says)):
        tt.cells.make("mine", INPUTS, H, **given)


def test_cell_asked_for_by_its_class_is_refused_with_its_name() -> None:
    kind = cell_class()
    for attempt in (lambda: Recurrent(kind, INPUTS, H), lambda: tt.cells.make(kind, INPUTS, H)):
        with pytest.raises(CellError, match='by its name, not by its class Mine; give "mine"'):
            attempt()
    with pytest.raises(CellError, match="and a cell of your own once its class is made in the same process"):
        Recurrent("other", INPUTS, H)


# -- what is given


def test_lengths_may_be_a_list() -> None:
    lstm, x = tt.LSTM(INPUTS, H), torch.randn(3, 2, INPUTS)
    lengths = torch.tensor([3, 2])
    assert torch.equal(lstm.run(x, lengths=[3, 2])[0], lstm.run(x, lengths=lengths)[0])
    cell = tt.cells.make("gru", INPUTS, H)
    assert torch.equal(tt.unroll(cell, x, lengths=[3, 2]).output, tt.unroll(cell, x, lengths=lengths).output)
    for wrong in ([3], [3, 4], ["a", "b"], [1.5, 2], "32"):
        with pytest.raises(CellError, match="lengths must"):
            lstm.run(x, lengths=wrong)


@pytest.mark.parametrize(("x", "shown"), [(np.zeros((3, 2, INPUTS), np.float32), "numpy.ndarray"), ([[0.0]], "list")])
def test_input_that_is_no_tensor_is_refused(x, shown: str) -> None:
    cell, layer = tt.cells.make("gru", INPUTS, H), tt.GRU(INPUTS, H)
    for attempt in (
        lambda: layer(x),
        lambda: layer.run(x),
        lambda: tt.unroll(cell, x),
        lambda: cell(x),
        lambda: tt.flow.jacobians(cell, x),
        lambda: tt.flow.credit(cell, x, x),
    ):
        with pytest.raises(CellError, match=f"x must be a torch tensor, got {shown}"):
            attempt()
