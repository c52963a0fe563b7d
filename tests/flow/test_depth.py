"""The gradient by layer of a chain: against autograd, closed forms, and the same net read as a recurrence."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
import throughtime.flow.depth
from tests.tolerances import MEASURE, near
from throughtime import records
from throughtime.cells import State
from throughtime.errors import FlowError
from throughtime.records import DepthRecord

# `tt.flow.depth` is the function
module = sys.modules["throughtime.flow.depth"]


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    made = nn.Linear(len(weight[0]), len(weight), bias=bias is not None, dtype=torch.float64)
    with torch.no_grad():
        made.weight.copy_(torch.tensor(weight, dtype=torch.float64))
        if bias is not None:
            made.bias.copy_(torch.tensor(bias, dtype=torch.float64))
    return made


def summed(output: Tensor) -> Tensor:
    return output.sum()


def squared(output: Tensor) -> Tensor:
    return 0.5 * output.square().sum(-1).mean()


def log10(numbers: Tensor) -> np.ndarray:
    return numbers.detach().log10().numpy()


def norm(layers: list[nn.Module], start: Tensor) -> Tensor:
    """The largest singular value of what the layers do to one sample, (1, …)."""
    jacobian = torch.autograd.functional.jacobian(lambda a: nn.Sequential(*layers)(a.clone()), start)
    return torch.linalg.matrix_norm(jacobian.reshape(-1, start.numel()), 2)


class Residual(nn.Module):
    """x + f(x): a layer that is not of the form φ(W a + b)."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.inner = nn.Linear(units, units)

    def forward(self, a: Tensor) -> Tensor:
        return a + torch.tanh(self.inner(a))


class Diagonal(nn.Module):
    """One weight a unit."""

    def __init__(self, weight: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, a: Tensor) -> Tensor:
        return a * self.weight


def plain() -> list[nn.Module]:
    return [m for n in (5, 4, 6, 3) for m in (nn.Linear({5: 7, 4: 5, 6: 4, 3: 6}[n], n), nn.Tanh())]


CHAINS: dict[str, tuple[Callable[[], list[nn.Module]], Tensor, int]] = {
    "tanh": (plain, torch.randn(6, 7), 4),
    "logistic, then a readout": (
        lambda: [nn.Linear(7, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2)],
        torch.randn(5, 7),
        3,
    ),
    "norms and residuals between": (
        lambda: [nn.Linear(7, 5), nn.LayerNorm(5), nn.ReLU(inplace=True), Residual(5), nn.Linear(5, 3)],
        torch.randn(4, 7),
        5,
    ),
    "pictures": (
        lambda: [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3), nn.Dropout(0.5)],
        torch.randn(3, 1, 6, 6),
        4,
    ),
    "words": (lambda: [nn.Embedding(9, 5), nn.Flatten(), nn.Linear(20, 3)], torch.randint(9, (4, 4)), 3),
    "nested": (
        lambda: [nn.Sequential(nn.Linear(7, 5), nn.Sequential(nn.Tanh(), nn.Linear(5, 5))), nn.ReLU()],
        torch.randn(4, 7),
        2,
    ),
}


def groups(chain: nn.Sequential) -> list[list[nn.Module]]:
    """By hand: a linear map and what follows it up to the next module that is not elementwise."""
    found: list[list[nn.Module]] = []
    flat: list[nn.Module] = []

    def open_(some: nn.Module) -> None:
        for m in some.children():
            open_(m) if type(m) is nn.Sequential else flat.append(m)

    open_(chain)
    for m in flat:
        follows = isinstance(m, nn.Tanh | nn.Sigmoid | nn.ReLU | nn.Flatten | nn.Dropout)
        if follows and found and isinstance(found[-1][0], nn.Linear):
            found[-1].append(m)
        else:
            found.append([m])
    return found


