"""All-pairs credit against fresh leaves, kept tensors, closed forms; limits and lengths."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch

import throughtime as tt
from tests.flow.oracles import boundary_credit, from_step, gradients
from tests.flow.own import Apart, HearsItself, Mixing
from tests.laws.variants import VARIANTS, sequence
from tests.tolerances import MEASURE, close, near
from throughtime.cells import Cell, State
from throughtime.errors import FlowError

DOUBLE = torch.float64


@pytest.fixture(params=[*VARIANTS, Mixing, HearsItself], ids=lambda p: getattr(p, "__name__", str(p)))
def cell(request: pytest.FixtureRequest) -> Cell:
    torch.manual_seed(1)
    return request.param(3, 3, dtype=DOUBLE) if request.param in (Mixing, HearsItself) else request.param.make()


def random_delta(cell: Cell, x: torch.Tensor) -> torch.Tensor:
    return torch.randn(*x.shape[:2], cell.hidden_size, dtype=x.dtype)


def test_boundary_against_fresh_leaves_at_every_step(cell: Cell) -> None:
    x, state = sequence(cell)
    delta = random_delta(cell, x)
    record = tt.flow.credit(cell, x, delta, state=state)
    expected = boundary_credit(cell, x, state, delta)
    close(torch.from_numpy(record.pairs), expected.norm(dim=0), MEASURE)
    for part, its in zip(cell.parts, expected, strict=True):
        assert np.allclose(10 ** record.log10_parts[part], its.numpy(), rtol=MEASURE[DOUBLE], atol=1e-14)
    assert record.derivative == "boundary"
    assert (record.cell, record.parts) == (cell.name or type(cell).__name__, cell.parts)


def test_the_adjoint_is_autograds(cell: Cell) -> None:
    x, state = sequence(cell)
    delta = random_delta(cell, x)
    record = tt.flow.credit(cell, x, delta, state=state)
    found = tt.flow.adjoint(cell, x, delta, state=state)
    for k in range(x.shape[0]):
        start, states = from_step(cell, x, state, k)
        loss = sum((delta[k + i] * z[cell.parts[-1]]).sum() for i, z in enumerate(states))
        expected = torch.cat(gradients(loss, start), dim=-1)
        close(found[k], expected)
        close(torch.from_numpy(10 ** record.log10_adjoint[k]), expected.norm(dim=-1), MEASURE)
    close(torch.from_numpy(10**record.log10_direct), delta.norm(dim=-1), MEASURE)


def test_a_loss_may_ask_for_any_part_of_the_state(cell: Cell) -> None:
    """δ of the whole state, (T, B, S): each part of each z_t has a term of its own in the loss."""
    x, state = sequence(cell)
    T = x.shape[0]
    delta = torch.randn(*x.shape[:2], cell.state_size, dtype=x.dtype)
    record = tt.flow.credit(cell, x, delta, state=state)
    found = tt.flow.adjoint(cell, x, delta, state=state)
    for k in range(T):
        start, states = from_step(cell, x, state, k)
        terms = [(delta[k + i] * cell.pack(z)).sum() for i, z in enumerate(states)]
        close(found[k], torch.cat(gradients(torch.stack(terms).sum(), start), dim=-1))
        expected = torch.stack([torch.cat(gradients(term, start), dim=-1) for term in terms])
        close(torch.from_numpy(record.pairs[k:, k]), expected.norm(dim=-1), MEASURE)
        for part, its in zip(cell.parts, expected.chunk(len(cell.parts), dim=-1), strict=True):
            assert np.allclose(
                10 ** record.log10_parts[part][k:, k], its.norm(dim=-1), rtol=MEASURE[DOUBLE], atol=1e-14
            )
    close(torch.from_numpy(10**record.log10_direct), delta.norm(dim=-1), MEASURE)


def kept_lstm(x, W, R, b, h, s, part):
    """An LSTM by hand; the tensors of one part of its state are kept."""
    kept, outputs = [], []
    for x_t in x:
        i, f, c, o = (x_t @ W.T + h @ R.T + b).chunk(4, dim=-1)
        s = torch.sigmoid(f) * s + torch.sigmoid(i) * torch.tanh(c)
        h = torch.sigmoid(o) * torch.tanh(s)
        kept.append(s if part == "s" else h)
        outputs.append(h)
    for tensor in kept:
        tensor.retain_grad()
    return kept, outputs


def test_node_against_kept_tensors_of_a_loop_by_hand() -> None:
    torch.manual_seed(2)
    T, B, H = 6, 2, 4
    cell = tt.cells.make("lstm", 3, H, dtype=DOUBLE)
    x, delta = torch.randn(T, B, 3, dtype=DOUBLE), torch.randn(T, B, H, dtype=DOUBLE)
    record = tt.flow.credit(cell, x, delta, derivative="node")
    boundary = tt.flow.credit(cell, x, delta)
    zero = torch.zeros(B, H, dtype=DOUBLE)
    weights = (cell.weight_ih, cell.weight_hh, cell.bias_ih + cell.bias_hh)
    for part in ("s", "h"):
        expected, total = np.zeros((T, T, B)), 0.0
        for t in range(T):
            kept, outputs = kept_lstm(x, *weights, zero, zero, part)
            (delta[t] * outputs[t]).sum().backward()
            for k in range(t + 1):
                expected[t, k] = kept[k].grad.norm(dim=-1).detach()
            total = total + torch.stack([z.grad if z.grad is not None else zero for z in kept])
        assert np.allclose(10 ** record.log10_parts[part], expected, rtol=MEASURE[DOUBLE], atol=1e-14)
    assert not np.allclose(record.log10_parts["s"], boundary.log10_parts["s"])
    assert np.array_equal(record.log10_parts["h"], boundary.log10_parts["h"])  # nothing inside is made from h


def test_node_equals_matrices_in_a_cell_that_mixes() -> None:
    """h = softmax(m + …): the node m takes h along; kept tensors in the plain loop say how much."""
    cell = Mixing(3, 3, dtype=DOUBLE)
    x, state = sequence(cell)
    delta = random_delta(cell, x)
    found = tt.flow.credit(cell, x, delta, state=state, derivative="node").log10_parts["m"]
    for t in range(x.shape[0]):
        z, kept, u, W = state, [], cell.share(x), cell.weights()
        for k in range(t + 1):
            z, _ = cell.advance(u.map(lambda tensor, k=k: tensor[k]), z, W)
            z.m.retain_grad()
            kept.append(z.m)
        (delta[t] * z.h).sum().backward()
        expected = torch.stack([m.grad.norm(dim=-1) for m in kept]).numpy()
        assert np.allclose(10 ** found[t, : t + 1], expected, rtol=MEASURE[DOUBLE])


def test_many_rows_long_sequences_and_large_states_are_measured_alike(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows by the matrices of their sequence, and steps and norms in stretches, as sizes ask for them."""
    x, state = sequence(cell)
    delta = random_delta(cell, x)
    expected = tt.flow.credit(cell, x, delta, state=state)
    monkeypatch.setattr("throughtime.flow.linear.diagonals._MAKING", -1000)
    for name in ("linear.diagonals._CACHED", "linear.diagonals._MADE", "linear.unitwise._HELD"):
        monkeypatch.setattr(f"throughtime.flow.{name}", 40)
    monkeypatch.setattr(importlib.import_module("throughtime.flow.credit"), "_TAKEN", 40)  # the function has its name
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr("throughtime.flow.linear.diagonals.compiled", lambda *_: None)
        found = tt.flow.credit(cell, x, delta, state=state)
        near(found.log10_pairs, expected.log10_pairs)
        near(found.log10_adjoint, expected.log10_adjoint)
        for part in cell.parts:
            near(found.log10_parts[part], expected.log10_parts[part])


