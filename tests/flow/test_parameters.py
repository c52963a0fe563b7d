"""dL/dθ by lag: against a loop that gives every step parameters of its own, against truncation by detached states."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import throughtime as tt
from tests.flow.own import HearsItself, HearsOthers, Mixing
from tests.laws.variants import VARIANTS, sequence
from tests.tolerances import IDENTITY, MEASURE, close, near
from throughtime.cells import Cell, Gates, State
from throughtime.errors import FlowError
from throughtime.flow import parameters as module
from throughtime.flow.adjoint import checked
from throughtime.flow.linear.trajectory import follow
from throughtime.flow.parameters import parameters_of
from throughtime.flow.sighting import Sighting

DOUBLE = torch.float64
Pairs = dict[tuple[int, int], dict[str, Tensor]]


@pytest.fixture(params=[*VARIANTS, Mixing, HearsItself], ids=lambda p: getattr(p, "__name__", str(p)))
def cell(request: pytest.FixtureRequest) -> Cell:
    torch.manual_seed(1)
    return request.param(3, 3, dtype=DOUBLE) if request.param in (Mixing, HearsItself) else request.param.make()


def whole_delta(cell: Cell, x: Tensor) -> Tensor:
    """δ at every part of every state."""
    return torch.randn(*x.shape[:2], cell.state_size, dtype=x.dtype)


def loss(cell: Cell, states: list[State], delta: Tensor) -> Tensor:
    return sum((delta[t] * cell.pack(z)).sum() for t, z in enumerate(states))


def pairs(cell: Cell, x: Tensor, state: State, delta: Tensor) -> Pairs:
    """The gradient of δ_t·z_t with respect to the parameters that step k alone used, one backward pass a pair."""
    T = x.shape[0]
    own = [{n: p.detach().clone().requires_grad_() for n, p in cell.values().items()} for _ in range(T)]
    z, states = state, []
    for t in range(T):
        z, _ = cell.advance(cell.share(x[t], own[t]), z, cell.weights(own[t]))
        states.append(z)
    found: Pairs = {}
    for t in range(T):
        out = (delta[t] * cell.pack(states[t])).sum()
        for k in range(t + 1):
            got = torch.autograd.grad(out, list(own[k].values()), retain_graph=True, allow_unused=True)
            found[t, k] = {n: torch.zeros_like(p) if g is None else g
                           for (n, p), g in zip(own[k].items(), got, strict=True)}  # fmt: skip
    return found


def term(of: Pairs, name: str, lags: range | list[int]) -> Tensor:
    return sum((g[name] for (t, k), g in of.items() if t - k in lags), torch.zeros_like(of[0, 0][name]))


def unrolled(cell: Cell, x: Tensor, delta: Tensor, **options) -> dict[str, Tensor]:
    """dL/dθ of the reference engine's unrolled sequence, L = Σ δ_t·z_t."""
    states = tt.unroll(cell, x, engine="reference", **options).states
    out = (torch.cat([states[part] for part in cell.parts], dim=-1) * delta).sum()
    found = torch.autograd.grad(out, list(cell.parameters()), allow_unused=True, materialize_grads=True)
    return dict(zip(cell.values(), found, strict=True))


def near_zero_or(a: Tensor, b: Tensor) -> None:
    """`close`; where the truth is exactly zero, exactly zero."""
    assert torch.equal(a, b) if not b.any() else close(a, b) is None


def test_the_lags_add_up_to_the_gradient(cell: Cell) -> None:
    x, state = sequence(cell, batch=3)
    lengths = torch.tensor([5, 2, 4])
    delta = whole_delta(cell, x)
    delta[torch.arange(5).unsqueeze(1) >= lengths] = 0
    expected = unrolled(cell, x, delta, state=state, lengths=lengths)
    found = list(tt.flow.parameter_terms(cell, x, delta, state=state, lengths=lengths))
    assert len(found) == 5
    for name, gradient in expected.items():
        near_zero_or(sum(each[name] for each in found), gradient)
    record = tt.flow.parameter_credit(cell, x, delta, state=state, lengths=lengths)
    for name, gradient in expected.items():
        near(record.log10_whole[name], math.log10(norm) if (norm := float(gradient.norm())) else -math.inf)
    assert (record.cell, record.sequences, record.dtype) == (cell.name or type(cell).__name__, 3, "float64")


