"""What a catcher hears of a layer's calls, and what it says when nothing true can be said."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from tests.laws.variants import VARIANTS, Variant
from tests.serving import ENGINES
from tests.tolerances import IDENTITY, MEASURE, close
from throughtime.cells import State
from throughtime.errors import FlowError
from throughtime.flow.linear.sweep import shift
from throughtime.flow.sighting import Sighting
from throughtime.microscope import calls
from throughtime.microscope.layers import LayerCatcher
from throughtime.modules import LSTM, RNN, Recurrent

T, B, I, H = 8, 3, 3, 4  # noqa: E741


def caught(module: nn.Module, step: Callable[[], Any], sequences: int | None = None) -> tuple[Sighting, ...]:
    catcher = LayerCatcher("encoder.rnn", module, sequences)
    catcher.open()
    step()
    found = catcher.sightings()
    catcher.close()
    return found


def learn(module: nn.Module, x: Tensor | None = None) -> Callable[[], None]:
    return lambda: module(torch.randn(T, B, I) if x is None else x)[0].square().sum().backward()


def through_time(seen: Sighting) -> Tensor:
    return shift(seen.adjoint.rows, seen.adjoint.exponents.int().unsqueeze(-1))


def weight_gradient(seen: Sighting) -> Tensor:
    """Σ_t ∂⁺z_t/∂W_ihᵀ dL/dz_t."""
    pulled = seen.tangent.pull_inputs(through_time(seen), slice(0, seen.along.T))
    weights = {name: p.clone().requires_grad_() for name, p in seen.along.parameters.items()}
    shares = seen.along.cell.share(seen.along.x, weights)
    made = [block for block in shares if shares[block].requires_grad]
    (found,) = torch.autograd.grad([shares[b] for b in made], weights["weight_ih"], [pulled[b] for b in made])
    return found


# -- this package's modules


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.name not in ("own", "feedforward")], ids=str)
def test_every_known_cell_in_layers_both_ways(variant: Variant) -> None:
    """The weights' gradient that follows from what was caught is the one that training got."""
    cell = variant.make()
    options = {**cell.options, "bias": cell.bias}
    module = Recurrent(variant.name, I, H, 2, bidirectional=True, dropout=0.2, dtype=torch.float64, **options)
    lengths = torch.tensor([3, 8, 5])
    packed = pack_padded_sequence(torch.randn(T, B, I).double(), lengths, enforce_sorted=False)

    def step() -> None:
        output, final = module(packed)
        (output.data.square().sum() + sum(part.sin().sum() for part in final.values())).backward()

    found = caught(module, step)
    assert [seen.name for seen in found] == [f"encoder.rnn.{w}" for w in ("l0", "l0_reverse", "l1", "l1_reverse")]
    for seen in found:
        theirs = getattr(module, "weight_ih_" + seen.name.removeprefix("encoder.rnn.")).grad
        assert theirs.any()
        close(weight_gradient(seen), theirs, MEASURE)


@pytest.mark.parametrize("lengths", [[3, 8, 5], [8, 8, 8], [8, 0, 2]], ids=str)
def test_padded_sequences_of_a_net_of_ours(lengths: list[int]) -> None:
    """`Recurrent.run`, as `tt.Net` calls it: what lies past a sequence's end is not of it, an empty one has no part."""
    module = LSTM(I, H, 2, bidirectional=True, dropout=0.3, batch_first=True, dtype=torch.float64)
    start = State(s=torch.randn(4, B, H).double(), h=torch.randn(4, B, H).double())

    def step() -> None:
        ends = torch.tensor(lengths)
        output, final = module.run(torch.randn(T, B, I).double(), start, ends)
        (output.square().sum() + output.sin().sum() + final.s.square().sum()).backward()

    found = caught(module, step)
    assert [int(seen.along.lengths.sum()) for seen in found] == [sum(lengths)] * 4
    for seen in found:
        theirs = getattr(module, "weight_ih_" + seen.name.removeprefix("encoder.rnn.")).grad
        close(weight_gradient(seen), theirs, MEASURE)


def test_clipping_on_the_way_back_is_told() -> None:
    module = LSTM(I, H)
    with pytest.raises(FlowError, match=r"encoder\.rnn could not be followed: its gradient is clipped at every step"):
        caught(module, lambda: module.run(torch.randn(T, B, I), damping=0.1)[0].sum().backward())
    assert module.weight_hh_l0.grad is not None


