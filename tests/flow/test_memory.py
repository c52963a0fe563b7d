"""Memory of inputs against autograd's own Jacobian of the unrolled sequence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian

import throughtime as tt
from tests.flow.own import HearsItself, Mixing
from tests.laws.variants import VARIANTS, sequence
from tests.tolerances import MEASURE, near
from throughtime.cells import Cell, State
from throughtime.errors import FlowError


def slowly(cell: Cell, x: torch.Tensor, state: State) -> np.ndarray:
    """‖∂z_t/∂x_k‖_F, (T, T, B)."""

    def run(x: torch.Tensor) -> torch.Tensor:
        states = tt.unroll(cell, x, state, engine="reference").states
        return torch.cat([states[part] for part in cell.parts], dim=-1)

    whole = jacobian(run, x)  # (T, B, S, T, B, I)
    each = [whole[:, b, :, :, b].square().sum((1, 3)).sqrt() for b in range(x.shape[1])]
    return torch.stack(each, dim=-1).detach().numpy()


@pytest.mark.parametrize("made", [*VARIANTS, Mixing, HearsItself], ids=lambda p: getattr(p, "__name__", str(p)))
def test_against_autograd(made) -> None:
    cell = made.make() if hasattr(made, "make") else made(3, 3, dtype=torch.float64)
    x, state = sequence(cell)
    expected = slowly(cell, x, state)
    record = tt.flow.memory(cell, x, state, at=range(5))
    assert record.log10_memory.shape == (5, 5, 2)
    assert np.allclose(10**record.log10_memory, expected, rtol=MEASURE[torch.float64], atol=1e-14)
    last = tt.flow.memory(cell, x, state)
    assert last.at.tolist() == [[4, 4]]
    assert np.array_equal(last.log10_memory[0], record.log10_memory[4])


def test_each_sequence_from_its_own_end() -> None:
    cell = tt.cells.make("lstm", 3, 3, dtype=torch.float64)
    x, _ = sequence(cell)
    record = tt.flow.memory(cell, x, lengths=torch.tensor([5, 3]))
    alone = tt.flow.memory(cell, x[:3, 1:])
    assert record.at.tolist() == [[4, 2]]
    near(record.log10_memory[0, :3, 1], alone.log10_memory[0, :, 0])
    assert np.isneginf(record.log10_memory[0, 3:, 1]).all()
    ended = tt.flow.memory(cell, x, lengths=torch.tensor([5, 3]), at=[4])
    assert ended.at.tolist() == [[4, -1]]
    assert np.isnan(ended.log10_memory[0, :, 1]).all()


def test_thousands_of_steps_have_a_logarithm() -> None:
    cell = tt.cells.make("elman", 1, 1, nonlinearity="identity", bias=False, dtype=torch.float64)
    torch.nn.init.constant_(cell.weight_hh, 0.25)
    torch.nn.init.constant_(cell.weight_ih, 2.0)
    record = tt.flow.memory(cell, torch.zeros(1500, 1, 1, dtype=torch.float64))
    expected = math.log10(2) + np.arange(1500)[::-1] * math.log10(0.25)
    near(record.log10_memory[0, :, 0], expected)


def test_steps_that_are_not_there() -> None:
    with pytest.raises(FlowError, match=r"0\.\.4"):
        tt.flow.memory(tt.cells.make("elman", 3, 3), torch.zeros(5, 1, 3), at=[5])