@pytest.mark.parametrize("name", CHAINS)
def test_is_what_autograd_says(name: str) -> None:
    """Kept tensors of one ordinary forward pass, and the Jacobian of the layers above for every sample."""
    make, x, N = CHAINS[name]
    torch.manual_seed(1)
    chain = nn.Sequential(*make())
    record = tt.flow.depth(chain, x, squared)

    double = copy.deepcopy(chain).double().eval()
    layers = [nn.Sequential(*some) for some in groups(double)]
    a = x.double() if x.is_floating_point() else x
    kept = []
    for layer in layers:
        a = layer(a)
        a.retain_grad()
        kept.append(a)
        a = a.clone()
    squared(a).backward()
    assert len(record.layers) == N
    assert record.samples == len(x)
    near(record.gradient, np.array([float(log10(a.grad.norm())) for a in kept]), MEASURE)
    for place, layer in enumerate(layers):
        weights = [p.grad.flatten() for name, p in layer.named_parameters() if not name.endswith("bias")]
        near(record.weights[place], float(log10(torch.cat(weights).norm())) if weights else math.nan, MEASURE)

    gains, steps = np.zeros((N, len(x))), np.zeros((N, len(x)))
    for b in range(len(x)):
        for below in range(N - 1):
            start = kept[below].detach()[b : b + 1]
            gains[below, b] = log10(norm(layers[below + 1 :], start))
            steps[below, b] = log10(norm(layers[below + 1 : below + 2], start))
    near(record.gain, np.median(gains, axis=1), MEASURE)
    near(record.steps, np.median(steps[::-1].cumsum(0)[::-1], axis=1), MEASURE)
    there = ~np.isnan(record.bound)
    assert (record.gain <= record.steps + 1e-12).all()
    assert (record.steps[there] <= record.bound[there] + 1e-12).all()


def test_the_bound_is_gamma_times_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    chain = [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 2), nn.ReLU(), nn.Dropout(0.1)]
    record = tt.flow.depth(chain, torch.randn(2, 3), summed)
    norms = [float(torch.linalg.matrix_norm(chain[i].weight.detach().double(), 2)) for i in (2, 4)]
    near(record.bound, np.log10([norms[0] / 4 * norms[1], norms[1], 1.0]))
    assert record.layers == ("0 Linear + Tanh", "2 Linear + Sigmoid", "4 Linear + ReLU + Dropout")
    assert "dropout was off" in record.left_out[0]


def test_layers_of_another_form_have_no_bound_from_there_down() -> None:
    chain = [nn.Linear(3, 3), nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 3)]
    record = tt.flow.depth(chain, torch.randn(2, 3), summed)
    assert np.isnan(record.bound).tolist() == [True, True, False, False]
    assert np.isfinite(record.steps).all()


# -- the lectures' diagonal deep linear net


def test_the_diagonal_deep_linear_net_to_the_last_digit() -> None:
    """∂L/∂w11⁽¹⁾ = (ŷ − y) · w11⁽ᴸ⁾ … w11⁽²⁾ · x1: by the cell's parameter gradients, and by the chain's record."""
    layers, y, x = 12, 0.4, [0.7, -1.3]
    torch.manual_seed(3)
    cell = tt.cells.make("feedforward", layers - 1, 2, diagonal=True, nonlinearity="identity", bias=False,
                         dtype=torch.float64)  # fmt: skip
    head = torch.tensor([0.8, 0.0], dtype=torch.float64)  # the second unit says nothing: ∂L/∂W⁽¹⁾ is ∂L/∂w11⁽¹⁾ alone
    w = cell.weight_layers.detach().tolist()
    guess = float(head[0]) * math.prod(row[0] for row in reversed(w)) * x[0]
    expected = (guess - y) * float(head[0]) * math.prod(row[0] for row in w[1:]) * x[0]

    order = torch.eye(layers - 1, dtype=torch.float64).unsqueeze(1)
    made = tt.unroll(cell, order, State(h=torch.tensor([x], dtype=torch.float64))).final.h @ head
    (0.5 * (y - made) ** 2).sum().backward()
    assert float(cell.weight_layers.grad[0, 0]) == pytest.approx(expected, rel=1e-15)

    chain = [*(Diagonal(row) for row in w), linear([head.tolist()])]
    record = tt.flow.depth(chain, torch.tensor([x], dtype=torch.float64), lambda guess: (0.5 * (y - guess) ** 2).sum())
    assert record.weights[0] == pytest.approx(math.log10(abs(expected)), rel=1e-15)
    above = [math.prod(row[0] for row in w[n:]) * float(head[0]) for n in range(1, layers - 1)]
    near(record.gain[: layers - 2], np.log10(np.abs(above)))
    near(record.gradient[: layers - 2], np.log10(np.abs((guess - y) * np.array(above))))


