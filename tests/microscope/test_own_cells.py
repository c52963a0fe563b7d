"""Cells whose step is unlike torch's: a map's weight used directly, parts made from x alone, constant, or handed on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import throughtime as tt
from tests.tolerances import MEASURE, near
from throughtime.cells import cell as contract
from throughtime.cells.cell import Gates, Read, Share, State, Weights
from throughtime.modules import Recurrent

T, B, I, H = 7, 5, 3, 4  # noqa: E741
Step = Callable[[Share, Read, Weights], tuple[Tensor, Tensor]]
STEPS: dict[str, Step] = {
    "weight": lambda u, r, W: (r.c, torch.tanh(u.v + r.h @ W.v.weight.T + 0.3 * r.c)),
    "weight and bias": lambda u, r, W: (0.5 * r.c + u.v, torch.tanh(r.c + F.linear(r.h, *W.v))),
    "bias": lambda u, r, W: (W.v.bias + 0 * u.v, torch.tanh(u.v + W.v(r.h) + 0.3 * r.c)),
    "bias as it is": lambda u, r, W: (W.v.bias.expand_as(u.v), torch.tanh(u.v + W.v(r.h) + 0.3 * r.c)),
    "diagonal": lambda u, r, W: (0.9 * r.c, torch.tanh(u.v + W.v.weight.diagonal() * r.h + r.c)),
    "normed": lambda u, r, W: (r.c, F.layer_norm(torch.tanh(u.v + W.v(r.h)), (H,))),
    "from x alone": lambda u, r, W: (torch.sigmoid(u.v), torch.tanh(u.v + W.v(r.h) + r.c)),
    "the share itself": lambda u, r, W: (u.v, torch.tanh(u.v + W.v(r.h) + r.c)),
    "constant": lambda u, r, W: (torch.ones_like(u.v) + 0 * u.v, torch.tanh(u.v + W.v(r.h) + 0.3 * r.c)),
    "handed on": lambda u, r, W: (r.c, torch.tanh(u.v + W.v(r.h) + 0.3 * r.c)),
    "the output before": lambda u, r, W: (r.h, torch.tanh(u.v + W.v(r.h) + 0.3 * r.c)),
    "output from x alone": lambda u, r, W: (0.9 * r.c + u.v, torch.tanh(u.v)),
}


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell is known here alone."""
    monkeypatch.setitem(contract._KNOWN, "unlike", Unlike)


class Unlike(tt.Cell):
    parts, reads, inputs = ("c", "h"), {"c": "c", "h": "h"}, ("v",)

    def __init__(self, *sizes: int, way: str = "weight", **options: object) -> None:
        super().__init__(*sizes, options={"way": way}, **options)  # type: ignore[arg-type]
        self.way = STEPS[way]

    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        c, h = self.way(u, read, W)
        return State(c=c, h=h), Gates()


def _by_hand(cell: Unlike, x: Tensor, masked: bool) -> Tensor:
    """‖dL/dz_t‖ in log10 by autograd, the median over sequences; parts that are one tensor are told apart by copies."""
    leaves = torch.zeros(2, T, B, H, dtype=torch.float64, requires_grad=True)
    state, total = cell.zero_state(B, x), x.new_zeros(())
    for t in range(T):
        new = cell(x[t], state)
        new = State(c=new.c + leaves[0, t], h=new.h + leaves[1, t])
        total = total + (t + 1) * new.h.square().sum()
        state = new.map(lambda part, t=t: part * _mask(t)) if masked else new  # type: ignore[misc]
    rows = torch.autograd.grad(total, leaves)[0]
    return rows.movedim(0, -2).flatten(-2).norm(dim=-1).log10().median(-1).values


def _start(x: Tensor) -> State:
    """Zeros that take a gradient, so that autograd knows what a loop does to a part that is handed on."""
    return State(c=x.new_zeros(B, H, requires_grad=True), h=x.new_zeros(B, H, requires_grad=True))


def _mask(t: int) -> Tensor:
    return ((torch.arange(B) + t) % 4 != 0).double().unsqueeze(-1)


@pytest.mark.parametrize("how", ["layer", "loop", "masked loop"])
@pytest.mark.parametrize("way", STEPS)
def test_an_unusual_step_is_measured_as_autograd_has_it(way: str, how: str) -> None:
    x = torch.randn(T, B, I, dtype=torch.float64)
    layer = Recurrent("unlike", I, H, way=way, engine="reference").double()
    cell = Unlike(I, H, way=way).double()
    cell.load_state_dict({name: layer.get_parameter(f"{name}_l0").detach() for name in cell.shapes()})
    weights = torch.arange(1, T + 1).view(T, 1, 1)
    model = layer if how == "layer" else cell
    with tt.watch(model, sequences=None, derivative="boundary") as flow:
        if how == "layer":
            (weights * layer(x)[0].square()).sum().backward()
        else:
            state, total = _start(x), x.new_zeros(())
            for t in range(T):
                state = cell(x[t], state)
                total = total + (t + 1) * state.h.square().sum()
                if how == "masked loop":
                    state = state.map(lambda part, t=t: part * _mask(t))  # type: ignore[misc]
            total.backward()
    assert flow.record.T == T
    near(flow.record.adjoint, _by_hand(cell, x, how == "masked loop"), MEASURE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_that_mixes_its_units_is_watched_in_the_dtype_of_training(dtype: torch.dtype) -> None:
    layer = Recurrent("unlike", I, H, way="weight", engine="reference").to(dtype)
    with tt.watch(layer, thorough=True) as flow:
        layer(torch.randn(T, B, I, dtype=dtype))[0].square().mean().backward()
    assert flow.left_out == ()
    assert flow.record.T == T
