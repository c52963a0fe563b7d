"""Compiled kernels within what torch offers: the numbers are the reference's whatever surrounds the call."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

import throughtime as tt
from tests.tolerances import close
from throughtime.cells import Cell, State
from throughtime.data.dataset import Batch
from throughtime.engines.compiled import serve as engine_of_kernels
from throughtime.errors import EngineError

pytestmark = pytest.mark.compiler

KINDS = ("RNN", "LSTM", "GRU")


def layer(kind: str = "GRU", *, engine: str = "cpu", dtype: torch.dtype = torch.float64, **keywords: Any) -> Any:
    """A layer of two layers in both directions."""
    keywords = {"num_layers": 2, "bidirectional": True, **keywords}
    return getattr(tt, kind)(3, 5, engine=engine, dtype=dtype, **keywords)


def as_reference(module: Any) -> Any:
    """The same numbers in the loop under autograd, in float64."""
    other = copy.deepcopy(module).double()
    other.engine = "reference"
    return other


def numbers(steps: int = 7, batch: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(steps, batch, 3, dtype=dtype)


def loss_of(answer: tuple[Any, Any]) -> Tensor:
    output, final = answer
    parts = (final,) if isinstance(final, Tensor) else final
    return output.square().sum() + sum(part.sin().sum() for part in parts)


def agree(module: Any, x: Tensor, *state: Any) -> None:
    """Outputs and all gradients as the reference has them."""
    other = as_reference(module)
    found = []
    for each in (module, other):
        given = x.detach().clone().requires_grad_()
        output, final = each(given, *state)
        wanted = [given, *(parameter for parameter in each.parameters() if parameter.requires_grad)]
        found.append([output, *torch.autograd.grad(loss_of((output, final)), wanted)])
    assert module.served == "cpu"
    for mine, expected in zip(*found, strict=True):
        close(mine, expected)


# -- autograd


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_graph(kind: str) -> None:
    module, x = layer(kind), numbers()
    expected = as_reference(module)(x)[0]
    with torch.no_grad():
        output = module(x)[0]
        assert not output.requires_grad
        close(output, expected)
    with torch.inference_mode():
        output = module(x)[0]
        assert output.is_inference()
    assert torch.equal(output, module(x)[0])
    with torch.inference_mode():
        made_there = copy.deepcopy(module)
        inside = made_there(x.clone())[0]
    assert torch.equal(inside, output)
    assert made_there.served == "cpu"
    with torch.no_grad():  # parameters of inference mode, used outside of it
        assert torch.equal(made_there(x)[0], output)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_needs_a_gradient_gets_one_and_nothing_else(kind: str) -> None:
    module = layer(kind)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("l1" in name and "weight_hh" in name)
    agree(module, numbers())
    x = numbers()
    loss_of(module(x)).backward()
    assert x.grad is None
    assert {name for name, parameter in module.named_parameters() if parameter.grad is not None} == {
        "weight_hh_l1",
        "weight_hh_l1_reverse",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_last_state_or_only_the_output_is_used(kind: str) -> None:
    module, x = layer(kind), numbers()
    other = as_reference(module)
    for use in (
        lambda output, final: output[2].sum(),
        lambda output, final: (final if isinstance(final, Tensor) else final[-1])[1].sum(),
    ):
        mine = torch.autograd.grad(use(*module(x)), list(module.parameters()), allow_unused=True)
        theirs = torch.autograd.grad(use(*other(x)), list(other.parameters()), allow_unused=True)
        for a, b in zip(mine, theirs, strict=True):
            a, b = (torch.zeros(1) if value is None else value for value in (a, b))
            close(a.double(), b.double()) if b.any() else close(a.double().sum(), b.double().sum())


def test_backward_twice_through_a_kept_graph() -> None:
    module = layer("LSTM")
    loss = loss_of(module(numbers()))
    once = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    again = torch.autograd.grad(loss, list(module.parameters()))
    assert all(map(torch.equal, once, again))
    assert not any(gradient.requires_grad for gradient in once)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_gradients_through_gates_hold_no_graph() -> None:
    cell = tt.cells.make("lstm", 3, 4, dtype=torch.float64)
    result = tt.unroll(cell, numbers(), engine="cpu")
    gradients = torch.autograd.grad(result.gates["forget"].sum() + result.states["s"].sum(), list(cell.parameters()))
    assert not any(gradient.requires_grad for gradient in gradients)
    theirs = tt.unroll(cell, numbers(), engine="reference")
    assert theirs.engine == "reference"


@pytest.mark.parametrize("kind", KINDS)
def test_differentiates_twice(kind: str) -> None:
    module = layer(kind, num_layers=1)
    names = [name for name, _ in module.named_parameters()]
    leaves = [numbers(3, 2), *(parameter.detach() for parameter in module.parameters())]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(module, dict(zip(names, parameters, strict=True)), (x,))[0]

    assert torch.autograd.gradgradcheck(run, [leaf.requires_grad_() for leaf in leaves])
    assert module.served == "cpu"


def test_hooks_see_each_gradient_once() -> None:
    module = layer()
    seen: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        parameter.register_hook(lambda gradient, name=name: seen.setdefault(name, gradient * 2))
    loss_of(module(numbers())).backward()
    assert set(seen) == {name for name, _ in module.named_parameters()}
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter.grad, seen[name])


@pytest.mark.parametrize("what", ["output", "x", "weight"])
def test_what_is_changed_before_the_way_back_is_noticed(what: str) -> None:
    module = layer(num_layers=1, bidirectional=False)
    x = numbers()
    output, _ = module(x)
    loss = output.square().sum() if what != "output" else (output * torch.ones_like(output)).sum()
    with torch.no_grad():
        {"output": output, "x": x, "weight": module.weight_hh_l0}[what].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# -- tensors that lie otherwise


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_may_lie_as_they_like(kind: str) -> None:
    module = layer(kind)
    strided = torch.randn(3, 3, 14, dtype=torch.float64).permute(2, 1, 0)[::2]
    agree(module, strided)
    parts = [torch.randn(1, 1, 5, dtype=torch.float64).expand(4, 3, 5) for _ in module.torch_state]
    agree(module, strided, parts[0] if len(parts) == 1 else tuple(parts))
    parts = [torch.randn(5, 3, 4, dtype=torch.float64).permute(2, 1, 0) for _ in module.torch_state]
    agree(module, strided, parts[0] if len(parts) == 1 else tuple(parts))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.data = parameter.data.T.contiguous().T
    agree(module, strided)


def test_a_window_is_read_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training in windows passes views of the series, and no one on the way to the kernel copies them."""
    read: list[int] = []
    run = engine_of_kernels.run

    def watched(course: Any, x: Tensor, *rest: Any, **keywords: Any) -> Any:
        read.append(x.data_ptr())
        return run(course, x, *rest, **keywords)

    module, x = layer(num_layers=1, bidirectional=False), numbers(20)
    batch = Batch(x, torch.full((3,), 20), x, each_step=True)
    module(x)
    monkeypatch.setattr(engine_of_kernels, "run", watched)
    for start in (0, 5, 15):
        module.run(batch.window(start, start + 5).x, lengths=batch.window(start, start + 5).lengths)
        assert read[-1] == x[start].data_ptr()
    assert len(read) == 3


