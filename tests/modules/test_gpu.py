"""The same on a CUDA device: cuDNN and the reference against the CPU in float64."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch.func import functional_call

import throughtime as tt
from tests.modules.peers import FORMS, KINDS, everything, example, pair
from tests.tolerances import MEASURE, close
from throughtime.errors import CellError

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.parametrize("training", [True, False])
def test_same_numbers_as_on_the_cpu(kind: str, engine: str, training: bool) -> None:
    theirs, ours = pair(kind, engine=engine, num_layers=2, bidirectional=True)
    there = copy.deepcopy(ours).to("cuda").train(training)  # cuDNN's backward pass needs care in evaluation mode
    for form in FORMS:
        theirs.batch_first = there.batch_first = form == "batch first"
        x, state = example(form, theirs)
        moved = state.cuda() if isinstance(state, torch.Tensor) else tuple(part.cuda() for part in state)
        expected = everything(theirs, form, x, state)
        for name, value in everything(there, form, x.cuda(), moved).items():
            close(value.cpu(), expected[name], MEASURE)
        assert there.served == engine


@pytest.mark.parametrize("kind", KINDS)
def test_weights_stay_in_one_block_and_nothing_warns(kind: str) -> None:
    _, ours = pair(kind, num_layers=2, dtype=torch.float32)
    ours = ours.cuda()
    storages = {p.untyped_storage().data_ptr() for p in ours.parameters()}
    assert len(storages) == 1
    x = torch.randn(5, 2, 3, device="cuda")
    others = {name: 2 * value for name, value in ours.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for module in (ours, copy.deepcopy(ours), copy.deepcopy(ours).half().float()):
            module(x)
        functional_call(ours, others, (x,))[0].sum().backward()


def test_reference_differentiates_twice() -> None:
    ours = tt.LSTM(2, 3, engine="reference", dtype=torch.float64, device="cuda")
    x = torch.randn(4, 2, 2, dtype=torch.float64, device="cuda", requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: ours(x)[0], x)


def test_run_takes_lengths_from_either_device() -> None:
    ours = tt.GRU(3, 4, 2, bidirectional=True, device="cuda")
    x = torch.randn(5, 3, 3, device="cuda")
    here, there = (ours.run(x, lengths=torch.tensor([2, 5, 1], device=device))[0] for device in ("cpu", "cuda"))
    assert torch.equal(here, there)


def test_devices_that_differ() -> None:
    with pytest.raises(CellError, match="x is on cpu and the parameters on cuda"):
        tt.GRU(3, 4, device="cuda")(torch.zeros(5, 2, 3))


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_autocast(name: str) -> None:
    module = getattr(tt, name)(3, 8, 2, bidirectional=True, device="cuda")
    x = torch.randn(6, 2, 3, device="cuda")
    expected = module(x)[0]
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output, _ = module(x)
    assert bool(((output.float() - expected).abs() < 0.03).all())
    output.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in module.parameters())
