"""A run that is gone back through in stretches has the gradients of one that is not."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from tests.engines.comparing import EARLY, KINDS, agrees, case
from tests.tolerances import close
from throughtime.engines.compiled import stretches
from throughtime.engines.compiled.rows import Rows

pytestmark = pytest.mark.compiler

T, B, I, H = 11, 3, 3, 7  # noqa: E741  # steps, sequences, inputs, units


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step in each stretch of a large cell, three of a small one."""
    monkeypatch.setattr(stretches, "TOGETHER", 3 * B * H)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("kind", KINDS)
def test_every_cell(kind: str) -> None:
    agrees(case(kind, T, B, H))
    agrees(case(kind, T, B, H), inside=False)
    if kind in EARLY:
        agrees(case(kind, T, B, H, lengths=[4, 0, 11]))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("make", [tt.RNN, tt.GRU, tt.LSTM])
def test_layers_in_both_directions(make: type[tt.RNN | tt.GRU | tt.LSTM]) -> None:
    torch.manual_seed(0)
    mine = make(I, H, 2, bidirectional=True, engine="cpu", dtype=torch.float64)
    other = make(I, H, 2, bidirectional=True, engine="reference", dtype=torch.float64)
    other.load_state_dict(mine.state_dict())
    x = torch.randn(T, B, I, dtype=torch.float64)
    found = []
    for layer in (mine, other):
        given = x.clone().requires_grad_()
        output, final = layer(given)
        parts = final if isinstance(final, tuple) else (final,)
        loss = (output**2).sum() + sum((part**3).sum() for part in parts)
        found.append(torch.autograd.grad(loss, [given, *layer.parameters()]))
    for a, b in zip(*found, strict=True):
        close(a, b)


@pytest.mark.parametrize("reverse", [False, True])
def test_each_step_is_in_one_stretch_and_what_came_before_it_is_its_start(
    monkeypatch: pytest.MonkeyPatch, reverse: bool
) -> None:
    monkeypatch.setattr(stretches, "TOGETHER", 2 * B * H)
    initial, states = torch.full((B, H), -1.0), torch.arange(T).view(T, 1, 1).expand(T, B, H)
    gone = []
    made = stretches.stretches(Rows.whole(T, B), H, [initial], [states], reverse=reverse)
    for stretch in made:
        steps = stretch.of(states)
        assert steps is not None
        assert stretch.rows == Rows.whole(len(steps), B)
        assert len(steps) <= 2
        numbers = [int(step[0, 0]) for step in steps]
        gone += numbers if reverse else numbers[::-1]
        earlier = max(numbers) + 1 if reverse else min(numbers) - 1
        assert stretch.initial[0].unique().tolist() == [-1 if stretch.first else earlier]
        rows = stretch.of(torch.arange(T * B).unsqueeze(1))
        assert rows is not None
        assert rows.flatten().tolist() == [t * B + b for t in numbers for b in range(B)]
    assert gone == list(range(T)) if reverse else list(range(T))[::-1]
    assert stretch.first
