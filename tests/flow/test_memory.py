"""Memory of inputs against autograd's own Jacobian of the unrolled sequence."""

from __future__ import annotations

import math
from importlib import import_module

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
from throughtime.flow.adjoint import checked
from throughtime.flow.linear.trajectory import follow
from throughtime.flow.memory import memory_of
from throughtime.flow.sighting import Sighting


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


# -- by lag, of a sighting

module = import_module("throughtime.flow.memory")  # the function has its name


def seen(cell: Cell, x: torch.Tensor, state: State | None = None, lengths: torch.Tensor | None = None) -> Sighting:
    along = follow(cell, x, state, lengths=lengths)
    delta = torch.zeros(*x.shape[:2], cell.hidden_size, dtype=x.dtype)
    return Sighting("layer", along, checked(along, delta), 1.0)


def test_by_lag_from_each_end() -> None:
    cell = tt.cells.make("lstm", 3, 3, dtype=torch.float64)
    x, state = sequence(cell, steps=7, batch=4)
    lengths = [7, 2, 5, 1]
    profile, said = memory_of(seen(cell, x, state, torch.tensor(lengths)))
    assert said == ()
    left: dict[int, list[float]] = {lag: [] for lag in range(7)}
    for b, n in enumerate(lengths):
        held = np.log10(slowly(cell, x[:n, b : b + 1], state.map(lambda part, b=b: part[b : b + 1]))[n - 1, :, 0])
        for lag in range(n):
            left[lag].append(held[n - 1 - lag] - held[n - 1])
    assert profile.lags.tolist() == list(range(7))
    assert profile.pairs.tolist() == [4, 3, 2, 2, 2, 1, 1]
    near(profile.median, [np.median(values) for values in left.values()], MEASURE)
    near(profile.lower, [np.quantile(values, 0.25) for values in left.values()], MEASURE)
    near(profile.upper, [np.quantile(values, 0.75) for values in left.values()], MEASURE)


def test_what_is_limited_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = tt.cells.make("gru", 3, 4, dtype=torch.float64)
    x, state = sequence(cell, steps=9, batch=3)
    one = seen(cell, x, state, torch.tensor([3, 9, 6]))
    each = 4 * (3 * 16 + 3 * 12)  # S rows, each through three maps and on to three inputs
    monkeypatch.setattr(module, "_WORK", 2.0 * 8 * each)
    profile, said = memory_of(one)
    assert said == ("What the last state remembers was measured on the 2 longest of 3 sequences.",)
    assert profile.pairs.tolist() == [2, 2, 2, 2, 2, 2, 1, 1, 1]
    whole = tt.flow.memory(cell, x, state, lengths=torch.tensor([3, 9, 6])).log10_memory[0]
    near(profile.median[6:], whole[2::-1, 1] - whole[8, 1])
    monkeypatch.setattr(module, "_WORK", 4.0 * each)
    profile, said = memory_of(one)
    assert said[1] == "What the last state remembers was followed 4 steps back, not to the start."
    near(profile.median, whole[8:3:-1, 1] - whole[8, 1])


def test_what_is_forgotten_at_once_is_exactly_nothing() -> None:
    """A dead unit: the last input counts, what came before cannot; where even the last does not, nothing is said."""
    cell = tt.cells.make("elman", 1, 1, nonlinearity="relu", bias=False, dtype=torch.float64)
    torch.nn.init.constant_(cell.weight_hh, 0.5)
    torch.nn.init.constant_(cell.weight_ih, 1.0)
    x = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]], dtype=torch.float64).unsqueeze(-1)
    profile, _ = memory_of(seen(cell, x))
    near(profile.median, [0.0, -math.inf, -math.inf])
    assert profile.pairs.tolist() == [1, 1, 1]
    silent, _ = memory_of(seen(cell, -x.abs()))
    assert np.isnan(silent.median).all()
    assert silent.pairs.tolist() == [0, 0, 0]


def test_the_memory_of_a_linear_net_is_its_power() -> None:
    cell = tt.cells.make("elman", 1, 1, nonlinearity="identity", bias=False, dtype=torch.float64)
    torch.nn.init.constant_(cell.weight_hh, 0.25)
    profile, _ = memory_of(seen(cell, torch.zeros(1200, 2, 1, dtype=torch.float64)))
    near(profile.median, np.arange(1200) * math.log10(0.25))
    assert profile.horizon() == 3
