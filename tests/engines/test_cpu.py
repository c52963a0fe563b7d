"""Generated kernels against the step in a loop, in float64: every known cell, and cells that only the tests know.

Each comparison holds the outputs, the states and gates of every step, the final state, and the gradients of the
input, the initial state and every parameter, with memory poisoned before the call.
"""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from tests.engines.cells import Levels, OwnShare
from tests.engines.comparing import DTYPES, EARLY, KINDS, Case, agrees, case, run, seen

pytestmark = pytest.mark.compiler

STEPS, BATCHES, UNITS = (1, 2, 97), (1, 3), (1, 7, 63)
SMALL = (4, 3, 7)  # T, B, H


def _sizes(index: int) -> list[tuple[int, int, int]]:
    """Three sizes with each T, each H and both B among them; over all cells every combination comes up."""
    return [(steps, BATCHES[(index // 3 + k) % 2], UNITS[(index + k) % 3]) for k, steps in enumerate(STEPS)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_reference(kind: str, dtype: torch.dtype) -> None:
    for steps, batch, units in _sizes(list(KINDS).index(kind)):
        agrees(case(kind, steps, batch, units, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("kind", ["lstm-peephole=True", "gru-reset=before", "Levels"])
def test_agrees_at_every_size(kind: str, units: int, dtype: torch.dtype) -> None:
    for steps in STEPS:
        for batch in BATCHES:
            agrees(case(kind, steps, batch, units, dtype))


LENGTHS = [[4, 2, 3, 3, 4], [0, 1, 4, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [3, 3, 2, 1, 0]]


@pytest.mark.parametrize("kind", EARLY)
def test_sequences_that_end_early(kind: str) -> None:
    """Lengths of 0 and 1 among them, in any order; gradients arrive at the states held past the end too."""
    for lengths in LENGTHS:
        agrees(case(kind, 4, 5, 7, lengths=lengths))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["lstm", "Levels", "Swap"])
def test_many_sequences_of_many_lengths(kind: str, dtype: torch.dtype) -> None:
    """More sequences than any tile holds, and tiles that lose some of theirs at every step."""
    lengths = [(7 * b) % 12 for b in range(53)]
    agrees(case(kind, 11, 53, 7, dtype, lengths=lengths))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_from_one_place_alone(kind: str) -> None:
    """At one part of the state, at its last value, at one gate: alone, and at every other place at once."""
    given = case(kind, *SMALL)
    for place in seen(run(given, "reference"), None):
        agrees(given, heard=lambda name, place=place: name == place)
        agrees(given, heard=lambda name, place=place: name != place)


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_alone_is_asked_for(kind: str) -> None:
    """Without the inside the states before the last part and the gates are not there, and all else is the same."""
    agrees(case(kind, *SMALL), inside=False)
    if kind in EARLY:
        agrees(case(kind, *SMALL, lengths=[2, 0, 4]), inside=False)
    given = case(kind, *SMALL)
    assert list(run(given, "cpu", inside=False).states) == [given.cell.parts[-1]]
    assert not run(given, "cpu", inside=False).gates


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_for_some_leaves_alone(kind: str) -> None:
    """Whatever does not ask for a gradient, the others get theirs."""
    leaves = list(case(kind, *SMALL).leaves)
    for asked in leaves:
        found = []
        for engine in ("cpu", "reference"):
            given = case(kind, *SMALL)
            for name, leaf in given.leaves.items():
                leaf.requires_grad_(name == asked)
            outputs = [value for value in seen(run(given, engine), None).values() if value.requires_grad]
            if outputs:
                total = torch.stack([value.sum() for value in outputs]).sum()
                (gradient,) = torch.autograd.grad(total, [given.leaves[asked]], materialize_grads=True)
            else:
                gradient = torch.zeros_like(given.leaves[asked])
            found.append(gradient)
        torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_without_gradients() -> None:
    for kind in ("lstm", "Levels"):
        given = case(kind, *SMALL)
        expected = run(given, "reference")
        with torch.no_grad():
            quiet = run(given, "cpu")
        with torch.inference_mode():
            inferred = run(given, "cpu")
        for done in (quiet, inferred):
            assert not any(value.requires_grad for value in seen(done, None).values())
            for name, value in seen(expected, None).items():
                torch.testing.assert_close(seen(done, None)[name], value.detach(), rtol=1e-12, atol=1e-12)


def test_no_steps_and_no_sequences() -> None:
    for steps, batch in ((0, 3), (4, 0), (0, 0)):
        given = case("lstm", steps, batch, 7)
        done = tt.unroll(given.cell, given.x, given.state)
        assert done.output.shape == (steps, batch, 7)
        for part, start in given.state.items():
            assert torch.equal(done.final[part], start)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["elman", "lstm", "gru", "Levels"])
def test_wide_cells(kind: str, dtype: torch.dtype) -> None:
    """More units than a block of the weights holds."""
    agrees(case(kind, 3, 5, 300, dtype))
    agrees(case(kind, 2, 53, 129, dtype))


def test_a_share_of_the_cells_own() -> None:
    agrees(case(OwnShare, 9, 3, 7, inputs=7))


def test_strided_inputs() -> None:
    """x and the state as views, transposed and expanded, and gradients that arrive so."""
    given = case("lstm", 6, 4, 7)
    whole = torch.randn(4, 6, 2 * given.cell.input_size, dtype=torch.float64, requires_grad=True)
    start = torch.randn(7, dtype=torch.float64, requires_grad=True)
    results = []
    for engine in ("cpu", "reference"):
        x = whole.transpose(0, 1)[..., ::2]
        state = given.state.map(lambda part: start.expand(4, -1))
        done = run(Case(given.cell, x, state), engine)
        loss = done.output.sum() + done.states["s"].transpose(0, 1)[:, 2].sum() + done.final.s.sum()
        results.append([done.output, *torch.autograd.grad(loss, [whole, start, *given.cell.parameters()])])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


def test_two_backward_passes_and_two_runs_at_once() -> None:
    """A graph that is kept answers twice; another run in between does not disturb it."""
    given, other = case("gru", *SMALL), case("gru", 9, 2, 7)
    done = run(given, "cpu")
    between = run(other, "cpu")
    first = torch.autograd.grad(done.output.sum(), given.x, retain_graph=True)[0]
    between.output.sum().backward()
    assert torch.equal(first, torch.autograd.grad(done.output.sum(), given.x)[0])


def test_in_place_changes_of_what_backward_needs_are_noticed() -> None:
    """As everywhere in torch: an error, not a wrong gradient."""
    given = case("lstm", *SMALL)
    done = run(given, "cpu")
    with torch.no_grad():
        given.cell.weight_hh.mul_(2)
    with pytest.raises(RuntimeError, match="modified"):
        done.output.sum().backward()


def test_outputs_may_be_changed_in_place() -> None:
    """Either the gradient is still right or torch says that it cannot be had; it is never wrong."""
    given = case("Aliases", *SMALL)
    expected = torch.autograd.grad((2 * run(given, "cpu").output).sum(), given.x)[0]
    done = run(given, "cpu")
    try:
        output = done.output.mul_(2)
        found = torch.autograd.grad(output.sum(), given.x)[0]
    except RuntimeError:
        return
    assert torch.equal(found, expected)


def test_a_start_that_is_given_is_left_alone() -> None:
    given = case(Levels, *SMALL)
    before = given.state.map(lambda part: part.detach().clone())
    done = run(given, "cpu")
    with torch.no_grad():
        for value in done.final.values():
            value.zero_()
    for part in given.cell.parts:
        assert torch.equal(given.state[part], before[part])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_tensors_of_their_own(kind: str) -> None:
    """Clipping and a second backward pass change each parameter's .grad in place, and must not change another's."""
    given = case(kind, *SMALL)
    run(given, "cpu").output.sum().backward()
    found = [leaf.grad.untyped_storage().data_ptr() for leaf in given.leaves.values() if leaf.grad is not None]
    assert len(set(found)) == len(found)
