"""The probe of a net: what it says against autograd on the net itself, and that it leaves no trace."""

from __future__ import annotations

import copy
import random
from dataclasses import fields
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

import throughtime as tt
from tests.tolerances import IDENTITY, MEASURE, near
from throughtime.cells import State
from throughtime.data.dataset import Batch
from throughtime.engines import ENGINES
from throughtime.errors import FlowError
from throughtime.flow.adjoint import checked
from throughtime.flow.linear.trajectory import follow
from throughtime.flow.sighting import Sighting
from throughtime.flow.survey import survey
from throughtime.models import Net
from throughtime.records import DataCard, FlowRecord, read, write

T, B, H = 9, 4, 5
LENGTHS = torch.tensor([9, 4, 7, 1])


def data(*, tokens: bool = False, kind: Any = "classification") -> DataCard:
    return DataCard(
        name="made", kind=kind, step="row", tokens=tokens, inputs=7 if tokens else 2, outputs=3, labels=("a", "b", "c"),
        metric="mse" if kind == "regression" else "accuracy", baseline=0.3, baseline_is="the commonest", lag=None,
        sizes={}, lengths=(1, 5, 9), digest="",
    )  # fmt: skip


def made(
    cell: str = "lstm", readout: Any = None, *, tokens: bool = False, kind: Any = "classification", **options: Any
):
    net = Net.build(data(tokens=tokens, kind=kind), cell, hidden=H, readout=readout, dropout=0.3, **options)
    x = torch.randint(0, 7, (T, B)) if tokens else torch.randn(T, B, 2)
    each = readout == "every"
    y = torch.randn(B, 3) if kind == "regression" else torch.randint(0, 3, (T, B) if each else (B,))
    return net, Batch(x, LENGTHS, y, each)


def probe(net: Net, batch: Batch, **options: Any) -> FlowRecord:
    return tt.flow.probe(net, batch, moment="during", update=3, **options)


def medians(values: np.ndarray, running: np.ndarray) -> np.ndarray:
    return np.array([np.median(row[some]) for row, some in zip(values, running, strict=True)])


