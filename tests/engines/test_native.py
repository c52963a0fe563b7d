"""One cell through torch.nn's kernels against the step in a loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import throughtime as tt
from tests.tolerances import close
from throughtime.cells import State
from throughtime.engines import Job, choose


@pytest.mark.parametrize(
    ("name", "options", "inside"),
    [
        ("elman", {"nonlinearity": "tanh"}, True),
        ("elman", {"nonlinearity": "relu", "bias": False}, True),
        ("lstm", {}, False),
        ("gru", {"bias": False}, False),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_agrees_with_the_reference(name: str, options: dict[str, Any], inside: bool, training: bool) -> None:
    cell = tt.cells.make(name, 3, 5, dtype=torch.float64, **options).train(training)
    x = torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True)
    start = State(**{part: torch.randn(2, 5, dtype=torch.float64, requires_grad=True) for part in cell.parts})
    leaves = [x, *start.values(), *cell.parameters()]
    asked = Job(cell, cell.values(), x, start, inside=inside)
    mine, expected = (choose(asked, engine).run(asked) for engine in ("native", "reference"))
    assert (mine.engine, expected.engine) == ("native", "reference")
    assert set(mine.states) == set(expected.states)
    close(mine.output, expected.output)
    assert tuple(mine.final) == cell.parts
    for part in cell.parts:
        close(mine.final[part], expected.final[part])
    weights = torch.randn_like(mine.output)
    for a, b in zip(
        torch.autograd.grad((weights * mine.output).sum() + mine.final[cell.parts[0]].sum(), leaves),
        torch.autograd.grad((weights * expected.output).sum() + expected.final[cell.parts[0]].sum(), leaves),
        strict=True,
    ):
        close(a, b)


def test_other_parameters_stand_in() -> None:
    cell = tt.cells.make("elman", 3, 5, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    others = {name: torch.randn_like(value) for name, value in cell.values().items()}
    asked = Job(cell, others, x, cell.zero_state(2, x))
    close(choose(asked, "native").run(asked).output, choose(asked, "reference").run(asked).output)
    shuffled = replace(asked, parameters=dict(reversed(others.items())))
    assert torch.equal(choose(shuffled, "native").run(shuffled).output, choose(asked, "native").run(asked).output)
