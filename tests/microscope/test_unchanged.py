"""A watch changes nothing, whatever is wrapped around the training."""

from __future__ import annotations

import copy
import gc
import io
import math
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import throughtime as tt
from tests.microscope.small import Reader, Short, assert_no_hooks, batch, step
from tests.tolerances import near
from throughtime.errors import FlowError
from throughtime.microscope import Watch

# -- nothing changes


@pytest.mark.parametrize("every", [1, 2, 10**9])
def test_training_stays_bitwise_the_same(every: int) -> None:
    def train(watched: bool) -> list[Tensor]:
        torch.manual_seed(5)
        model, found = Reader(), []
        optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
        flow = tt.watch(model, every=every)
        if watched:
            flow.start()
        for _ in range(4):
            optimiser.zero_grad()
            loss = model(torch.randint(7, (9, 12))).square().sum()
            loss.backward()
            found += [loss.detach(), *(p.grad.clone() for p in model.parameters())]
            optimiser.step()
        if watched:
            flow.stop()
            assert flow.left_out == ()
            assert len(flow.history) == 6 * (1 + 3 // every)
        return [*found, *(p.detach() for p in model.parameters()), torch.get_rng_state()]

    assert all(torch.equal(a, b) for a, b in zip(train(False), train(True), strict=True))


@pytest.mark.parametrize("mine", [ZeroDivisionError("mine"), KeyboardInterrupt()], ids=repr)
def test_an_error_inside_goes_through_and_the_hooks_come_off(mine: BaseException) -> None:
    model = Short()
    flow = tt.watch(model)

    def train() -> None:
        with flow:
            step(model)
            model(batch())
            raise mine

    with pytest.raises(type(mine)) as caught:
        train()
    assert caught.value is mine
    assert_no_hooks(model)
    assert len(flow.history) == 1


def test_a_model_that_is_copied_or_saved_meanwhile_takes_nobody_along() -> None:
    for kind in (nn.GRU, nn.GRUCell):
        model = Short(kind)
        with tt.watch(model, every=1) as flow:
            step(model)
            model(batch())
            twin = copy.deepcopy(model)
            torch.save(model, file := io.BytesIO())
            file.seek(0)
            loaded = torch.load(file, weights_only=False)
            for other in (twin, loaded):
                step(other)
            assert flow.step == 1
            step(model)
        assert flow.step == 2
        assert flow.left_out == ()


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.GRUCell, tt.LSTM])
def test_evaluation_that_forgot_no_grad_keeps_nothing_alive(kind: Any) -> None:
    class Token:
        pass

    model = Short(kind)
    with tt.watch(model, every=1) as flow:
        tokens = []
        for _ in range(3):
            token, output = Token(), model(batch())
            output.grad_fn.next_functions[1][0].metadata["held"] = token  # dies with the operation
            tokens.append(weakref.ref(token))
            del token, output
        gc.collect()
        assert [token() for token in tokens] == [None] * 3
        step(model)
    assert (flow.step, len(flow.history), flow.record.T) == (1, 1, 6)


def test_two_watches_on_one_model() -> None:
    for kind in (nn.LSTM, nn.LSTMCell):
        model = Short(kind)
        with tt.watch(model, every=1) as outer:
            step(model)
            with tt.watch(model, every=1) as inner:
                step(model)
            step(model)
        assert (outer.step, inner.step) == (3, 1)
        assert (len(outer.history), len(inner.history)) == (3, 1)
        assert (outer.history[1].adjoint == inner.record.adjoint).all()


def test_threads_with_models_of_their_own() -> None:
    found: dict[int, Watch] = {}

    def train(number: int) -> None:
        model = Short(nn.GRUCell)
        with tt.watch(model, every=1) as flow:
            for _ in range(3):
                step(model)
        found[number] = flow

    threads = [threading.Thread(target=train, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(flow.step, len(flow.history), flow.left_out) for flow in found.values()] == [(3, 3, ())] * 3


# -- what people wrap around their training


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTMCell])
def test_distributed_data_parallel(kind: Any, group: None) -> None:
    model = Short(kind)
    x = batch()
    with tt.watch(model) as plain:
        model(x).sum().backward()
    model.zero_grad()
    wrapped = nn.parallel.DistributedDataParallel(model)
    with tt.watch(wrapped, every=1) as flow:
        for _ in range(2):
            wrapped(x).sum().backward()
    assert (flow.record.layer, flow.step, flow.left_out) == ("layer", 2, ())
    assert (flow.record.adjoint == plain.record.adjoint).all()


@pytest.fixture
def forgetful_compiler() -> Iterator[None]:
    yield
    torch.compiler.reset()


def test_a_compiled_model_runs_its_layers_hooks(forgetful_compiler: None) -> None:
    model = Short(nn.LSTM)
    compiled: Any = torch.compile(model, backend="eager")
    with tt.watch(compiled, every=1) as flow:
        for _ in range(2):
            compiled(batch()).sum().backward()
    assert (flow.record.layer, flow.step) == ("layer", 2)


@pytest.mark.parametrize("before", [False, True])
def test_a_graph_that_swallowed_a_cell(before: bool, forgetful_compiler: None) -> None:
    """Also where everything must be in one graph: the hooks do not stand in its way."""
    model = Short(nn.GRUCell)
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    x = batch()
    expected = model(x).detach()
    if before:
        compiled(x)
    with tt.watch(compiled, every=1) as flow:
        output = compiled(x)
        output.sum().backward()
    assert torch.equal(output.detach(), expected)
    (sentence,) = (sentence for sentence in flow.left_out if "reached the weights" in sentence)
    assert (
        "a gradient reached the weights of layer, but none of its calls was seen: something calls layer.f" in sentence
    )
    assert "Or the model was compiled into one graph" in sentence
    with pytest.raises(FlowError, match="Or the model was compiled into one graph"):
        flow.record  # noqa: B018


@pytest.mark.parametrize("kind", [nn.GRU, nn.GRUCell])
def test_checkpoints(kind: Any) -> None:
    model, x = Short(kind), batch().requires_grad_()
    with tt.watch(model) as plain:
        model(x).sum().backward()
    with tt.watch(model, every=1) as flow:
        for _ in range(2):
            checkpoint(model, x, use_reentrant=False).sum().backward()
    assert (flow.step, len(flow.history)) == (2, 2)
    assert (flow.record.adjoint == plain.record.adjoint).all()
    with tt.watch(model, every=1) as flow:
        checkpoint(model, x, use_reentrant=True).sum().backward()
    with pytest.raises(FlowError, match=r"checkpointing, reentrant\).*use_reentrant=False"):
        flow.record  # noqa: B018


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTMCell])
def test_autocast_is_switched_off_while_measuring(kind: Any) -> None:
    model = Short(kind)
    with tt.watch(model, every=1) as flow:
        for _ in range(2):  # what the first step caught is measured while autocast is on
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(batch()).square().sum()
            loss.backward()
    assert (len(flow.history), flow.left_out) == (2, ())
    assert {record.dtype for record in flow.history} == {"float64"}
    assert any("bfloat16" in note for note in flow.record.left_out)


def test_a_scaled_loss_gives_scaled_gradients() -> None:
    model, x = Short(), batch()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    with tt.watch(model, every=1) as flow:
        model(x).sum().backward()
        scaler.scale(model(x).sum()).backward()
        scaler.step(optimiser)
        scaler.update()
    plain, scaled = (record.adjoint for record in flow.history)
    near(scaled, plain + math.log10(1024.0))
