"""Lyapunov exponents against exact products in many digits, closed forms, and the theory of large random nets."""

from __future__ import annotations

import math
import sys

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import digamma
from torch import Tensor

import throughtime as tt
from tests.flow.oracles import leaves, matrix
from tests.flow.own import HearsItself, Mixing
from tests.laws.variants import VARIANTS, sequence
from tests.tolerances import MEASURE, near
from throughtime.cells import Cell, Gates, State
from throughtime.errors import FlowError
from throughtime.flow.adjoint import checked
from throughtime.flow.linear.trajectory import follow
from throughtime.flow.lyapunov import lyapunov_of
from throughtime.flow.sighting import Sighting

ALL = [*VARIANTS, Mixing, HearsItself]


def named(made) -> str:
    return getattr(made, "__name__", str(made))


def cell_of(made) -> Cell:
    return made.make() if hasattr(made, "make") else made(3, 3, dtype=torch.float64)


def one_step(cell: Cell, x: Tensor, state: State) -> list[Tensor]:
    """J_t for each t, (B, S, S), by autograd, one step at a time."""
    u, W, found = cell.share(x), cell.weights(), []
    for t in range(x.shape[0]):
        start = leaves(state)
        made, _ = cell.advance(u.map(lambda share, t=t: share[t]), start, W)
        found.append(matrix(cell, made, start))
        state = made.map(lambda part: part.detach())
    return found


def volumes(product: mpmath.matrix) -> list[float]:
    """ln of what each column adds to the volume of those before it; −inf where it adds nothing."""
    kept, found = [], []
    for j in range(product.cols):
        rest = product[:, j]
        length = mpmath.norm(rest)
        for _ in range(2):
            for q in kept:
                rest = rest - q * (q.T * rest)[0]
        new = mpmath.norm(rest)
        if new <= length * mpmath.mpf(10) ** -30:
            found.append(-math.inf)
        else:
            kept.append(rest / new)
            found.append(float(mpmath.log(new)))
    return found


@pytest.mark.parametrize("made", ALL, ids=named)
def test_against_the_product_in_many_digits(made) -> None:
    cell = cell_of(made)
    x, state = sequence(cell, steps=12, batch=1)
    jacobians = one_step(cell, x, state)
    with mpmath.workdps(150):
        product = mpmath.eye(cell.state_size)
        after = {}
        for done, J in enumerate(jacobians, 1):
            product = mpmath.matrix(J[0].tolist()) * product
            if done in (4, 12):
                after[done] = np.array(volumes(product))
    with np.errstate(invalid="ignore"):
        expected = (after[12] - after[4]) / 8
    expected[np.isneginf(after[12])] = -np.inf
    expected = -np.sort(-expected)
    near(tt.flow.lyapunov(cell, x, state=state, transient=4), expected, MEASURE)
    near(tt.flow.lyapunov(cell, x, state=state, transient=4, spacing=1), expected, MEASURE)
    near(tt.flow.lyapunov(cell, x, state=state, transient=4, spacing=3), expected, MEASURE)


def test_a_scaled_rotation() -> None:
    """W = g·Q: every direction grows by ln g, to the last digits."""
    cell = tt.cells.make("elman", 1, 16, nonlinearity="identity", bias=False, dtype=torch.float64)
    for g in (0.3, 1.0, 2.5):
        torch.nn.init.orthogonal_(cell.weight_hh)
        cell.weight_hh.data *= g
        record = tt.flow.spectrum(cell, torch.zeros(300, 2, 1, dtype=torch.float64))
        near(record.exponents, np.full(16, math.log(g)))
        near(record.error, np.zeros(16))
        near(record.check, math.log(g), MEASURE)
        assert record.spacing > 10


def test_ten_thousand_steps_of_one_unit() -> None:
    cell = tt.cells.make("elman", 1, 1, nonlinearity="identity", bias=False, dtype=torch.float64)
    torch.nn.init.constant_(cell.weight_hh, 0.25)
    near(tt.flow.lyapunov(cell, torch.zeros(10_000, 1, 1, dtype=torch.float64)), [math.log(0.25)])
    torch.nn.init.constant_(cell.weight_hh, 1e-250)
    near(tt.flow.lyapunov(cell, torch.zeros(30, 1, 1, dtype=torch.float64)), [math.log(1e-250)])


