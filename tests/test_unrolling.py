"""tt.unroll: what it answers, who serves, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import throughtime as tt
from tests.serving import CPU, first
from tests.tolerances import close
from throughtime.errors import CellError, EngineError


@pytest.mark.parametrize("engine", [CPU, "native"])
def test_an_elman_net_is_served_by_kernels_with_the_same_inside(engine: str) -> None:
    cell = tt.cells.make("elman", 3, 4, dtype=torch.float64)
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    assert tt.unroll(cell, x).engine == first("native")
    mine, expected = tt.unroll(cell, x, engine=engine), tt.unroll(cell, x, engine="reference")
    assert (mine.engine, expected.engine) == (engine, "reference")
    close(mine.states["h"], expected.states["h"])
    close(mine.final.h, mine.output[-1])
    assert mine.gates == expected.gates == {}


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_gates_and_inner_states_come_from_the_step_not_from_torchs_kernel(name: str) -> None:
    cell = tt.cells.make(name, 3, 4)
    x = torch.randn(7, 2, 3)
    result, expected = tt.unroll(cell, x), tt.unroll(cell, x, engine="reference")
    assert (result.engine, expected.engine) == (first("reference"), "reference")
    assert tuple(result.states) == cell.parts
    assert list(result.gates) == list(expected.gates)
    for kind in ("states", "gates"):
        for made, value in getattr(expected, kind).items():
            assert value.shape == (7, 2, 4)
            close(getattr(result, kind)[made], value)
    with pytest.raises(EngineError, match="do not show the gates"):
        tt.unroll(cell, x, engine="native")


def test_past_its_length_a_state_is_held() -> None:
    cell = tt.cells.make("lstm", 3, 4, dtype=torch.float64)
    x = torch.randn(7, 3, 3, dtype=torch.float64)
    result = tt.unroll(cell, x, lengths=torch.tensor([7, 2, 0]))
    alone = tt.unroll(cell, x[:2, 1:2])
    for part in cell.parts:
        close(result.states[part][:2, 1:2], alone.states[part])
        close(result.states[part][2:, 1], alone.final[part].expand(5, 4))
        assert not result.states[part][:, 2].any()
        close(result.final[part], result.states[part][-1])


@pytest.mark.parametrize(
    ("x", "keywords", "says"),
    [
        (torch.zeros(7, 3), {}, "x must be \\(T, B, 3\\)"),
        (torch.zeros(7, 2, 4), {}, "x must be \\(T, B, 3\\)"),
        (torch.zeros(7, 2, 3), {"lengths": torch.tensor([8, 1])}, "from 0 to the 7 steps"),
        (torch.zeros(7, 2, 3), {"lengths": torch.tensor([1])}, "lengths must be \\(2,\\)"),
        (torch.zeros(7, 2, 3), {"state": tt.cells.State(h=torch.zeros(2, 5))}, "parts h, each \\(2, 4\\)"),
        (torch.zeros(7, 2, 3), {"state": tt.cells.State(s=torch.zeros(2, 4))}, "parts h"),
        (torch.zeros(7, 2, 3).double(), {}, "x is torch.float64 on cpu, the cell's parameters are torch.float32"),
        (torch.zeros(7, 2, 3), {"state": tt.cells.State(h=torch.zeros(2, 4).double())}, "h is torch.float64"),
    ],
)
def test_what_does_not_fit(x: torch.Tensor, keywords: dict[str, Any], says: str) -> None:
    with pytest.raises(CellError, match=says):
        tt.unroll(tt.cells.make("gru", 3, 4), x, **keywords)


def test_a_module_is_not_a_cell() -> None:
    with pytest.raises(CellError, match="a module is called on x"):
        tt.unroll(tt.LSTM(3, 4), torch.zeros(7, 2, 3))  # type: ignore[arg-type]