# -- float32 and less


def test_float32_is_measured_where_training_was() -> None:
    """A chaotic net: a second run in float64 would soon be elsewhere; every step is its own all the same."""
    module = nn.RNN(I, 64)
    module.weight_hh_l0.data = 4 * torch.linalg.qr(torch.randn(64, 64))[0]
    x = torch.randn(300, B, I)
    (seen,) = caught(module, learn(module, x))
    assert torch.equal(seen.along.run.output, module(x)[0].double())
    assert seen.along.x.dtype == torch.float64


@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_a_chaotic_layer_that_cannot_be_seen(engine: str | None) -> None:
    """Below the last layer there are no outputs to go by; torch's own, and ours by each engine."""
    module = nn.RNN(I, 64, 2) if engine is None else RNN(I, 64, 2, engine=engine)
    for name in ("weight_hh_l0", "weight_hh_l1"):
        getattr(module, name).data = 4 * torch.linalg.qr(torch.randn(64, 64))[0]
    x = torch.randn(200, B, I)
    with pytest.raises(FlowError, match=r"rnn\.l1 does more than .* chaotic net; then watch it in float64"):
        caught(module, learn(module, x))
    assert len(caught(module.double(), learn(module, x[:50].double()))) == 2


def test_large_inputs_are_rounded_coarsely() -> None:
    """Sums of terms of 10^6 are known to about 0.1 in float32; that is no reason to doubt the layer."""
    for kind in (nn.RNN, nn.LSTM, nn.GRU):
        module = kind(I, H, 2, bidirectional=True)
        assert caught(module, learn(module, 1e6 * torch.randn(T, B, I)))


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
def test_autocast(kind: Any) -> None:
    module = kind(I, 32, 2)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, _ = module(torch.randn(T, B, I))
        output.float().square().sum().backward()

    found = caught(module, step)
    assert len(found) == 2
    assert all("bfloat16" in " ".join(seen.notes) for seen in found)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_layer_in_bfloat16(kind: Any) -> None:
    module = kind(I, 32).bfloat16()
    (seen,) = caught(module, learn(module, torch.randn(T, B, I).bfloat16()))
    theirs = module.weight_ih_l0.grad.double()
    assert (weight_gradient(seen) - theirs).norm() < 0.05 * theirs.norm()


# -- gradients


def test_several_backward_passes_add_up() -> None:
    module = nn.GRU(I, H).double()

    def step() -> None:
        output, final = module(torch.randn(T, B, I).double())
        output.sum().backward(retain_graph=True)
        final.square().sum().backward()

    (seen,) = caught(module, step)
    close(weight_gradient(seen), module.weight_ih_l0.grad, MEASURE)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_penalty_on_the_gradient_is_told(kind: Any) -> None:
    """What it adds enters inside the steps: what comes back to the output is not all there is."""
    module = kind(I, H)

    def step() -> None:
        x = torch.randn(T, B, I, requires_grad=True)
        loss = module(x)[0].square().sum()
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + slope.square().sum()).backward()

    with pytest.raises(FlowError, match="create_graph"):
        caught(module, step)


def test_hooks_on_the_gradient_come_before() -> None:
    """What somebody's hook makes of the gradient at the output is what goes on into the layer."""
    module = nn.LSTM(I, H).double()

    def step() -> None:
        output, _ = module(torch.randn(T, B, I).double())
        output.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
        output.square().sum().backward()

    (seen,) = caught(module, step)
    assert float(seen.delta.abs().max()) <= 0.1
    close(weight_gradient(seen), module.weight_ih_l0.grad, MEASURE)


def test_an_output_that_is_changed_afterwards() -> None:
    module = nn.GRU(I, H).double()

    def step() -> None:
        output, _ = module(torch.randn(T, B, I).double())
        output *= 3
        output.square().sum().backward()

    (seen,) = caught(module, step)
    close(weight_gradient(seen), module.weight_ih_l0.grad, MEASURE)


def test_frozen_weights_and_inputs_without_a_gradient() -> None:
    module = nn.LSTM(I, H).double().requires_grad_(False)
    x = torch.randn(T, B, I).double().requires_grad_()
    (seen,) = caught(module, learn(module, x))
    assert seen.delta.any()
    module.requires_grad_(True)
    (seen,) = caught(module, learn(module, x.detach()))
    close(weight_gradient(seen), module.weight_ih_l0.grad, MEASURE)
    module.requires_grad_(False)
    with pytest.raises(FlowError, match="no gradient can come back to it"):
        caught(module, lambda: module(x.detach()))


