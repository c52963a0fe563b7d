"""What the tests of modules share: torch.nn's modules as peers, and one way to compare two modules in full."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import throughtime as tt
from tests.tolerances import close

KINDS = ("RNN tanh", "RNN relu", "LSTM", "GRU")
FORMS = ("batch", "batch first", "one", "packed")
LENGTHS = (3, 1, 5, 1)  # unsorted, with ones
T, B, I, H = 5, 4, 3, 7  # noqa: E741


def pair(kind: str, *, dtype: torch.dtype = torch.float64, engine: str = "auto", **arguments: Any) -> Any:
    """Torch's module and ours with the same weights, drawn by torch."""
    name, _, nonlinearity = kind.partition(" ")
    if nonlinearity:
        arguments["nonlinearity"] = nonlinearity
    arguments = {"input_size": I, "hidden_size": H} | arguments
    theirs = getattr(nn, name)(**arguments, dtype=dtype)
    ours = getattr(tt, name)(**arguments, dtype=dtype, engine=engine)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def example(form: str, module: nn.Module, *, with_state: bool = True, steps: int = T, batch: int = B) -> Any:
    """An input in one of the forms, and the initial state as torch.nn takes it."""
    dtype = next(module.parameters()).dtype
    inputs, units = module.input_size, module.hidden_size
    x = torch.randn(steps, batch, inputs, dtype=dtype)
    rows = module.num_layers * (2 if module.bidirectional else 1)
    parts = [torch.randn(rows, batch, units, dtype=dtype) for _ in range(2 if "LSTM" in type(module).__name__ else 1)]
    if form == "batch first":
        x = x.transpose(0, 1).contiguous()
    if form == "one":
        x, parts = x[:, 0], [part[:, 0] for part in parts]
    state = None if not with_state else tuple(parts) if len(parts) == 2 else parts[0]
    return x, state


def everything(module: nn.Module, form: str, x: Tensor, state: Any) -> dict[str, Tensor]:
    """Output, final state, and the gradients of one number that sees all of them."""
    leaves = {"x": x.clone().requires_grad_()}
    given = (state,) if isinstance(state, Tensor) else state or ()
    held = [part.clone().requires_grad_() for part in given]
    leaves |= {f"state {index}": part for index, part in enumerate(held)}
    leaves |= dict(module.named_parameters())
    hx = None if state is None else held[0] if isinstance(state, Tensor) else tuple(held)
    if form == "packed":
        packed = pack_padded_sequence(leaves["x"], torch.tensor(LENGTHS), enforce_sorted=False)
        output, final = module(packed, hx)
        assert isinstance(output, PackedSequence)
        for mine, given in zip(output[1:], packed[1:], strict=True):
            assert torch.equal(mine, given)
        output = output.data
    else:
        output, final = module(leaves["x"], hx)
    finals = (final,) if isinstance(final, Tensor) else final
    seen = {"output": output} | {f"final {index}": part for index, part in enumerate(finals)}
    weights = torch.Generator().manual_seed(1)
    loss = sum(
        (torch.randn(value.shape, generator=weights, dtype=value.dtype) * torch.sin(value + 0.1)).sum()
        for value in seen.values()
    )
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    seen = {name: value.detach() for name, value in seen.items()}
    return seen | {f"d{name}": value for name, value in zip(leaves, gradients, strict=True)}


def same(theirs: nn.Module, ours: nn.Module, form: str, x: Tensor, state: Any) -> None:
    """Both modules answer the same, forward and backward."""
    expected = everything(theirs, form, x, state)
    for name, value in everything(ours, form, x, state).items():
        close(value, expected[name])