def test_each_lag_is_what_its_pairs_say(cell: Cell) -> None:
    x, state = sequence(cell)
    delta = whole_delta(cell, x)
    of = pairs(cell, x, state, delta)
    record = tt.flow.parameter_credit(cell, x, delta, state=state)
    assert record.lags.tolist() == list(range(5))
    for lag, found in enumerate(tt.flow.parameter_terms(cell, x, delta, state=state)):
        for name, value in found.items():
            assert torch.allclose(value, term(of, name, [lag]), rtol=1e-9, atol=1e-14)
            size, whole = float(term(of, name, [lag]).norm()), float(term(of, name, range(5)).norm())
            rest = float(term(of, name, range(lag + 1, 5)).norm())
            assert 10 ** record.log10_terms[name][lag] == pytest.approx(size, rel=MEASURE[DOUBLE], abs=1e-15)
            if whole:
                share = 10 ** record.log10_rest[name][lag]
                assert share == pytest.approx(rest / whole, rel=MEASURE[DOUBLE], abs=1e-15)
            else:
                assert np.isnan(record.log10_rest[name]).all()


def test_each_pair_without_its_gradient(cell: Cell) -> None:
    """‖·‖ of what step k's use of each map got from source t, over all sequences, against that gradient itself."""
    x, state = sequence(cell, batch=4)
    delta = whole_delta(cell, x)
    of = pairs(cell, x, state, delta)
    found = tt.flow.parameter_pairs(cell, x, delta, state=state)
    assert tuple(found) == (cell.recurrent or ())
    for place, (block, log10) in enumerate(found.items()):
        assert log10.shape == (5, 5)
        assert np.isneginf(log10[np.triu_indices(5, 1)]).all()
        for (t, k), gradient in of.items():
            expected = float(gradient["weight_hh"].chunk(len(found))[place].norm())
            assert 10 ** log10[t, k] == pytest.approx(expected, rel=MEASURE[DOUBLE], abs=1e-15), (block, t, k)


def test_one_answer_a_sequence(cell: Cell) -> None:
    """Each sequence with its own one source, one of them with none: the short way, by pairs and by `.grad`."""
    x, state = sequence(cell, batch=4)
    delta = whole_delta(cell, x)
    at = torch.tensor([4, 1, 3, 0])
    delta[torch.arange(5).unsqueeze(1) != at] = 0
    delta[:, 3] = 0
    of = pairs(cell, x, state, delta)
    record = tt.flow.parameter_credit(cell, x, delta, state=state, lengths=torch.tensor([5, 3, 4, 2]))
    for name, gradient in unrolled(cell, x, delta, state=state).items():
        assert 10 ** record.log10_whole[name] == pytest.approx(float(gradient.norm()), rel=MEASURE[DOUBLE], abs=1e-15)
        for lag in range(5):
            size, rest = (float(term(of, name, some).norm()) for some in ([lag], range(lag + 1, 5)))
            assert 10 ** record.log10_terms[name][lag] == pytest.approx(size, rel=MEASURE[DOUBLE], abs=1e-15)
            if gradient.any():
                share = 10 ** record.log10_rest[name][lag]
                assert share == pytest.approx(rest / float(gradient.norm()), rel=MEASURE[DOUBLE], abs=1e-15)


def test_the_short_way_and_the_long_way_agree_at_lags_far_apart() -> None:
    """A second source that weighs next to nothing takes the long way."""
    cell = tt.cells.make("lstm", 3, 4, dtype=DOUBLE)
    x, state = sequence(cell, steps=90, batch=3)
    delta = torch.zeros(90, 3, 4, dtype=DOUBLE)
    delta[-1] = torch.randn(3, 4, dtype=DOUBLE)
    short, said = parameters_of(seen(cell, x, delta, state, torch.full((3,), 90)))
    assert len(short.lags) < 90
    assert "spread" in said[0]
    delta[-2] = 1e-200
    long, _ = parameters_of(seen(cell, x, delta, state, torch.full((3,), 90)))
    for name in short.log10_terms:
        near(short.log10_terms[name], long.log10_terms[name], MEASURE)
        near(short.log10_rest[name][:-1], long.log10_rest[name][:-1], MEASURE)