def test_a_call_without_a_gradient_beside_one_that_has_it() -> None:
    module = nn.LSTM(I, H).double()

    def step() -> None:
        with torch.no_grad():
            module(torch.randn(T, B, I).double())
        module(torch.randn(2, B, I).double())
        learn(module, torch.randn(T, B, I).double())()

    (seen,) = caught(module, step)
    assert seen.name == "encoder.rnn"
    assert seen.along.T == T


# -- when nothing true can be said


def test_nothing_was_called() -> None:
    with pytest.raises(FlowError, match=r"encoder\.rnn was not called while it was watched"):
        caught(nn.LSTM(I, H), lambda: None)


def test_no_gradient_came_back() -> None:
    module = nn.LSTM(I, H)
    catcher = LayerCatcher("rnn", module, None)
    catcher.open()
    module(torch.randn(T, B, I))
    torch.randn(3, requires_grad=True).sum().backward()
    assert not catcher.answered
    with pytest.raises(FlowError, match="the loss does not depend on what it put out"):
        catcher.sightings()


def test_torch_no_grad() -> None:
    module = nn.LSTM(I, H)

    def step() -> None:
        with torch.no_grad():
            module(torch.randn(T, B, I))

    with pytest.raises(FlowError, match=r"gradients were off \(torch\.no_grad\)"):
        caught(module, step)


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("input", r"the input of encoder\.rnn\.l0 is not finite at step 5"),
        ("state", r'the initial state "h" of encoder\.rnn\.l0 is not finite'),
    ],
)
def test_nan(what: str, match: str) -> None:
    module = nn.GRU(I, H, 2)
    x, h = torch.randn(T, B, I), torch.zeros(2, B, H)
    if what == "input":
        x[5, 1, 0] = torch.nan
    else:
        h[0, 1, 0] = torch.inf
    with pytest.raises(FlowError, match=match):
        caught(module, lambda: module(x, h)[0].sum().backward())


def test_a_state_that_runs_away_and_a_loss_that_is_no_number() -> None:
    module = nn.RNN(I, H, 2, nonlinearity="relu")
    module.weight_hh_l0.data = 1e20 * torch.eye(H)
    with pytest.raises(FlowError, match=r"the (state|input) of encoder\.rnn\.l[01] is not finite at step \d"):
        caught(module, learn(module, torch.randn(40, B, I)))
    module = nn.LSTM(I, H)
    with pytest.raises(FlowError, match=r"encoder\.rnn: delta is not finite"):
        caught(module, lambda: (module(torch.randn(T, B, I))[0].sum() * torch.nan).backward())


def test_weights_that_change_before_the_gradient_is_back() -> None:
    module = nn.LSTM(I, H)

    def step() -> None:
        output, _ = module(torch.randn(T, B, I))
        module.weight_hh_l0.data.mul_(1.01)  # past torch's own check
        output.sum().backward()

    with pytest.raises(FlowError, match=r"weights of encoder\.rnn changed between its call and the gradient's return"):
        caught(module, step)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    x = torch.randn(T, B, I)
    before = module.weight_hh_l0.detach().double().clone()
    (seen,) = caught(module, lambda: (learn(module, x)(), optimiser.step()))
    assert torch.equal(seen.along.parameters["weight_hh"], before)


def test_a_hook_that_alters_the_output() -> None:
    module = nn.LSTM(I, H)
    module.register_forward_hook(lambda module, args, out: (out[0] + 1e-3, out[1]))
    with pytest.raises(FlowError, match=r"encoder\.rnn does more than its equations: at step 0"):
        caught(module, learn(module))


def test_a_hook_that_alters_the_input_is_before_the_layer() -> None:
    module = nn.GRU(I, H).double()
    module.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    (seen,) = caught(module, learn(module, torch.randn(T, B, I).double()))
    close(weight_gradient(seen), module.weight_ih_l0.grad, MEASURE)


def test_a_module_that_is_no_layer() -> None:
    with pytest.raises(FlowError, match=r"LSTM is no layer that can be watched: .* without projections"):
        LayerCatcher("rnn", nn.LSTM(I, H, proj_size=2), None)


