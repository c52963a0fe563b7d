"""Generated kernels where numbers are not ordinary: NaN, infinite, huge, tiny; and on several threads."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.engines.cells import MADE, Levels, OwnShare
from tests.engines.comparing import DTYPES, KINDS, Case, agrees, case, gradients, run, seen
from tests.tolerances import IDENTITY, close
from tests.tree import ROOT
from throughtime.cells import State
from throughtime.engines.cpu import kernel

pytestmark = pytest.mark.compiler

ODD = {"NaN": math.nan, "infinity": math.inf, "minus infinity": -math.inf}


def _spoiled(kind: str, dtype: torch.dtype, value: float) -> tuple[Case, Case]:
    """A case as it is, and with one number of one sequence spoiled: x[2, 1, 0]."""
    clean, spoiled = case(kind, 6, 3, 7, dtype), case(kind, 6, 3, 7, dtype)
    with torch.no_grad():
        spoiled.x[2, 1, 0] = value
    return clean, spoiled


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "kind", ["elman", "elman-nonlinearity=relu", "lstm", "gru", "own", *(c.__name__ for c in MADE)]
)
def test_a_number_that_is_none_stays_in_its_sequence(kind: str, dtype: torch.dtype) -> None:
    """The other sequences and all that came before are bit for bit as without it, and the same numbers are lost."""
    for value in ODD.values():
        clean, spoiled = _spoiled(kind, dtype, value)
        expected, unharmed, mine = (
            seen(run(given, engine), None)
            for given, engine in ((spoiled, "reference"), (clean, "cpu"), (spoiled, "cpu"))
        )
        for name, found in mine.items():
            assert torch.equal(found.isnan(), expected[name].isnan()), (name, value)
            assert torch.equal(found.isinf(), expected[name].isinf()), (name, value)
            others = [0, 2]
            assert torch.equal(found[..., others, :], unharmed[name][..., others, :])
            if found.ndim == 3:
                assert torch.equal(found[:2], unharmed[name][:2])
        if math.isnan(value):
            assert mine[f"state {spoiled.cell.parts[-1]}"][2:, 1].isnan().any()


@pytest.mark.parametrize("kind", ["lstm", "gru", "Levels", "Smooth"])
def test_gradients_of_the_other_sequences_are_unharmed(kind: str) -> None:
    clean, spoiled = _spoiled(kind, torch.float64, math.nan)
    found = []
    for given in (clean, spoiled):
        output = run(given, "cpu").output
        found.append(torch.autograd.grad(output.sum(), [given.x, *given.state.values(), given.cell.weight_hh]))
    for unharmed, mine in zip(found[0][:-1], found[1][:-1], strict=True):
        assert torch.equal(mine[..., [0, 2], :], unharmed[..., [0, 2], :])
    assert found[1][0][2, 1].isnan().all()
    assert found[1][-1].isnan().any(), "a step that cannot be taken must not look as if it could"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_huge_numbers(kind: str, dtype: torch.dtype) -> None:
    """Far out every activation is flat or straight, and no formula of a derivative divides infinity by infinity.

    How flat exactly is a matter of the last bit, which 1 − tanh² makes visible: gradients are compared on a scale
    of 1, and those of the weights, which multiply that bit by the input, must be finite where the reference's are.
    """
    for scale in (30.0, 1e3, 1e18):
        answers = []
        for engine in ("cpu", "reference"):
            given = case(kind, 2, 3, 7, dtype)
            with torch.no_grad():
                given.x.mul_(scale)
            answer = seen(run(given, engine), None)
            answers.append((answer, gradients(given, answer, lambda name: True)))
        (mine, sent), (expected, due) = answers
        for name, value in expected.items():
            close(mine[name], value)
        for name, value in due.items():
            assert torch.equal(sent[name].isfinite(), value.isfinite()), name
            if name == "x" or name.startswith("initial"):
                allowed = IDENTITY[dtype] * max(1.0, float(value.abs().max()))
                torch.testing.assert_close(sent[name], value, rtol=0.0, atol=allowed)


@pytest.mark.parametrize("kind", ["elman", "lstm", "Levels"])
def test_tiny_numbers_and_the_callers_own_rounding(kind: str) -> None:
    """Numbers below the smallest normal one may become 0; what the caller does with such numbers is not touched."""
    given = case(kind, 6, 3, 7, torch.float32)
    with torch.no_grad():
        for tensor in (given.x, *given.state.values(), *given.cell.parameters()):
            tensor.copy_(1e-39 * torch.randn_like(tensor))
    expected, mine = (seen(run(given, engine), None) for engine in ("reference", "cpu"))
    for name, value in expected.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-5, atol=torch.finfo(torch.float32).tiny)
    mine[f"state {given.cell.parts[-1]}"].sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in given.leaves.values() if tensor.grad is not None)
    denormal = torch.tensor([1e-39])
    assert (denormal * 0.5).item() != 0, "the kernel left the processor flushing denormal numbers to 0"


def test_vanishing_gradients_are_not_slow() -> None:
    """Over 400 steps the gradient falls far below the smallest number; that takes as long as where it does not."""
    given = case("elman-nonlinearity=identity", 400, 8, 64, torch.float32)
    seconds = []
    for spread in (1.0, 0.7):  # at 1.0 nothing vanishes; at 0.7 it falls to 1e-40 on the way
        with torch.no_grad():
            given.cell.weight_hh.copy_(spread * torch.eye(64))
            given.cell.weight_ih.zero_()
            given.cell.bias_ih.zero_()
            given.cell.bias_hh.zero_()
        best = math.inf
        for _ in range(5):
            began = time.perf_counter()
            done = run(given, "cpu")
            torch.autograd.grad(done.final.h.sum(), [given.state.h])
            best = min(best, time.perf_counter() - began)
        seconds.append(best)
    assert seconds[1] < 4 * seconds[0], seconds


@contextmanager
def threads(number: int) -> Iterator[None]:
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["lstm", "gru", "Levels", "Oddments"])
@pytest.mark.parametrize(("batch", "lengths"), [(1, None), (2, None), (53, None), (5, [4, 0, 1, 9, 2])])
def test_threads_change_nothing(
    kind: str, dtype: torch.dtype, batch: int, lengths: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the sequences are shared out between threads, and whatever is left for one of them."""
    monkeypatch.setattr(kernel, "threads_for", lambda operations: torch.get_num_threads())  # however little there is
    for number in (1, 2, 3):
        with threads(number):
            agrees(case(kind, 9, batch, 33, dtype, lengths=lengths))


