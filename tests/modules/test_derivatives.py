"""Second derivatives, torch.func, forward mode, and mixed precision."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap

import throughtime as tt
from tests.modules.peers import KINDS, example, pair
from tests.serving import ENGINES
from tests.tolerances import close


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_differentiates_twice(kind: str, engine: str) -> None:
    _, ours = pair(kind, engine=engine, input_size=2, hidden_size=2, bidirectional=True, bias=False)
    x, state = example("batch", ours, steps=3, batch=2)
    parts = (state,) if isinstance(state, Tensor) else state
    names = [name for name, _ in ours.named_parameters()]
    leaves = [value.detach().clone().requires_grad_() for value in (x, *parts, *ours.parameters())]

    def run(*values: Tensor) -> Tensor:
        x, hx, parameters = values[0], values[1 : 1 + len(parts)], values[1 + len(parts) :]
        given = hx[0] if len(hx) == 1 else hx
        return functional_call(ours, dict(zip(names, parameters, strict=True)), (x, given))[0]

    assert torch.autograd.gradgradcheck(run, leaves)
    assert ours.served == engine


def test_onednn_differentiates_twice() -> None:
    """In float32 torch's LSTM is oneDNN's kernel on the CPU; the oracle is the reference in float64."""

    def second(module: Any, x: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        leaves = [x, *module.parameters()]
        output, (_, c) = module(x)
        first = torch.autograd.grad(output.square().sum() + c.sum(), leaves, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))

    _, ours = pair("LSTM", dtype=torch.float32, num_layers=2, bidirectional=True, engine="native")
    x, _ = example("batch", ours)
    mine = second(ours, x)
    assert ours.served == "native"
    expected = copy.deepcopy(ours).double()
    expected.engine = "reference"
    for a, b in zip(mine, second(expected, x.double()), strict=True):
        close(a, b.float())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_functional_call_takes_other_weights(kind: str, engine: str) -> None:
    theirs, ours = pair(kind, num_layers=2, engine=engine)
    x, state = example("batch", theirs)
    others = {name: 2 * value.detach() for name, value in ours.named_parameters()}
    before = ours(x, state)[0]
    mine = functional_call(ours, others, (x, state))[0]
    assert ours.served == engine
    close(ours(x, state)[0], before)
    theirs.load_state_dict(others)
    close(mine, theirs(x, state)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_transforms(kind: str) -> None:
    """Over models, sequences and directions; torch.nn's own modules, one by one, are the oracle."""
    theirs, ours = zip(*(pair(kind, num_layers=2, bidirectional=True) for _ in range(3)), strict=True)
    x, _ = example("batch", theirs[0], with_state=False)
    base = copy.deepcopy(ours[0]).to("meta")
    stacked, _ = stack_module_state(list(ours))
    together = vmap(lambda p: functional_call(base, p, (x,))[0])(stacked)
    assert base.served == "reference"
    close(together, torch.stack([module(x)[0] for module in theirs]))

    xs = torch.stack([x, 2 * x])
    close(vmap(lambda one: ours[0](one)[0])(xs), torch.stack([theirs[0](one)[0] for one in xs]))

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(ours[0], parameters, (x,))[0].square().sum()

    gradients = grad(loss)({name: value.detach() for name, value in ours[0].named_parameters()})
    theirs[0](x)[0].square().sum().backward()
    for name, value in theirs[0].named_parameters():
        close(gradients[name], value.grad)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's own, where it loads forward rules
@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_agrees_with_reverse_mode(kind: str) -> None:
    theirs, ours = pair(kind)
    x, state = example("batch", theirs, steps=3, batch=2)
    tangent = torch.randn_like(x)
    _, pushed = jvp(lambda x: ours(x, state)[0], (x,), (tangent,))
    jacobian = torch.autograd.functional.jacobian(lambda x: theirs(x, state)[0], x)
    expected = torch.einsum("tbhsci,sci->tbh", jacobian, tangent)
    close(pushed, expected)
    with forward_ad.dual_level():
        output = ours(forward_ad.make_dual(x, tangent), state)[0]
        close(forward_ad.unpack_dual(output).tangent, expected)
    close(jacrev(lambda x: ours(x, state)[0])(x), jacobian)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_autocast(name: str, engine: str) -> None:
    """Bfloat16 inside, gradients in the parameters' dtype, and numbers near float32's."""
    module = getattr(tt, name)(3, 8, 2, bidirectional=True, engine=engine)
    x = torch.randn(6, 2, 3)
    expected = module(x)[0]
    lengths = torch.tensor([6, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = module(x)
        cut, _ = module.run(x, lengths=lengths)
    assert bool(((output.float() - expected).abs() < 0.03).all())
    assert bool(((cut.float()[:, 0] - expected[:, 0]).abs() < 0.03).all())
    output.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")  # torch.compile's
@pytest.mark.parametrize("engine", ENGINES)
def test_traced_by_torch_compile(engine: str) -> None:
    module = tt.LSTM(3, 4, 2, bidirectional=True, engine=engine)
    x = torch.randn(4, 2, 3)
    close(torch.compile(module, backend="eager")(x)[0], module(x)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_evaluation_mode(kind: str) -> None:
    """In float32, where torch's LSTM is oneDNN's kernel and is told whether it trains."""
    _, ours = pair(kind, dtype=torch.float32, num_layers=2, dropout=0.5)
    x, _ = example("batch", ours.eval(), with_state=False)
    x.requires_grad_()
    gradients = []
    for engine in ("auto", "native", "reference"):
        ours.engine = engine
        gradients.append(torch.autograd.grad(ours(x)[0].square().sum(), x)[0])
    for mine in gradients[:2]:
        close(mine, gradients[2])