def test_a_diagonal_net_keeps_its_units_apart() -> None:
    """With both units: ‖∂L/∂W⁽¹⁾‖ of a diagonal layer is √((g P₁ x₁)² + (g P₂ x₂)²)."""
    w = [[0.9, 1.2], [0.5, -0.8], [1.1, 0.3]]
    head, x, y = [0.8, -0.6], [0.7, -1.3], 0.4
    P = [head[i] * w[1][i] * w[2][i] for i in (0, 1)]
    g = sum(P[i] * w[0][i] * x[i] for i in (0, 1)) - y
    record = tt.flow.depth(
        [*map(Diagonal, w), linear([head])],
        torch.tensor([x], dtype=torch.float64),
        lambda guess: 0.5 * (guess - y) ** 2,
    )
    assert record.weights[0] == pytest.approx(math.log10(math.hypot(g * P[0] * x[0], g * P[1] * x[1])), rel=1e-14)
    assert record.gain[0] == pytest.approx(math.log10(math.hypot(*P)), rel=1e-14)


# -- depth


def test_a_logistic_chain_vanishes_by_a_quarter_a_layer_and_stays_a_number() -> None:
    """One unit a layer, 700 layers: the logarithm of Π w σ'(z), far under what float64 holds."""
    layers, w, b = 700, 0.9, -0.2
    record = tt.flow.depth(
        [m for _ in range(layers) for m in (linear([[w]], [b]), nn.Sigmoid())],
        torch.tensor([[0.3]], dtype=torch.float64),
        summed,
    )
    a, slopes, states = 0.3, [], [0.3]
    for _ in range(layers):
        a = 1 / (1 + math.exp(-(w * a + b)))
        states.append(a)
        slopes.append(math.log10(a * (1 - a)))
    expected = [sum(slope + math.log10(w) for slope in slopes[n:]) for n in range(1, layers + 1)]
    near(record.gradient, np.array(expected))
    near(record.gain, np.array(expected))
    near(record.weights, np.array(expected) + np.array(slopes) + np.log10(states[:-1]))
    near(record.bound, np.arange(layers - 1, -1, -1) * math.log10(w / 4))
    assert record.kept < -400
    assert (record.gradient <= record.bound + 1e-9).all()


@pytest.mark.parametrize("weight", [1e-3, 1e3])
def test_what_leaves_the_range_of_numbers_keeps_its_logarithm(weight: float) -> None:
    """A linear chain at 0: forward nothing happens, backward 500 factors multiply."""
    record = tt.flow.depth([linear([[weight, 0.0], [0.0, weight / 2]]) for _ in range(500)],
                           torch.zeros(2, 2, dtype=torch.float64), lambda y: y[:, 0].sum())  # fmt: skip
    left = np.arange(499, -1, -1) * math.log10(weight)
    near(record.gradient, left + math.log10(math.sqrt(2)))
    for found in (record.gain, record.steps, record.bound):
        near(found, left)
    assert np.isneginf(record.weights).all()  # a true zero: nothing came in


def test_samples_of_very_different_gradients_do_not_lose_each_other() -> None:
    chain = [linear([[1.0]]) for _ in range(3)]
    factors = torch.tensor([[1e-250], [1.0]], dtype=torch.float64)
    x = torch.tensor([[1e250], [0.0]], dtype=torch.float64)
    record = tt.flow.depth(chain, x, lambda y: (factors * y).sum())
    near(record.weights, np.zeros(3))  # 1e-250 · 1e250 of the first sample, nothing of the second
    near(record.gradient, np.zeros(3))