def test_runs_are_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "threads_for", lambda operations: torch.get_num_threads())
    with threads(2):
        answers = [
            torch.autograd.grad(run(given, "cpu").output.square().sum(), [given.x, *given.cell.parameters()])
            for given in (case(Levels, 9, 37, 33, torch.float32) for _ in range(5))
        ]
    for other in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answers[0], other, strict=True))


def test_a_sequence_is_the_same_in_every_batch() -> None:
    """A sequence's states do not hang on which others run beside it; a whole batch is its sequences one by one."""
    whole = case(OwnShare, 9, 37, 7, torch.float32, inputs=7)
    together = run(whole, "cpu").output
    for b in (0, 1, 17, 36):
        alone = Case(whole.cell, whole.x[:, b : b + 1], State(h=whole.state.h[b : b + 1]))
        torch.testing.assert_close(run(alone, "cpu").output, together[:, b : b + 1], rtol=1e-6, atol=1e-6)


SCRATCH = """
import torch
torch.set_num_threads(1)
from tests.engines.comparing import agrees, case
for kind in ("lstm", "gru-reset=before", "Levels", "Oddments"):
    for dtype in (torch.float64, torch.float32):
        for steps, batch, units in ((3, 2, 1), (5, 3, 7), (3, 5, 63), (2, 37, 129)):
            agrees(case(kind, steps, batch, units, dtype))
            agrees(case(kind, steps, batch, units, dtype, lengths=[b % (steps + 1) for b in range(batch)]))
"""


def test_memory_that_the_kernels_take_themselves() -> None:
    """glibc fills what malloc hands out with the byte 0x7f, in any float a huge number, which no answer may show."""
    environment = {**os.environ, "MALLOC_PERTURB_": str(0xFF ^ 0x7F), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", SCRATCH]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