def test_batch_first_and_one_sequence() -> None:
    agree(layer(batch_first=True), numbers(4, 6))
    agree(layer("LSTM"), numbers(6, 3)[:, 0])


@pytest.mark.parametrize(("steps", "batch"), [(0, 2), (5, 0), (1, 1)])
@pytest.mark.parametrize("engine", ["auto", "cpu"])
def test_nothing_to_do(steps: int, batch: int, engine: str) -> None:
    module = layer(engine="auto")
    output, final = module(torch.zeros(steps, batch, 3, dtype=torch.float64))
    assert output.shape == (steps, batch, 10)
    assert final.shape == (4, batch, 5)
    if engine == "cpu" and not steps * batch:
        with pytest.raises(EngineError, match="length 0"):
            layer()(torch.zeros(steps, batch, 3, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_two_layers_share(kind: str) -> None:
    module = getattr(tt, kind)(5, 5, 2, engine="cpu", dtype=torch.float64)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(module, f"{name}_l1", getattr(module, f"{name}_l0"))
    assert len(list(module.parameters())) == 4
    agree(module, torch.randn(7, 3, 5, dtype=torch.float64))


def test_weights_made_from_others() -> None:
    module = layer(num_layers=1, bidirectional=False)
    parametrizations.orthogonal(module, "weight_hh_l0")
    parametrizations.weight_norm(module, "weight_ih_l0")
    agree(module, numbers())


def test_memory_that_is_filled_with_nan_first() -> None:
    module = layer("LSTM")
    expected = [*(as_reference(module)(numbers())[0],)]
    x = numbers()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        agree(module, x)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = filled
    assert expected[0].isfinite().all()


# -- what gives way to the reference


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_computes_in_the_parameters_dtype(kind: str) -> None:
    module, x = layer(kind, dtype=torch.float32), numbers(dtype=torch.float32)
    expected = module(x)[0]
    gradients = torch.autograd.grad(loss_of(module(x)), list(module.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        answer = module(x)
        rounded = module(x.bfloat16())[0]
    assert module.served == "cpu"
    assert answer[0].dtype == rounded.dtype == torch.float32
    assert torch.equal(answer[0], expected)
    close(rounded, module(x.bfloat16().float())[0])
    for mine, theirs in zip(torch.autograd.grad(loss_of(answer), list(module.parameters())), gradients, strict=True):
        assert torch.equal(mine, theirs)


def test_the_way_back_may_stand_within_autocast() -> None:
    """Not as torch advises, but written often; the numbers are still those of the parameters' dtype."""
    module, x = layer("LSTM", dtype=torch.float32), numbers(dtype=torch.float32)
    expected = torch.autograd.grad(loss_of(module(x)), list(module.parameters()))
    loss = loss_of(module(x))
    with torch.autocast("cpu", torch.bfloat16):
        gradients = torch.autograd.grad(loss, list(module.parameters()))
    for mine, theirs in zip(gradients, expected, strict=True):
        close(mine, theirs)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's own, where it loads forward rules
@pytest.mark.parametrize("kind", KINDS)
def test_transforms_are_served_by_the_reference(kind: str) -> None:
    module, x = layer(kind, engine="auto"), numbers()
    other = as_reference(module)
    values = {name: value.detach() for name, value in module.named_parameters()}

    def loss(one: nn.Module, values: dict[str, Tensor]) -> Tensor:
        return functional_call(one, values, (x,))[0].square().sum()

    mine, theirs = grad(lambda values: loss(module, values))(values), grad(lambda values: loss(other, values))(values)
    assert module.served == "reference"
    for name in values:
        close(mine[name], theirs[name])
    xs = torch.stack([x, -x])
    close(vmap(lambda x: module(x)[0])(xs), torch.stack([other(x)[0] for x in xs]))
    close(jvp(lambda x: module(x)[0], (x,), (x,))[1], jvp(lambda x: other(x)[0], (x,), (x,))[1])
    module.engine = "cpu"
    with pytest.raises(EngineError, match=r"torch\.func"):
        vmap(lambda x: module(x)[0])(xs)
    functional_call(module, values, (x,))
    assert module.served == "cpu"


class Counting(TorchDispatchMode):
    """Sees every operator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        return func(*args, **(kwargs or {}))


class Marked(torch.Tensor):
    """A tensor of a class of its own."""


def test_where_every_operator_is_seen_the_reference_serves() -> None:
    module, x = layer(engine="auto"), numbers()
    expected = module(x)[0]
    with Counting() as counting:
        output = module(x)[0]
    assert module.served != "cpu"
    assert counting.seen > 0
    close(output, expected)
    output = module(x.as_subclass(Marked))[0]
    assert module.served != "cpu"
    close(output.as_subclass(Tensor), expected)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        output = module(mode.from_tensor(x))[0]
    assert output.shape == expected.shape


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_module_holds_the_steps_themselves() -> None:
    module, x = layer(engine="auto", num_layers=1).eval(), numbers()
    traced = torch.jit.trace(module, (x,))
    assert "PythonOp" not in str(traced.inlined_graph)
    other = numbers()
    close(traced(other)[0], module(other)[0])


def test_recomputation_over_kernels() -> None:
    cell: Cell = tt.cells.make("lstm", 3, 4, dtype=torch.float64)
    x = numbers(30, 3)
    state = State(**{part: torch.randn(3, 4, dtype=torch.float64) for part in cell.parts})
    found = []
    for keywords in ({"recompute": True, "engine": "cpu"}, {"engine": "reference"}):
        result = tt.unroll(cell, x, state, **keywords)
        assert result.engine == keywords["engine"]
        values = [*result.states.values(), *result.gates.values(), *result.final.values()]
        result = tt.unroll(cell, x, state, lengths=torch.tensor([30, 4, 0]), **keywords)
        values += [*result.states.values(), *result.final.values()]
        loss = sum(value.square().sum() for value in values)
        found.append([*values, *torch.autograd.grad(loss, list(cell.parameters()))])
    for mine, expected in zip(*found, strict=True):
        close(mine, expected)
