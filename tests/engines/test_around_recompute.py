"""Recomputation: the same numbers in less memory, whatever surrounds the call."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional as F

import throughtime as tt
from tests.laws.variants import VARIANTS, Variant, sequence
from tests.modules.peers import KINDS, example, pair
from tests.tolerances import close
from tests.tree import ROOT
from throughtime.cells import Cell, Gates, State
from throughtime.errors import CellError, EngineError

LENGTHS = (None, (19, 7, 0), (5, 3, 1))


def everything(cell: Cell, x: Tensor, state: State, **keywords: Any) -> list[Tensor]:
    """All that comes out, and the gradients of all that goes in."""
    leaves = [x, *state.values(), *cell.parameters()]
    for leaf in leaves:
        leaf.requires_grad_()
    result = tt.unroll(cell, x, state, **keywords)
    found = [*result.states.values(), *result.gates.values(), *result.final.values()]
    torch.manual_seed(3)
    loss = sum((value * torch.randn_like(value)).sum() for value in found)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [*found, *(torch.zeros(1).double() if g is None else g for g in gradients)]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_cell_gives_the_same_numbers(variant: Variant, lengths: tuple[int, ...] | None) -> None:
    cell = variant.make()
    x, state = sequence(cell, steps=19, batch=3)
    ends = None if lengths is None else torch.tensor(lengths)
    expected = everything(cell, x, state, lengths=ends)
    for mine, theirs in zip(everything(cell, x, state, lengths=ends, recompute=True), expected, strict=True):
        close(mine, theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 16, 17])
def test_layers_directions_and_packed_sequences(kind: str, steps: int) -> None:
    """torch.nn is the oracle, dropout's draws between layers included."""
    theirs, ours = pair(kind, num_layers=3, bidirectional=True, dropout=0.4)
    ours.recompute = True
    x, state = example("batch", theirs, steps=steps, batch=3)
    lengths = torch.tensor([steps, 1, max(1, steps - 2)])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    for given in (x, packed):
        outputs, gradients = [], []
        for module in (theirs, ours):
            torch.manual_seed(5)
            output, final = module(given, state)
            output = output.data if given is packed else output
            outputs.append((output, *((final,) if isinstance(final, Tensor) else final)))
            gradients.append(torch.autograd.grad(sum(part.square().sum() for part in outputs[-1]), module.parameters()))
        assert ours.served != "recomputed"
        for mine, expected in zip((*outputs[1], *gradients[1]), (*outputs[0], *gradients[0]), strict=True):
            close(mine, expected)


def test_a_batch_first_module_with_clipping_while_backpropagating() -> None:
    one = tt.GRU(3, 4, 2, dtype=torch.float64)
    two = tt.GRU(3, 4, 2, dtype=torch.float64, recompute=True)
    two.load_state_dict(one.state_dict())
    assert list(one.state_dict()) == list(two.state_dict())
    assert repr(two) == "GRU(3, 4, num_layers=2, recompute=True)"
    x = torch.randn(23, 3, 3, dtype=torch.float64)
    found = []
    for module in (one, two):
        output, _ = module.run(x, lengths=torch.tensor([4, 23, 9]), damping=0.01)
        found.append((output, *torch.autograd.grad(output.square().sum(), module.parameters())))
    for mine, expected in zip(found[1], found[0], strict=True):
        close(mine, expected)


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_the_engine_asked_for_serves(engine: str) -> None:
    layer = tt.LSTM(3, 4, engine=engine, recompute=True)
    layer(torch.randn(9, 2, 3))
    assert layer.served == engine
    cell = tt.cells.make("elman", 3, 4)
    assert tt.unroll(cell, torch.randn(9, 2, 3), engine=engine, recompute=True).engine == engine


def test_what_does_not_fit() -> None:
    with pytest.raises(EngineError, match="do not show the gates"):
        tt.unroll(tt.cells.make("gru", 3, 4), torch.randn(9, 2, 3), engine="native", recompute=True)
    with pytest.raises(CellError, match="recompute must be True or False"):
        tt.LSTM(3, 4, recompute=1)


def test_no_sequence_and_no_step() -> None:
    layer = tt.GRU(3, 4, recompute=True)
    assert layer(torch.zeros(0, 2, 3))[0].shape == (0, 2, 4)
    assert layer(torch.zeros(9, 0, 3))[0].shape == (9, 0, 4)
    assert layer.run(torch.zeros(9, 0, 3), lengths=torch.zeros(0, dtype=torch.int64))[0].shape == (9, 0, 4)


def test_differentiates_twice() -> None:
    cell = tt.cells.make("gru", 2, 2, dtype=torch.float64)
    names = [name for name, _ in cell.named_parameters()]
    leaves = [torch.randn(5, 2, 2).double(), torch.randn(2, 2).double(), *(p.detach() for p in cell.parameters())]

    def run(x: Tensor, h: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(names, parameters, strict=True))
        return tt.unroll(cell, x, State(h=h), parameters=given, recompute=True).output

    assert torch.autograd.gradgradcheck(run, [leaf.requires_grad_() for leaf in leaves])


