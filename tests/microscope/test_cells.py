"""Cells in a person's own loop: δ by an independent way, and nothing is changed."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.laws.variants import VARIANTS, Variant
from tests.microscope.catching import B, H, I, T, caught, in_torchs_order, plain, through_time
from tests.microscope.loops import TORCH, After, Translator, by_leaves, nothing, parts_of, sentences
from tests.tolerances import MEASURE, close
from throughtime.cells import Cell, Gates, State
from throughtime.microscope.cells import CellCatcher

# -- the numbers


@pytest.mark.parametrize("feeding", [False, True], ids=["", "feeding"])
@pytest.mark.parametrize("kind", TORCH)
def test_the_decoder_of_a_translator(kind: str, feeding: bool) -> None:
    model = Translator(kind, feeding=feeding).double()
    source, target = sentences(B, T=T + 1)
    (seen,) = caught(model.cell, lambda: model(source, target).backward())
    double = copy.deepcopy(model)
    parts = 2 if kind == "LSTMCell" else 1
    delta, adjoint = by_leaves(lambda after: double(source, target, after), parts, T, B, H)
    close(in_torchs_order(seen, seen.delta), delta, MEASURE)
    close(in_torchs_order(seen, through_time(seen)), adjoint, MEASURE)
    assert any("earlier outputs" in note for note in seen.notes) == feeding
    assert any("goes on from there" in note for note in seen.notes)  # the encoder
    if parts == 2:
        assert not seen.delta[0].any()  # nobody but the next step asks for c


@pytest.mark.parametrize("kind", TORCH)
def test_what_training_in_float32_really_did(kind: str) -> None:
    model = Translator(kind)
    source, target = sentences(B, T=T + 1)
    (seen,) = caught(model.cell, lambda: model(source, target).backward())
    double = copy.deepcopy(model).double()
    parts = 2 if kind == "LSTMCell" else 1
    delta, adjoint = by_leaves(lambda after: double(source, target, after), parts, T, B, H)
    close(in_torchs_order(seen, seen.delta).float(), delta.float(), MEASURE)
    close(in_torchs_order(seen, through_time(seen)).float(), adjoint.float(), MEASURE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", TORCH)
def test_where_nothing_else_came_delta_is_exactly_zero(kind: str, dtype: torch.dtype) -> None:
    cell, x = TORCH[kind](I, H, dtype=dtype), torch.randn(T, B, I, dtype=dtype)

    def step() -> None:
        state = None
        for t in range(T):
            state = cell(x[t], state)
        parts_of(state)[0].square().sum().backward()

    (seen,) = caught(cell, step)
    assert not seen.delta[:, :-1].any()
    assert seen.delta[-1, -1].all() or kind == "RNNCell-relu"


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_throughtimes_cells_in_a_loop(variant: Variant) -> None:
    cell = variant.make(I, I)
    x = torch.randn(T, B, I, dtype=torch.float64)

    def run(after: After = nothing) -> Tensor:
        goes_on, total = cell.zero_state(B, x), torch.zeros((), dtype=x.dtype)
        for t in range(T):
            on, out = after(t, tuple(cell(x[t], goes_on).values()))
            goes_on = State(**dict(zip(cell.parts, on, strict=True)))
            total = total + out[-1].square().sum() + (out[-1] * x[t]).sin().sum()
        return total

    (seen,) = caught(cell, lambda: run().backward())
    delta, adjoint = by_leaves(run, len(cell.parts), T, B, I)
    close(seen.delta, delta, MEASURE)
    close(through_time(seen), adjoint, MEASURE)


class Fused(torch.autograd.Function):
    """Both parts of a state from one operation, as the kernels of a GPU make them."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, g: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a, g, s)
        new = 0.5 * s + a.tanh()
        return new, new * g.sigmoid()

    @staticmethod
    def backward(ctx: Any, of_new: Tensor, of_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, g, s = ctx.saved_tensors
        gate = g.sigmoid()
        whole = of_new + of_out * gate
        return whole * (1 - a.tanh() ** 2), of_out * (0.5 * s + a.tanh()) * gate * (1 - gate), 0.5 * whole


class OneKernel(Cell):
    parts = ("s", "h")
    reads = {"carousel": "s", "push": "h", "gate": "h"}  # noqa: RUF012
    inputs = ("push", "gate")

    def step(self, u: Any, read: Any, W: Any) -> Any:
        s, h = Fused.apply(u.push + W.push(read.push), u.gate + W.gate(read.gate), read.carousel)
        return State(s=s, h=h), Gates()


def test_parts_that_one_operation_makes() -> None:
    cell, x = OneKernel(I, H, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)

    def run(after: After = nothing) -> Tensor:
        goes_on, total = cell.zero_state(B, x), x.new_zeros(())
        for t in range(T):
            (s, h), out = after(t, tuple(cell(x[t], goes_on).values()))
            goes_on = State(s=s, h=h)
            total = total + out[1].sin().sum() + (t == 3) * out[0].square().sum()
        return total

    (seen,) = caught(cell, lambda: run().backward())
    delta, adjoint = by_leaves(run, 2, T, B, H)
    close(seen.delta, delta, MEASURE)
    close(through_time(seen), adjoint, MEASURE)
    assert not seen.delta[0, [0, 1, 2, 4, 5]].any()


def test_pruned_weights_are_those_that_were_used() -> None:
    cell, x = nn.GRUCell(I, H, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)
    prune.random_unstructured(cell, "weight_hh", 0.5)
    (seen,) = caught(cell, lambda: plain(cell, x).backward())
    delta, adjoint = by_leaves(lambda after: plain(cell, x, after), 1, T, B, H)
    close(seen.delta, delta, MEASURE)
    close(through_time(seen), adjoint, MEASURE)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", TORCH)
def test_the_kernels_of_a_gpu(kind: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    model = Translator(kind, feeding=True)
    source, target = sentences(B, T=T + 1)
    delta, adjoint = by_leaves(
        lambda after: copy.deepcopy(model).double()(source, target, after), 2 if kind == "LSTMCell" else 1, T, B, H
    )
    model.cuda()

    def gradients(watched: bool) -> list[Tensor]:
        model.zero_grad()
        catcher = CellCatcher("cell", model.cell, None)
        if watched:
            catcher.open()
        model(source.cuda(), target.cuda()).backward()
        if watched:
            (seen,) = catcher.sightings()
            close(in_torchs_order(seen, seen.delta).cpu().float(), delta.float(), MEASURE)
            close(in_torchs_order(seen, through_time(seen)).cpu().float(), adjoint.float(), MEASURE)
        catcher.close()
        return [p.grad.clone() for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(gradients(False), gradients(True), strict=True))


def test_several_backward_passes_through_one_forward_add_up() -> None:
    cell, x = nn.GRUCell(I, H, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)

    def twice() -> None:
        state, outputs = None, []
        for t in range(T):
            state = cell(x[t], state)
            outputs.append(state)
        torch.stack(outputs).square().sum().backward(retain_graph=True)
        outputs[2].sin().sum().backward(retain_graph=True)
        torch.autograd.grad(outputs[3].cos().sum(), [cell.weight_hh])

    def once(after: After = nothing) -> Tensor:
        state, outputs = None, []
        for t in range(T):
            (state,), (out,) = after(t, (cell(x[t], state),))
            outputs.append(out)
        return torch.stack(outputs).square().sum() + outputs[2].sin().sum() + outputs[3].cos().sum()

    (seen,) = caught(cell, twice)
    delta, adjoint = by_leaves(once, 1, T, B, H)
    close(seen.delta, delta, MEASURE)
    close(through_time(seen), adjoint, MEASURE)


def test_some_sequences_of_a_batch_evenly_spread() -> None:
    cell, x = nn.LSTMCell(I, H, dtype=torch.float64), torch.randn(T, 9, I, dtype=torch.float64)
    (every,) = caught(cell, lambda: plain(cell, x).backward())
    (some,) = caught(cell, lambda: plain(cell, x).backward(), sequences=3)
    close(some.delta, every.delta[:, :, [0, 4, 8]])
    assert some.along.B == 3
    assert "3 of the 9 sequences of the batch were measured, evenly spread." in some.notes
    (one,) = caught(cell, lambda: plain(cell, x).backward(), sequences=1)
    close(one.delta, every.delta[:, :, [4]])


def test_one_sequence_without_a_batch() -> None:
    cell, x = nn.LSTMCell(I, H, dtype=torch.float64), torch.randn(T, I, dtype=torch.float64)
    (seen,) = caught(cell, lambda: plain(cell, x).backward())
    (batch,) = caught(cell, lambda: plain(cell, x.unsqueeze(1)).backward())
    close(seen.delta, batch.delta)


# -- nothing changes


def uses(cell: nn.Module, x: Tensor, way: str) -> Tensor:
    """A training step's loss; each way handles the state as somebody does."""
    state, outputs, total = None, [], x.new_zeros(())
    for t in range(len(x)):
        parts = parts_of(cell(x[t], state))
        if way == "rebuilt":
            parts = (*parts,)
        if way == "three uses":
            total = total + parts[0].sin().sum() + (parts[0] * parts[-1]).sum() + parts[0].exp().mean()
        if way == "in place":
            outputs.append(parts[0].clone().mul_(2.0))
        else:
            outputs.append(parts[0])
        if way == "in place on the state":
            parts = (parts[0].clone(),) if isinstance(cell, nn.RNNCell) else parts
            parts[0].mul_(0.9)
        if way == "kept gradient":
            parts[0].retain_grad()
        state = parts if isinstance(cell, nn.LSTMCell) else parts[0]
    return total + torch.stack(outputs).square().sum() + sum(output.cos().mean() for output in outputs)


@pytest.mark.parametrize("way", ["", "rebuilt", "three uses", "in place", "in place on the state", "kept gradient"])
@pytest.mark.parametrize("kind", TORCH)
def test_everything_stays_bitwise(kind: str, way: str) -> None:
    def train(watched: bool) -> list[Tensor]:
        torch.manual_seed(3)
        cell, found = TORCH[kind](I, H), []
        optimiser = torch.optim.Adam(cell.parameters(), lr=0.1)
        for _ in range(3):
            x = torch.randn(T, B, I, requires_grad=True)
            catcher = CellCatcher("cell", cell, 2)
            if watched:
                catcher.open()
            loss = uses(cell, x, way)
            optimiser.zero_grad()
            loss.backward(retain_graph=True)
            loss.backward()
            found += [loss.detach(), x.grad, *(p.grad.clone() for p in cell.parameters())]
            if watched:
                assert catcher.answered
                catcher.close()
            optimiser.step()
        return [*found, *(p.detach() for p in cell.parameters()), torch.get_rng_state()]

    assert all(torch.equal(a, b) for a, b in zip(train(False), train(True), strict=True))


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
def test_a_translator_trains_bitwise_the_same(kind: str) -> None:
    def train(watched: bool) -> list[Tensor]:
        torch.manual_seed(3)
        model, found = Translator(kind, feeding=True, dropout=0.3), []
        optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(3):
            catcher = CellCatcher("cell", model.cell, 2)
            if watched:
                catcher.open()
            loss = model(*sentences())
            optimiser.zero_grad()
            loss.backward()
            found += [loss.detach(), *(p.grad.clone() for p in model.parameters())]
            if watched:
                catcher.sightings()
                catcher.close()
            optimiser.step()
        return [*found, torch.get_rng_state()]

    assert all(torch.equal(a, b) for a, b in zip(train(False), train(True), strict=True))


def test_a_state_that_nobody_holds_any_more_is_let_go() -> None:
    """Evaluation that forgot torch.no_grad: what it computed is not kept alive."""
    cell, x = nn.LSTMCell(I, H), torch.randn(T, B, I)
    catcher = CellCatcher("cell", cell, None)
    catcher.open()
    loss = plain(cell, x)
    node = weakref.ref(loss)
    assert len(catcher._makers) == 2 * T
    del loss
    gc.collect()
    assert node() is None
    assert not len(catcher._makers)
    plain(cell, x[:4]).backward()
    (seen,) = catcher.sightings()
    assert seen.along.T == 4
    catcher.close()