# -- far back


def scalar(w: float, phi: str = "identity") -> Cell:
    cell = tt.cells.make("elman", 1, 1, nonlinearity=phi, bias=False, dtype=DOUBLE)
    torch.nn.init.constant_(cell.weight_hh, w)
    torch.nn.init.zeros_(cell.weight_ih)
    return cell


@pytest.mark.parametrize(("w", "T"), [(0.25, 10_000), (3.7, 2_000)])
def test_thousands_of_steps_have_a_logarithm(w: float, T: int) -> None:
    x, delta = torch.zeros(T, 1, 1, dtype=DOUBLE), torch.zeros(T, 1, 1, dtype=DOUBLE)
    delta[-1] = 3.0
    record = tt.flow.credit(scalar(w), x, delta, sources=[T - 1])
    expected = math.log10(3.0) + (T - 1 - np.arange(T)) * math.log10(w)
    assert record.log10_pairs.shape == (1, T, 1)
    assert record.sources is not None
    assert record.sources.tolist() == [T - 1]
    near(record.log10_pairs[0, :, 0], expected)
    near(record.log10_adjoint[:, 0], expected)
    near(record.lags.median, expected[::-1] - math.log10(3.0))


def test_the_adjoint_adds_what_differs_by_hundreds_of_orders() -> None:
    """a_k = Σ_j w^j: with w = 1/4 from anywhere 4/3; with w = 10 as large as the oldest source makes it."""
    T = 1000
    x, delta = torch.zeros(T, 1, 1, dtype=DOUBLE), torch.ones(T, 1, 1, dtype=DOUBLE)
    left = T - np.arange(T)
    faint = tt.flow.credit(scalar(0.25), x, delta, sources=[0], most_lag=0).log10_adjoint[:, 0]
    near(faint, np.log10((1 - 0.25**left) / 0.75))
    loud = tt.flow.credit(scalar(10.0), x, delta, sources=[0], most_lag=0).log10_adjoint[:, 0]
    near(loud, left + np.log10((1 - 10.0**-left) / 9))


