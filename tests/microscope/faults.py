"""Small torch models, each with a planted fault or none: what a stranger's training step looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

T, B, I, H = 24, 6, 3, 8  # noqa: E741


@dataclass(frozen=True)
class Fault:
    """A model, the loss of one training step of it, and what the first sentence has to name."""

    name: str
    layer: Callable[[], nn.Module]
    loss: Callable[[nn.Module], Tensor]
    names: tuple[str, ...]  # words of the first finding's title
    lag: int | None = None
    not_named: tuple[str, ...] = ()


def _x(t: int = T, b: int = B) -> Tensor:
    return torch.randn(b, t, I)


def _layer(kind: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: kind(I, H, batch_first=True, **options)


def _biased(kind: Any, bias: float, gate: int, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layer = kind(I, H, batch_first=True, **options)
        with torch.no_grad():
            layer.bias_ih_l0[gate * H : (gate + 1) * H].fill_(bias)
            layer.weight_hh_l0.mul_(0.3)
        return layer

    return make


def _remembering(kind: Any = nn.GRU, **options: Any) -> Callable[[], nn.Module]:
    return _biased(kind, 5.0, 1, **options)


def _last(layer: nn.Module) -> Tensor:
    return layer(_x())[0][:, -1].square().sum()


def _stepwise(between: Callable[[int, tuple[Tensor, ...]], tuple[Tensor, ...]]) -> Callable[[nn.Module], Tensor]:
    def loss(layer: nn.Module) -> Tensor:
        x, state = _x(), None
        for t in range(T):
            given = state
            if state is not None:
                parts = between(t, state if isinstance(state, tuple) else (state,))
                given = parts if isinstance(state, tuple) else parts[0]
            _, state = layer(x[:, t : t + 1], given)
        return (state[0] if isinstance(state, tuple) else state).square().sum()

    return loss


def _cells(between: Callable[[int, tuple[Tensor, ...]], tuple[Tensor, ...]]) -> Callable[[nn.Module], Tensor]:
    def loss(cell: nn.Module) -> Tensor:
        x, state = _x(), None
        for t in range(T):
            given = state
            if state is not None:
                parts = between(t, state if isinstance(state, tuple) else (state,))
                given = parts if isinstance(state, tuple) else parts[0]
            state = cell(x[:, t], given)
        return (state[0] if isinstance(state, tuple) else state).square().sum()

    return loss


def _each_answers(between: Callable[[int, tuple[Tensor, ...]], tuple[Tensor, ...]]) -> Callable[[nn.Module], Tensor]:
    def loss(cell: nn.Module) -> Tensor:
        x, state, total = _x(), torch.zeros(B, H), torch.zeros(())
        for t in range(T):
            state = cell(x[:, t], between(t, (state,))[0])
            total = total + state.square().sum()
        return total

    return loss


def _detached(_: int, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(part.detach() for part in parts)


def _copied(_: int, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(part.detach().clone() for part in parts)


def _every_six(t: int, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return _detached(t, parts) if t % 6 == 0 else parts


def _same(_: int, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(part * 1.0 for part in parts)


def _done(t: int, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    done = torch.zeros(B, 1)
    done[t % B] = float(t == 2)
    return tuple(part * (1 - done) for part in parts)


def _window(layer: nn.Module) -> Tensor:
    """The second window of truncated training: the first one's loss had its own backward pass."""
    x = _x()
    with torch.no_grad():
        _, state = layer(x[:, : T // 2])
    output, _ = layer(x[:, T // 2 :], state)
    return output[:, -1].square().sum()


def _padded(layer: nn.Module) -> Tensor:
    x = _x(80)
    for b, length in enumerate((20, 80, 35, 50, 25, 30)):
        x[b, length:] = 0.0
    return layer(x)[0][:, -1].square().sum()


def _packed(layer: nn.Module) -> Tensor:
    x, lengths = _x(), torch.tensor([24, 12, 20, 16, 9, 22])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    _, state = layer(packed)
    return (state[0] if isinstance(state, tuple) else state).square().sum()


def _nan_forward(layer: nn.Module) -> Tensor:
    x = _x(b=33)
    x[5, 7] = torch.nan
    return layer(x)[0][:, -1].square().sum()


def _nan_backward(layer: nn.Module) -> Tensor:
    output = layer(_x(b=33))[0][:, -1].sum(-1)
    return torch.cat([output[:5], (output[5:6] * 0.0).sqrt() * 0.0, output[6:]]).sum()


def _stretching() -> nn.Module:
    layer = nn.RNN(I, H, batch_first=True, nonlinearity="relu")
    with torch.no_grad():
        layer.weight_hh_l0.copy_(1.8 * torch.eye(H))
        layer.bias_ih_l0.fill_(0.1)
    return layer


def _gathered(layer: nn.Module) -> Tensor:
    ends = torch.tensor([24, 5, 9, 12, 20, 7]) - 1
    return layer(_x())[0][torch.arange(B), ends].sum()


def _halved(layer: nn.Module) -> Tensor:
    return layer(_x().bfloat16())[0][:, -1].sum()


def _every_ten(t: int, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return _detached(t, parts) if t % 10 == 0 else parts


def _dropping(_: int, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(nn.functional.dropout(part, 0.3) for part in parts)


FAULTS = (
    Fault(
        "detach before each step", _layer(nn.LSTM), _stepwise(_detached), ("nothing before this window of 1 step is",)
    ),
    Fault(
        "detach and clone before each step",
        _layer(nn.GRU),
        _stepwise(_copied),
        ("nothing before this window of 1 step is",),
    ),
    Fault(
        "a cell detached before each step",
        lambda: nn.LSTMCell(I, H),
        _cells(_detached),
        ("nothing before this window of 1 step is",),
    ),
    Fault(
        "a GRU cell detached before each step",
        lambda: nn.GRUCell(I, H),
        _cells(_copied),
        ("nothing before this window of 1 step is",),
    ),
    Fault(
        "every step answers, each detached",
        lambda: nn.GRUCell(I, H),
        _each_answers(_detached),
        ("detaches its state before every step", "1 step is"),
    ),
    Fault("detached now and then", _remembering(), _stepwise(_every_six), ("detaches its state 3 times", "6 steps")),
    Fault("a window shorter than the lag", _remembering(), _window, ("detached state", "12 steps", "is 20"), lag=20),
    Fault("padding read", _layer(nn.LSTM), _padded, ("60 steps of padding",), not_named=("gate",)),
    Fault("padding read by a GRU", _layer(nn.GRU), _padded, ("60 steps of padding",), not_named=("gate",)),
    Fault(
        "wrong end", _layer(nn.LSTM, bidirectional=True), _last, ("reverse direction", "wrong end", "one step of 24")
    ),
    Fault("wrong end of a GRU", _layer(nn.GRU, bidirectional=True), _last, ("l0_reverse", "wrong end")),
    Fault(
        "wrong end of a stack", _layer(nn.LSTM, num_layers=2, bidirectional=True), _last, ("l1_reverse", "wrong end")
    ),
    Fault("read at the first step", _layer(nn.GRU), lambda m: m(_x())[0][:, 0].sum(), ("wrong end", "one step of 24")),
    Fault(
        "the batch taken for time",
        lambda: nn.LSTM(I, H),
        lambda m: m(_x())[0][:, -1].square().sum(),
        ("one of the 4 sequences",),
    ),
    Fault("NaN in an input", _layer(nn.LSTM), _nan_forward, ("step 7 of sequence 5", "forward", "input")),
    Fault("NaN in a gradient", _layer(nn.GRU), _nan_backward, ("step 23 of sequence 5", "backward")),
    Fault("infinite weights", _biased(nn.RNN, torch.inf, 0), lambda m: m(_x())[0].sum() * torch.nan, ("NaN",)),
    Fault("dead relu", _biased(nn.RNN, -9.0, 0, nonlinearity="relu"), _last, ("relu is dead",)),
    Fault("forget bias −3", _biased(nn.LSTM, -3.0, 1), _last, ("forget gate is shut",)),
    Fault("forget bias −3, unequal lengths", _biased(nn.LSTM, -3.0, 1), _packed, ("forget gate is shut",)),
    Fault("update bias −3", _biased(nn.GRU, -3.0, 1), _last, ("update gate is shut",)),
    Fault("vanishing", _layer(nn.RNN), _last, ("reaches only", "23 back")),
    Fault("vanishing, unequal lengths", _layer(nn.RNN), _packed, ("reaches only", "8 to 23 back")),
    Fault("vanishing over a lag", _layer(nn.LSTM), lambda m: m(_x())[0].square().sum(), ("needs 20",), lag=20),
    Fault("vanishing through masks", _layer(nn.RNN), _stepwise(_done), ("reaches only",)),
    Fault("none, GRU", _remembering(), _last, ("No fault was found", "23 steps back")),
    Fault("none, LSTM", _remembering(nn.LSTM), _last, ("No fault was found",)),
    Fault("none, unequal lengths", _remembering(), _packed, ("No fault was found",)),
    Fault("none, step by step", _remembering(nn.LSTM), _stepwise(_same), ("No fault was found", "23 steps back")),
    Fault("none, with a lag", _remembering(), _last, ("No fault was found", "lag is 10"), lag=10),
    Fault("truncated every ten steps", lambda: nn.GRUCell(I, H), _cells(_every_ten), ("2 times in 24", "10 steps")),
    Fault("vanishing through dropout", lambda: nn.GRUCell(I, H), _cells(_dropping), ("reaches only", "23 back")),
    Fault("a relu that explodes", _stretching, _last, ("grows 10^",)),
    Fault("read at each one's last step", _layer(nn.RNN), _gathered, ("reaches only", "6 to 23 back")),
    Fault(
        "none, both directions in the mean",
        _layer(nn.LSTM, bidirectional=True),
        lambda m: m(_x())[0].mean(1).square().sum(),
        ("No fault was found",),
    ),
    Fault("half precision", lambda: nn.GRU(I, H, batch_first=True).bfloat16(), _halved, ("reaches only", "23 back")),
)
