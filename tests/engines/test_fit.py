"""Compiled kernels take memory for what shapes say is there: what does not fit is refused before it is read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

import throughtime as tt
from tests.tolerances import close
from throughtime.cells import State
from throughtime.engines import Job, choose
from throughtime.errors import CellError

pytestmark = pytest.mark.compiler
T, B, I, H = 5, 2, 3, 4  # noqa: E741


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weight_hh", lambda w: w.new_zeros(3 * H, H + 1)),
        ("weight_hh", lambda w: w[:H]),
        ("weight_hh", lambda w: w.T),
        ("bias_hh", lambda b: b[:2]),
        ("weight_ih", lambda w: w[:H]),
        ("weight_hh", lambda w: w.float()),
        ("bias_hh", lambda b: b.float()),
        ("weight_hh", lambda w: w.to("meta")),
    ],
)
def test_parameters_that_stand_in(name: str, change: Callable[[Tensor], Tensor]) -> None:
    cell = tt.cells.make("gru", I, H, dtype=torch.float64)
    others = {key: value.detach() for key, value in cell.values().items()}
    others[name] = change(others[name])
    with pytest.raises(CellError, match=f"{name} is .* want .* torch.float64 on cpu"):
        tt.unroll(cell, torch.randn(T, B, I, dtype=torch.float64), engine="cpu", parameters=others)


@pytest.mark.parametrize(
    ("x", "state"),
    [
        (torch.zeros(T, B, I + 1), torch.zeros(B, H)),
        (torch.zeros(T, B, I).double(), torch.zeros(B, H)),
        (torch.zeros(T, B, I), torch.zeros(B + 1, H)),
        (torch.zeros(T, B, I), torch.zeros(B, H - 1)),
        (torch.zeros(T, B, I), torch.zeros(B, H).double()),
        (torch.zeros(T, B, I), torch.zeros(B, H, device="meta")),
    ],
)
def test_a_job_that_nobody_looked_at_before(x: Tensor, state: Tensor) -> None:
    cell = tt.cells.make("gru", I, H)
    job = Job(cell, cell.values(), x, State(h=state))
    with pytest.raises(CellError, match=r"(x|a part of the state) is .* want "):
        choose(job, "cpu").run(job)


@pytest.mark.parametrize("sizes", [[3, 3, 3], [3, 1], [1, 2, 3], [2, 1, 3], [3, 4, -1]], ids=str)
def test_sizes_that_no_packed_sequence_has(sizes: list[int]) -> None:
    module = tt.GRU(I, H, 2, bidirectional=True, engine="cpu")
    with pytest.raises(CellError, match=r"want|must fall"):
        module(PackedSequence(torch.zeros(6, I), torch.tensor(sizes)))


def test_sizes_of_another_type() -> None:
    module, x = tt.GRU(I, H, engine="cpu"), torch.randn(6, I)
    wide, narrow = (module(PackedSequence(x, torch.tensor([3, 2, 1], dtype=d)))[0] for d in (torch.int64, torch.int32))
    assert torch.equal(wide.data, narrow.data)


@pytest.mark.parametrize(("name", "options"), [("gru", {}), ("lstm", {}), ("lstm", {"peephole": True}), ("scalar", {})])
def test_numbers_that_are_negated_when_they_are_read(name: str, options: dict[str, bool]) -> None:
    """As a part of a conjugate is: torch keeps −a as a and a mark, in inputs, in weights, and in gradients."""
    cell = tt.cells.make(name, I, H, dtype=torch.float64, **options)

    def everything(engine: str, marked: Callable[[Tensor], Tensor]) -> list[Tensor]:
        numbers = torch.Generator().manual_seed(1)
        x, start, weights = (
            torch.randn(shape, generator=numbers, dtype=torch.float64) for shape in ((T, B, I), (B, H), (T, B, H))
        )
        held = [x, start, *(value.detach() for value in cell.values().values())]
        leaves = [marked(tensor).requires_grad_() for tensor in held]
        state = State(**dict.fromkeys(cell.parts, leaves[1]))
        given = dict(zip(cell.values(), leaves[2:], strict=True))
        run = tt.unroll(cell, leaves[0], state, engine, parameters=given)
        return [run.output, *torch.autograd.grad(run.output, leaves, marked(weights))]

    mine = everything("cpu", lambda tensor: torch._neg_view(-tensor))
    for a, b in zip(mine, everything("reference", lambda tensor: tensor), strict=True):
        close(a, b)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_one_sequence_whose_batch_comes_first(steps: int) -> None:
    """Turned round it counts as contiguous, with a stride of all steps along the batch of one."""
    x = torch.randn(1, steps, I, dtype=torch.float64)

    def gradients(engine: str) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        module = tt.LSTM(I, H, 2, batch_first=True, bidirectional=True, engine=engine, dtype=torch.float64)
        return torch.autograd.grad(module(x)[0].pow(2).sum(), list(module.parameters()))

    for a, b in zip(gradients("cpu"), gradients("reference"), strict=True):
        close(a, b)


def test_sequences_of_no_steps_alone() -> None:
    cell = tt.cells.make("gru", I, H, dtype=torch.float64)
    start = State(h=torch.randn(B, H, dtype=torch.float64, requires_grad=True))
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    run = tt.unroll(cell, x, start, "cpu", lengths=torch.zeros(B, dtype=torch.int64))
    leaves = [x, start.h, *cell.values().values()]
    found = torch.autograd.grad(run.final.h.sum(), leaves, materialize_grads=True)
    for gradient, leaf in zip(found, leaves, strict=True):
        assert torch.equal(gradient, torch.ones_like(leaf) if leaf is start.h else torch.zeros_like(leaf))