def test_relu_with_he_start_keeps_and_logistic_does_not() -> None:
    torch.manual_seed(0)

    def chain(phi: type[nn.Module]) -> list[nn.Module]:
        made = []
        for _ in range(50):
            made += [nn.Linear(128, 128, bias=False), phi()]
            nn.init.kaiming_normal_(made[-2].weight, nonlinearity="relu")
        return made

    x = torch.randn(16, 128)
    kept = tt.flow.depth(chain(nn.ReLU), x, squared, samples=2)
    lost = tt.flow.depth(chain(nn.Sigmoid), x, squared, samples=2)
    assert abs(kept.kept) < 1.0
    assert lost.kept < 49 * math.log10(0.25 * 2 * math.sqrt(2)) + 1  # at most γ‖W‖ a layer, ‖W‖ about 2√2
    assert (lost.gradient[:-1] - lost.gradient[-1] <= lost.bound[:-1] + 1e-9).all()


def test_a_dead_layer_is_a_true_zero() -> None:
    chain = [linear([[1.0]], [0.0]), linear([[1.0]], [-5.0]), nn.ReLU(), linear([[2.0]], [1.0])]
    record = tt.flow.depth(chain, torch.ones(2, 1, dtype=torch.float64), summed)
    assert np.isneginf(record.gradient).tolist() == [True, False, False]
    assert np.isneginf(record.gain).tolist() == [True, False, False]
    assert record.kept == -math.inf


def test_a_module_that_stands_twice_has_its_share_at_each_place() -> None:
    torch.manual_seed(0)
    one, x = nn.Linear(3, 3, bias=False, dtype=torch.float64), torch.randn(1, 3, dtype=torch.float64)
    record = tt.flow.depth([one, nn.Tanh(), one], x, summed)
    W = one.weight.detach()
    a = torch.tanh(W @ x[0])
    shares = [torch.outer((1 - a**2) * W.sum(0), x[0]), torch.outer(torch.ones(3, dtype=torch.float64), a)]
    near(record.weights, [float(log10(share.norm())) for share in shares])


# -- the same net as a recurrence


@pytest.mark.parametrize("phi", ["tanh", "sigmoid", "relu"])
def test_is_the_feedforward_cell_read_as_a_chain(phi: str) -> None:
    L, B, H = 9, 3, 4
    torch.manual_seed(2)
    cell = tt.cells.make("feedforward", L, H, nonlinearity=phi, dtype=torch.float64)
    order = torch.eye(L, dtype=torch.float64).unsqueeze(1).expand(L, B, L)
    start = torch.randn(B, H, dtype=torch.float64)
    chain: list[nn.Module] = []
    for weight, bias in zip(cell.weight_layers.tolist(), cell.bias_layers.tolist(), strict=True):
        chain += [linear(weight, bias), {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}[phi]()]
    record = tt.flow.depth(chain, start, squared)

    output = tt.unroll(cell, order, State(h=start)).output.detach()
    delta = tt.flow.direct(lambda h: squared(h[-1]), output)
    adjoint = tt.flow.adjoint(cell, order, delta, state=State(h=start))
    near(record.gradient, log10(adjoint.flatten(1).norm(dim=1)))
    # The cell's record counts back from the last layer.
    bounds = tt.flow.bounds(cell, order, State(h=start), lags=range(L))
    for found, expected in ((record.gain, bounds.gain), (record.steps, bounds.steps), (record.bound, bounds.globally)):
        near(found[::-1], expected)
    squared(tt.unroll(cell, order, State(h=start)).final.h).backward()
    near(record.weights, log10(cell.weight_layers.grad.flatten(1).norm(dim=1)))


# -- what it leaves alone, and what it says


def test_the_chain_and_the_random_numbers_stay_as_they_are() -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    chain(torch.randn(8, 4)).sum().backward()
    chain[0].weight.requires_grad_(False)
    x = torch.randn(8, 4)
    before = copy.deepcopy(chain.state_dict())
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in chain.named_parameters()}
    state = torch.get_rng_state()
    record = tt.flow.depth(chain, x, squared)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in chain.state_dict().items())
    for name, p in chain.named_parameters():
        assert p.dtype == torch.float32
        assert (p.grad is None) == (gradients[name] is None)
        assert p.grad is None or torch.equal(p.grad, gradients[name])
    assert not chain[0].weight.requires_grad
    assert chain.training
    assert chain[2].training
    assert np.isfinite(record.weights).tolist() == [True, True, False, True]
    assert np.isfinite(record.gradient).all()


