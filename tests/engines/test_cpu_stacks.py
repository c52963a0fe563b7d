"""Layers, directions, packed and padded batches through generated kernels, against the same module on the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import throughtime as tt
from tests.engines.comparing import DTYPES, poisoned
from tests.tolerances import close
from throughtime.cells import State

pytestmark = pytest.mark.compiler

T, B, I, H = 6, 5, 3, 7  # noqa: E741
LENGTHS = [4, 6, 1, 6, 2]  # unsorted

MODULES: dict[str, tuple[type, dict[str, Any]]] = {
    "lstm": (tt.LSTM, {}),
    "lstm-peephole": (tt.LSTM, {"peephole": True}),
    "gru": (tt.GRU, {}),
    "gru-before": (tt.GRU, {"reset": "before"}),
    "rnn": (tt.RNN, {}),
    "rnn-relu": (tt.RNN, {"nonlinearity": "relu"}),
}
SHAPES: dict[str, dict[str, Any]] = {
    "one": {},
    "two layers": {"num_layers": 2},
    "both ways": {"bidirectional": True},
    "three layers both ways, dropout": {"num_layers": 3, "bidirectional": True, "dropout": 0.4},
    "without bias": {"bias": False, "num_layers": 2},
}


def pair(kind: str, dtype: torch.dtype = torch.float64, *, engine: str = "cpu", **shape: Any) -> tuple[Any, Any]:
    """The same layers with the same weights: on generated kernels, and on the reference in float64."""
    make, options = MODULES[kind]
    mine = make(I, H, engine=engine, dtype=dtype, **options, **shape)
    exact = make(I, H, engine="reference", dtype=torch.float64, **options, **shape)
    exact.load_state_dict(mine.state_dict())
    return mine, exact


def start(module: Any, batch: int) -> list[Tensor]:
    """Initial states in the module's own form."""
    shape = (module.num_layers * module.directions, batch, H)
    return [torch.randn(shape, dtype=torch.float64) / 2 for _ in module.torch_state]


def answer(module: Any, x: Tensor, hx: list[Tensor] | None, call: Any) -> list[Tensor]:
    """Outputs, final states and all gradients of a call; dropout under a seed of its own."""
    dtype = next(module.parameters()).dtype
    x = x.to(dtype).requires_grad_()
    given = None if hx is None else [part.to(dtype).requires_grad_() for part in hx]
    torch.manual_seed(5)
    output, final = call(module, x, given if given is None else given[0] if len(given) == 1 else tuple(given))
    finals = [final] if isinstance(final, Tensor) else list(final)
    weights = torch.Generator().manual_seed(6)
    data = output.data if isinstance(output, PackedSequence) else output
    loss = sum(
        (torch.randn(value.shape, generator=weights, dtype=torch.float64).to(dtype) * value).sum()
        for value in (data, *finals)
    )
    leaves = [x, *(given or []), *module.parameters()]
    assert module.engine in ("auto", module.served)
    return [data, *finals, *torch.autograd.grad(loss, leaves, materialize_grads=True)]


def same(kind: str, shape: dict[str, Any], dtype: torch.dtype, call: Any, *sizes: int, given: bool = True) -> None:
    mine, exact = pair(kind, dtype, **shape)
    x = torch.randn(sizes, dtype=torch.float64).to(dtype).double()
    batch = 1 if len(sizes) == 2 else sizes[0] if shape.get("batch_first") else sizes[1]
    hx = [part.to(dtype).double() for part in start(mine, batch)] if given else None
    if hx is not None and len(sizes) == 2:
        hx = [part.squeeze(1) for part in hx]
    expected = answer(exact, x.clone(), hx, call)
    with poisoned():
        found = answer(mine, x.clone(), hx, call)
    for a, b in zip(found, expected, strict=True):
        close(a, b.to(a.dtype))


def plain(module: Any, x: Tensor, hx: Any) -> Any:
    return module(x, hx)


def packed(module: Any, x: Tensor, hx: Any) -> Any:
    return module(pack_padded_sequence(x, torch.tensor(LENGTHS), module.batch_first, enforce_sorted=False), hx)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("call", [plain, packed])
def test_agrees_with_the_reference(call: Any, kind: str, shape: dict[str, Any], dtype: torch.dtype) -> None:
    same(kind, shape, dtype, call, T, B, I)


@pytest.mark.parametrize("kind", ["lstm", "gru-before"])
@pytest.mark.parametrize("call", [plain, packed])
def test_batch_first(call: Any, kind: str) -> None:
    same(kind, {"batch_first": True, "bidirectional": True}, torch.float64, call, B, T, I)


@pytest.mark.parametrize("kind", ["lstm", "gru-before"])
def test_one_sequence_without_a_batch(kind: str) -> None:
    same(kind, {"num_layers": 2, "bidirectional": True}, torch.float64, plain, T, I)


@pytest.mark.parametrize("call", [plain, packed])
def test_without_a_start(call: Any) -> None:
    same("lstm", {"num_layers": 2}, torch.float64, call, T, B, I, given=False)


def test_sorted_packed_sequences() -> None:
    def call(module: Any, x: Tensor, hx: Any) -> Any:
        return module(pack_padded_sequence(x, torch.tensor(sorted(LENGTHS, reverse=True))), hx)

    same("gru", {"bidirectional": True}, torch.float64, call, T, B, I)


@pytest.mark.parametrize(
    "lengths", [[0, 6, 1, 3, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [6, 6, 6, 6, 6], [2, 2, 1, 0, 2]]
)
@pytest.mark.parametrize("kind", ["lstm", "gru-before"])
def test_padded_batches(kind: str, lengths: list[int]) -> None:
    """With sequences of no steps and of one; the output is zero past each length."""

    def call(module: Any, x: Tensor, hx: Any) -> Any:
        state = State(**dict(zip(module.torch_state, hx if isinstance(hx, tuple) else (hx,), strict=True)))
        output, final = module.run(x, state, torch.tensor(lengths))
        for b, length in enumerate(lengths):
            assert not output[length:, b].any()
        return output, tuple(final.values())

    shape = {"num_layers": 2, "bidirectional": True, "engine": "cpu" if any(lengths) else "auto"}
    same(kind, shape, torch.float64, call, T, B, I)


def test_dropout_draws_as_torch_does() -> None:
    """The same seed drops the same outputs, whoever runs the layers; in evaluation nothing is dropped."""
    mine, exact = pair("lstm", num_layers=3, dropout=0.5)
    theirs = torch.nn.LSTM(I, H, 3, dropout=0.5, dtype=torch.float64)
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(T, B, I, dtype=torch.float64)
    for training in (True, False):
        outputs = []
        for module in (mine, exact, theirs):
            torch.manual_seed(1)
            outputs.append(module.train(training)(x)[0])
        close(outputs[0], outputs[1])
        close(outputs[0], outputs[2])


def test_windows_of_one_sequence() -> None:
    """Truncated: the state goes on, the gradient does not; the windows are views of x."""
    mine, exact = pair("lstm", num_layers=2)
    x = torch.randn(4, 20, I, dtype=torch.float64)
    answers = []
    for module in (mine, exact):
        state, outputs = None, []
        for window in x.transpose(0, 1).split(7):
            output, state = module(window, state)
            outputs.append(output)
            state = tuple(part.detach() for part in state)
            output.square().sum().backward()
        answers.append([*outputs, *state, *(parameter.grad for parameter in module.parameters())])
    for a, b in zip(*answers, strict=True):
        close(a, b)