class Given(Cell):
    """h_t = X_t h_{t-1}: the input is the matrix."""

    reads = {"through": "h"}  # noqa: RUF012
    inputs = ("matrix",)
    recurrent = ()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def share(self, x, parameters=None):
        H = self.hidden_size
        return tt.cells.Share(matrix=x.unflatten(-1, (H, H)))

    def step(self, u, read, W):
        return State(h=(u.matrix @ read.through.unsqueeze(-1)).squeeze(-1)), Gates()


def gaussian(steps: int, N: int = 32, g: float = 1.3) -> tuple[Cell, Tensor, np.ndarray]:
    """Iid matrices N(0, g²/N), and λ_i = ln g + ½ [ψ((N − i + 1)/2) + ln(2/N)] (Newman 1986)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(steps, 1, N * N, dtype=torch.float64, generator=generator) * g / math.sqrt(N)
    i = np.arange(1, N + 1)
    theory = math.log(g) + (digamma((N - i + 1) / 2) + math.log(2 / N)) / 2
    return Given(N * N, N, dtype=torch.float64), x, theory


def test_products_of_gaussian_matrices() -> None:
    cell, x, theory = gaussian(2000)
    record = tt.flow.spectrum(cell, x, transient=100)
    off = np.abs(record.exponents - theory)
    assert off.max() < 0.05
    assert (off / record.error).max() < 6  # Student's t with 7 degrees of freedom, 32 of them
    some = tt.flow.lyapunov(cell, x[:500], 3, transient=100)
    assert np.abs(some.numpy() - theory[:3]).max() < 0.05


@pytest.mark.slow
def test_twenty_thousand_gaussian_matrices() -> None:
    cell, x, theory = gaussian(20_000)
    assert np.abs(tt.flow.lyapunov(cell, x, transient=100).numpy() - theory).max() < 0.01


def mean_field(g: float) -> float:
    """λ₁ = ½ ln(g² ⟨sech⁴(σz)⟩) where σ² = g² ⟨tanh²(σz)⟩, z ~ N(0, 1)."""
    nodes = np.linspace(-12, 12, 4001)
    weights = np.exp(-(nodes**2) / 2)
    weights /= weights.sum()
    sigma = g
    for _ in range(3000):
        sigma = g * math.sqrt(weights @ np.tanh(sigma * nodes) ** 2)
    return 0.5 * math.log(g**2 * (weights @ np.cosh(sigma * nodes) ** -4.0))


def chaotic(g: float, N: int, steps: int, seed: int = 0) -> tuple[Cell, Tensor, State]:
    generator = torch.Generator().manual_seed(seed)
    cell = tt.cells.make("elman", 1, N, bias=False, dtype=torch.float64)
    torch.nn.init.normal_(cell.weight_hh, std=g / math.sqrt(N), generator=generator)
    start = torch.randn(1, N, generator=generator, dtype=torch.float64)
    return cell, torch.zeros(steps, 1, 1, dtype=torch.float64), State(h=start)


@pytest.mark.parametrize("g", [1.5, 2.0, 4.0])
def test_chaos_of_a_random_net(g) -> None:
    """x ← J tanh x of 600 units: under the theory of infinitely many, by what so few of them miss (0.01 at most)."""
    theory = mean_field(g)
    cell, x, state = chaotic(g, 600, 1500)
    record = tt.flow.spectrum(cell, x, 1, state=state)
    assert theory - 0.012 < record.exponents[0] < theory + 0.005
    assert abs(record.check - record.exponents[0]) < 4 * record.error[0] + 0.003


def driven(bias: float, H: int = 24, steps: int = 400) -> tuple[Cell, Tensor]:
    generator = torch.Generator().manual_seed(3)
    cell = tt.cells.make("lstm", 4, H, dtype=torch.float64)
    cell.reset_parameters(generator=generator)
    for name in ("bias_ih", "bias_hh"):
        blocks = dict(zip(cell.inputs, getattr(cell, name).data.chunk(4), strict=True))
        blocks["forget"].fill_(bias if name == "bias_ih" else 0.0)
    return cell, torch.randn(steps, 1, 4, generator=generator, dtype=torch.float64)


def test_a_forget_bias_brings_the_largest_to_zero_and_h_alone_cannot_see_it() -> None:
    largest, alone = [], []
    for bias in (0.0, 1.0, 3.0, 5.0):
        cell, x = driven(bias)
        record = tt.flow.spectrum(cell, x, 4)
        largest.append(float(record.exponents[0]))
        assert abs(record.check - largest[-1]) < 0.02
        H, q, total = cell.hidden_size, torch.eye(cell.hidden_size, dtype=torch.float64)[:, :1], 0.0
        for J in tt.flow.jacobians(cell, x)[:, 0, H:, H:]:  # what somebody sees who takes h for the state
            q, r = torch.linalg.qr(J @ q)
            total += math.log(abs(float(r)))
        alone.append(total / len(x))
    assert largest[0] < largest[1] - 0.1 < largest[2] - 0.2
    assert largest[0] < -0.35
    assert largest[2] < largest[3] + 0.005
    assert abs(largest[3]) < 0.01
    assert all(abs(each - alone[0]) < 0.5 and each < -1.5 for each in alone), alone


def test_the_error_is_about_what_other_draws_differ_by() -> None:
    cell = Given(16, 4, dtype=torch.float64)
    x = torch.randn(500, 6, 16, dtype=torch.float64) / 2
    records = [tt.flow.spectrum(cell, x[:, b : b + 1], transient=40) for b in range(6)]
    differ = np.std([r.exponents for r in records], axis=0, ddof=1)
    said = np.mean([r.error for r in records], axis=0)
    assert (differ < 3 * said).all()
    assert (said < 3 * differ).all()
    together = tt.flow.spectrum(cell, x, transient=40)
    near(together.exponents, np.mean([r.exponents for r in records], axis=0), MEASURE)
    assert together.sequences == 6
    assert (together.error < said).all()


# -- what is lost altogether


def test_lost_directions_are_minus_infinity() -> None:
    torch.manual_seed(1)
    cell = tt.cells.make("lstm", 3, 5, output_gate=False, dtype=torch.float64)  # h is made from s alone
    found = tt.flow.lyapunov(cell, torch.randn(60, 2, 3, dtype=torch.float64))
    assert torch.isfinite(found[:5]).all()
    assert torch.isneginf(found[5:]).all()


class Chain(Cell):
    """What comes in is handed down and forgotten after three steps."""

    parts = ("a", "b", "h")
    reads = {"first": "a", "second": "b"}  # noqa: RUF012
    inputs = ("in",)
    recurrent = ()

    def step(self, u, read, W):
        return State(a=u["in"], b=read.first, h=read.second), Gates()


def test_everything_is_lost() -> None:
    cell = Chain(2, 3, dtype=torch.float64)
    record = tt.flow.spectrum(cell, torch.randn(40, 2, 2, dtype=torch.float64))
    assert np.isneginf(record.exponents).all()
    assert np.isnan(record.error).all()
    assert math.isnan(record.check)


def test_dead_units_leave_the_others_as_they_are() -> None:
    """Units 0 and 3 of a relu net are never on: what is left is the net of the others."""
    cell = tt.cells.make("elman", 2, 6, nonlinearity="relu", dtype=torch.float64)
    on = torch.tensor([1, 2, 4, 5])
    with torch.no_grad():
        cell.weight_ih.zero_()
        cell.bias_ih.fill_(5.0)
        cell.bias_ih[[0, 3]] = -50.0
    found = tt.flow.lyapunov(cell, torch.randn(200, 1, 2, dtype=torch.float64))
    moduli = torch.linalg.eigvals(cell.weight_hh.detach()[on][:, on]).abs().log().sort(descending=True).values
    assert torch.isneginf(found[4:]).all()
    assert abs(float(found[:4].sum() - moduli.sum())) < 0.05
    assert abs(float(found[0] - moduli[0])) < 0.05


def test_too_faint_is_not_lost() -> None:
    cell = tt.cells.make("elman", 1, 2, nonlinearity="identity", bias=False, dtype=torch.float64)
    cell.weight_hh.data = torch.tensor([[1.0, 1.0], [0.0, 1e-20]], dtype=torch.float64)
    found = tt.flow.lyapunov(cell, torch.zeros(30, 1, 1, dtype=torch.float64))
    near(found[:1], [0.0])
    assert torch.isnan(found[1])


# -- how it is called


def test_sequences_of_several_lengths() -> None:
    """Each counts by the steps it has; what comes after its end does not."""
    cell = tt.cells.make("gru", 3, 4, dtype=torch.float64)
    x = torch.randn(60, 3, 3, dtype=torch.float64)
    lengths = torch.tensor([60, 35, 8])
    record = tt.flow.spectrum(cell, x, lengths=lengths, transient=10)
    x[35:, 1] = 1e3
    x[8:, 2] = torch.nan
    again = tt.flow.spectrum(cell, x.nan_to_num(), lengths=lengths, transient=10)
    near(record.exponents, again.exponents)
    assert record.sequences == 2
    assert record.steps == 50
    alone = [tt.flow.lyapunov(cell, x[:n, b : b + 1], transient=10) for b, n in ((0, 60), (1, 35))]
    assert float((alone[0] * 50 + alone[1] * 25).sum() / 75) == pytest.approx(record.exponents.sum(), abs=1e-9)


def test_float32_is_measured_in_float64() -> None:
    torch.manual_seed(0)
    single = tt.cells.make("lstm", 3, 8)
    double = tt.cells.make("lstm", 3, 8, dtype=torch.float64)
    double.load_state_dict(single.state_dict())
    x = torch.randn(50, 2, 3)
    drawn = torch.get_rng_state()
    found = tt.flow.lyapunov(single, x)
    assert found.dtype == torch.float64
    near(found, tt.flow.lyapunov(double, x.double()))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert single.weight_hh.dtype == torch.float32
    assert single.weight_hh.grad is None


def test_a_module_and_a_few_exponents() -> None:
    module = tt.GRU(3, 6)
    x = torch.randn(80, 2, 3)
    whole, few = tt.flow.lyapunov(module, x), tt.flow.lyapunov(module, x, k=2)
    assert whole.shape == (6,)
    assert few.shape == (2,)
    assert float((few - whole[:2]).abs().max()) < 0.05  # other directions to start from


def test_what_cannot_be_found() -> None:
    cell, x = tt.cells.make("gru", 3, 4), torch.randn(20, 1, 3)
    with pytest.raises(FlowError, match=r"1\.\.4.*got 5"):
        tt.flow.lyapunov(cell, x, 5)
    with pytest.raises(FlowError, match=r"0\.\.19.*got 20"):
        tt.flow.lyapunov(cell, x, transient=20)
    with pytest.raises(FlowError, match="spacing"):
        tt.flow.lyapunov(cell, x, spacing=0)


def seen(cell: Cell, x: Tensor, lengths: Tensor | None = None) -> Sighting:
    along = follow(cell, x, lengths=lengths)
    return Sighting("recurrent", along, checked(along, torch.zeros_like(along.run.output)), math.nan)


def test_of_a_sighting() -> None:
    cell, x = tt.cells.make("lstm", 3, 8), torch.randn(64, 4, 3)
    record, notes = lyapunov_of(seen(cell, x))
    assert notes == ()
    assert record is not None
    near(record.exponents, tt.flow.lyapunov(cell, x))
    short, notes = lyapunov_of(seen(cell, x[:10]))
    assert short is None
    assert "10 steps" in notes[0]


def test_of_a_sighting_what_is_limited_is_said(monkeypatch) -> None:
    module = sys.modules["throughtime.flow.lyapunov"]  # the name in the package is the function's
    monkeypatch.setattr(module, "_WORK", 2e5)
    monkeypatch.setattr(module, "_LONG", 50)
    cell, x = tt.cells.make("gru", 3, 8), torch.randn(64, 4, 3)
    record, notes = lyapunov_of(seen(cell, x, torch.tensor([40, 64, 60, 64])))
    assert record is not None
    assert (record.sequences, record.steps + record.transient) == (2, 50)
    assert "2 of 4 sequences" in notes[0]
    assert "first 50 of 64" in notes[-1]
