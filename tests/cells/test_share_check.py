"""A share that looks along time is run on whole sequences alone; one that draws random numbers is not run at all."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import throughtime as tt
from tests.tolerances import close
from throughtime.cells import Cell, Gates, Share, State
from throughtime.cells import cell as contract
from throughtime.errors import CellError
from throughtime.modules import Recurrent

T, B, INPUTS, H = 12, 3, 2, 4


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells made known here are forgotten afterwards."""
    monkeypatch.setattr(contract, "_KNOWN", dict(contract._KNOWN))


class Plain(Cell):
    """f_t = σ(U_f x_t), h_t = f_t ⊙ h_{t-1} + (1 − f_t) ⊙ tanh(U x_t + W h_{t-1})."""

    reads = {"carousel": "h", "candidate": "h"}  # noqa: RUF012
    inputs = ("f", "x")
    recurrent = ("x",)

    def step(self, u, read, W):
        f = torch.sigmoid(u.f)
        return State(h=f * read.carousel + (1 - f) * torch.tanh(u.x + W.x(read.candidate))), Gates(forget=f)


def made(bend, name: str) -> type[Cell]:
    """A cell whose share is bent by a function of itself, the usual share and x."""

    class Bent(Plain, name=name):
        def share(self, x, parameters=None):
            return bend(self, super().share(x, parameters), x)

    return Bent


def _before(u, n=1):
    return Share(f=torch.cat([torch.zeros_like(u.f[:n]), u.f[:-n]]) if len(u.f) > n else torch.zeros_like(u.f), x=u.x)


LOOKING = {
    "step before": (lambda cell, u, x: _before(u), "looks along time"),
    "seven steps before": (lambda cell, u, x: _before(u, 7), "looks along time"),
    "step after": (lambda cell, u, x: Share(f=u.f.roll(-1, 0), x=u.x), "looks along time"),
    "sum so far": (lambda cell, u, x: Share(f=u.f.cumsum(0), x=u.x), "looks along time"),
    "mean of the sequence": (lambda cell, u, x: Share(f=u.f - u.f.mean(0), x=u.x), "looks along time"),
    "sign of the step before": (
        lambda cell, u, x: Share(f=torch.where(x.roll(1, 0).sum(-1, keepdim=True) > 0, u.f, -u.f), x=u.x),
        "looks along time",
    ),
    "number of the step": (
        lambda cell, u, x: Share(f=u.f + torch.arange(len(u.f)).view(-1, *[1] * (u.f.ndim - 1)), x=u.x),
        "depends on where in the sequence",
    ),
    "mean of the batch": (lambda cell, u, x: Share(f=u.f - u.f.mean(-2, keepdim=True), x=u.x), "mixes the sequences"),
}


@pytest.mark.parametrize("case", LOOKING)
def test_share_that_looks_elsewhere_is_refused_where_sequences_are_cut(case: str) -> None:
    bend, says = LOOKING[case]
    kind = made(bend, f"share check {case}")
    cell = kind(INPUTS, H, dtype=torch.float64)
    x = torch.randn(T, B, INPUTS, dtype=torch.float64)
    attempts = (
        lambda: tt.flow.jacobians(cell, x),
        lambda: tt.flow.credit(cell, x, torch.ones(T, B, H, dtype=torch.float64)),
        lambda: tt.unroll(cell, x, recompute=True),
        lambda: tt.unroll(cell, x, lengths=[T, 3, 2]),
        lambda: tt.unroll(cell, x, cell.zero_state(B, x)),
        lambda: cell(x[0]),
        lambda: Recurrent(kind.name, INPUTS, H),
    )
    for attempt in attempts:
        with pytest.raises(CellError, match=says):
            attempt()


def test_share_that_looks_along_time_runs_on_whole_sequences() -> None:
    cell = made(LOOKING["step before"][0], "share check whole")(INPUTS, H, dtype=torch.float64)
    x = torch.randn(T, B, INPUTS, dtype=torch.float64, requires_grad=True)
    result = tt.unroll(cell, x)
    h, usual = torch.zeros(B, H, dtype=torch.float64), Cell.share(cell, x)
    for t in range(T):
        f = torch.sigmoid(usual.f[t - 1] if t else torch.zeros_like(usual.f[0]))
        h = f * h + (1 - f) * torch.tanh(usual.x[t] + F.linear(h, cell.weight_hh, cell.bias_hh))
    close(result.output[-1], h)
    (mine,) = torch.autograd.grad(result.output[-1].sum(), x, retain_graph=True)
    (other,) = torch.autograd.grad(h.sum(), x)
    close(mine, other)


def test_share_of_one_step_is_served_everywhere() -> None:
    kind = made(lambda cell, u, x: Share(f=2 * u.f, x=torch.log(u.x.abs() + 0.1)), "share check one step")
    cell, x = kind(INPUTS, H, dtype=torch.float64), torch.randn(T, B, INPUTS, dtype=torch.float64)
    close(tt.unroll(cell, x, recompute=True, lengths=[T, 3, 2]).output, tt.unroll(cell, x, lengths=[T, 3, 2]).output)
    assert cell(x[0]).h.shape == (B, H)
    not_finite = made(lambda cell, u, x: Share(f=torch.log(u.f), x=u.x), "share check of NaN")  # at half of its inputs
    assert Recurrent(not_finite.name, INPUTS, H).cell.own_share
    assert Recurrent(kind.name, INPUTS, H, num_layers=2)(x.float())[0].shape == (T, B, H)


@pytest.mark.parametrize("p", [0.5, 0.01])
def test_share_that_draws_is_refused(p: float) -> None:
    kind = made(lambda cell, u, x: Share(f=F.dropout(u.f, p, cell.training), x=u.x), f"share check draws {p}")
    cell, x = kind(INPUTS, H), torch.randn(T, B, INPUTS)
    before = torch.get_rng_state()
    for attempt in (lambda: tt.unroll(cell, x), lambda: Recurrent(kind.name, INPUTS, H)):
        with pytest.raises(CellError, match="draws random numbers"):
            attempt()
    assert torch.equal(torch.get_rng_state(), before)
    assert tt.unroll(cell.eval(), x).output.shape == (T, B, H)