def test_the_rest_is_what_truncation_leaves_out() -> None:
    """Each step's loss looks back τ steps, to a detached state; what then is missing of the gradient?"""
    torch.manual_seed(3)
    for cell in (tt.cells.make("lstm", 3, 4, dtype=DOUBLE), tt.cells.make("gru", 3, 4, dtype=DOUBLE)):
        x, state = sequence(cell, steps=9)
        delta = torch.randn(9, 2, 4, dtype=DOUBLE)
        z, held = state, [state]
        for t in range(9):
            z, _ = cell.advance(cell.share(x[t]), z, cell.weights())
            held.append(z.map(lambda part: part.detach()))
        record = tt.flow.parameter_credit(cell, x, delta, state=state)
        names = list(cell.values())

        def truncated(back: int, cell=cell, x=x, delta=delta, held=held) -> list[Tensor]:
            out = torch.zeros((), dtype=DOUBLE)
            for t in range(9):
                z = held[max(0, t - back)]
                for k in range(max(0, t - back), t + 1):
                    z, _ = cell.advance(cell.share(x[k]), z, cell.weights())
                out = out + (delta[t] * z[cell.parts[-1]]).sum()
            return list(torch.autograd.grad(out, list(cell.parameters())))

        full = truncated(8)
        for lag in range(8):
            for name, whole, kept in zip(names, full, truncated(lag), strict=True):
                share = math.log10(float((whole - kept).norm() / whole.norm()))
                near(record.log10_rest[name][lag], share, MEASURE)
        assert all(np.isneginf(values[8]) for values in record.log10_rest.values())


@pytest.mark.parametrize("early", [0.0, 1.0], ids=["one-source", "two-sources"])
def test_a_scalar_net_by_hand(early: float) -> None:
    """h_t = w h_{t-1} + u x_t, loss h_{T-1}: the term of lag τ is w^τ h_{T-2-τ} for w, and w^τ x_{T-1-τ} for u.

    With h_0 in the loss too, lag 0 holds x_0 besides.
    """
    T, w = 300, 0.0625  # the smallest is 10^-360
    cell = tt.cells.make("elman", 1, 1, nonlinearity="identity", bias=False, dtype=DOUBLE)
    torch.nn.init.constant_(cell.weight_hh, w)
    torch.nn.init.constant_(cell.weight_ih, 3.0)
    delta = torch.zeros(T, 1, 1, dtype=DOUBLE)
    delta[0], delta[-1] = early, 1.0
    record = tt.flow.parameter_credit(cell, torch.ones(T, 1, 1, dtype=DOUBLE), delta)
    lags = np.arange(T)
    near(record.log10_terms["weight_ih"], lags * math.log10(w) + (lags == 0) * math.log10(1 + early))
    with np.errstate(divide="ignore"):  # h before the first step is 0
        h = np.log10(3.0 * (1 - w ** (T - 1.0 - lags)) / (1 - w))
    near(record.log10_terms["weight_hh"], lags * math.log10(w) + h)
    whole = math.log10(1 / (1 - w) + early)
    near(record.log10_whole["weight_ih"], whole)
    rest = lags[1:] * math.log10(w) + np.log10((1 - w ** (T - lags[1:])) / (1 - w))
    near(record.log10_rest["weight_ih"][:-1], rest - whole)
    assert np.isneginf(record.log10_rest["weight_ih"][-1])
    assert record.look_back("weight_ih", 0.01) == 1
    assert record.look_back("weight_ih", 0.2) == 0


@pytest.mark.parametrize("first", [0, 8], ids=["every-step", "last-step"])
def test_fewer_lags_say_the_same_and_the_rest_holds_what_lies_beyond(first: int) -> None:
    cell = tt.cells.make("lstm", 3, 4, dtype=DOUBLE)
    x, delta = torch.randn(9, 2, 3, dtype=DOUBLE), torch.randn(9, 2, 4, dtype=DOUBLE)
    delta[:first] = 0
    whole = tt.flow.parameter_credit(cell, x, delta)
    some = tt.flow.parameter_credit(cell, x, delta, most_lag=3)
    assert some.lags.tolist() == [0, 1, 2, 3]
    assert len(list(tt.flow.parameter_terms(cell, x, delta, most_lag=3))) == 4
    for name in whole.log10_terms:
        near(some.log10_terms[name], whole.log10_terms[name][:4])
        near(some.log10_rest[name], whole.log10_rest[name][:4])
        near(some.log10_whole[name], whole.log10_whole[name])
    assert len(tt.flow.parameter_credit(cell, x, delta, most_lag=99).lags) == 9


