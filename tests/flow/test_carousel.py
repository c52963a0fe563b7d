"""The lectures' two paths against their closed formulas, with gates worked out in numpy; fairness; other forms."""

from __future__ import annotations

import math
from importlib import import_module

import numpy as np
import pytest
import torch

import throughtime as tt
from tests.flow.own import Mixing
from tests.tolerances import MEASURE, near
from throughtime.cells import Cell, Gates, State
from throughtime.errors import FlowError
from throughtime.flow.adjoint import checked
from throughtime.flow.carousel import carousel_of
from throughtime.flow.linear.trajectory import follow
from throughtime.flow.sighting import Sighting

DOUBLE = torch.float64
T, I, H = 9, 3, 4  # noqa: E741


def sigma(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def by_hand(cell: Cell, x: torch.Tensor, phi) -> dict[str, np.ndarray]:
    """Gates and states of an LSTM in numpy, from its weights in torch's order; one sequence."""
    U, W = cell.weight_ih.detach().numpy(), cell.weight_hh.detach().numpy()
    b = (cell.bias_ih + cell.bias_hh).detach().numpy()
    h, s = np.zeros(H), np.zeros(H)
    found: dict[str, list[np.ndarray]] = {"f": [], "o": [], "s": []}
    for x_t in x[:, 0].numpy():
        i, f, c, o = np.split(U @ x_t + W @ h + b, 4)
        s = sigma(f) * s + sigma(i) * phi(c)
        h = sigma(o) * phi(s)
        for name, value in (("f", sigma(f)), ("o", sigma(o)), ("s", s)):
            found[name].append(value)
    return {name: np.array(values) for name, values in found.items()} | {"W_o": np.split(W, 4)[3]}


PHIS = {
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    "sigmoid": (sigma, lambda a: sigma(a) * (1 - sigma(a))),  # as in the slides
}


@pytest.mark.parametrize("phi", PHIS)
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_t0_and_t1_and_the_bound_are_the_lectures_formulas(phi: str, size: float) -> None:
    """Up to weights at which the output gate's loop could explode."""
    torch.manual_seed(3)
    cell = tt.cells.make("lstm", I, H, candidate=phi, squash=phi, dtype=DOUBLE)
    with torch.no_grad():
        cell.weight_hh[-H:] *= size
    x, delta = torch.randn(T, 1, I, dtype=DOUBLE), torch.zeros(T, 1, H, dtype=DOUBLE)
    t = T - 1
    delta[t] = torch.randn(H, dtype=DOUBLE)
    record = tt.flow.carousel(cell, x, delta)
    its, (function, slope), d = by_hand(cell, x, PHIS[phi][0]), PHIS[phi], delta[t, 0].numpy()
    K = function(its["s"]) * its["o"] * (1 - its["o"])
    row = d
    for lag in range(T):
        k = t - lag
        t0 = d * its["o"][t] * slope(its["s"][t]) * np.prod(its["f"][k + 1 : t + 1], axis=0)
        near(record.t0[lag], math.log10(np.linalg.norm(t0) / np.linalg.norm(d)))
        if lag:  # beside the norms, every unit
            found = torch.from_numpy(np.concatenate([np.zeros(H), d])) @ tt.flow.only(cell, x, t, k, "carousel")[0]
            near(found.numpy(), np.concatenate([t0, np.zeros(H)]))
            row = (row * K[k + 1]) @ its["W_o"]
        near(record.t1[lag], math.log10(np.linalg.norm(row) / np.linalg.norm(d)))
        step = np.abs(K).max() * np.linalg.norm(its["W_o"], 2)
        near(record.t1_bound[lag], lag * math.log10(step))
        kept = math.log10(np.mean(np.prod(its["f"][k + 1 : t + 1], axis=0)))
        near(record.kept_forward[lag], kept)
        near(record.kept_backward[lag], kept)
    assert (record.t1_bound[-1] > 0) == (size > 1)
    assert (record.t1 <= record.t1_bound + 1e-12).all()
    assert record.lags.tolist() == list(range(T))
    assert record.pairs.tolist() == [1] * T


class Board(Cell):
    """A cell of somebody's own with a carousel and an output gate, the parts the other way round, ReLU for φ."""

    parts = ("memory", "seen")
    reads = {"output": "seen", "write": "seen", "carousel": "memory"}  # noqa: RUF012
    inputs = ("write", "output", "keep")
    recurrent = ("write", "output")

    def step(self, u, read, W):
        o = torch.sigmoid(u.output + W.output(read.output))
        f = torch.sigmoid(u.keep)
        memory = f * read.carousel + torch.sigmoid(u.write + W.write(read.write))
        return State(memory=memory, seen=o * torch.relu(memory)), Gates(keep=f, output=o)


def test_a_cell_of_ones_own_is_served() -> None:
    torch.manual_seed(5)
    cell = Board(I, H, dtype=DOUBLE)
    x, delta = torch.randn(T, 1, I, dtype=DOUBLE), torch.zeros(T, 1, H, dtype=DOUBLE)
    delta[-1] = torch.randn(H, dtype=DOUBLE)
    record = tt.flow.carousel(cell, x, delta)
    run = tt.unroll(cell, x, engine="reference")
    f, o, s = (v[:, 0].detach().numpy() for v in (run.gates["keep"], run.gates["output"], run.states["memory"]))
    d, W_o = delta[-1, 0].numpy(), cell.weight_hh[H:].detach().numpy()
    K, row = np.maximum(s, 0) * o * (1 - o), d
    for lag in range(T):
        row = (row * K[T - lag]) @ W_o if lag else row
        t0 = d * o[-1] * (s[-1] > 0) * np.prod(f[T - lag :], axis=0)
        near(record.t0[lag], math.log10(np.linalg.norm(t0) / np.linalg.norm(d)))
        near(record.t1[lag], math.log10(np.linalg.norm(row) / np.linalg.norm(d)))
        near(record.t1_bound[lag], lag * math.log10(np.abs(K).max() * np.linalg.norm(W_o, 2)))


def test_a_loss_that_asks_for_the_cell_state_too() -> None:
    """Then ∂⁺L/∂s_t arrives at the carousel beside what comes through the output."""
    torch.manual_seed(6)
    cell = tt.cells.make("lstm", I, H, dtype=DOUBLE)
    x, delta = torch.randn(T, 1, I, dtype=DOUBLE), torch.zeros(T, 1, 2 * H, dtype=DOUBLE)
    delta[-1] = torch.randn(2 * H, dtype=DOUBLE)
    record = tt.flow.carousel(cell, x, delta)
    its = by_hand(cell, x, np.tanh)
    d_s, d_h = np.split(delta[-1, 0].numpy(), 2)
    at = d_s + d_h * its["o"][-1] * (1 - np.tanh(its["s"][-1]) ** 2)
    for lag in range(T):
        t0 = at * np.prod(its["f"][T - lag :], axis=0)
        near(record.t0[lag], math.log10(np.linalg.norm(t0) / float(delta[-1].norm())))
    assert (record.t1 <= record.t1_bound + 1e-12).all()


def test_fairness_is_of_gates_alone_far_beyond_what_a_number_can_hold() -> None:
    """Half of the units keep 1/4 a step, the others a thousandth: the mean over units is half of (1/4)^τ."""
    far = 3000
    cell = tt.cells.make("lstm", 1, 4, dtype=DOUBLE)
    for parameter in cell.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        shut = torch.tensor([1 / 4, 1 / 4, 1e-3, 1e-3], dtype=DOUBLE)
        cell.bias_ih[4:8] = (shut / (1 - shut)).log()
    delta = torch.zeros(far, 1, 4, dtype=DOUBLE)
    delta[-1] = 1.0
    record = tt.flow.carousel(cell, torch.zeros(far, 1, 1, dtype=DOUBLE), delta)
    lag = np.arange(far)
    expected = lag * math.log10(0.25) + math.log10(0.5)
    near(record.kept_forward[30:], expected[30:], MEASURE)
    near(record.kept_backward[30:], expected[30:], MEASURE)
    assert record.kept_forward[-1] < -1800


def test_a_gate_that_is_exactly_shut_keeps_exactly_nothing() -> None:
    cell = tt.cells.make("lstm", 1, 2, dtype=DOUBLE)
    torch.nn.init.zeros_(cell.weight_ih)
    with torch.no_grad():
        cell.weight_ih[2:4] = -1e4  # the forget gates: the input alone decides
    x, delta = torch.zeros(6, 1, 1, dtype=DOUBLE), torch.zeros(6, 1, 2, dtype=DOUBLE)
    x[2] = 1.0
    delta[-1] = 1.0
    record = tt.flow.carousel(cell, x, delta)
    for found in (record.t0, record.kept_forward, record.kept_backward):
        assert np.isfinite(found[:4]).all()
        assert np.isneginf(found[4:]).all()


def seen_of(cell: Cell, x: torch.Tensor, delta: torch.Tensor) -> Sighting:
    along = follow(cell, x)
    return Sighting("recurrent.0", along, checked(along, delta), math.nan)


def test_without_an_output_gate_there_is_no_loop() -> None:
    for options in ({"output_gate": False}, {"output_gate": False, "peephole": True}):
        cell = tt.cells.make("lstm", I, H, dtype=DOUBLE, **options)
        record, said = carousel_of(seen_of(cell, torch.randn(T, 2, I, dtype=DOUBLE), torch.ones(T, 2, H, dtype=DOUBLE)))
        assert record is not None
        assert record.t1 is None
        assert record.t1_bound is None
        assert said == ()


class Twice(Board):
    """Its output port is heard by two gates, so its Jacobian is no diagonal times W_o."""

    def step(self, u, read, W):
        o = torch.sigmoid(u.output + W.output(read.output) + read.output)
        memory = 0.5 * read.carousel + torch.sigmoid(u.write + W.write(read.write))
        return State(memory=memory, seen=o * memory), Gates()


class Turning(Board):
    """Its carousel hands each number to the next unit."""

    def step(self, u, read, W):
        o = torch.sigmoid(u.output + W.output(read.output))
        memory = 0.5 * read.carousel.roll(1, dims=-1) + torch.sigmoid(u.write + W.write(read.write))
        return State(memory=memory, seen=o * memory), Gates()


def test_what_has_another_form_is_left_out_and_said() -> None:
    x, delta = torch.randn(T, 2, I, dtype=DOUBLE), torch.ones(T, 2, H, dtype=DOUBLE)
    record, said = carousel_of(seen_of(Twice(I, H, dtype=DOUBLE), x, delta))
    assert record is not None
    assert record.t1 is not None
    assert record.t1_bound is None
    assert record.kept_forward is not None
    assert ['port "output"' in sentence for sentence in said] == [True]
    record, said = carousel_of(seen_of(Turning(I, H, dtype=DOUBLE), x, delta))
    assert record is not None
    assert record.t1_bound is not None
    assert record.kept_forward is None
    assert record.kept_backward is None
    assert ["mixes units" in sentence for sentence in said] == [True]


def test_a_cell_without_a_carousel_is_told_so() -> None:
    x, delta = torch.randn(T, 2, I, dtype=DOUBLE), torch.ones(T, 2, H, dtype=DOUBLE)
    for cell in (tt.cells.make("selective-write", I, H, dtype=DOUBLE), Mixing(I, H, dtype=DOUBLE)):
        with pytest.raises(FlowError, match='has no port "carousel"; its ports are'):
            tt.flow.carousel(cell, x, delta)
        record, said = carousel_of(seen_of(cell, x, delta))
        assert record is None
        assert len(said) == 1
        assert ", ".join(cell.reads) in said[0]
    record, said = carousel_of(seen_of(tt.cells.make("gru", I, H, dtype=DOUBLE), x, 0 * delta))
    assert record is None
    assert said == ("The carousel was followed from no step: none has an output gradient.",)


def test_t0_where_the_output_gate_peeps() -> None:
    """s_t reaches the output in two ways then: h = σ(a + p ⊙ s) ⊙ tanh(s)."""
    cell = tt.cells.make("lstm", I, H, dtype=DOUBLE, peephole=True)
    x, delta = torch.randn(T, 1, I, dtype=DOUBLE), torch.zeros(T, 1, H, dtype=DOUBLE)
    delta[-1] = torch.randn(H, dtype=DOUBLE)
    run = follow(cell, x, None).run
    s, o = (its[-1, 0].detach().numpy() for its in (run.states["s"], run.gates["output"]))
    peeps = np.split(cell.weight_ch.detach().numpy(), 3)[2]
    d = delta[-1, 0].numpy()
    out = d * (o * (1 - np.tanh(s) ** 2) + np.tanh(s) * o * (1 - o) * peeps)
    record = tt.flow.carousel(cell, x, delta)
    near(record.t0[0], math.log10(np.linalg.norm(out) / np.linalg.norm(d)))


def test_measuring_in_stretches_and_leaving_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = tt.cells.make("lstm", I, H, dtype=DOUBLE, peephole=True)
    x, delta = torch.randn(T, 2, I, dtype=DOUBLE), torch.randn(T, 2, H, dtype=DOUBLE)
    whole = tt.flow.carousel(cell, x, delta)
    monkeypatch.setattr(import_module("throughtime.flow.carousel"), "_HELD", 50)
    before = torch.get_rng_state()
    pieces = tt.flow.carousel(cell, x, delta)
    near(pieces.kept_forward, whole.kept_forward)
    near(pieces.t1_bound, whole.t1_bound)
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in cell.parameters())


def test_what_is_limited_is_as_in_the_whole() -> None:
    """Few sources far into a sequence: only the steps they can reach are looked at."""
    cell = tt.cells.make("lstm", I, H, dtype=DOUBLE)
    lengths = torch.tensor([40, 9, 37])
    x, delta = torch.randn(40, 3, I, dtype=DOUBLE), torch.randn(40, 3, H, dtype=DOUBLE)
    delta[torch.arange(40).unsqueeze(1) >= lengths] = 0
    some = tt.flow.carousel(cell, x, delta, lengths=lengths, sources=[36, 39], most_lag=4)
    assert some.pairs.tolist() == [3] * 5
    each = [
        tt.flow.carousel(cell, x[: t + 1, b : b + 1], delta[: t + 1, b : b + 1], sources=[t], most_lag=4)
        for t, b in ((39, 0), (36, 0), (36, 2))
    ]
    for name in ("t0", "t1", "kept_forward", "kept_backward"):
        near(getattr(some, name), np.median([getattr(one, name) for one in each], axis=0))
    assert (some.t1 <= some.t1_bound + 1e-12).all()
