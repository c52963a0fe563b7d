"""One clear error for each thing that does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import throughtime as tt
from throughtime.cells import State
from throughtime.errors import CellError, EngineError
from throughtime.modules import Recurrent


@pytest.mark.parametrize(
    ("arguments", "keywords", "says"),
    [
        ((0, 4), {}, "input_size must be a whole number"),
        ((3, 4.0), {}, "hidden_size must be a whole number"),
        ((3, 4, 0), {}, "num_layers must be a whole number"),
        ((3, 4, True), {}, "num_layers must be a whole number"),
        ((3, 4, 1, "tanh"), {}, "bias must be True or False.*by keyword"),
        ((3, 4), {"batch_first": 1}, "batch_first must be True or False"),
        ((3, 4, 2), {"dropout": 1.5}, "dropout must be a probability"),
        ((3, 4, 2), {"dropout": "0.5"}, "dropout must be a probability"),
        ((3, 4), {"proj_size": 2}, "no projections"),
        ((3, 4), {"peephol": True}, "peephol"),
        ((3, 4), {"coupled": True, "input_gate": False}, "coupled gates"),
        ((3, 4), {"squash": "relu"}, "relu"),
    ],
)
def test_arguments(arguments: tuple[Any, ...], keywords: dict[str, Any], says: str) -> None:
    with pytest.raises(CellError, match=says):
        tt.LSTM(*arguments, **keywords)


def test_engine_that_is_not_there() -> None:
    with pytest.raises(EngineError, match='no engine is named "fast"; there is auto, cpu, native, triton, reference'):
        tt.LSTM(3, 4, engine="fast")


def test_cell_that_is_not_there() -> None:
    with pytest.raises(CellError, match='no cell is named "lstn"'):
        Recurrent("lstn", 3, 4)


def test_dropout_that_does_nothing_is_said() -> None:
    with pytest.warns(UserWarning, match="num_layers is 1: nothing is dropped") as caught:
        tt.GRU(3, 4, dropout=0.5)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("x", "hx", "says"),
    [
        (torch.zeros(5, 2, 4), None, "last dimension of x must be input_size=3"),
        (torch.zeros(5), None, "3 dimensions"),
        (torch.zeros(1, 5, 2, 3), None, "3 dimensions"),
        (torch.zeros(5, 2, 3, dtype=torch.float64), None, "x is torch.float64 and the parameters are torch.float32"),
        (torch.zeros(5, 2, 3, device="meta"), None, "x is on meta and the parameters on cpu"),
        (torch.zeros(5, 2, 3), torch.zeros(2, 2, 4), "a tuple \\(h_0, c_0\\), got Tensor"),
        (torch.zeros(5, 2, 3), (torch.zeros(2, 2, 4),), "a tuple"),
        (torch.zeros(5, 2, 3), (torch.zeros(2, 2, 4), 1.0), "a tuple"),
        (torch.zeros(5, 2, 3), (torch.zeros(2, 3, 4), torch.zeros(2, 2, 4)), '"h".*\\(2, 2, 4\\), got \\(2, 3, 4\\)'),
        (torch.zeros(5, 2, 3), (torch.zeros(2, 2, 4), torch.zeros(1, 2, 4)), '"s".*\\(2, 2, 4\\), got \\(1, 2, 4\\)'),
        (torch.zeros(5, 2, 3), (torch.zeros(2, 4), torch.zeros(2, 4)), "\\(2, 2, 4\\), got \\(2, 4\\)"),
        (torch.zeros(5, 3), (torch.zeros(2, 1, 4), torch.zeros(2, 1, 4)), "one sequence"),
        (torch.zeros(5, 2, 3), (torch.zeros(2, 2, 4), torch.zeros(2, 2, 4).double()), '"s".*torch.float64'),
    ],
)
def test_inputs(x: torch.Tensor, hx: Any, says: str) -> None:
    with pytest.raises(CellError, match=says):
        tt.LSTM(3, 4, 2)(x, hx)


def test_packed_inputs() -> None:
    packed = pack_padded_sequence(torch.zeros(5, 2, 3), torch.tensor([2, 5]), enforce_sorted=False)
    with pytest.raises(CellError, match="\\(1, 2, 4\\), got \\(1, 3, 4\\)"):
        tt.GRU(3, 4)(packed, torch.zeros(1, 3, 4))
    with pytest.raises(CellError, match="input_size=2"):
        tt.GRU(2, 4)(packed)


def test_states_of_a_plain_module() -> None:
    module, x = Recurrent("lstm", 3, 4), torch.zeros(5, 2, 3)
    part = torch.zeros(1, 2, 4)
    with pytest.raises(CellError, match="a State of s, h, got tuple"):
        module(x, (part, part))
    with pytest.raises(CellError, match="must have the parts s, h, got h"):
        module(x, State(h=part))
    output, final = module(x, State(h=part, s=part))  # in any order
    assert tuple(final) == ("s", "h")
    assert output.shape == (5, 2, 4)


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        ([5, 2, 1], "lengths must be \\(2,\\)"),
        ([5, 6], "lengths must lie from 0 to the 5 steps of x, got 5 to 6"),
        ([5, -1], "got -1 to 5"),
        ([5.0, 2.0], "whole numbers"),
        ([True, False], "whole numbers"),
    ],
)
def test_lengths(lengths: list[Any], says: str) -> None:
    with pytest.raises(CellError, match=says):
        tt.GRU(3, 4).run(torch.zeros(5, 2, 3), lengths=torch.tensor(lengths))


def test_run_wants_batches() -> None:
    with pytest.raises(CellError, match="x must be \\(T, B, 3\\)"):
        tt.GRU(3, 4).run(torch.zeros(5, 3))


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(("steps", "batch"), [(0, 2), (3, 0)])
def test_nothing_to_run_answers_nothing(name: str, steps: int, batch: int) -> None:
    """Torch.nn refuses a sequence of no steps; here it leaves the state as it was."""
    module = getattr(tt, name)(3, 4, bidirectional=True)
    output, final = module(torch.zeros(steps, batch, 3))
    assert output.shape == (steps, batch, 8)
    assert all(part.shape == (2, batch, 4) and not part.any() for part in (final if name == "LSTM" else (final,)))


def test_natives_own_errors_name_the_reason() -> None:
    with pytest.raises(EngineError, match=r'cannot serve here.*no kernel for the cell "lstm" with these'):
        tt.LSTM(3, 4, peephole=True, engine="native")(torch.zeros(5, 2, 3))
