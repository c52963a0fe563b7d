"""What is found inside a model, under which name, and why something cannot be watched."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import throughtime as tt
from throughtime.errors import FlowError
from throughtime.microscope.finding import find


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.encoder = nn.ModuleDict({"words": nn.GRU(3, 4, bidirectional=True), "marks": tt.RNN(3, 4)})
        self.steps = nn.ModuleList([nn.LSTMCell(8, 4), tt.cells.make("lstm", 8, 4)])
        self.again = self.steps[0]  # known by its first name
        self.head = nn.Linear(4, 2)


NAMES = ["encoder.words", "encoder.marks", "steps.0", "steps.1"]


def names(model: nn.Module) -> list[str]:
    return [name for name, _ in find(model).watchable]


def refused(model: nn.Module) -> str:
    found = find(model)
    assert not found.watchable
    (sentence,) = found.refused
    return sentence


def test_layers_and_cells_under_the_models_own_names() -> None:
    model = Reader()
    modules = dict(model.named_modules())
    assert names(model) == NAMES
    assert all(modules[name] is module for name, module in find(model).watchable)
    assert find(model).refused == ()


def test_wrappers_are_taken_off() -> None:
    model = Reader()
    assert names(nn.DataParallel(model)) == NAMES
    compiled: Any = torch.compile(model, backend="eager")
    assert names(compiled) == NAMES
    model.encoder["words"] = torch.compile(model.encoder["words"], backend="eager")  # type: ignore[assignment]
    assert names(nn.DataParallel(model)) == NAMES


def test_a_name_of_ones_own_that_looks_like_a_wrappers_stays() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.LSTM(2, 3)

    assert names(Wrapper()) == ["module"]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (nn.LSTM(2, 3), "lstm"),
        (nn.GRUCell(2, 3), "grucell"),
        (tt.GRU(2, 3), "gru"),
        (tt.cells.make("elman", 2, 3), "elman"),
    ],
    ids=str,
)
def test_a_layer_alone_has_its_classs_name(model: nn.Module, name: str) -> None:
    assert names(model) == [name]


def test_a_projection() -> None:
    sentence = refused(nn.Sequential(nn.LSTM(3, 4, proj_size=2)))
    assert sentence.startswith("0 (LSTM) cannot be watched: it has a projection (proj_size=2)")


@pytest.mark.parametrize("base", [nn.LSTM, nn.GRUCell, tt.GRU])
def test_a_forward_of_ones_own(base: type[nn.Module]) -> None:
    class Mine(base):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any) -> Any:
            return super().forward(*args)

    sentence = refused(nn.Sequential(Mine(3, 4)))
    assert f"its forward is not that of {base.__name__}" in sentence
    patched: Any = base(3, 4)
    patched.forward = lambda x: x
    assert f"its forward is not that of {base.__name__}" in refused(nn.Sequential(patched))


def test_a_subclass_with_the_same_forward_is_its_base() -> None:
    class Mine(nn.LSTM):
        pass

    class Step(tt.Cell):
        reads = {"carousel": "h"}  # noqa: RUF012
        inputs = ("push",)
        recurrent = ()

        def step(self, u: Any, read: Any, W: Any) -> Any:
            raise NotImplementedError

    assert names(nn.Sequential(Mine(3, 4), Step(3, 4))) == ["0", "1"]


def test_a_cells_forward_of_ones_own() -> None:
    class Step(tt.Cell):
        reads = {"carousel": "h"}  # noqa: RUF012
        inputs = ("push",)
        recurrent = ()

        def step(self, u: Any, read: Any, W: Any) -> Any:
            raise NotImplementedError

        def forward(self, x: Tensor, state: Any = None) -> Any:
            return x

    assert "its forward is not that of Cell" in refused(nn.Sequential(Step(3, 4)))


def test_a_scripted_module() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it is going away
        scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 4)))
    assert refused(scripted).startswith("1 (LSTM) cannot be watched: it is scripted (torch.jit)")


def test_a_quantised_layer() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.nn.quantizable import LSTM

        assert "it is one of quantisation's (torch.ao)" in refused(nn.Sequential(LSTM(3, 4)))


def test_a_parametrisation() -> None:
    sentence = refused(nn.Sequential(parametrizations.orthogonal(nn.GRUCell(4, 4), "weight_hh")))
    assert "made by a parametrisation" in sentence


def test_what_is_no_model() -> None:
    with pytest.raises(FlowError, match=r"looks into a torch\.nn\.Module, not Tensor"):
        find(torch.zeros(2))  # type: ignore[arg-type]


def test_what_has_nothing_recurrent() -> None:
    assert find(nn.Linear(2, 3)) == find(nn.Transformer(8, 2, 1, 1, 8, batch_first=True))
