"""Singular values of long products against the same products in many digits, and against closed forms."""

from __future__ import annotations

import math
import sys

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

import throughtime as tt
from tests.flow.own import HearsItself, Mixing
from tests.flow.test_lyapunov import Chain, Given, cell_of, named, one_step, seen
from tests.laws.variants import VARIANTS, sequence
from tests.tolerances import MEASURE, close, near
from throughtime.errors import FlowError
from throughtime.flow.linear.graded import graded_svd
from throughtime.flow.singular import singular_of

ALL = [*VARIANTS, Mixing, HearsItself]


def in_digits(jacobians: list[Tensor]) -> np.ndarray:
    """log10 of the singular values of the product, largest first; −inf beyond the least rank of a step.

    What a step loses for good is zero in its numbers up to their last digit only, which is no digit of the product.
    """
    rank = min(int(np.linalg.matrix_rank(J[0], tol=1e-12 * float(J[0].abs().max()))) for J in jacobians)
    with mpmath.workdps(60):
        product = mpmath.eye(jacobians[0].shape[-1])
        for J in jacobians:
            product = mpmath.matrix(J[0].tolist()) * product
        values = sorted(mpmath.svd_r(product, compute_uv=False), reverse=True)
        least = values[0] * mpmath.mpf(10) ** -45
        return np.array([float(mpmath.log10(v)) if i < rank and v > least else -math.inf for i, v in enumerate(values)])


@pytest.mark.parametrize("made", ALL, ids=named)
def test_against_the_product_in_many_digits(made) -> None:
    cell = cell_of(made)
    x, state = sequence(cell, steps=9, batch=1)
    jacobians = one_step(cell, x, state)
    for t, k in ((8, -1), (5, 4)):
        found = tt.flow.singular(cell, x, t, k, state=state)
        near(found.log10_values[0], in_digits(jacobians[k + 1 : t + 1]), MEASURE)


@pytest.mark.parametrize("made", ALL, ids=named)
def test_directions_put_the_product_together_again(made) -> None:
    cell = cell_of(made)
    x, state = sequence(cell)
    found = tt.flow.singular(cell, x, 4, 1, state=state)
    values = 10**found.log10_values
    close(found.left * values.unsqueeze(1) @ found.right.mT, tt.flow.transport(cell, x, 4, 1, state=state), MEASURE)
    eye = torch.eye(cell.state_size, dtype=torch.float64).expand_as(found.left)
    close(found.left.mT @ found.left, eye, MEASURE)
    close(found.right.mT @ found.right, eye, MEASURE)


def test_values_that_are_a_thousand_decades_apart() -> None:
    """Ten to the ±500 side by side, against 1800 digits."""
    torch.manual_seed(2)
    cell = Given(16, 4, dtype=torch.float64)
    scales = torch.diag(torch.tensor([8.0, 1.0, 0.3, 0.01], dtype=torch.float64))
    x = torch.stack([torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0] @ scales for _ in range(500)])
    x = x.view(500, 1, 16)
    found = tt.flow.singular(cell, x, 499, -1)
    with mpmath.workdps(1800):
        product = mpmath.eye(4)
        for step in x.view(500, 4, 4):
            product = mpmath.matrix(step.tolist()) * product
        expected = [float(mpmath.log10(v)) for v in by_turning(product)]
    near(found.log10_values[0], expected, MEASURE)
    assert found.log10_values[0, 0] - found.log10_values[0, -1] > 400


def by_turning(product: mpmath.matrix) -> list[mpmath.mpf]:
    """Singular values by one-sided rotations in the digits that are set, until no pair of columns is off."""
    A, n = product.copy(), product.cols
    while True:
        worst = mpmath.mpf(0)
        for i in range(n):
            for j in range(i + 1, n):
                a = sum(A[r, i] ** 2 for r in range(n))
                b = sum(A[r, j] ** 2 for r in range(n))
                c = sum(A[r, i] * A[r, j] for r in range(n))
                if a == 0 or b == 0 or c == 0:
                    continue
                worst = max(worst, abs(c) / mpmath.sqrt(a * b))
                zeta = (b - a) / (2 * c)
                t = (1 if zeta >= 0 else -1) / (abs(zeta) + mpmath.sqrt(1 + zeta**2))
                cos = 1 / mpmath.sqrt(1 + t**2)
                for r in range(n):
                    A[r, i], A[r, j] = cos * (A[r, i] - t * A[r, j]), cos * (A[r, j] + t * A[r, i])
        if worst < mpmath.mpf(10) ** -20:
            return sorted((mpmath.sqrt(sum(A[r, i] ** 2 for r in range(n))) for i in range(n)), reverse=True)


def test_units_apart_have_their_own_factor() -> None:
    """Diagonal nets: 5000 steps of 0.25 beside 4 and 0.999, in closed form."""
    cell = tt.cells.make("elman", 1, 3, nonlinearity="identity", bias=False, dtype=torch.float64)
    cell.weight_hh.data = torch.diag(torch.tensor([0.25, 1.0625, 0.999], dtype=torch.float64))
    found = tt.flow.singular(cell, torch.zeros(5000, 1, 1, dtype=torch.float64), 4999, -1)
    near(found.log10_values[0], 5000 * np.log10([1.0625, 0.999, 0.25]))
    close(found.right[0].abs(), torch.eye(3, dtype=torch.float64)[:, [1, 2, 0]])


def test_rotations_keep_everything() -> None:
    cell = tt.cells.make("elman", 1, 8, nonlinearity="identity", bias=False, dtype=torch.float64)
    torch.nn.init.orthogonal_(cell.weight_hh)
    near(tt.flow.singular(cell, torch.zeros(500, 1, 1, dtype=torch.float64), 499, 0).log10_values, np.zeros((1, 8)))