@pytest.mark.parametrize("measure", [tt.flow.adjoint, tt.flow.credit])
def test_a_step_out_of_the_dtypes_range_is_said(measure) -> None:
    cell = tt.cells.make("elman", 1, 8, nonlinearity="identity", bias=False)
    torch.nn.init.constant_(cell.weight_hh, 3e38)
    delta = torch.zeros(3, 1, 8)
    delta[-1] = 1.0
    with pytest.raises(FlowError, match=r"at step 1: one step took it beyond the range of torch\.float32"):
        measure(cell, torch.zeros(3, 1, 1), delta)


def test_a_true_zero_is_told_from_an_underflow() -> None:
    T = 40
    x, delta = torch.zeros(T, 1, 1, dtype=DOUBLE), torch.zeros(T, 1, 1, dtype=DOUBLE)
    delta[-1] = 1.0
    faint = tt.flow.credit(scalar(1e-200), x, delta)
    near(faint.log10_pairs[-1, :, 0], -200.0 * np.arange(T)[::-1])
    assert (faint.pairs[-1, : T - 2] == 0).all()  # as plain numbers they are gone
    none = tt.flow.credit(scalar(0.0), x, delta)
    assert np.isneginf(none.log10_pairs[-1, :-1]).all()
    assert none.log10_pairs[-1, -1] == 0


def test_a_part_lost_against_another_is_not_called_zero() -> None:
    """h fades by 1/4 a step beside m, which stays: after some 540 steps its share leaves float64's range."""
    cell = Apart(1, 1, dtype=DOUBLE)
    T = 700
    x, delta = torch.zeros(T, 1, 1, dtype=DOUBLE), torch.zeros(T, 1, 1, dtype=DOUBLE)
    delta[-1] = 1.0
    record = tt.flow.credit(cell, x, delta)
    h, m = record.log10_parts["h"][-1, :, 0], record.log10_parts["m"][-1, :, 0]
    lag = np.arange(T)[::-1]
    known = lag < 500
    near(h[known], lag[known] * math.log10(0.25))
    assert np.isnan(h[lag > 560]).all()
    near(m[lag > 50], math.log10(1e-3 * 4 / 3))
    assert np.isneginf(m[-1])  # at its own step δ is in h alone


def test_float32_keeps_its_logarithms_too() -> None:
    T = 2000
    cell = tt.cells.make("elman", 1, 1, nonlinearity="identity", bias=False)
    torch.nn.init.constant_(cell.weight_hh, 0.5)
    delta = torch.zeros(T, 1, 1)
    delta[-1] = 1.0
    record = tt.flow.credit(cell, torch.zeros(T, 1, 1), delta)
    assert record.dtype == "float32"
    assert np.allclose(record.log10_pairs[-1, :, 0], np.arange(T)[::-1] * math.log10(0.5), rtol=1e-6)


# -- lengths and limits


@pytest.mark.parametrize("power", [-140, -100, 100])
def test_a_direct_gradient_whose_squares_leave_the_range_is_neither_zero_nor_infinite(power: int) -> None:
    cell = tt.cells.make("elman", 1, 4, nonlinearity="identity", bias=False)
    delta = torch.zeros(3, 1, 4)
    delta[-1] = 2.0**power
    record = tt.flow.credit(cell, torch.zeros(3, 1, 1), delta)
    for found in (record.log10_direct, record.log10_pairs[-1], record.log10_adjoint):
        near(found[-1, 0], (power + 1) * math.log10(2.0))  # the norm of four equal numbers is two of them
    assert np.isneginf(record.log10_direct[:-1]).all()


def test_each_sequence_is_measured_as_if_it_were_alone() -> None:
    cell = tt.cells.make("lstm", 3, 4, dtype=DOUBLE)
    lengths = torch.tensor([7, 3, 1, 5])
    x, delta = torch.randn(7, 4, 3, dtype=DOUBLE), torch.randn(7, 4, 4, dtype=DOUBLE)
    delta[torch.arange(7).unsqueeze(1) >= lengths] = 0
    record = tt.flow.credit(cell, x, delta, lengths=lengths)
    for b, steps in enumerate(lengths.tolist()):
        alone = tt.flow.credit(cell, x[:steps, b : b + 1], delta[:steps, b : b + 1])
        near(record.log10_pairs[:steps, :steps, b], alone.log10_pairs[..., 0])
        near(record.log10_adjoint[:steps, b], alone.log10_adjoint[:, 0])
        assert np.isnan(record.log10_pairs[steps:, :, b]).all()
        assert np.isneginf(record.log10_pairs[:steps, steps:, b]).all()
        assert np.isnan(record.log10_direct[steps:, b]).all()
    assert record.lags.pairs.tolist() == [sum(max(0, n - lag) for n in lengths.tolist()) for lag in range(7)]


