"""What the lectures claim of the simplest recurrences, seen."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from tests.tolerances import near
from throughtime import cells
from throughtime.cells import State


def lone(phi: str, w: float, steps: int, start: float, bias: float = 0.0) -> torch.Tensor:
    """One unit, no input after the start: h_t for t = 1 … steps."""
    cell = cells.make("scalar", 1, 1, nonlinearity=phi, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_self.fill_(w)
        cell.weight_ih.fill_(1.0)
        cell.bias_ih.fill_(bias)
        silence = torch.zeros(steps, 1, 1, dtype=torch.float64)
        return tt.unroll(cell, silence, State(h=torch.full((1, 1), start, dtype=torch.float64))).output.flatten()


@pytest.mark.parametrize("w", [-2.0, 0.5, 0.9, 1.1, 3.0])
def test_a_logistic_unit_forgets_its_start_in_a_few_steps(w: float) -> None:
    high, low = lone("sigmoid", w, 40, 5.0), lone("sigmoid", w, 40, -5.0)
    assert abs(high[-1] - low[-1]) < 1e-2


def test_a_tanh_unit_lingers_near_one_and_saturates_beyond() -> None:
    assert lone("tanh", 0.5, 20, 1.0)[-1] < 1e-5
    assert lone("tanh", 1.0, 20, 1.0)[-1] > 0.2
    settled = lone("tanh", 2.0, 20, 1.0)
    near(settled[-1], torch.tanh(2 * settled[-1]))
    assert settled[-1] > 0.9


def test_a_relu_unit_blows_up_or_dies() -> None:
    assert lone("relu", 1.5, 30, 1.0)[-1] == pytest.approx(1.5**30)
    assert lone("relu", 0.5, 30, 1.0)[-1] == pytest.approx(0.5**30)


def test_the_carousel_hands_the_gradient_back_unchanged() -> None:
    """∂h_t/∂h_{t-1} = I, to the last bit, over a thousand steps."""
    cell = cells.make("carousel", 3, 4, dtype=torch.float64)
    start = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1000, 2, 3, dtype=torch.float64)
    final = tt.unroll(cell, x, State(h=start)).final.h
    direction = torch.randn_like(final)
    (gradient,) = torch.autograd.grad(final, start, direction)
    assert torch.equal(gradient, direction)


def test_the_stages_on_the_way_to_the_lstm() -> None:
    """Each stage is the next one with a gate held open or shut."""
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    write = cells.make("selective-write", 3, 4, dtype=torch.float64)
    read = cells.make("selective-read", 3, 4, dtype=torch.float64)
    lstm = cells.make("lstm", 3, 4, dtype=torch.float64)
    H = 4
    shut, open_ = torch.zeros(H, 3, dtype=torch.float64), torch.full((H,), 1e3, dtype=torch.float64)
    square, nothing = torch.zeros(H, H, dtype=torch.float64), torch.zeros(H, dtype=torch.float64)
    w = {name: value.detach() for name, value in write.values().items()}
    with torch.no_grad():
        read.weight_ih.copy_(torch.cat([shut, w["weight_ih"]]))
        read.weight_hh.copy_(torch.cat([square, w["weight_hh"]]))
        read.bias_ih.copy_(torch.cat([open_, w["bias_ih"]]))
        read.bias_hh.copy_(torch.cat([nothing, w["bias_hh"]]))
        r = {name: value.detach().split(H) for name, value in read.values().items()}
        lstm.weight_ih.copy_(torch.cat([r["weight_ih"][0], shut, *r["weight_ih"][1:]]))
        lstm.weight_hh.copy_(torch.cat([r["weight_hh"][0], square, *r["weight_hh"][1:]]))
        lstm.bias_ih.copy_(torch.cat([r["bias_ih"][0], -open_, *r["bias_ih"][1:]]))
        lstm.bias_hh.copy_(torch.cat([r["bias_hh"][0], nothing, *r["bias_hh"][1:]]))
    outputs = [tt.unroll(cell, x, engine="reference").output for cell in (write, read, lstm)]
    assert torch.allclose(outputs[0], outputs[1], rtol=0, atol=1e-15)
    assert torch.allclose(outputs[1], outputs[2], rtol=0, atol=1e-15)