def test_true_zeros_are_minus_infinity() -> None:
    cell = tt.cells.make("elman", 2, 6, nonlinearity="relu", dtype=torch.float64)
    with torch.no_grad():
        cell.weight_ih.zero_()
        cell.bias_ih.fill_(5.0)
        cell.bias_ih[[0, 3]] = -50.0
    x = torch.randn(40, 2, 2, dtype=torch.float64)
    found = tt.flow.singular(cell, x, 39, 9)
    assert torch.isfinite(found.log10_values[:, :4]).all()
    assert torch.isneginf(found.log10_values[:, 4:]).all()
    assert float(found.left[:, [0, 3]][..., :4].abs().max()) < 1e-12  # nothing arrives at dead units
    nothing = tt.flow.singular(Chain(2, 2, dtype=torch.float64), torch.randn(9, 1, 2, dtype=torch.float64), 8, 2)
    assert torch.isneginf(nothing.log10_values).all()
    close(nothing.right[0].T @ nothing.right[0], torch.eye(6, dtype=torch.float64))


def test_backwards_is_forwards_turned_round() -> None:
    """By lag from the last step, where the product grows at its other end."""
    cell = tt.cells.make("lstm", 3, 4, dtype=torch.float64)
    x = torch.randn(12, 2, 3, dtype=torch.float64)
    record, notes = singular_of(seen(cell, x))
    assert record is not None
    assert notes == ()
    assert record.lags[0] == 1
    assert record.lags[-1] == 11
    for lag, values in zip(record.lags, record.log10_values, strict=True):
        forwards = tt.flow.singular(cell, x, 11, 11 - int(lag))
        near(values, forwards.log10_values.mean(0), MEASURE)
    turned = forwards.right[0, :, 0] * torch.sign(forwards.right[0, 0, 0]) * np.sign(record.stretched[0])
    close(torch.as_tensor(record.stretched), turned, MEASURE)
    P = tt.flow.transport(cell, x, 11, 0)[0]
    taken = P @ torch.as_tensor(record.stretched)
    close(taken / taken.norm(), torch.as_tensor(record.into), MEASURE)


def test_each_sequence_from_its_own_end() -> None:
    cell = tt.cells.make("gru", 3, 4, dtype=torch.float64)
    x = torch.randn(30, 2, 3, dtype=torch.float64)
    record, _ = singular_of(seen(cell, x, torch.tensor([12, 30])))
    assert record is not None
    forwards = [tt.flow.singular(cell, x[:n, b : b + 1], n - 1, n - 2).log10_values[0] for b, n in ((0, 12), (1, 30))]
    near(record.log10_values[0], (forwards[0] + forwards[1]) / 2, MEASURE)
    near(record.log10_values[-1], tt.flow.singular(cell, x[:, 1:], 29, 0).log10_values[0], MEASURE)


def test_what_is_limited_is_said(monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["throughtime.flow.singular"], "_WORK", 2e5)
    record, notes = singular_of(seen(tt.cells.make("gru", 3, 8), torch.randn(200, 3, 3)))
    assert record is not None
    assert record.sequences == 1
    assert record.lags[-1] < 199
    assert "1 of 3 sequences" in notes[0]
    assert "not to the start" in notes[1]
    module = tt.cells.make("gru", 3, 8).double()
    x = torch.randn(200, 1, 3, dtype=torch.float64)
    record, _ = singular_of(seen(module, x))  # of the last steps alone, from the state they start with
    assert record is not None
    lag = int(record.lags[-1])
    near(record.log10_values[-1], tt.flow.singular(module, x, 199, 199 - lag).log10_values[0], MEASURE)
    assert singular_of(seen(tt.cells.make("gru", 3, 8), torch.randn(1, 3, 3)))[0] is None
    none, notes = singular_of(seen(tt.cells.make("gru", 3, 80), torch.randn(3, 1, 3)))
    assert none is None
    assert "80 numbers" in notes[0]


def test_steps_that_are_not_there() -> None:
    cell, x = tt.cells.make("gru", 3, 4), torch.randn(20, 1, 3)
    with pytest.raises(FlowError, match="t = 20"):
        tt.flow.singular(cell, x, 20, 0)
    with pytest.raises(FlowError, match="k = 6"):
        tt.flow.singular(cell, x, 5, 6)
    whole = tt.flow.singular(cell, x, 5, 5)
    near(whole.log10_values, np.zeros((1, 4)))


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 5), (7, 7), (32, 40)])
def test_graded_rows(m, n) -> None:
    """Rows ten decades apart each: as near to their mutual remainders as there are digits."""
    torch.manual_seed(m)
    rows = torch.randn(2, m, n, dtype=torch.float64)
    logs = -torch.arange(m, dtype=torch.float64).expand(2, -1) * 10 * math.log(10)
    L, found, V = graded_svd(logs, rows)
    R = torch.linalg.qr(rows.mT)[1].diagonal(dim1=-2, dim2=-1).abs()
    near(found, logs + R.log(), MEASURE)
    close(L.mT @ L, torch.eye(m, dtype=torch.float64).expand_as(L))
    close(V.mT @ V, torch.eye(m, dtype=torch.float64).expand(2, -1, -1))
    flat = graded_svd(torch.zeros(2, m, dtype=torch.float64), rows * torch.logspace(0, -6, m).double().unsqueeze(-1))
    near(flat[1].exp(), torch.linalg.svdvals(rows * torch.logspace(0, -6, m).double().unsqueeze(-1)))