def test_each_sequence_is_split_as_if_it_were_alone() -> None:
    cell = tt.cells.make("gru", 3, 4, dtype=DOUBLE)
    lengths = torch.tensor([7, 3, 1, 5])
    x, delta = torch.randn(7, 4, 3, dtype=DOUBLE), torch.randn(7, 4, 4, dtype=DOUBLE)
    delta[torch.arange(7).unsqueeze(1) >= lengths] = 0
    together = list(tt.flow.parameter_terms(cell, x, delta, lengths=lengths))
    alone = [list(tt.flow.parameter_terms(cell, x[:n, b : b + 1], delta[:n, b : b + 1]))
             for b, n in enumerate(lengths.tolist())]  # fmt: skip
    for lag, found in enumerate(together):
        for name, value in found.items():
            close(value, sum(each[lag][name] for each in alone if lag < len(each)))


def test_a_module_stands_for_its_cell_and_nothing_of_it_changes() -> None:
    module = tt.LSTM(3, 4).double()
    x, delta = torch.randn(6, 2, 3, dtype=DOUBLE), torch.randn(6, 2, 4, dtype=DOUBLE)
    before, state = {n: p.detach().clone() for n, p in module.named_parameters()}, torch.get_rng_state()
    (module(x)[0] * delta).sum().backward()
    expected = {n.removesuffix("_l0"): p.grad.clone() for n, p in module.named_parameters()}
    found = list(tt.flow.parameter_terms(module, x, delta))
    for name, gradient in expected.items():
        close(sum(each[name] for each in found), gradient)
    assert torch.equal(state, torch.get_rng_state())
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name])
        assert torch.equal(p.grad, expected[name.removesuffix("_l0")])
        assert p.requires_grad


def test_single_precision_is_told_and_near() -> None:
    cell = tt.cells.make("lstm", 3, 4)
    x, delta = torch.randn(9, 2, 3), torch.randn(9, 2, 4)
    record = tt.flow.parameter_credit(cell, x, delta)
    double = tt.flow.parameter_credit(cell.double(), x.double(), delta.double())
    assert record.dtype == "float32"
    for name in record.log10_terms:
        np.testing.assert_allclose(record.log10_terms[name], double.log10_terms[name], atol=IDENTITY[torch.float32])


def test_nothing_to_learn_from() -> None:
    cell = tt.cells.make("gru", 3, 4, dtype=DOUBLE)
    x = torch.randn(5, 2, 3, dtype=DOUBLE)
    record = tt.flow.parameter_credit(cell, x, torch.zeros(5, 2, 4, dtype=DOUBLE))
    assert all(np.isneginf(values).all() for values in record.log10_terms.values())
    assert all(np.isnan(values).all() for values in record.log10_rest.values())
    assert all(value == -math.inf for value in record.log10_whole.values())
    assert record.look_back("weight_hh") is None
    for found in tt.flow.parameter_terms(cell, x, torch.zeros(5, 2, 4, dtype=DOUBLE)):
        assert not any(value.any() for value in found.values())


def test_a_true_zero_is_one() -> None:
    """A dead relu hands nothing back: lag 0 is all there is."""
    cell = tt.cells.make("elman", 1, 1, nonlinearity="relu", bias=False, dtype=DOUBLE)
    torch.nn.init.constant_(cell.weight_hh, 0.5)
    torch.nn.init.constant_(cell.weight_ih, 1.0)
    x = torch.tensor([1.0, -1.0, 1.0], dtype=DOUBLE).view(3, 1, 1)
    delta = torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE).view(3, 1, 1)
    record = tt.flow.parameter_credit(cell, x, delta)
    near(record.log10_terms["weight_ih"], [0.0, -math.inf, -math.inf])
    near(record.log10_rest["weight_ih"], [-math.inf] * 3)
    assert record.look_back("weight_ih") == 0


