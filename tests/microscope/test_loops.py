"""Which calls of a cell belong together, and what cannot be told apart is said, never guessed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.microscope.catching import B, H, I, T, caught, in_torchs_order, plain, through_time
from tests.microscope.loops import TORCH, After, Parts, by_leaves, nothing
from tests.tolerances import MEASURE, close
from throughtime.cells import Cell, Gates, State
from throughtime.errors import FlowError
from throughtime.microscope.cells import CellCatcher

# -- which calls belong together


def test_two_chains_through_one_cell() -> None:
    cell, x = nn.GRUCell(I, H, dtype=torch.float64), torch.randn(2, T, B, I, dtype=torch.float64)

    def run(after: After = nothing) -> Tensor:
        states: list[Any] = [None, None]
        total = x.new_zeros(())
        for t in range(T):
            for which in (0, 1):
                (states[which],), (out,) = after(2 * t + which, (cell(x[which, t], states[which]),))
                total = total + out.square().sum() * (1 + which)
        return total

    first, second = caught(cell, lambda: run().backward())
    delta, _ = by_leaves(run, 1, 2 * T, B, H)
    assert (first.name, second.name) == ("cell", "cell (chain 2)")
    close(first.delta, delta[:, ::2], MEASURE)
    close(second.delta, delta[:, 1::2], MEASURE)


def test_cells_stacked_by_hand_are_each_their_own() -> None:
    below, above = nn.LSTMCell(I, H, dtype=torch.float64), nn.GRUCell(H, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)

    def run(after_below: After = nothing, after_above: After = nothing) -> Tensor:
        low: Any = None
        high: Any = None
        total = x.new_zeros(())
        for t in range(T):
            low, out = after_below(t, below(x[t], low))
            (high,), (top,) = after_above(t, (above(out[0], high),))
            total = total + top.square().sum()
        return total

    catchers = [CellCatcher(name, cell, None) for name, cell in (("below", below), ("above", above))]
    for catcher in catchers:
        catcher.open()
    run().backward()
    found = [catcher.sightings() for catcher in catchers]
    for catcher in catchers:
        catcher.close()
    for (seen,), parts, slot in zip(found, (2, 1), (0, 1), strict=True):
        delta, adjoint = by_leaves(lambda after, s=slot: run(*(nothing,) * s, after), parts, T, B, H)
        close(in_torchs_order(seen, seen.delta), delta, MEASURE)
        close(in_torchs_order(seen, through_time(seen)), adjoint, MEASURE)
        assert not any("earlier outputs" in note for note in seen.notes)


def test_a_detached_state_is_a_cut_in_one_run() -> None:
    cell, x = nn.LSTMCell(I, H), torch.randn(T, B, I)

    def step() -> None:
        state, total = None, 0.0
        for t in range(T):
            state = cell(x[t], state)
            total = total + state[0].square().sum()
            if t == 2:
                state = tuple(part.detach() for part in state)
        total.backward()

    (seen,) = caught(cell, step)
    assert seen.along.T == 6
    assert seen.use is not None
    assert seen.use.cuts.tolist() == [3]
    back = seen.tangent.pull(seen.delta[:, 3:4].contiguous(), 3)
    assert not back.any()


def test_a_batch_that_shrinks_cuts_the_chain() -> None:
    cell, x = nn.GRUCell(I, H), torch.randn(T, B, I)

    def step() -> None:
        state, total = None, 0.0
        for t in range(T):
            n = 3 if t < 4 else 2
            state = cell(x[t, :n], state if state is None or len(state) == n else state[:n])
            total = total + state.square().sum()
        total.backward()

    first, second = caught(cell, step)
    assert [(seen.along.T, seen.along.B) for seen in (first, second)] == [(4, 3), (2, 2)]
    assert any("the batch shrinks from 3 to 2 sequences" in note for note in first.notes)


def test_a_loop_that_mixes_the_units_of_its_state_is_refused() -> None:
    cell, x, norm = nn.GRUCell(I, H), torch.randn(T, B, I), nn.LayerNorm(H)

    def step() -> None:
        state = torch.zeros(B, H)
        for t in range(T):
            state = norm(cell(x[t], state))
        state.square().sum().backward()

    with pytest.raises(
        FlowError, match="cannot be watched in this loop: between every two calls the units of the state are mixed"
    ):
        caught(cell, step)


def test_a_call_that_was_only_a_try_breaks_nothing() -> None:
    """Scheduled sampling: what the cell would say is asked first, and no gradient comes back from that."""
    cell, x = nn.GRUCell(I, H, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)

    def run(after: After = nothing) -> Tensor:
        state, total = None, x.new_zeros(())
        for t in range(T):
            guess = x[t] if state is None else (cell(x[t], state).argmax(-1, keepdim=True) * x[t])
            (state,), (out,) = after(t, (cell(guess, state),))
            total = total + out.square().sum()
        return total

    (seen,) = caught(cell, lambda: run().backward())
    delta, adjoint = by_leaves(run, 1, T, B, H)
    close(seen.delta, delta, MEASURE)
    close(through_time(seen), adjoint, MEASURE)


def test_a_state_handed_to_two_calls() -> None:
    cell, x = nn.GRUCell(I, H, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)

    def run(after: After = nothing) -> Tensor:
        state = None
        for t in range(3):
            (state,), (shared,) = after(t, (cell(x[t], state),))
        one = cell(x[3], state)
        other = cell(x[4], shared)
        return one.sum() + other.square().sum()

    first, second = caught(cell, lambda: run().backward())
    delta, _ = by_leaves(run, 1, 3, B, H)
    close(first.delta[:, :3], delta, MEASURE)
    assert (first.along.T, second.along.T) == (4, 1)
    assert any("handed to two calls" in note for note in first.notes)


# -- what is refused


def refusal(step: Callable[[nn.GRUCell, Tensor], object], match: str) -> None:
    cell, x = nn.GRUCell(H, H), torch.randn(T, B, H)
    with pytest.raises(FlowError, match=match):
        caught(cell, lambda: step(cell, x))


def chain(cell: nn.GRUCell, x: Tensor, between: Callable[[int, Tensor], Any] = lambda t, state: None) -> Tensor:
    state = None
    for t in range(len(x)):
        state = cell(x[t], state)
        between(t, state)
    return state.square().sum()


def test_no_call_no_gradient() -> None:
    refusal(lambda cell, x: None, "cell was not called while it was watched")
    refusal(lambda cell, x: chain(cell, x), "no gradient came back to it: there was no backward pass")
    refusal(lambda cell, x: torch.no_grad()(chain)(cell, x), "gradients were off")


def test_weights_that_change_before_the_gradient_comes() -> None:
    def step(cell: nn.GRUCell, x: Tensor) -> None:
        loss = chain(cell, x)
        cell.weight_ih.data.mul_(1.1)  # past autograd's own check
        loss.backward()

    refusal(step, "the weights of cell changed between its calls and the gradient's return")
    refusal(
        lambda cell, x: chain(cell, x, lambda t, state: cell.weight_hh.data.mul_(1.01)).backward(),
        "the weights of cell changed",
    )


def test_a_state_changed_behind_autograds_back() -> None:
    refusal(
        lambda cell, x: chain(cell, x, lambda t, state: state.data.mul_(0.99)).backward(),
        "does more than its equations: at step 1 .* where autograd does not see it",
    )


def test_a_gradient_that_is_clipped_on_its_way() -> None:
    def clip(t: int, state: Tensor) -> None:
        state.register_hook(lambda gradient: gradient.clamp(-0.05, 0.05))

    refusal(lambda cell, x: chain(cell, x, clip).backward(), "is changed on its way back through step 5")


def test_a_gradient_penalty() -> None:
    def step(cell: nn.GRUCell, x: Tensor) -> None:
        x.requires_grad_()
        loss = chain(cell, x)
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + gradient.square().sum()).backward()

    refusal(step, r"A backward pass was differentiated itself \(create_graph\)")
    cell = nn.GRUCell(H, H)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says what it leaves behind
        (seen,) = caught(cell, lambda: chain(cell, torch.randn(T, B, H)).backward(create_graph=True))
    assert seen.along.T == T


def test_a_hook_that_changes_the_output() -> None:
    cell, x = nn.GRUCell(H, H), torch.randn(T, B, H)
    cell.register_forward_hook(lambda module, args, output: output * 0.9)
    with pytest.raises(FlowError, match=r'does more than its equations: at step 0 its state "h" is something else'):
        caught(cell, lambda: chain(cell, x).backward())


def test_an_input_that_is_the_state_itself() -> None:
    def step(cell: nn.GRUCell, x: Tensor) -> None:
        state = x[0]
        for _ in range(T):
            state = cell(state, state)
        state.sum().backward()

    refusal(step, "its input is the very tensor of its state")


@pytest.mark.parametrize(
    ("where", "match"), [("x", "the input of cell is not finite at step 2"), ("w", "weight_hh of cell is not finite")]
)
def test_numbers_that_are_not_finite(where: str, match: str) -> None:
    def step(cell: nn.GRUCell, x: Tensor) -> None:
        with torch.no_grad():
            (x[2] if where == "x" else cell.weight_hh)[0] = torch.nan
        chain(cell, x).backward()

    refusal(step, match)


def test_a_loss_that_is_not_finite() -> None:
    refusal(lambda cell, x: (chain(cell, x) * torch.inf).backward(), "gradient that came back to cell is not finite")


# -- what people switch on


def test_checkpoints_run_a_cell_twice_and_it_is_seen_once() -> None:
    cell, x = nn.LSTMCell(I, H, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)

    def run(step: Callable[[Tensor, Any], Parts]) -> None:
        state: Any = None
        for t in range(T):
            state = step(x[t], state)
        state[0].square().sum().backward()

    (usual,) = caught(cell, lambda: run(cell))
    (checked,) = caught(cell, lambda: run(lambda x, state: checkpoint(cell, x, state, use_reentrant=False)))
    assert torch.equal(checked.delta, usual.delta)
    assert checked.along.T == T


@pytest.mark.parametrize("kind", TORCH)
def test_autocast(kind: str) -> None:
    cell, x = TORCH[kind](8, 8), torch.randn(T, B, 8)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = plain(cell, x)
        loss.backward()

    (seen,) = caught(cell, step)
    assert any("computed in bfloat16" in note for note in seen.notes)
    (exact,) = caught(cell, lambda: plain(cell, x).backward())
    off = (through_time(seen) - through_time(exact)).norm() / through_time(exact).norm()
    assert off < 0.05


def test_a_cell_of_ones_own_written_with_options() -> None:
    class Gain(Cell):
        reads = {"carousel": "h"}  # noqa: RUF012
        inputs = ("push",)
        recurrent = ()

        def step(self, u: Any, read: Any, W: Any) -> Any:
            return State(h=0.5 * read.carousel + torch.tanh(u.push)), Gates()

    cell, x = Gain(I, H, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)

    def step() -> None:
        state = None
        for t in range(T):
            state = cell(x[t], state=state)
        state.h.sum().backward()

    (seen,) = caught(cell, step)
    close(through_time(seen)[0, 0], torch.full((B, H), 0.5 ** (T - 1), dtype=torch.float64))