def test_a_hook_on_a_parameter_is_called_once() -> None:
    for twice in (False, True):
        layer = tt.RNN(3, 4, recompute=True)
        seen: list[Tensor] = []
        layer.weight_hh_l0.register_hook(lambda gradient, seen=seen: seen.append(gradient))
        layer(torch.randn(20, 2, 3))[0].sum().backward(create_graph=False, retain_graph=twice)
        assert len(seen) == 1
    loss = layer(torch.randn(20, 2, 3))[0].sum()
    torch.autograd.grad(loss, layer.weight_hh_l0, create_graph=True)
    assert len(seen) == 2


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's own, where it loads forward rules
def test_transforms_get_the_sequence_whole() -> None:
    plain = tt.GRU(3, 4, dtype=torch.float64)
    layer = copy.deepcopy(plain)
    layer.recompute = True
    x = torch.randn(10, 2, 3, dtype=torch.float64)
    values = {name: value.detach() for name, value in plain.named_parameters()}

    def loss(module: nn.Module, parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(module, parameters, (x,))[0].square().sum()

    ours, theirs = grad(lambda p: loss(layer, p))(values), grad(lambda p: loss(plain, p))(values)
    for name in values:
        close(ours[name], theirs[name])
    xs = torch.stack([x, -x])
    close(vmap(lambda x: layer(x)[0])(xs), vmap(lambda x: plain(x)[0])(xs))
    close(jvp(lambda x: layer(x)[0], (x,), (x,))[1], jvp(lambda x: plain(x)[0], (x,), (x,))[1])


def test_a_weight_changed_before_the_way_back_is_noticed() -> None:
    layer = tt.LSTM(3, 4, recompute=True)
    loss = layer(torch.randn(20, 2, 3))[0].sum()
    with torch.no_grad():
        layer.weight_hh_l0.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_backward_twice_and_parts_that_learn_nothing() -> None:
    layer = tt.LSTM(3, 4, dtype=torch.float64, recompute=True)
    layer.weight_ih_l0.requires_grad_(False)
    x = torch.randn(20, 2, 3, dtype=torch.float64, requires_grad=True)
    loss = layer(x)[0][5].sum()
    wanted = [x, layer.weight_hh_l0, layer.bias_hh_l0]
    once = torch.autograd.grad(loss, wanted, retain_graph=True)
    again = torch.autograd.grad(loss, wanted)
    assert all(map(torch.equal, once, again))
    layer.recompute = False
    for mine, expected in zip(once, torch.autograd.grad(layer(x)[0][5].sum(), wanted), strict=True):
        close(mine, expected)
    with torch.no_grad():
        assert not layer(x)[0].requires_grad
    with torch.inference_mode():
        assert layer(x)[0].is_inference()


class Noisy(Cell):
    """A cell that draws: recomputed, it must draw the same."""

    parts = ("h",)
    reads = {"hidden": "h"}  # noqa: RUF012
    inputs = ("hidden",)

    def step(self, u, read, W):
        return State(h=torch.tanh(u.hidden + W.hidden(F.dropout(read.hidden, 0.5)))), Gates()


def test_what_a_step_draws_is_drawn_again() -> None:
    cell = Noisy(3, 4, dtype=torch.float64)
    x = torch.randn(30, 2, 3, dtype=torch.float64)
    found = []
    for recompute in (False, True):
        torch.manual_seed(7)
        result = tt.unroll(cell, x, engine="reference", recompute=recompute)
        after = torch.rand(())
        gradients = torch.autograd.grad(result.output.square().sum(), cell.parameters())
        found.append((result.output, after.double(), torch.rand(()).double(), *gradients))
    for mine, expected in zip(found[1], found[0], strict=True):
        close(mine, expected)


def test_under_autocast_as_without_recomputation() -> None:
    """The dtype of the surroundings comes back on the way back; weights used again outside keep their gradient."""
    found = []
    for recompute in (False, True):
        torch.manual_seed(1)
        layer = tt.GRU(8, 8, recompute=recompute, engine="reference")
        x = torch.randn(30, 2, 8)
        with torch.autocast("cpu", torch.bfloat16):
            output, _ = layer(x)
            beside = F.linear(x, layer.weight_ih_l0)
        (output.float().square().sum() + beside.float().sum()).backward()
        assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())
        found.append((output, [parameter.grad for parameter in layer.parameters()]))
    assert torch.equal(found[0][0], found[1][0])
    for mine, expected in zip(found[1][1], found[0][1], strict=True):
        assert float((mine - expected).abs().max()) <= 16 * torch.finfo(torch.bfloat16).eps * float(
            expected.abs().max()
        )


PEAK = """
import json, re, sys
from pathlib import Path
import torch
import throughtime as tt

def resident(which):
    return int(re.search(which + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

torch.set_num_threads(1)
steps, units = 100_000, 32
layer = tt.LSTM(1, units, recompute=sys.argv[1] == "recompute")
x = torch.randn(steps, 1, 1)
layer(x[:400])[0][-1].sum().backward()
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
layer(x)[0][-1].sum().backward()
output = steps * units * 4 / 2**20
print(json.dumps((resident("VmHWM") - before) / output))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from the kernel")
def test_a_hundred_thousand_steps_fit() -> None:
    """In units of the output's size, which exists a few times over: as it is put together, and its gradient."""
    taken = {}
    for way in ("whole", "recompute"):
        run = subprocess.run([sys.executable, "-c", PEAK, way], capture_output=True, text=True, check=True, cwd=ROOT)
        taken[way] = json.loads(run.stdout)
    assert taken["recompute"] < 5, taken
    assert taken["recompute"] < taken["whole"] / 2, taken