def test_what_does_not_fit_is_said() -> None:
    cell, x = tt.cells.make("elman", 3, 4), torch.randn(5, 2, 3)
    with pytest.raises(FlowError, match="most_lag"):
        tt.flow.parameter_credit(cell, x, torch.zeros(5, 2, 4), most_lag=-1)
    with pytest.raises(FlowError, match="most_lag"):
        tt.flow.parameter_terms(cell, x, torch.zeros(5, 2, 4), most_lag=-1)
    with pytest.raises(FlowError, match="delta"):
        tt.flow.parameter_terms(cell, x, x)
    linear = tt.cells.make("elman", 3, 4, nonlinearity="identity", bias=False)
    torch.nn.init.constant_(linear.weight_hh, 1e38)
    with pytest.raises(FlowError, match="not finite"):
        tt.flow.parameter_credit(linear, torch.zeros(5, 2, 3), torch.ones(5, 2, 4))


def test_sequences_that_hear_each_other_are_refused() -> None:
    cell = HearsOthers(3, 4, dtype=DOUBLE)
    x, delta = torch.randn(5, 3, 3, dtype=DOUBLE), torch.randn(5, 3, 4, dtype=DOUBLE)
    with pytest.raises(FlowError, match="hear each other"):
        tt.flow.parameter_credit(cell, x, delta)
    with pytest.raises(FlowError, match="hear each other"):
        list(tt.flow.parameter_terms(cell, x, delta))


@pytest.mark.gpu
def test_is_the_same_on_a_cuda_device() -> None:
    cell = tt.cells.make("lstm", 3, 4, dtype=DOUBLE)
    x, delta = torch.randn(70, 2, 3, dtype=DOUBLE), torch.randn(70, 2, 4, dtype=DOUBLE)
    last = torch.where((torch.arange(70) == 69).view(70, 1, 1), delta, 0.0)
    for given in (delta, last):
        here = tt.flow.parameter_credit(cell, x, given)
        pairs_here = tt.flow.parameter_pairs(cell, x, given)
        there = tt.flow.parameter_credit(copy.deepcopy(cell).cuda(), x.cuda(), given.cuda())
        pairs_there = tt.flow.parameter_pairs(copy.deepcopy(cell).cuda(), x.cuda(), given.cuda())
        for name in here.log10_terms:
            near(there.log10_terms[name], here.log10_terms[name], MEASURE)
            near(there.log10_rest[name], here.log10_rest[name], MEASURE)
        for block, log10 in pairs_here.items():
            near(pairs_there[block], log10, MEASURE)


# -- by pair


def test_sequences_that_cancel_leave_nothing() -> None:
    """Two sequences that are one: with δ against δ nothing is left for W, with δ and δ twice as much."""
    cell = tt.cells.make("elman", 3, 4, nonlinearity="identity", bias=False, dtype=DOUBLE)
    x = torch.randn(6, 1, 3, dtype=DOUBLE).repeat(1, 2, 1)
    delta = torch.randn(6, 1, 4, dtype=DOUBLE) * torch.tensor([1.0, -1.0], dtype=DOUBLE).view(1, 2, 1)
    both = tt.flow.parameter_pairs(cell, x, delta)["hidden"]
    one = tt.flow.parameter_pairs(cell, x[:, :1], delta[:, :1])["hidden"]
    there = np.isfinite(one)
    assert (both[there] < one[there] - 14).all()
    twice = tt.flow.parameter_pairs(cell, x, delta.abs())["hidden"]
    alone = tt.flow.parameter_pairs(cell, x[:, :1], delta[:, :1].abs())["hidden"]
    near(twice[there], alone[there] + math.log10(2))


def test_pairs_over_thousands_of_steps_and_only_near_ones() -> None:
    cell = tt.cells.make("elman", 1, 1, nonlinearity="identity", bias=False, dtype=DOUBLE)
    torch.nn.init.constant_(cell.weight_hh, 0.25)
    torch.nn.init.constant_(cell.weight_ih, 0.75)  # so that h stays 1
    x, delta = torch.ones(700, 1, 1, dtype=DOUBLE), torch.zeros(700, 1, 1, dtype=DOUBLE)
    delta[[3, 699]] = 1.0
    one = State(h=torch.ones(1, 1, dtype=DOUBLE))
    found = tt.flow.parameter_pairs(cell, x, delta, state=one)["hidden"]
    near(found[699], (699 - np.arange(700)) * math.log10(0.25))
    near(found[3, :4], (3 - np.arange(4)) * math.log10(0.25))
    assert np.isneginf(np.delete(found, [3, 699], axis=0)).all()
    some = tt.flow.parameter_pairs(cell, x, delta, state=one, most_lag=2)["hidden"]
    near(some[699, 697:], found[699, 697:])
    assert np.isnan(some[699, :697]).all()


