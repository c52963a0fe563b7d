"""Gates and saturation, from gates whose openings are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import throughtime as tt
from tests.tolerances import near
from throughtime.cells import Cell


def still(name: str, biases: dict[str, float], **options) -> Cell:
    """A cell whose pre-activations are its biases alone."""
    cell = tt.cells.make(name, 1, 4, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        for block, bias in zip(cell.inputs, cell.bias_ih.view(-1, 4), strict=True):
            bias.copy_(torch.tensor(biases.get(block, 0.0)))
    return cell


def test_openings_by_step_and_unit() -> None:
    cell = still("lstm", {"input": -5.0, "forget": 5.0, "candidate": -3.0})
    with torch.no_grad():
        cell.bias_ih.view(4, 4)[3] = torch.tensor([-9.0, 0.0, 0.0, 9.0])
    found = tt.flow.gates(cell, torch.zeros(6, 2, 1, dtype=torch.float64), lengths=torch.tensor([4, 2]))
    assert set(found) == {"input", "forget", "candidate", "output"}
    near(found["forget"].mean[:4], 1 / (1 + np.exp(-5.0)))
    assert np.isnan(found["forget"].mean[4:]).all()
    assert found["forget"].high[:4].tolist() == [1.0] * 4
    assert found["input"].low[:4].tolist() == [1.0] * 4
    assert found["candidate"].low[:4].tolist() == [1.0] * 4  # tanh: under −0.9
    assert found["output"].low[:4].tolist() == found["output"].high[:4].tolist() == [0.25] * 4
    near(found["output"].unit_mean, 1 / (1 + np.exp([9.0, 0.0, 0.0, -9.0])))


def test_a_logistic_candidate_is_nearly_shut_near_zero() -> None:
    cell = still("gru", {"candidate": -1.0}, candidate="sigmoid")
    found = tt.flow.gates(cell, torch.zeros(2, 1, 1, dtype=torch.float64))
    assert found["candidate"].low.tolist() == [0.0, 0.0]  # 0.27 is not under 0.1; as a tanh's −0.9 it never would be


def test_saturation_is_where_the_slope_is_under_a_tenth() -> None:
    x = torch.zeros(3, 1, 1, dtype=torch.float64)
    # σ'(a) = 0.025 at a = ±3.64; tanh'(a) = 0.1 at a = ±1.82.
    found = tt.flow.saturation(still("lstm", {"input": 3.6, "forget": 3.7, "candidate": -1.9, "output": -3.7}), x)
    assert found == {"input": 0.0, "forget": 1.0, "candidate": 1.0, "output": 1.0}
    assert tt.flow.saturation(still("elman", {"hidden": 1.75}), x) == {"h": 0.0}
    assert tt.flow.saturation(still("elman", {"hidden": -1.9}), x) == {"h": 1.0}
    assert tt.flow.saturation(still("elman", {"hidden": -0.1}, nonlinearity="relu"), x) == {"h": 1.0}
    assert tt.flow.saturation(still("elman", {"hidden": 50.0}, nonlinearity="identity"), x) == {"h": 0.0}


def test_gates_without_limits_are_not_called_saturated() -> None:
    cell = tt.cells.make("carousel", 1, 4, nonlinearity="relu")
    x = torch.randn(3, 2, 1)
    assert tt.flow.saturation(cell, x) == {}
    assert set(tt.flow.gates(cell, x)) == {"candidate"}


def test_steps_past_an_end_do_not_count() -> None:
    cell = tt.cells.make("elman", 1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.constant_(cell.weight_ih, 1.0)
    torch.nn.init.zeros_(cell.weight_hh)
    x = torch.tensor([[0.0], [9.0]], dtype=torch.float64).unsqueeze(1)
    assert tt.flow.saturation(cell, x) == {"h": pytest.approx(0.5)}
    assert tt.flow.saturation(cell, x, lengths=torch.tensor([1])) == {"h": 0.0}
