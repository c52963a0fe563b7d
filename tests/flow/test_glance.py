"""A glance gives the numbers of the adjoint and of the credit, which are tested on their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.laws.variants import VARIANTS, Variant, sequence
from tests.tolerances import close, near
from throughtime import cells
from throughtime.flow import glance as module
from throughtime.flow.adjoint import checked, gather
from throughtime.flow.credit import Derivative, credit_along
from throughtime.flow.glance import glance
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.sweep import shift
from throughtime.flow.linear.trajectory import follow
from throughtime.records import CreditRecord


def compare(ours: CreditRecord, theirs: CreditRecord) -> None:
    for name in ("log10_pairs", "log10_direct", "log10_adjoint"):
        near(getattr(ours, name), getattr(theirs, name))
    assert list(ours.log10_parts) == list(theirs.log10_parts)
    for part, pairs in ours.log10_parts.items():
        near(pairs, theirs.log10_parts[part])
    near(ours.lags.median, theirs.lags.median)
    assert (ours.sources is None) == (theirs.sources is None)
    assert (ours.cell, ours.parts, ours.derivative, ours.dtype) == (
        theirs.cell, theirs.parts, theirs.derivative, theirs.dtype,
    )  # fmt: skip


@pytest.mark.parametrize(("derivative", "held"), [("boundary", 1), ("boundary", 1 << 20), ("node", 1)])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_same_numbers(variant: Variant, derivative: Derivative, held: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_HELD", held)
    cell = variant.make()
    x, state = sequence(cell, steps=9, batch=3)
    lengths = torch.tensor([4, 9, 6])
    along = follow(cell, x, state, lengths=lengths)
    tangent = linearise(along)
    every = torch.randn(9, 3, cell.state_size).double().masked_fill(~along.running().unsqueeze(-1), 0)
    last = torch.zeros_like(every)
    last[lengths - 1, range(3)] = every[lengths - 1, range(3)]
    for delta, sources in ((every, None), (every, [2, 5, 8]), (last, None), (torch.zeros_like(every), None)):
        given = checked(along, delta)
        through_time = gather(tangent, given)
        adjoint, ours = glance(tangent, given, derivative, sources)
        compare(ours, credit_along(tangent, given, through_time, derivative, sources))
        mine, theirs = (shift(a.rows, a.exponents.int().unsqueeze(-1)) for a in (adjoint, through_time))
        close(mine, theirs)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_thousands_of_steps(scale: float) -> None:
    """Far under and far over the range of float64; a gradient from the middle meets one from the end."""
    cell = cells.make("elman", 2, 3, nonlinearity="identity", bias=False, dtype=torch.float64)
    cell.weight_hh.data = scale * torch.linalg.qr(torch.randn(3, 3).double())[0]
    along = follow(cell, torch.zeros(600, 2, 2).double(), None)
    tangent = linearise(along)
    delta = torch.zeros(600, 2, 3).double()
    delta[-1] = torch.randn(2, 3).double()
    delta[300, 1] = 1e-200
    given = checked(along, delta)
    adjoint, ours = glance(tangent, given)
    theirs = credit_along(tangent, given, gather(tangent, given))
    near(ours.log10_pairs, theirs.log10_pairs)
    near(ours.log10_adjoint, theirs.log10_adjoint)
    expected = 599 * np.log10(scale) + np.log10(float(delta[-1, 0].norm()))
    near(ours.log10_pairs[-1, 0, 0], expected)
    assert torch.isfinite(adjoint.rows).all()