def test_samples_are_limited_openly(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, x = [nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)], torch.randn(40, 6)
    assert tt.flow.depth(chain, x, squared).samples == 32
    assert tt.flow.depth(chain, x, squared, samples=3).samples == 3
    assert tt.flow.depth(chain, x, squared, samples=100).samples == 40
    monkeypatch.setattr(module, "_BUDGET", 2 * 6 * 6 * 18)
    few = tt.flow.depth(chain, x, squared)
    assert few.samples == 2
    assert few.left_out == ("Jacobians of more than 2 of the 40 samples: these layers are wide.",)


def test_a_layer_too_wide_for_its_jacobian_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST", 20)
    chain, x = [nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 2)], torch.randn(3, 3)
    record = tt.flow.depth(chain, x, squared)
    assert np.isnan(record.gain).tolist() == [True, False, False, False]
    assert np.isnan(record.steps).tolist() == [True, False, False, False]
    assert np.isfinite(record.gradient).all()
    assert "layer 1 Linear" in record.left_out[0]


def test_the_record_goes_to_a_file_and_back(tmp_path) -> None:
    record = tt.flow.depth([nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)], torch.randn(2, 3), squared, name="two")
    records.write(record, tmp_path / "depth.npz")
    again = records.read(DepthRecord, tmp_path / "depth.npz")
    assert (again.layers, again.chain, again.samples, again.loss) == (record.layers, "two", 2, record.loss)
    near(again.gradient, record.gradient)


@pytest.mark.gpu
def test_is_the_same_on_a_cuda_device() -> None:
    chain, x = nn.Sequential(*plain()), torch.randn(6, 7)
    here = tt.flow.depth(chain, x, squared)
    there = tt.flow.depth(copy.deepcopy(chain).cuda(), x.cuda(), squared)
    for name in ("gradient", "weights", "gain", "steps", "bound"):
        near(getattr(there, name), getattr(here, name), MEASURE)


class Draws(nn.Module):
    def forward(self, a: Tensor) -> Tensor:
        return torch.nn.functional.dropout(a)  # on in evaluation mode, too


class Pair(nn.Module):
    def forward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        return a, a


SQUARE = nn.Linear(3, 3)
HUGE = linear([[1e200]])


@pytest.mark.parametrize(
    ("chain", "x", "loss", "says"),
    [
        (nn.LSTM(3, 3), torch.ones(2, 3), summed, "does not say in which order"),
        ([], torch.ones(2, 3), summed, "no layer"),
        ([SQUARE, torch.tanh], torch.ones(2, 3), summed, "functions have modules"),
        ([SQUARE, Pair()], torch.ones(2, 3), summed, r"layer 1 Pair puts out tuple"),
        ([SQUARE, Draws()], torch.ones(2, 3), summed, "draws random numbers"),
        ([SQUARE, nn.BatchNorm1d(3, track_running_stats=False)], torch.randn(4, 3), summed, "in other company"),
        ([SQUARE, nn.Flatten(0)], torch.ones(2, 3), summed, "a row for each sample"),
        ([SQUARE], torch.ones(0, 3), summed, "at least one"),
        ([HUGE, HUGE, HUGE], torch.ones(1, 1), summed, "layer 1 Linear puts out is not finite"),
        ([SQUARE], torch.ones(2, 3), lambda y: y, "one finite number"),
        ([SQUARE], torch.ones(2, 3), lambda y: y.sum() * math.nan, "one finite number"),
        ([SQUARE], torch.ones(2, 3), lambda y: torch.zeros(()), "does not depend"),
        ([SQUARE], torch.ones(2, 3), lambda y: SQUARE.weight.sum(), "does not depend"),
        ([SQUARE], torch.ones(2, 3), lambda y: (y @ torch.ones(3)).sum(), "float64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_chain_is_refused(chain, x, loss, says: str) -> None:
    with pytest.raises(FlowError, match=says):
        tt.flow.depth(chain, x, loss)


def test_samples_must_be_some() -> None:
    with pytest.raises(FlowError, match="at least 1"):
        tt.flow.depth([SQUARE], torch.ones(1, 3), summed, samples=0)
