"""Catching changes nothing: bitwise the same losses, gradients, weights and random numbers as without it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from throughtime.microscope.layers import LayerCatcher
from throughtime.modules import GRU, LSTM, RNN, Recurrent

T, B, I, H = 5, 4, 3, 4  # noqa: E741
LENGTHS = torch.tensor([4, 5, 1, 2])

MODULES: dict[str, Any] = {
    "LSTM": lambda **more: nn.LSTM(I, H, **more),
    "GRU": lambda **more: nn.GRU(I, H, **more),
    "RNN": lambda **more: nn.RNN(I, H, **more),
    "relu": lambda **more: nn.RNN(I, H, nonlinearity="relu", **more),
    "our LSTM": lambda **more: LSTM(I, H, **more),
    "our peephole LSTM": lambda **more: LSTM(I, H, peephole=True, **more),
    "our GRU": lambda **more: GRU(I, H, reset="before", **more),
    "our RNN": lambda **more: RNN(I, H, nonlinearity="sigmoid", **more),
    "any cell": lambda **more: Recurrent("lstm-fgr", I, H, **more),
}
LAYERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stacked": {"num_layers": 2, "dropout": 0.3, "bidirectional": True},
}
HOW = ["one call", "packed", "hand on", "detached", "batch first", "alone", "twice", "accumulated"]


def total(state: Any) -> Tensor:
    parts = (state,) if isinstance(state, Tensor) else state if isinstance(state, tuple) else state.values()
    return sum((part.square().sum() for part in parts), torch.zeros(()))


def cut(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach()
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.map(lambda part: part.detach())


def losses(module: nn.Module, how: str) -> list[Tensor]:
    """The losses of one training step, to be sent back one after the other."""
    if how == "packed":
        packed = pack_padded_sequence(torch.randn(T, B, I), LENGTHS, enforce_sorted=False)
        output, state = module(packed)
        assert isinstance(output, PackedSequence)
        return [output.data.sin().sum() + total(state)]
    if how in ("hand on", "detached"):
        loss, state = torch.zeros(()), None
        for _ in range(3):
            output, state = module(torch.randn(3, B, I), state)
            loss = loss + output.cos().sum() + total(state)  # what is handed on is asked for otherwise, too
            state = cut(state) if how == "detached" else state
        return [loss]
    if how == "twice":
        one, state = module(torch.randn(T, B, I))
        other, _ = module(torch.randn(2, B, I))
        return [(one.sum() * other.mean()) + total(state)]
    x = {"batch first": (B, T, I), "alone": (T, I)}.get(how, (T, B, I))
    output, state = module(torch.randn(x))
    if how == "accumulated":
        return [output.sum(), total(state)]
    return [output.square().mean() + total(state)]


def train(module: nn.Module, how: str, catcher: LayerCatcher | None) -> list[Tensor]:
    """Everything that must not differ, of three steps."""
    torch.manual_seed(3)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.1)
    seen: list[Tensor] = []
    for step in range(3):
        if catcher is not None:
            catcher.open()
        optimiser.zero_grad()
        made = losses(module, how)
        for number, loss in enumerate(made):
            loss.backward(retain_graph=number + 1 < len(made))
        seen += [loss.detach().clone() for loss in made]
        seen += [p.grad.clone() for p in module.parameters() if p.grad is not None]
        optimiser.step()
        if catcher is not None:
            assert step < 2 or catcher.sightings()
            catcher.close()
        seen += [p.detach().clone() for p in module.parameters()]
        seen += [torch.rand(3), torch.get_rng_state()]
    return seen


CASES = [(kind, "plain", how) for kind in MODULES for how in ("one call", "hand on", "accumulated")]
CASES += [(kind, "stacked", how) for kind in MODULES for how in HOW]


@pytest.mark.parametrize(("kind", "layers", "how"), CASES)
def test_nothing_changes(kind: str, layers: str, how: str) -> None:
    module = MODULES[kind](**LAYERS[layers], batch_first=how == "batch first")
    twin = copy.deepcopy(module)
    theirs = train(module, how, None)
    ours = train(twin, how, LayerCatcher("rnn", twin, 2))
    assert len(theirs) == len(ours)
    for a, b in zip(theirs, ours, strict=True):
        assert torch.equal(a, b)
    assert not twin._forward_hooks
    assert not twin._forward_pre_hooks
