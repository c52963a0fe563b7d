"""What a module holds: names, initial values, saving, copying, moving, printing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrizations, prune

import throughtime as tt
from tests.modules.peers import KINDS, example, pair, same
from tests.tolerances import close
from throughtime.errors import CellError
from throughtime.modules import Recurrent

NAMES = ("RNN", "LSTM", "GRU")
SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"num_layers": 3, "bidirectional": True},
    {"num_layers": 2, "bias": False, "batch_first": True},
    {"num_layers": 2, "dropout": 0.25, "bidirectional": True},
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arguments", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_starts_bitwise_as_torch_does(name: str, arguments: dict[str, Any], dtype: torch.dtype) -> None:
    def made(module: Any) -> tuple[nn.Module, float]:
        torch.manual_seed(11)
        return module(4, 6, dtype=dtype, **arguments), float(torch.rand(()))

    (theirs, after_theirs), (ours, after_ours) = made(getattr(nn, name)), made(getattr(tt, name))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    assert after_ours == after_theirs  # and has drawn no more than that
    assert repr(ours) == repr(theirs)
    assert [len(layer) for layer in ours.all_weights] == [len(layer) for layer in theirs.all_weights]
    torch.manual_seed(12)
    theirs.reset_parameters()
    torch.manual_seed(12)
    ours.reset_parameters()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_goes_both_ways(kind: str, tmp_path: Path) -> None:
    theirs, ours = pair(kind, num_layers=2, bidirectional=True)
    ours.reset_parameters()
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours.load_state_dict(load_file(tmp_path / "theirs.safetensors"))
    same(theirs, ours, "batch", *example("batch", theirs))
    ours.reset_parameters()
    save_file(ours.state_dict(), tmp_path / "ours.safetensors")
    theirs.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    same(theirs, ours, "batch", *example("batch", theirs))
    ours.load_state_dict({name: value.clone() + 1 for name, value in theirs.state_dict().items()}, assign=True)
    assert all(torch.equal(a, b + 1) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_peephole_lstm_saves_its_peepholes(tmp_path: Path) -> None:
    ours, again = (tt.LSTM(3, 4, 2, bidirectional=True, peephole=True) for _ in range(2))
    assert ours.weight_ch_l1_reverse.shape == (12,)
    save_file(ours.state_dict(), tmp_path / "weights.safetensors")
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    x = torch.randn(5, 2, 3)
    assert torch.equal(ours(x)[0], again(x)[0])


def test_a_copy_is_its_own() -> None:
    theirs, ours = pair("LSTM", num_layers=2)
    twin = copy.deepcopy(ours)
    x, state = example("batch", theirs)
    same(theirs, twin, "batch", x, state)
    with torch.no_grad():
        twin.weight_hh_l0.zero_()
    assert not torch.equal(twin(x, state)[0], ours(x, state)[0])
    same(theirs, ours, "batch", x, state)
    assert twin.cell is not ours.cell


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_moves_between_dtypes(engine: str) -> None:
    ours = tt.GRU(3, 4, 2, engine=engine)
    x = torch.randn(5, 2, 3)
    expected = ours(x)[0]
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        output, state = copy.deepcopy(ours).to(dtype)(x.to(dtype))
        assert output.dtype == state.dtype == dtype
        assert bool(((output - expected).abs() <= 16 * torch.finfo(dtype).eps + 1e-6).all())
    assert {p.dtype for p in copy.deepcopy(ours).half().double().parameters()} == {torch.float64}


def test_only_parameters_are_registered() -> None:
    ours = tt.LSTM(3, 4, 2)
    assert list(ours.children()) == []
    assert all(p.device.type == "cpu" for p in ours.parameters())
    assert all(p.device.type == "meta" for cell in ours.cells for p in cell.parameters())
    assert [cell.input_size for cell in ours.cells] == [3, 4]
    assert ours.parameters_of(1)["weight_hh"] is ours.weight_hh_l1
    with pytest.raises(CellError, match="no layer 2, direction 0"):
        ours.parameters_of(2)


def test_weights_made_from_others_are_used() -> None:
    """A parametrisation and a pruned weight take a parameter's place; torch.nn's answer is the oracle."""
    theirs, ours = pair("GRU")
    x, state = example("batch", theirs)
    for module in (theirs, ours):
        parametrizations.orthogonal(module, "weight_ih_l0")
        prune.l1_unstructured(module, "weight_hh_l0", 0.5)
    close(ours(x, state)[0], theirs(x, state)[0])


@pytest.mark.parametrize("name", NAMES)
def test_printed(name: str) -> None:
    kind = getattr(tt, name)
    assert repr(kind(3, 4, 2, engine="reference")) == f"{name}(3, 4, num_layers=2, engine='reference')"
    assert repr(tt.LSTM(3, 4, peephole=True)) == "LSTM(3, 4, peephole=True)"
    assert repr(Recurrent("gru", 3, 4, reset="before")) == "Recurrent('gru', 3, 4, reset='before')"


class TestInitialisation:
    def test_forget_bias_is_the_sum_of_both(self) -> None:
        ours = tt.LSTM(3, 4, 2, bidirectional=True, forget_bias=1.5)
        for layer in range(2):
            for direction in range(2):
                p = ours.parameters_of(layer, direction)
                assert torch.equal((p["bias_ih"] + p["bias_hh"])[4:8], torch.full((4,), 1.5))

    def test_orthogonal_in_every_layer(self) -> None:
        ours = tt.GRU(3, 4, 2, recurrent_init="orthogonal", dtype=torch.float64)
        for layer in range(2):
            for square in ours.parameters_of(layer)["weight_hh"].split(4):
                close(square @ square.T, torch.eye(4, dtype=torch.float64))

    def test_identity(self) -> None:
        ours = tt.RNN(3, 4, recurrent_init="identity", nonlinearity="relu")
        assert torch.equal(ours.weight_hh_l0, torch.eye(4))

    def test_chrono_spreads_the_time_scales(self) -> None:
        ours = tt.LSTM(3, 500, chrono=100)
        bias = (ours.bias_ih_l0 + ours.bias_hh_l0).detach()
        assert torch.equal(bias[:500], -bias[500:1000])
        scales = bias[500:1000].exp()
        assert 1 <= scales.min() < 5
        assert 90 < scales.max() <= 99.001

    def test_both_at_once_are_refused(self) -> None:
        with pytest.raises(CellError, match="both set the forget gate"):
            tt.LSTM(3, 4, forget_bias=1.0, chrono=10)