class Sideways(Cell):
    """Uses its recurrent weights behind its maps' back."""

    reads = {"recurrent": "h"}  # noqa: RUF012
    inputs = ("in",)

    def step(self, u, read, W):
        return State(h=torch.tanh(u["in"] + read.recurrent @ W["weight_hh"].T)), Gates()


def test_weights_used_behind_the_maps_back_are_told() -> None:
    cell = Sideways(3, 4, dtype=DOUBLE)
    x, delta = torch.randn(5, 2, 3, dtype=DOUBLE), torch.randn(5, 2, 4, dtype=DOUBLE)
    with pytest.raises(FlowError, match="otherwise than by calling its maps"):
        tt.flow.parameter_pairs(cell, x, delta)
    close(
        sum(each["weight_hh"] for each in tt.flow.parameter_terms(cell, x, delta)),
        unrolled(cell, x, delta)["weight_hh"],
    )


# -- of a sighting, in a limited time


def seen(cell: Cell, x: Tensor, delta: Tensor, state: State, lengths: Tensor) -> Sighting:
    along = follow(cell, x, state, lengths=lengths)
    return Sighting("layer", along, checked(along, delta), 1.0)


def test_a_sighting_that_is_small_is_measured_whole() -> None:
    cell = tt.cells.make("lstm", 3, 4, dtype=DOUBLE)
    x, state = sequence(cell, steps=9, batch=3)
    lengths = torch.tensor([4, 9, 2])
    delta = torch.randn(9, 3, 4, dtype=DOUBLE)
    delta[torch.arange(9).unsqueeze(1) >= lengths] = 0
    record, said = parameters_of(seen(cell, x, delta, state, lengths))
    expected = tt.flow.parameter_credit(cell, x, delta, state=state, lengths=lengths)
    assert said == ()
    for name in expected.log10_terms:
        near(record.log10_terms[name], expected.log10_terms[name])
        near(record.log10_rest[name], expected.log10_rest[name])


def test_what_is_limited_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = tt.cells.make("lstm", 3, 4, dtype=DOUBLE)
    x, state = sequence(cell, steps=50, batch=3)
    lengths = torch.tensor([44, 50, 12])
    delta = torch.randn(50, 3, 4, dtype=DOUBLE)
    delta[torch.arange(50).unsqueeze(1) >= lengths] = 0
    one = seen(cell, x, delta, state, lengths)
    monkeypatch.setattr(module, "_DENSE", 32)
    record, said = parameters_of(one)
    whole = tt.flow.parameter_credit(cell, x, delta, state=state, lengths=lengths)
    assert record.lags.tolist() == [*range(33), 35, 38, 41, 45, 49]
    assert said == ("Of lags over 32, the gradient of the weights was taken at 5, spread.",)
    for name in whole.log10_rest:
        near(record.log10_rest[name], whole.log10_rest[name][record.lags])
        near(record.log10_terms[name], whole.log10_terms[name][record.lags])

    monkeypatch.setattr(module, "_WORK", 2.5 * module._work(one.along, 50, False))
    record, said = parameters_of(one)
    first = tt.flow.parameter_credit(
        cell, x[:, :2], delta[:, :2], state=state.map(lambda part: part[:2]), lengths=lengths[:2]
    )
    assert record.sequences == 2
    assert "on 2 of 3 sequences" in said[0]
    near(record.log10_whole["weight_hh"], first.log10_whole["weight_hh"])

    monkeypatch.setattr(module, "_WORK", module._work(one.along, 20, False))
    record, said = parameters_of(one)
    steps = len(range(int(record.lags[-1]) + 1))
    assert 10 < steps <= 20
    assert f"the last {steps} steps of one of 3 sequences" in said[0]
    before = tt.unroll(cell, x[: 50 - steps, 1:2], state.map(lambda part: part[1:2])).final
    late = tt.flow.parameter_credit(cell, x[-steps:, 1:2], delta[-steps:, 1:2], state=before.map(torch.Tensor.detach))
    near(record.log10_whole["weight_hh"], late.log10_whole["weight_hh"])
    near(record.log10_terms["weight_ih"], late.log10_terms["weight_ih"])
