"""What torch.nn has not: the options' equations against loops written out here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import throughtime as tt
from tests.serving import first
from tests.tolerances import close
from throughtime.modules import Recurrent

T, B, I, H = 6, 3, 4, 5  # noqa: E741
PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda a: a,
}


def check(ours: torch.nn.Module, expected: Callable[[dict[str, Tensor], Tensor], Tensor]) -> None:
    """Output and gradients of a one-layer module equal the loop's."""
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    p = dict(ours.named_parameters())
    leaves = [x, *p.values()]
    mine, theirs = ours(x)[0], expected(p, x)
    close(mine, theirs)
    weights = torch.randn_like(mine)
    for a, b in zip(
        torch.autograd.grad((weights * mine).sum(), leaves, allow_unused=True, materialize_grads=True),
        torch.autograd.grad((weights * theirs).sum(), leaves, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        close(a, b)


@pytest.mark.parametrize("nonlinearity", ["sigmoid", "identity"])
def test_rnn_nonlinearity(nonlinearity: str) -> None:
    def loop(p: dict[str, Tensor], x: Tensor) -> Tensor:
        h, out = x.new_zeros(B, H), []
        for x_t in x:
            a = x_t @ p["weight_ih_l0"].T + p["bias_ih_l0"] + h @ p["weight_hh_l0"].T + p["bias_hh_l0"]
            h = PHI[nonlinearity](a)
            out.append(h)
        return torch.stack(out)

    ours = tt.RNN(I, H, nonlinearity=nonlinearity, dtype=torch.float64)
    check(ours, loop)
    assert ours.served == first("reference")


@pytest.mark.parametrize(
    ("candidate", "squash", "peephole"),
    [("tanh", "tanh", True), ("sigmoid", "sigmoid", False), ("tanh", "identity", False), ("sigmoid", "tanh", True)],
)
def test_lstm_with_peepholes_and_other_functions(candidate: str, squash: str, peephole: bool) -> None:
    def loop(p: dict[str, Tensor], x: Tensor) -> Tensor:
        s, h, out = x.new_zeros(B, H), x.new_zeros(B, H), []
        w_i, w_f, w_o = p["weight_ch_l0"].reshape(3, H) if peephole else x.new_zeros(3, H)
        for x_t in x:
            a = x_t @ p["weight_ih_l0"].T + p["bias_ih_l0"] + h @ p["weight_hh_l0"].T + p["bias_hh_l0"]
            a_i, a_f, a_c, a_o = a.split(H, dim=-1)
            i, f = torch.sigmoid(a_i + w_i * s), torch.sigmoid(a_f + w_f * s)
            s = f * s + i * PHI[candidate](a_c)
            h = torch.sigmoid(a_o + w_o * s) * PHI[squash](s)
            out.append(h)
        return torch.stack(out)

    ours = tt.LSTM(I, H, candidate=candidate, squash=squash, peephole=peephole, dtype=torch.float64)
    check(ours, loop)
    assert ours.served == first("reference")
    if peephole:
        assert ours.weight_ch_l0.shape == (3 * H,)


@pytest.mark.parametrize("reset", ["before", "after"])
@pytest.mark.parametrize("candidate", ["tanh", "sigmoid"])
def test_gru_arrangements(reset: str, candidate: str) -> None:
    def loop(p: dict[str, Tensor], x: Tensor) -> Tensor:
        h, out = x.new_zeros(B, H), []
        W_r, W_z, W_c = p["weight_hh_l0"].split(H)
        b_r, b_z, b_c = p["bias_hh_l0"].split(H)
        for x_t in x:
            u_r, u_z, u_c = (x_t @ p["weight_ih_l0"].T + p["bias_ih_l0"]).split(H, dim=-1)
            r, z = torch.sigmoid(u_r + h @ W_r.T + b_r), torch.sigmoid(u_z + h @ W_z.T + b_z)
            recalled = (r * h) @ W_c.T + b_c if reset == "before" else r * (h @ W_c.T + b_c)
            h = z * h + (1 - z) * PHI[candidate](u_c + recalled)
            out.append(h)
        return torch.stack(out)

    ours = tt.GRU(I, H, reset=reset, candidate=candidate, dtype=torch.float64)
    check(ours, loop)
    assert ours.served == first("native" if (reset, candidate) == ("after", "tanh") else "reference")


def test_gates_that_are_not_there_and_gates_that_are_tied() -> None:
    def loop(p: dict[str, Tensor], x: Tensor) -> Tensor:
        s, h, out = x.new_zeros(B, H), x.new_zeros(B, H), []
        for x_t in x:
            a = x_t @ p["weight_ih_l0"].T + p["bias_ih_l0"] + h @ p["weight_hh_l0"].T + p["bias_hh_l0"]
            a_i, a_c = a.split(H, dim=-1)
            i = torch.sigmoid(a_i)
            s = (1 - i) * s + i * torch.tanh(a_c)
            h = torch.tanh(s)
            out.append(h)
        return torch.stack(out)

    check(tt.LSTM(I, H, coupled=True, output_gate=False, dtype=torch.float64), loop)


@pytest.mark.parametrize("name", tt.cells.known())
def test_every_known_cell_makes_a_module(name: str) -> None:
    """Two layers, both ways, different lengths: each sequence alone is the oracle, forward and backward."""
    module = Recurrent(name, I, H, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([2, 6, 1])
    output, final = module.run(x, lengths=lengths)
    alone = [module(x[:length, b]) for b, length in enumerate(lengths)]
    for b, (mine, last) in enumerate(alone):
        close(output[: lengths[b], b], mine)
        assert not output[lengths[b] :, b].any()
        for part in module.cell.parts:
            close(final[part][:, b], last[part])
    (together,) = torch.autograd.grad(output.square().sum(), x)
    (apart,) = torch.autograd.grad(sum(mine.square().sum() for mine, _ in alone), x)
    close(together, apart)
    assert set(module.parameters_of(1, 1)) == set(module.cell.shapes())


def test_damping_limits_each_step_and_leaves_small_gradients() -> None:
    module = tt.RNN(I, H, 2, bidirectional=True, nonlinearity="identity", dtype=torch.float64)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(3 * torch.eye(H, dtype=torch.float64) if "weight_hh" in name else value)
    x = torch.randn(40, B, I, dtype=torch.float64, requires_grad=True)
    h0 = torch.zeros(4, B, H, dtype=torch.float64, requires_grad=True)

    def gradient(damping: float | None) -> Tensor:
        output, _ = module.run(x, tt.cells.State(h=h0), damping=damping)
        return torch.autograd.grad(output.square().sum(), h0)[0]

    free = gradient(None)
    assert free.norm(dim=-1).max() > 1e6
    # The first layer's state gets its gradient through one damped step: at most ‖W‖ · damping = 3 · 0.5.
    assert gradient(0.5).norm(dim=-1).max() <= 1.5 * (1 + 1e-12)
    close(gradient(1e90), free)