# -- manners


def test_an_error_of_the_catcher_does_not_break_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("out of order")

    module = nn.LSTM(I, H)
    monkeypatch.setattr(calls.Pick, "steps", broken)
    with pytest.raises(FlowError, match=r"encoder\.rnn could not be followed: out of order"):
        caught(module, learn(module))
    assert module.weight_hh_l0.grad is not None


def test_copies_and_files_of_a_watched_module_are_not_watched() -> None:
    module = nn.LSTM(I, H)
    catcher = LayerCatcher("rnn", module, None)
    catcher.open()
    output, _ = module(torch.randn(T, B, I))
    twin = copy.deepcopy(module)
    twin(torch.randn(T, B, I))[0].sum().backward()
    assert not catcher.answered
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    torch.load(file, weights_only=False)(torch.randn(T, B, I))[0].sum().backward()
    assert not catcher.answered
    output.sum().backward()
    assert len(catcher.sightings()) == 1


def test_closing_lets_go() -> None:
    module = nn.LSTM(I, H)
    catcher = LayerCatcher("rnn", module, None)
    catcher.open()
    output, _ = module(torch.randn(T, B, I))
    catcher.close()
    output.sum().backward()
    assert not catcher.answered
    assert not module._forward_hooks
    assert not module._forward_pre_hooks
    catcher.open()
    learn(module)()
    assert len(catcher.sightings()) == 1


def test_a_share_of_the_weights_gradient_is_told() -> None:
    """A query and a document through one encoder: each record has its own share of dL/dW."""
    module = nn.GRU(I, H).double()
    x = torch.randn(T, B, I, dtype=torch.float64)
    seen = caught(module, lambda: (module(x)[0].sum() * module(x.flip(0))[0].square().sum()).backward())
    assert all("one of 2 runs" in one.notes[-1] for one in seen)
    close(sum(map(weight_gradient, seen)), module.weight_ih_l0.grad, IDENTITY)


def test_calls_without_a_gradient_do_not_pile_up() -> None:
    module = nn.LSTM(I, H)
    catcher = LayerCatcher("encoder.rnn", module, None)
    catcher.open()
    for _ in range(300):  # an evaluation without no_grad
        module(torch.randn(2, 1, I))
    assert max(len(catcher._calls), len(catcher._finals), len(catcher._handles) // 3) < 100
    learn(module)()
    (seen,) = catcher.sightings()
    assert seen.name == "encoder.rnn"
    catcher.close()


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_several_watchers_at_once_see_the_same_chain(kind: Any) -> None:
    module = kind(I, H).double()
    catchers = [LayerCatcher("encoder.rnn", module, None) for _ in range(3)]
    for catcher in catchers:
        catcher.open()
    x = torch.randn(T, B, I, dtype=torch.float64)
    first, state = module(x[:3])
    second, _ = module(x[3:], state)
    (first.sum() + second.square().sum()).backward()
    one, *others = [catcher.sightings() for catcher in catchers]
    (seen,) = one
    assert seen.along.T == T
    close(weight_gradient(seen), module.weight_ih_l0.grad, IDENTITY)
    for (other,) in others:
        assert torch.equal(other.delta, seen.delta)
        assert torch.equal(through_time(other), through_time(seen))
    for catcher in catchers:
        catcher.close()


def test_opened_by_a_hook_of_the_call_itself() -> None:
    """The call under way is caught, with the masks that it draws."""
    module = nn.GRU(I, H, 2, dropout=0.5).double()
    catcher = LayerCatcher("rnn", module, None)
    handle = module.register_forward_pre_hook(lambda module, args: catcher.open())
    learn(module, torch.randn(T, B, I).double())()
    handle.remove()
    for seen in catcher.sightings():
        close(weight_gradient(seen), getattr(module, "weight_ih_" + seen.name.removeprefix("rnn.")).grad, MEASURE)


def test_the_record_has_what_was_caught() -> None:
    from throughtime.flow.survey import survey

    module = nn.LSTM(I, H, 2)
    for seen in caught(module, learn(module)):
        record = survey(seen, moment="during", update=3, extent="quick")
        assert (record.layer, record.T, record.B, record.cell) == (seen.name, T, B, "lstm")
        assert np.isfinite(record.adjoint).all()
