"""Layers as steps: a deep net against torch's own layers, and the lectures' diagonal net against its closed form."""

from __future__ import annotations

import math

import pytest
import torch

import throughtime as tt
from tests.tolerances import close
from throughtime import cells
from throughtime.cells import State

L, B, H = 6, 4, 3


@pytest.mark.parametrize(("phi", "layer"), [("tanh", torch.nn.Tanh), ("relu", torch.nn.ReLU)])
def test_a_deep_net_is_torchs(phi: str, layer: type[torch.nn.Module]) -> None:
    cell = cells.make("feedforward", L, H, nonlinearity=phi, dtype=torch.float64)
    net = torch.nn.Sequential()
    for weight, bias in zip(cell.weight_layers, cell.bias_layers, strict=True):
        linear = torch.nn.Linear(H, H, dtype=torch.float64)
        linear.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
        net.extend([linear, layer()])
    data = torch.randn(B, H, dtype=torch.float64)
    order = torch.eye(L, dtype=torch.float64).unsqueeze(1).expand(L, B, L)
    result = tt.unroll(cell, order, State(h=data))
    close(result.final.h, net(data))
    result.final.h.square().sum().backward()
    net(data).square().sum().backward()
    close(cell.weight_layers.grad, torch.stack([net[i].weight.grad for i in range(0, 2 * L, 2)]))
    close(cell.bias_layers.grad, torch.stack([net[i].bias.grad for i in range(0, 2 * L, 2)]))


def test_layers_run_in_the_order_that_x_gives() -> None:
    cell = cells.make("feedforward", 2, H, nonlinearity="identity", bias=False, dtype=torch.float64)
    data = torch.randn(B, H, dtype=torch.float64)
    first, second = cell.weight_layers.detach()
    order = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64).unsqueeze(1).expand(2, B, 2)
    close(tt.unroll(cell, order, State(h=data)).final.h, data @ second.T @ first.T)


def test_the_diagonal_deep_linear_net_of_the_lectures() -> None:
    """∂L/∂w11⁽¹⁾ = (ŷ − y) · (the product of the weights above) · x1, for L = ½(y − ŷ)² and a last layer (1, 2)."""
    layers = 8
    cell = cells.make("feedforward", layers, 2, diagonal=True, nonlinearity="identity", bias=False, dtype=torch.float64)
    head = torch.randn(2, dtype=torch.float64)
    x = torch.tensor([[0.7, -1.3]], dtype=torch.float64)
    y = 0.4
    order = torch.eye(layers, dtype=torch.float64).unsqueeze(1)
    guess = tt.unroll(cell, order, State(h=x)).final.h @ head
    (0.5 * (y - guess) ** 2).sum().backward()

    w = cell.weight_layers.detach().tolist()
    products = [math.prod(row[unit] for row in w) for unit in (0, 1)]
    expected_guess = sum(float(head[unit]) * products[unit] * float(x[0, unit]) for unit in (0, 1))
    assert float(guess.detach()) == pytest.approx(expected_guess, rel=1e-14)
    above = math.prod(row[0] for row in w[1:])
    expected = (expected_guess - y) * float(head[0]) * above * float(x[0, 0])
    assert float(cell.weight_layers.grad[0, 0]) == pytest.approx(expected, rel=1e-14)