def test_last_steps_at_different_places_cost_one_row_and_count_from_their_own_ends() -> None:
    cell = scalar(0.5)
    lengths = torch.tensor([9, 4, 6])
    delta = torch.zeros(9, 3, 1, dtype=DOUBLE)
    delta[lengths - 1, torch.arange(3)] = 1.0
    record = tt.flow.credit(cell, torch.zeros(9, 3, 1, dtype=DOUBLE), delta, lengths=lengths)
    near(record.lags.median, np.arange(9) * math.log10(0.5))
    assert record.lags.pairs.tolist() == [3, 3, 3, 3, 2, 2, 1, 1, 1]
    assert record.lags.half_life() == 2
    assert record.lags.horizon() == 6  # 2^-6 is more than 1%, 2^-7 is less


def test_sources_and_lags_limit_what_is_measured_and_change_nothing_else() -> None:
    cell = tt.cells.make("gru", 3, 4, dtype=DOUBLE)
    x, delta = torch.randn(9, 2, 3, dtype=DOUBLE), torch.randn(9, 2, 4, dtype=DOUBLE)
    delta[5, 1] = 0
    whole = tt.flow.credit(cell, x, delta)
    some = tt.flow.credit(cell, x, delta, sources=[2, 5, 8], most_lag=3)
    assert some.log10_pairs.shape == (3, 9, 2)
    for row, t in enumerate((2, 5, 8)):
        within = slice(max(0, t - 3), None)
        near(some.log10_pairs[row, within], whole.log10_pairs[t, within])
        assert np.isnan(some.log10_pairs[row, : max(0, t - 3)]).all()
    assert np.isneginf(whole.log10_pairs[5, :, 1]).all()
    assert some.lags.lags.tolist() == [0, 1, 2, 3]
    assert some.lags.pairs.tolist() == [5, 5, 5, 3]


def test_nothing_at_all_to_blame() -> None:
    record = tt.flow.credit(tt.cells.make("gru", 3, 4), torch.randn(5, 2, 3), torch.zeros(5, 2, 4))
    assert np.isneginf(record.log10_pairs).all()
    assert np.isneginf(record.log10_adjoint).all()
    assert record.lags.horizon() is None
    assert record.lags.pairs.sum() == 0


def test_what_does_not_fit_is_said() -> None:
    cell, x = tt.cells.make("elman", 3, 4), torch.randn(5, 2, 3)
    good = torch.zeros(5, 2, 4)
    with pytest.raises(FlowError, match=r"\(5, 2, 4\), got \(5, 2, 3\)"):
        tt.flow.credit(cell, x, x)
    with pytest.raises(FlowError, match="not finite"):
        tt.flow.credit(cell, x, good + float("nan"))
    with pytest.raises(FlowError, match="past the end"):
        tt.flow.credit(cell, x, good + 1, lengths=torch.tensor([5, 2]))
    with pytest.raises(FlowError, match=r"1\.\.5"):
        tt.flow.credit(cell, x, good, lengths=torch.tensor([5, 0]))
    with pytest.raises(FlowError, match="ascending"):
        tt.flow.credit(cell, x, good, sources=[3, 1])
    with pytest.raises(FlowError, match="most_lag"):
        tt.flow.credit(cell, x, good, most_lag=-1)
    with pytest.raises(FlowError, match="boundary"):
        tt.flow.credit(cell, x, good, derivative="total")  # type: ignore[arg-type]


def test_a_state_goes_in_by_part() -> None:
    cell = tt.cells.make("lstm", 3, 4, dtype=DOUBLE)
    x, delta = torch.randn(4, 2, 3, dtype=DOUBLE), torch.randn(4, 2, 4, dtype=DOUBLE)
    state = State(s=torch.randn(2, 4, dtype=DOUBLE), h=torch.randn(2, 4, dtype=DOUBLE))
    late = tt.flow.credit(cell, x[2:], delta[2:], state=tt.unroll(cell, x[:2], state).final)
    whole = tt.flow.credit(cell, x, delta, state=state)
    near(late.log10_pairs, whole.log10_pairs[2:, 2:])
