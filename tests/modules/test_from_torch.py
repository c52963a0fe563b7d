"""Torch's modules taken over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import throughtime as tt
from tests.serving import ENGINES
from tests.tolerances import close
from throughtime.errors import CellError

T, B, I, H = 6, 3, 4, 5  # noqa: E741


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (nn.RNN, {}),
        (nn.RNN, {"nonlinearity": "relu", "bias": False}),
        (nn.LSTM, {"num_layers": 2, "dropout": 0.5, "bidirectional": True}),
        (nn.GRU, {"num_layers": 2, "batch_first": True}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("engine", ENGINES)
def test_layers_answer_the_same(kind: Any, arguments: dict[str, Any], dtype: torch.dtype, engine: str) -> None:
    """Bitwise, where torch's own kernel is asked for."""
    theirs = kind(I, H, dtype=dtype, **arguments).eval()
    next(theirs.parameters()).requires_grad_(False)
    drawn = torch.get_rng_state()
    ours = tt.from_torch(theirs)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert isinstance(ours, getattr(tt, kind.__name__))
    assert repr(ours) == repr(theirs) or "relu" in repr(ours)
    x = torch.randn(T, B, I, dtype=dtype)
    ours.engine = engine
    for mine, expected in zip(tree_leaves(ours(x)), tree_leaves(theirs(x)), strict=True):
        close(mine, expected)
        assert engine != "native" or torch.equal(mine, expected)
    assert not ours.training
    for mine, weight in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.requires_grad == weight.requires_grad
        assert mine.data_ptr() != weight.data_ptr()


def test_a_rate_that_does_nothing_is_kept_without_another_warning() -> None:
    with pytest.warns(UserWarning, match="num_layers"):
        theirs = nn.GRU(I, H, dropout=0.5)
    assert tt.from_torch(theirs).dropout == 0.5


@pytest.mark.parametrize(
    ("kind", "arguments"), [(nn.RNNCell, {"nonlinearity": "relu"}), (nn.LSTMCell, {}), (nn.GRUCell, {"bias": False})]
)
def test_cells(kind: Any, arguments: dict[str, Any]) -> None:
    theirs = kind(I, H, dtype=torch.float64, **arguments)
    cell = tt.from_torch(theirs)
    x = torch.randn(T, B, I, dtype=torch.float64)
    hidden: Any = None
    expected: list[Tensor] = []
    for x_t in x:
        hidden = theirs(x_t, hidden)
        expected.append(hidden[0] if kind is nn.LSTMCell else hidden)
    close(tt.unroll(cell, x).output, torch.stack(expected))
    assert {p.device.type for p in cell.parameters()} == {"cpu"}


def test_projections_are_refused() -> None:
    with pytest.raises(CellError, match=r"projections \(proj_size=2\)"):
        tt.from_torch(nn.LSTM(I, H, proj_size=2))


def test_other_modules_are_refused() -> None:
    with pytest.raises(CellError, match="not Linear"):
        tt.from_torch(nn.Linear(2, 2))
