"""A watch around somebody's training loop: what it counts, what it measures, what it says."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from tests.microscope.loops import Translator, by_leaves, sentences
from tests.microscope.small import LAYERS, Reader, Short, assert_no_hooks, batch, step
from tests.tolerances import MEASURE, near
from throughtime.errors import FlowError, FlowWarning
from throughtime.microscope import Watch

# -- what is measured


def test_every_layer_and_direction_in_the_models_order() -> None:
    model = Reader()
    with tt.watch(model, every=1) as flow:
        model(torch.randint(7, (9, 4))).sum().backward()
    assert [record.layer for record in flow.records] == LAYERS
    assert flow.record.layer == "cell"
    assert {(record.T, record.B, record.moment, record.update) for record in flow.records} == {(9, 4, "during", 0)}
    assert (flow.step, flow.left_out, len(flow.history)) == (1, (), 6)


def test_the_record_that_leads_reads_forward() -> None:
    model = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    with tt.watch(model) as flow:
        for x in (batch(), batch()):
            output, _ = model(x)
            output.sum().backward(retain_graph=True)
    assert flow.record.layer == "lstm.l1"
    with tt.watch(model) as flow:
        sum(model(x)[0].sum() for x in (batch(), batch())).backward()
    assert len(flow.records) == 8
    assert flow.record.layer == "lstm.l1"


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
def test_the_credit_of_a_decoder(kind: str) -> None:
    """The map of all pairs, δ and the adjoint of the record against autograd on a copy in float64."""
    model = Translator(kind, feeding=True).double()
    T, H = 7, 5
    source, target = sentences(1, T=T + 1)
    with tt.watch(model, thorough=True) as flow:
        model(source, target).backward()
    record = flow.record
    assert (record.layer, record.T) == ("cell", T)
    parts = 2 if kind == "LSTMCell" else 1
    double = copy.deepcopy(model)
    delta, adjoint = by_leaves(lambda after: double(source, target, after), parts, T, 1, H)
    near(record.direct, delta.norm(dim=(0, -1))[:, 0].log10(), MEASURE)
    near(record.adjoint, adjoint.norm(dim=(0, -1))[:, 0].log10(), MEASURE)

    inputs: list[Tensor] = []
    double.cell.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach()))
    states: list[Any] = []
    double.cell.register_forward_hook(lambda module, args, out: states.append(out))
    double(source, target)
    kept, inputs_of_it = list(states), list(inputs)
    for k in range(T):  # fresh leaves in the place of z_k, and the cell alone from there on
        state = kept[k] if parts == 2 else (kept[k],)
        leaves = tuple(part.detach().requires_grad_() for part in state)
        now = leaves
        for t in range(k, T):
            if t > k:
                new = double.cell(inputs_of_it[t], now if parts == 2 else now[0])
                now = new if parts == 2 else (new,)
            found = torch.autograd.grad(now, leaves, list(delta[:, t]), retain_graph=True)
            assert record.blame is not None
            near(record.blame[t, k], float(torch.cat(found, -1).norm().log10()), MEASURE)


def test_the_derivative_and_the_number_of_sequences() -> None:
    model = Short(nn.LSTM)
    with tt.watch(model, derivative="node", sequences=3) as flow:
        model(batch(B=7)).sum().backward()
    assert (flow.record.derivative, flow.record.B) == ("node", 3)
    with tt.watch(model, sequences=None) as flow:
        model(batch(B=11)).sum().backward()
    assert flow.record.B == 11


def test_numbers_for_a_tracker() -> None:
    model = Reader()
    with tt.watch(model) as flow:
        assert flow.scalars() == {}
        model(torch.randint(7, (9, 5))).sum().backward()
    scalars = flow.scalars()
    record = flow.records[2]
    assert scalars["flow/below.l1/gradient_at_start"] == record.adjoint[0]
    assert scalars["flow/below.l1/gradient_at_end"] == record.adjoint[-1]
    assert scalars.get("flow/below.l1/horizon") == record.horizon
    assert scalars.get("flow/below.l1/half_life") == record.half_life
    assert 0 < scalars["flow/below.l1/gate_forget"] < 1
    assert all(isinstance(value, float) and math.isfinite(value) for value in scalars.values())


def test_what_is_not_finite_is_nan_for_a_tracker() -> None:
    model = Short(nn.RNN)
    with torch.no_grad():
        model.layer.weight_hh_l0.zero_()
    with tt.watch(model) as flow:
        model(batch()).sum().backward()
    assert flow.record.adjoint[0] == -torch.inf
    assert math.isnan(flow.scalars()["flow/layer/gradient_at_start"])


def test_after_nan_no_old_number_goes_to_a_tracker() -> None:
    """Between due steps too, and the names stay."""
    model = Short(nn.LSTM)
    with tt.watch(model, every=10) as flow:
        step(model)
        good = flow.scalars()
        assert not math.isnan(good["flow/layer/gradient_at_end"])
        x = batch(B=40)
        x[3, 37] = torch.nan
        model(x).sum().backward()
        assert flow.scalars().keys() == good.keys()
        assert all(math.isnan(value) for value in flow.scalars().values())
        (first, *_) = flow.non_finite
        assert (first.layer, first.way, first.sequence, first.step, first.update) == ("layer", "forward", 37, 3, 1)
    assert "step 3 of sequence 37, forward, in training step 1" in tt.diagnose(flow)[0].title


def test_names_for_a_tracker_stay_and_are_few_whatever_the_loop_does() -> None:
    layer = nn.LSTM(3, 4)
    seen = []
    with tt.watch(layer, every=1) as flow:
        for length in (12, 5):
            state, total = None, 0.0
            for x in batch(T=length):
                output, state = layer(x[None], state)
                state = tuple(part.detach() * 1.0 for part in state)
                total = total + output.sum()
            total.backward()
            seen.append(set(flow.scalars()))
            assert [record.T for record in flow.records] == [length]
    assert seen[0] == seen[1]
    assert len(seen[0]) < 12


# -- which steps


@pytest.mark.parametrize(
    ("every", "due"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (50, [0]), (lambda step: step in (1, 4), [1, 4])]
)
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTMCell])
def test_steps_that_are_due(kind: Any, every: int | Callable[[int], bool], due: list[int]) -> None:
    model, seen = Short(kind), []
    with tt.watch(model, every=every) as flow:
        for number in range(5):
            step(model)
            assert flow.step == number + 1
            seen += [record.update for record in flow.records]
    assert [record.update for record in flow.history] == due
    assert sorted(set(seen)) == due
    assert flow.left_out == ()


def test_evaluation_between_the_steps_does_not_count() -> None:
    model = Short()
    with tt.watch(model, every=1) as flow:
        for _ in range(3):
            with torch.no_grad():
                model(batch(T=11))
            step(model)
            with torch.inference_mode():
                model(batch(T=12))
    assert flow.step == 3
    assert [record.T for record in flow.history] == [6, 6, 6]


def test_evaluation_that_forgot_no_grad_is_not_measured() -> None:
    for kind in (nn.GRU, nn.GRUCell):
        model = Short(kind)
        with tt.watch(model, every=1) as flow:
            for _ in range(2):
                model(batch(T=11))
                step(model)
        assert (flow.step, [record.T for record in flow.history]) == (2, [6, 6])


def test_accumulated_gradients_are_steps_and_several_backward_passes_are_one() -> None:
    model = Short()
    with tt.watch(model, every=1) as flow:
        for _ in range(3):
            model(batch()).sum().backward()
        output = model(batch())
        output[0].sum().backward(retain_graph=True)
        output[1].sum().backward()
    assert flow.step == 4
    assert [record.update for record in flow.history] == [0, 1, 2, 3]


def test_gradients_without_backward() -> None:
    model = Short()
    with tt.watch(model, every=1) as flow:
        for _ in range(2):
            torch.autograd.grad(model(batch()).sum(), list(model.parameters()))
    assert (flow.step, len(flow.history)) == (2, 2)


@pytest.mark.parametrize("kind", [nn.GRU, nn.GRUCell])
def test_a_frozen_layer_is_watched_through_what_it_puts_out(kind: Any) -> None:
    model = Short(kind)
    model.layer.requires_grad_(False)
    embedding = nn.Embedding(5, 3)
    with tt.watch(model, every=2) as flow:
        for _ in range(3):
            model(embedding(torch.randint(5, (6, 2)))).sum().backward()
    assert (flow.step, [record.update for record in flow.history]) == (3, [0, 2])


@pytest.mark.parametrize("kind", [nn.GRU, nn.GRUCell])
def test_weights_that_are_replaced_frozen_or_handed_in(kind: Any) -> None:
    model = Short(kind)
    with tt.watch(model, every=1) as flow:
        step(model)
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        step(model)
        if kind is nn.GRUCell:  # nn.GRU holds on to the tensors that its kernel was given
            weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
            torch.func.functional_call(model, weights, batch()).sum().backward()
        model.layer.requires_grad_(False)
        model(batch().requires_grad_()).sum().backward()
        model.layer.requires_grad_(True)
        step(model)
    assert flow.step == len(flow.history) == 4 + (kind is nn.GRUCell)


def test_records_inside_the_loop_and_after_it() -> None:
    model = Short()
    with tt.watch(model, every=1) as flow:
        assert flow.records == flow.history == ()
        loss = model(batch()).sum()
        assert flow.records == ()
        loss.backward()
        first = flow.record
        assert first is flow.record
        model(batch())
        assert flow.record is first
    assert flow.record is first
    assert flow.history == (first,)


def test_start_and_stop() -> None:
    model = Short()
    flow = tt.watch(model).start()
    step(model)
    flow.stop()
    flow.stop()
    assert flow.record.layer == "layer"
    assert_no_hooks(model)


# -- errors


def why_not(flow: Watch) -> str:
    with pytest.raises(FlowError) as error:
        flow.record  # noqa: B018
    return str(error.value)


def test_nothing_recurrent() -> None:
    """The training goes on with a warning; who asks for a record is told why there is none."""
    model = nn.Linear(2, 3)
    with (
        pytest.warns(FlowWarning, match=r"nothing to watch in Linear: looked for nn\.RNN, nn\.LSTM, nn\.GRU, nn"),
        tt.watch(model) as flow,
    ):
        model(torch.ones(1, 2)).sum().backward()
    assert "nothing to watch in Linear" in why_not(flow)
    assert flow.scalars() == {}
    with pytest.warns(
        FlowWarning, match=r"nothing to watch in Sequential: 0 \(LSTM\) cannot be watched: it has a proj"
    ):
        tt.watch(nn.Sequential(nn.LSTM(3, 4, proj_size=2))).start()


def test_a_wrapper_that_goes_past_the_modules_call_is_named() -> None:
    """Weight drop as awd-lstm-lm writes it calls `self.module.forward`, which runs no hook."""

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.LSTM(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.module.forward(x)[0]

    model = Wrapped()
    with tt.watch(model) as flow:
        model(batch()).sum().backward()
    assert "something calls module.forward(...) in place of module(...)" in why_not(flow)


def test_what_cannot_be_watched_beside_what_can() -> None:
    model = nn.ModuleList([nn.LSTM(3, 4, proj_size=2), nn.LSTM(3, 4)])
    with tt.watch(model) as flow:
        model[1](batch())[0].sum().backward()
    assert flow.record.layer == "1"
    (sentence,) = flow.left_out
    assert sentence.startswith("0 (LSTM) cannot be watched")


def test_entered_never_twice_and_again() -> None:
    flow = tt.watch(Short())
    assert "this watch was never entered" in why_not(flow)
    with flow, pytest.raises(FlowError, match="a watch is entered once"):
        flow.start()
    with pytest.raises(FlowError, match="a watch is entered once"):
        flow.start()


def test_nothing_called() -> None:
    with tt.watch(Short()) as flow:
        step(Short())
    assert "layer was not called while it was watched" in why_not(flow)
    model = Short()
    with tt.watch(model) as flow, torch.no_grad():
        model(batch())
    assert "torch.no_grad" in why_not(flow)


def test_one_of_two_layers_not_called() -> None:
    model = nn.ModuleList([nn.GRU(3, 4), nn.GRUCell(3, 4), nn.GRU(3, 4)])
    with tt.watch(model, every=1) as flow:
        model[0](batch())[0].sum().backward()
        assert flow.record.layer == "0"
        assert [sentence.partition(" ")[0] for sentence in flow.left_out] == ["1", "2"]
        model[2](batch())[0].sum().backward()
    assert flow.record.layer == "2"
    assert [sentence.partition(" ")[0] for sentence in flow.left_out] == ["1", "0"]


def test_no_gradient_came_back() -> None:
    for kind in (nn.GRU, nn.GRUCell):
        model = Short(kind)
        with tt.watch(model) as flow:
            model(batch())
            assert "no gradient has come back" in why_not(flow)
        assert "no gradient came back to it" in why_not(flow)


def test_no_step_was_due() -> None:
    model = Short()
    with tt.watch(model, every=lambda step: False) as flow:
        step(model)
    assert "none of the 1 steps so far was due" in why_not(flow)


def test_a_cadence_that_fails_does_not_fail_the_training() -> None:
    def every(number: int) -> bool:
        raise ValueError("mine")

    model = Short()
    with tt.watch(model, every=every) as flow:
        step(model)
    assert "every(0) raised ValueError('mine')" in why_not(flow)
    assert flow.step == 1


@pytest.mark.parametrize("kind", [nn.GRU, nn.GRUCell])
def test_states_that_are_not_finite(kind: Any) -> None:
    model = Short(kind)
    x = batch()
    x[2] = torch.nan
    with tt.watch(model, every=1) as flow:
        model(x).sum().backward()
    assert "of layer is not finite at step 2" in why_not(flow)


@pytest.mark.parametrize("kind", [nn.GRU, nn.GRUCell])
def test_weights_that_are_not_finite(kind: Any) -> None:
    model = Short(kind)
    with torch.no_grad():
        next(model.layer.parameters())[0] = torch.nan
    with tt.watch(model) as flow:
        model(batch()).sum().backward()
    assert "is not finite" in why_not(flow)


@pytest.mark.parametrize("kind", [nn.GRU, nn.GRUCell])
def test_weights_that_change_in_between(kind: Any) -> None:
    model = Short(kind)
    with tt.watch(model, every=1) as flow:
        loss = model(batch()).sum()
        for p in model.layer.parameters():
            p.data.mul_(1.1)
        loss.backward()
    assert "the weights of layer changed between" in why_not(flow)


def test_a_failure_after_a_success_is_told_and_the_last_record_stays() -> None:
    model = Short()
    with tt.watch(model, every=1) as flow:
        step(model)
        (model(batch()).sum() * torch.nan).backward()
    assert flow.record.update == 0
    assert flow.step == 2
    assert len(flow.left_out) == 1


def test_a_bug_in_a_measure_is_told_not_thrown(monkeypatch: pytest.MonkeyPatch) -> None:
    from throughtime.microscope import watcher

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(watcher, "survey", broken)
    model = Short()
    with tt.watch(model, every=1) as flow:
        for _ in range(2):
            step(model)
    assert "layer could not be measured: ZeroDivisionError: a bug" in why_not(flow)


@pytest.mark.parametrize(
    "settings",
    [{"every": 0}, {"every": 1.5}, {"every": True}, {"derivative": "other"}, {"sequences": 0}],
    ids=str,
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(FlowError, match=next(iter(settings))):
        tt.watch(Short(), **settings)


def test_a_training_loop_of_ones_own_with_a_scheduler_and_clipping() -> None:
    """As a stranger would write it."""
    model = Translator("GRUCell")
    optimiser = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 2)
    horizons = []
    with tt.watch(model, every=2) as flow:
        for _ in itertools.repeat(None, 5):
            optimiser.zero_grad()
            model(*sentences()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            scheduler.step()
            horizons.append(flow.record.horizon)
    assert [record.layer for record in flow.records] == ["encoder", "cell"]
    assert [record.update for record in flow.history] == [0, 0, 2, 2, 4, 4]
    assert len(horizons) == 5
