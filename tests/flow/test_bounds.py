"""Bounds: their order, where they are equal, and each against numpy's own singular values."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import throughtime as tt
from tests.flow.oracles import from_step, matrix
from tests.laws.variants import VARIANTS, sequence
from tests.tolerances import MEASURE, near
from throughtime.cells import Cell
from throughtime.errors import FlowError
from throughtime.flow.bounds import spread_lags
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.spectral import step_gains
from throughtime.flow.linear.trajectory import follow
from throughtime.records import BoundRecord

DOUBLE = torch.float64


def norm2(matrices: torch.Tensor) -> np.ndarray:
    return np.linalg.norm(matrices.detach().numpy(), ord=2, axis=(-2, -1))


def ordered(record: BoundRecord) -> bool:
    """Global ≥ local ≥ Π‖J‖ ≥ ‖P‖, rounding apart."""
    drawn = [curve for curve in (record.globally, record.local, record.steps, record.gain) if curve is not None]
    return all((above >= below - 1e-12).all() for above, below in pairwise(drawn))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_against_singular_values_of_the_plain_loop(variant) -> None:
    cell = variant.make()
    x, state = sequence(cell, batch=3)
    record = tt.flow.bounds(cell, x, state, lags=[0, 1, 2, 4])
    products = {}
    for lag in (1, 2, 4):
        start, states = from_step(cell, x, state, 4 - lag)
        products[lag] = norm2(matrix(cell, states[lag], start))
    steps = []
    for t in range(5):
        start, states = from_step(cell, x, state, t - 1)
        steps.append(norm2(matrix(cell, states[1], start)))
    assert record.gain[0] == pytest.approx(0, abs=1e-14)
    with np.errstate(divide="ignore"):
        for place, lag in ((1, 1), (2, 2), (3, 4)):
            gain, bound = np.log10(products[lag]), np.log10(steps[5 - lag :]).sum(0)
            assert record.gain[place] == pytest.approx(np.median(gain), abs=MEASURE[DOUBLE])
            assert record.steps[place] == pytest.approx(np.median(bound), abs=MEASURE[DOUBLE])
    assert (record.local is None) == (cell.steepest is None)
    assert ordered(record)


@pytest.mark.parametrize("phi", ["tanh", "relu", "sigmoid", "identity"])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_order_holds_on_random_nets(phi: str, scale: float) -> None:
    cell = tt.cells.make("elman", 3, 40, nonlinearity=phi, dtype=DOUBLE)
    with torch.no_grad():
        cell.weight_hh.mul_(scale)
    record = tt.flow.bounds(cell, torch.randn(30, 3, 3, dtype=DOUBLE), lengths=torch.tensor([30, 12, 30]))
    assert record.globally is not None
    assert ordered(record)
    gamma = {"sigmoid": 0.25}.get(phi, 1.0)
    slope = math.log10(gamma * norm2(cell.weight_hh))
    near(record.globally, record.lags * slope, MEASURE)


def test_where_all_of_them_are_equal() -> None:
    """φ = identity and W = g·Q with Q orthogonal: every bound and the gain are g^τ, for thousands of steps."""
    cell = tt.cells.make("elman", 2, 6, nonlinearity="identity", dtype=DOUBLE)
    q, _ = torch.linalg.qr(torch.randn(6, 6, dtype=DOUBLE))
    with torch.no_grad():
        cell.weight_hh.copy_(0.3 * q)
    record = tt.flow.bounds(cell, torch.randn(2000, 1, 2, dtype=DOUBLE))
    assert record.lags[-1] == 1999
    for curve in (record.globally, record.local, record.steps, record.gain):
        assert curve is not None
        near(curve, record.lags * math.log10(0.3))


def test_a_net_that_forgets_at_once() -> None:
    """W nilpotent: the gain is a true zero from the second step on, though every factor is 1."""
    cell = tt.cells.make("elman", 1, 2, nonlinearity="identity", bias=False, dtype=DOUBLE)
    with torch.no_grad():
        cell.weight_hh.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    record = tt.flow.bounds(cell, torch.zeros(6, 1, 1, dtype=DOUBLE), lags=range(6))
    assert record.gain.tolist() == [0.0, 0.0, -np.inf, -np.inf, -np.inf, -np.inf]
    assert record.steps.tolist() == [0.0] * 6


def test_lags_are_counted_from_each_own_end() -> None:
    cell = tt.cells.make("gru", 2, 4, dtype=DOUBLE)
    x, lengths = torch.randn(9, 2, 2, dtype=DOUBLE), torch.tensor([9, 5])
    together = tt.flow.bounds(cell, x, lengths=lengths, lags=[1, 3, 7])
    alone = [tt.flow.bounds(cell, x[:n, b : b + 1], lags=[1, 3]) for b, n in enumerate([9, 5])]
    near(together.gain[:2], (alone[0].gain + alone[1].gain) / 2)
    near(together.steps[:2], (alone[0].steps + alone[1].steps) / 2)
    assert np.isfinite(together.gain[2])  # of the longer one alone
    with pytest.raises(FlowError, match=r"0\.\.8"):
        tt.flow.bounds(cell, x, lengths=lengths, lags=[9])


def wide(name: str, scale: float = 1.0) -> Cell:
    cell = tt.cells.make(name, 3, 40, dtype=DOUBLE)
    with torch.no_grad():
        cell.weight_hh.mul_(scale)
    return cell


@pytest.mark.parametrize("cell", [wide("elman", 3.0), wide("lstm"), wide("gru"), wide("taps"), wide("elman", 1e-180)],
                         ids=["elman", "lstm", "gru", "taps", "faint"])  # fmt: skip
def test_the_largest_stretch_of_each_step_of_a_wide_net(cell: Cell) -> None:
    x = torch.randn(12, 2, 3, dtype=DOUBLE)
    found = step_gains(linearise(follow(cell, x))).numpy()
    J = tt.flow.jacobians(cell, x)
    scale = J.abs().amax()
    near(found, np.log10(norm2(J / scale)) + math.log10(scale), MEASURE)


def test_stretches_of_equal_and_of_no_size() -> None:
    """Singular values that are all equal, nearly equal, or zero."""
    cell = tt.cells.make("elman", 3, 40, nonlinearity="identity", dtype=DOUBLE)
    q, _ = torch.linalg.qr(torch.randn(40, 40, dtype=DOUBLE))
    x = torch.randn(3, 1, 3, dtype=DOUBLE)
    for spectrum in (torch.ones(40), torch.linspace(1 - 1e-7, 1, 40), torch.zeros(40)):
        with torch.no_grad():
            cell.weight_hh.copy_(q * spectrum)
        with np.errstate(divide="ignore"):
            expected = np.log10(norm2(cell.weight_hh))
        found = step_gains(linearise(follow(cell, x))).numpy()
        near(found, expected, MEASURE)


def test_lags_lie_close_where_they_are_short() -> None:
    assert spread_lags(0) == [0]
    assert spread_lags(1) == [0, 1]
    lags = spread_lags(250)
    assert lags[:5] == [0, 1, 2, 3, 4]
    assert lags[-1] == 250
    assert len(lags) < 35
