"""What a loop does to a state between two calls, against autograd on the states that were kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from tests.tolerances import MEASURE, near
from throughtime.microscope.between import between, key_of

T, B, I, H = 9, 3, 3, 5  # noqa: E741
LENGTHS = torch.tensor([9, 4, 6])
DONE = (torch.arange(T * B).view(T, B, 1) % 7 == 3).double()

Way = Callable[[int, Tensor, Tensor], Tensor]  # step, new state, the state before it
WAYS: dict[str, Way] = {
    "as it is": lambda t, new, old: new,
    "done mask": lambda t, new, old: new * (1 - DONE[t]),
    "where": lambda t, new, old: torch.where((t < LENGTHS).unsqueeze(-1), new, old),
    "times one": lambda t, new, old: new * 1.0,
    "clone": lambda t, new, old: new.clone(),
    "decay": lambda t, new, old: 0.9 * new,
    "clamp": lambda t, new, old: new.clamp(-0.2, 0.2),
    "detach": lambda t, new, old: new.detach() if t % 4 == 3 else new,
}


class Loop(nn.Module):
    def __init__(self, kind: Any, way: Way) -> None:
        super().__init__()
        self.rnn, self.way = kind(I, H).double(), way

    def forward(self, x: Tensor) -> Tensor:
        cells = isinstance(self.rnn, nn.RNNCellBase)
        old = tuple(torch.zeros(B, H).double() for _ in range(1 + isinstance(self.rnn, nn.LSTM | nn.LSTMCell)))
        for t in range(T):
            given = old if cells else tuple(part[None] for part in old)
            given = given if len(given) > 1 else given[0]
            made = self.rnn(x[t], given) if cells else self.rnn(x[t : t + 1], given)[1]
            made = made if isinstance(made, tuple) else (made,)
            new = made if cells else tuple(part[0] for part in made)
            old = tuple(self.way(t, n, o) for n, o in zip(new, old, strict=True))
        return old[0].square().sum()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell])
def test_the_gradient_through_a_loop_is_that_of_the_states_that_were_kept(kind: Any, way: str) -> None:
    model, x = Loop(kind, WAYS[way]), torch.randn(T, B, I).double()
    lstm = kind in (nn.LSTM, nn.LSTMCell)
    fused = kind is not nn.LSTMCell  # torch makes the cell's h from the very tensor s that it puts out
    with tt.watch(model, sequences=None, derivative="boundary" if fused else "node") as flow:
        model(x).backward()
    (record,) = flow.records
    assert record.T == T
    twin, kept = copy.deepcopy(model), list[Any]()

    def keep(module: Any, args: Any, out: Any) -> None:
        parts = out if isinstance(module, nn.RNNCellBase) else out[1]
        parts = parts if isinstance(parts, tuple) else (parts,)
        for part in parts:
            part.retain_grad()
        kept.append(parts)

    twin.rnn.register_forward_hook(keep)
    twin(x).backward()
    zero = torch.zeros(B, H).double()
    adjoint = [torch.cat([zero if p.grad is None else p.grad.view(B, H) for p in parts], -1) for parts in kept]
    assert len(adjoint[0][0]) == H * (1 + lstm)
    near(record.adjoint, torch.stack(adjoint).norm(dim=-1).log10().median(-1).values, MEASURE)


def test_units_that_are_mixed_are_told_from_those_that_are_not() -> None:
    state = torch.randn(1, B, H, requires_grad=True) * 1.0
    made = {"h": (key_of(state), state.shape)}
    assert isinstance(between(made, {"h": state + state.mean(-1, keepdim=True)}), str)
    assert isinstance(between(made, {"h": state[:, :2]}), str)
    found = between(made, {"h": torch.stack([state[0] * 0.5])})
    assert not isinstance(found, str)
    assert bool((found.slopes["h"] == 0.5).all())


def test_no_hook_of_the_person_runs_before_the_backward_pass() -> None:
    layer, ran = nn.GRU(I, H), list[int]()
    with tt.watch(layer):
        _, state = layer(torch.randn(1, B, I))
        changed = state * 0.5
        changed.register_hook(lambda gradient: ran.append(1))
        output, _ = layer(torch.randn(1, B, I), changed)
        assert ran == []
        output.sum().backward()
    assert ran == [1]
