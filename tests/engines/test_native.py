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


@pytest.mark.parametrize("name", ["elman", "lstm", "gru"])
@pytest.mark.parametrize("lengths", [[6, 2, 4, 4], [6, 6, 3, 1], [5, 0, 2, 5], [0, 0, 0, 1], [6, 6, 6, 6]])
def test_different_lengths(name: str, lengths: list[int]) -> None:
    """One call for each different length; past its length a sequence's state is held."""
    cell = tt.cells.make(name, 3, 5, dtype=torch.float64)
    x = torch.randn(6, 4, 3, dtype=torch.float64, requires_grad=True)
    start = State(**{part: torch.randn(4, 5, dtype=torch.float64, requires_grad=True) for part in cell.parts})
    leaves = [x, *start.values(), *cell.parameters()]
    asked = Job(cell, cell.values(), x, start, torch.tensor(lengths), inside=name == "elman")
    mine, expected = (choose(asked, engine).run(asked) for engine in ("native", "reference"))
    close(mine.output, expected.output)
    for part in cell.parts:
        close(mine.final[part], expected.final[part])
    weights = torch.randn_like(mine.output)
    for a, b in zip(
        torch.autograd.grad((weights * mine.output).sum() + mine.final[cell.parts[0]].sum(), leaves),
        torch.autograd.grad((weights * expected.output).sum() + expected.final[cell.parts[0]].sum(), leaves),
        strict=True,
    ):
        close(a, b)


def test_long_packed_sequences_take_onednn() -> None:
    """Several times as fast as torch.nn's packed kernel, and the same numbers: both layers, both ways, and dropout."""
    theirs = torch.nn.LSTM(3, 5, 2, bidirectional=True, dropout=0.5)
    ours = tt.from_torch(theirs)
    ours.engine = "native"
    x, lengths = torch.randn(60, 4, 3), torch.tensor([20, 60, 37, 1])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    answers = []
    for module in (ours, theirs):
        torch.manual_seed(1)
        output, (h, c) = module(packed)
        gradients = torch.autograd.grad(output.data.square().sum() + c.sum(), list(module.parameters()))
        answers.append([output.data, h, c, *gradients])
    assert "Mkldnn" in _nodes(ours(packed)[0].data)
    assert "Mkldnn" not in _nodes(theirs(packed)[0].data)
    for mine, expected in zip(*answers, strict=True):
        close(mine, expected)


def _nodes(output: torch.Tensor) -> str:
    seen, todo = set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [after for after, _ in node.next_functions]
    return " ".join(type(node).__name__ for node in seen)