@pytest.mark.parametrize("readout", ["last", "mean", "every"])
@pytest.mark.parametrize(("layers", "layer"), [(1, 0), (2, 0), (2, 1)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_direct_and_adjoint_of_a_layer_are_autograds(readout, layers, layer, bidirectional) -> None:
    """An Elman net by hand, with a nought added to each state and to each output: what are they worth?"""
    net, batch = made("elman", readout, layers=layers, bidirectional=bidirectional)
    record = probe(net, batch, layer=layer)
    double = copy.deepcopy(net).double().eval()
    running = (torch.arange(T).unsqueeze(1) < LENGTHS).numpy()

    def run(x, layer_number, direction, extra=None):
        p = double.recurrent.parameters_of(layer_number, direction)
        outputs = torch.zeros(T, B, H, dtype=torch.float64)
        for b, length in enumerate(LENGTHS.tolist()):
            h = torch.zeros(H, dtype=torch.float64)
            for t in range(length) if direction == 0 else reversed(range(length)):
                a = x[t, b] @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
                h = torch.tanh(a) + (0 if extra is None else extra[t, b])
                outputs = outputs.index_put((torch.tensor(t), torch.tensor(b)), h)
        return outputs

    through = torch.zeros(T, B, H, dtype=torch.float64, requires_grad=True)
    direct = torch.zeros(T, B, H, dtype=torch.float64, requires_grad=True)
    x = batch.x.double()
    for number in range(layers):
        here = number == layer
        forward = run(x, number, 0, through if here else None)
        forward = forward + direct * torch.from_numpy(running).unsqueeze(-1) if here else forward
        x = torch.cat([forward, run(x, number, 1)], dim=-1) if bidirectional else forward
    loss = double.loss(double.decode(x, LENGTHS), batch)
    adjoint, delta = (g.norm(dim=-1).numpy() for g in torch.autograd.grad(loss, [through, direct]))
    assert record.loss == pytest.approx(loss.item(), rel=IDENTITY[torch.float64])
    with np.errstate(divide="ignore"):
        near(record.adjoint, medians(np.log10(adjoint), running), MEASURE)
    there = [row[row > 0] for row in delta]
    expected = [10 ** np.median(np.log10(row)) if row.size else 0.0 for row in there]
    assert np.allclose(10**record.direct, expected, rtol=MEASURE[torch.float64], atol=1e-300)
    assert any("forward direction" in said for said in record.left_out) == bidirectional
    assert any("layers" in said for said in record.left_out) == (layers > 1)


@pytest.mark.parametrize("cell", tt.cells.known())
def test_every_cell_gives_a_whole_record_that_goes_to_a_file_and_back(cell, tmp_path) -> None:
    if cell == "feedforward":
        return  # its inputs pick its layers: no net for sequences
    net, batch = made(cell)
    record = probe(net, batch)
    assert (record.cell, record.T, record.B, record.H, record.moment, record.update) == (cell, T, B, H, "during", 3)
    assert (record.dtype, record.layer) == ("float64", "recurrent.0")
    assert record.engine in {engine.name for engine in ENGINES}
    assert record.blame is not None
    assert record.blame.shape == (T, T)
    assert record.bounds is not None
    assert set(record.part_lags) == set(record.parts) == set(net.recurrent.cell.parts)
    assert set(record.ports) == set(net.recurrent.cell.reads)
    assert record.step_gain.shape == (T,)
    assert record.horizon is not None
    write(record, tmp_path / "flow.npz")
    again = read(FlowRecord, tmp_path / "flow.npz")
    for field in fields(FlowRecord):
        value, back = getattr(record, field.name), getattr(again, field.name)
        if isinstance(value, np.ndarray):
            assert np.array_equal(value, back, equal_nan=True)


def test_blame_lags_ports_and_gates_are_those_of_the_measures_themselves() -> None:
    net, batch = made("lstm", "every")
    record = probe(net, batch)
    double = copy.deepcopy(net).double().eval()
    cell, parameters = double.recurrent.cell, double.recurrent.parameters_of(0)
    x = batch.x.double()
    output = tt.unroll(cell, x, engine="reference", lengths=LENGTHS, parameters=parameters).output
    delta = tt.flow.direct(lambda y: double.loss(double.decode(y, LENGTHS), batch), output)
    credit = tt.flow.credit(cell, x, delta, lengths=LENGTHS, parameters=parameters)
    assert record.blame is not None
    for t in range(T):
        for k in range(t + 1):
            some = credit.log10_pairs[t, k][(t < LENGTHS).numpy()]
            assert record.blame[t, k] == pytest.approx(np.median(some), abs=IDENTITY[torch.float64])
    assert np.isneginf(record.blame[np.triu_indices(T, 1)]).all()
    near(record.lags.median, credit.lags.median)
    adjoint = tt.flow.adjoint(cell, x, delta, lengths=LENGTHS, parameters=parameters)
    for port, J in tt.flow.ports(cell, x, parameters=parameters).items():
        carried = torch.einsum("tbi,tbij->tbj", adjoint, J).norm(dim=-1) / adjoint.norm(dim=-1)
        expected = medians(carried.log10().numpy(), (torch.arange(T).unsqueeze(1) < LENGTHS).numpy())
        near(record.ports[port], expected, MEASURE)
    gates = tt.flow.gates(cell, x, lengths=LENGTHS, parameters=parameters)
    assert np.array_equal(record.gates["forget"].mean, gates["forget"].mean)


def test_it_leaves_no_trace() -> None:
    net, batch = made("gru", tokens=True, layers=2)
    net.train()
    net.loss(net(batch)[0], batch).backward()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gradients = [p.grad.clone() for p in net.parameters()]
    served, flags = net.recurrent.served, [m.training for m in net.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    grad_mode = torch.is_grad_enabled()
    probe(net, batch, examples=[(Batch(batch.x[:, :1], LENGTHS[:1], batch.y[:1]), ["w"] * 9)])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(p.grad, g) and p.requires_grad for p, g in zip(net.parameters(), gradients, strict=True))
    assert [m.training for m in net.modules()] == flags
    assert net.recurrent.served == served
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert torch.is_grad_enabled() == grad_mode


def test_it_says_the_same_twice_and_without_dropout() -> None:
    net, batch = made("lstm", tokens=True)
    first, second = probe(net.train(), batch), probe(net.eval(), batch)
    assert first.loss == second.loss
    assert np.array_equal(first.adjoint, second.adjoint)
    assert np.array_equal(first.step_gain, second.step_gain)


def test_what_is_limited_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    net, batch = made("lstm", "every")
    assert not any("steps back" in said or "Credit" in said for said in probe(net, batch).left_out)
    limits = import_module("throughtime.flow.survey")
    monkeypatch.setattr(limits, "_WORK", 4000.0)
    monkeypatch.setattr(limits, "_MAP", 5)
    record = probe(net, batch)
    said = " ".join(record.left_out)
    for words in ("Credit was taken from", "map of all pairs", "steps back", "of 4 sequences"):
        assert words in said
    assert record.blame is None
    assert record.bounds is not None
    assert record.bounds.lags[-1] < T - 1


def test_examples_are_read_over_their_words() -> None:
    net, batch = made("lstm", tokens=True)
    one = Batch(batch.x[:, 2:3], LENGTHS[2:3], batch.y[2:3])
    words = tuple(f"word {t}" for t in range(7))
    (found,) = probe(net, batch, examples=[(one, words)], labels=("bad", "so", "good")).examples
    assert found.steps == words
    assert found.truth == ("bad", "so", "good")[int(batch.y[2])]
    prediction, _ = copy.deepcopy(net).eval()(one)
    assert found.answer == ("bad", "so", "good")[int(prediction.argmax())]
    assert set(found.gates) == {"input", "forget", "candidate", "output"}
    assert set(found.state) == {"s", "h"}
    assert all(
        values.shape == (7,) for values in (*found.gates.values(), *found.state.values(), found.memory, found.blame)
    )

    double = copy.deepcopy(net).double().eval()
    x = double.encode(one.x)[:7].detach()
    cell, parameters = double.recurrent.cell, double.recurrent.parameters_of(0)
    run = tt.unroll(cell, x, engine="reference", parameters=parameters)
    near(found.gates["forget"], run.gates["forget"][:, 0].mean(-1).detach())
    near(found.state["s"], run.states["s"][:, 0].square().mean(-1).sqrt().detach())
    memory = tt.flow.memory(cell, x, parameters=parameters)
    near(found.memory, memory.log10_memory[0, :, 0])
    alone = probe(net, one)
    near(found.blame, alone.adjoint)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_an_example_of_values(kind) -> None:
    net, batch = made("gru", kind=kind)
    found = tt.flow.example(net, Batch(batch.x[:, :1], LENGTHS[:1], batch.y[:1]), ["0.1"] * 9)
    assert found.truth
    assert found.answer
    assert (len(found.truth.split(",")) == 3) == (kind == "regression")


def test_an_example_that_does_not_fit_is_said() -> None:
    net, batch = made()
    with pytest.raises(FlowError, match="one sequence and a word for each"):
        tt.flow.example(net, batch, ["a"] * 9)
    with pytest.raises(FlowError, match="there is no 1"):
        probe(net, batch, layer=1)
    with pytest.raises(FlowError, match="without a step"):
        probe(net, Batch(batch.x, torch.tensor([9, 0, 1, 1]), batch.y))


def test_bounds_and_step_gains_begin_where_the_layer_began() -> None:
    """A layer that was given a state is stretched from that state on, in the sequences that are measured as well."""
    torch.manual_seed(0)
    cell = tt.cells.make("elman", 2, 3, dtype=torch.float64)
    x, start = torch.randn(6, 7, 2, dtype=torch.float64), State(h=2 * torch.randn(7, 3, dtype=torch.float64))
    lengths = torch.tensor([2, 6, 3, 6, 6, 5, 1])
    along = follow(cell, x, start, lengths=lengths)
    delta = torch.zeros(6, 7, 3, dtype=torch.float64)
    delta[lengths - 1, torch.arange(7)] = 1.0
    seen = Sighting("rnn", along, checked(along, delta), 0.0)
    record = survey(seen, moment="during", update=0, extent="usual")

    J = tt.flow.jacobians(cell, x, start)
    gains = torch.linalg.matrix_norm(J, 2).log10()
    four = gains[:, [1, 3, 4, 5]]  # the longest
    running = torch.arange(6).unsqueeze(1) < lengths[[1, 3, 4, 5]]
    expected = [float(np.median(row[some].numpy())) for row, some in zip(four, running, strict=True)]
    near(record.step_gain, expected, MEASURE)
    assert record.bounds is not None
    whole = [torch.linalg.matrix_norm(tt.flow.transport(cell, x, 5, 0, start), 2).log10()[b] for b in (1, 3, 4)]
    near(record.bounds.gain[-1], float(np.median(whole)), MEASURE)  # at lag 5


def test_few_sources_look_back_from_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one source is all that is affordable, it is the last step, not the first, from which nothing goes back."""
    monkeypatch.setattr(import_module("throughtime.flow.survey"), "_WORK", 1.0)
    net, batch = made("gru", "every")
    record = probe(net, batch, extent="usual")
    assert record.blame is not None
    assert [t for t in range(T) if not np.isnan(record.blame[t]).all() and np.isfinite(record.blame[t]).any()] == [
        T - 1
    ]
    assert record.lags.longest() == T - 1
