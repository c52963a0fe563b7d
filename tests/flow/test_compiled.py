"""The compiled way back through a step beside the one in torch: the same numbers, at odd sizes, all of them written."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

import throughtime as tt
from tests.laws.variants import VARIANTS, Variant
from tests.tolerances import IDENTITY, close, near
from throughtime.engines.cpu.library import why_not
from throughtime.flow.linear.compiled import Pull
from throughtime.flow.linear.trajectory import follow
from throughtime.flow.linear.unitwise import UnitWise, unitwise

NO_COMPILER = why_not()
KEPT_APART = [variant for variant in VARIANTS if variant.name != "feedforward"]
SIZES = [(1, 1, 1), (7, 3, 2), (16, 2, 60), (63, 3, 13), (64, 1, 131), (130, 2, 50)]  # H, B, R

pytestmark = pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER))


def both(tangent: UnitWise, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows taken back and their norms, compiled and in torch, into memory that was poisoned."""
    made = [torch.full_like(rows, torch.nan) for _ in range(2)]
    norms = [rows.new_full(rows.shape[:-1], torch.nan) for _ in range(2)]
    with patch.object(Pull, "__call__", autospec=True, side_effect=Pull.__call__) as called:
        tangent.pull(rows, 2, out=made[0], norms=norms[0])
    assert called.call_count == 1
    with patch("throughtime.flow.linear.diagonals.compiled", return_value=None):
        plain = unitwise(tangent.along)
        assert plain is not None
        plain.pull(rows, 2, out=made[1], norms=norms[1])
    return made[0], made[1], norms[0], norms[1]


@pytest.mark.parametrize("dtype", IDENTITY, ids=str)
@pytest.mark.parametrize("variant", KEPT_APART, ids=str)
def test_compiled_equals_torch(variant: Variant, dtype: torch.dtype) -> None:
    for H, B, R in SIZES:
        cell = variant.make(2, H, dtype=dtype)
        tangent = unitwise(follow(cell, torch.randn(4, B, 2, dtype=dtype)))
        assert tangent is not None
        rows = torch.randn(tangent.P, R, B, H, dtype=dtype)
        found, expected, norms, their_norms = both(tangent, rows)
        close(found, expected)
        close(norms, their_norms)


def test_rows_that_lie_apart_and_several_threads() -> None:
    """Slices and transposed memory, in and out; as many threads as there are, and more than there is work for."""
    tangent = unitwise(follow(tt.cells.make("lstm", 2, 24), torch.randn(4, 3, 2)))
    assert tangent is not None
    wide = torch.randn(3, 200, 2, 24).permute(2, 1, 0, 3)
    out, norms = torch.full((2, 250, 3, 24), torch.nan), torch.full((2, 250, 3), torch.nan)
    _, expected, _, their_norms = both(tangent, wide[:, 3:190].contiguous())
    for threads in (1, 2, 5):
        with patch("throughtime.flow.linear.compiled.threads_for", return_value=threads):
            tangent.pull(wide[:, 3:190], 2, out=out[:, 7:194], norms=norms[:, 7:194])
        close(out[:, 7:194], expected)
        close(norms[:, 7:194], their_norms)
        assert bool(out[:, :7].isnan().all())
        assert bool(out[:, 194:].isnan().all())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    tangent = unitwise(follow(tt.cells.make("gru", 2, 9), torch.randn(4, 2, 2)))
    assert tangent is not None
    rows = torch.randn(1, 40, 2, 9)
    rows[0, 17, 1, 4] = bad
    found = tangent.pull(rows, 2, norms=(norms := torch.zeros(1, 40, 2)))
    touched = ~torch.isfinite(found).all(-1)
    assert touched.nonzero().tolist() == [[0, 17, 1]]
    assert torch.equal(~torch.isfinite(norms), touched)


@pytest.mark.parametrize("variant", KEPT_APART, ids=str)
def test_credit_without_a_compiler_is_the_same(variant: Variant) -> None:
    """Long enough that rows are rescaled."""
    cell = variant.make(2, 3)
    x, delta = torch.randn(40, 2, 2, dtype=torch.float64), torch.randn(40, 2, 3, dtype=torch.float64)
    lengths = torch.tensor([40, 33])
    delta[33:, 1] = 0
    found = tt.flow.credit(cell, x, delta, lengths=lengths)
    with patch("throughtime.flow.linear.diagonals.compiled", return_value=None):
        expected = tt.flow.credit(cell, x, delta, lengths=lengths)
    near(found.log10_pairs, expected.log10_pairs)
    near(found.log10_adjoint, expected.log10_adjoint)
    for part in cell.parts:
        near(found.log10_parts[part], expected.log10_parts[part])
    assert np.isfinite(found.log10_adjoint[0]).any()
