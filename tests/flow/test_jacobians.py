"""Jacobians, ports and transport against fresh leaves in a plain loop."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from tests.flow.oracles import from_step, matrix, walk
from tests.flow.own import Fickle, Handwritten, HearsItself, HearsOthers, Mixing, Noisy
from tests.laws.variants import VARIANTS, sequence
from tests.tolerances import close, near
from throughtime.cells import Cell, Read
from throughtime.errors import CellError, FlowError
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.trajectory import follow
from throughtime.flow.linear.unitwise import unitwise
from throughtime.flow.linear.whole import Whole

OWN = (Mixing, HearsItself, Handwritten)


@pytest.fixture(params=[*VARIANTS, *OWN], ids=lambda p: getattr(p, "__name__", str(p)))
def cell(request: pytest.FixtureRequest) -> Cell:
    torch.manual_seed(1)
    return request.param(3, 3, dtype=torch.float64) if request.param in OWN else request.param.make()


def test_each_step_against_fresh_leaves(cell: Cell) -> None:
    x, state = sequence(cell)
    J = tt.flow.jacobians(cell, x, state)
    for t in range(x.shape[0]):
        start, states = from_step(cell, x, state, t - 1)
        close(J[t], matrix(cell, states[1], start))


def test_ports_each_with_its_own_leaf_and_their_sum(cell: Cell) -> None:
    x, state = sequence(cell)
    found = tt.flow.ports(cell, x, state)
    assert set(found) == set(cell.reads)
    close(torch.stack(list(found.values())).sum(0), tt.flow.jacobians(cell, x, state))
    t = 2
    before, u = walk(cell, x, state)[t], cell.share(x[t])
    read = Read(**{port: before[part].detach().clone().requires_grad_() for port, part in cell.reads.items()})
    new, _ = cell.step(u, read, cell.weights())
    for port, part in cell.reads.items():
        expected = torch.zeros_like(found[port][t])
        column = cell.parts.index(part) * cell.hidden_size
        for row in range(cell.state_size):
            one = new[cell.parts[row // cell.hidden_size]][:, row % cell.hidden_size].sum()
            (g,) = torch.autograd.grad(one, read[port], retain_graph=True, allow_unused=True, materialize_grads=True)
            expected[:, row, column : column + cell.hidden_size] = g
        near(found[port][t], expected)


@pytest.mark.parametrize(("t", "k"), [(4, 0), (4, 4), (3, 1)])
def test_transport_against_fresh_leaves(cell: Cell, t: int, k: int) -> None:
    x, state = sequence(cell)
    start, states = from_step(cell, x, state, k)
    close(tt.flow.transport(cell, x, t, k, state), matrix(cell, states[t - k], start))


@pytest.mark.parametrize("way", ["by map", "by sequence", "in pieces"])
def test_the_two_linearisations_agree(cell: Cell, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, columns, inputs and nodes: what the diagonals say is what the matrices say."""
    x, state = sequence(cell)
    if way != "by map":  # as with many rows
        monkeypatch.setattr("throughtime.flow.linear.diagonals._MAKING", -1000)
    if way == "in pieces":  # as with many units, sequences and steps
        for name in ("diagonals._CACHED", "diagonals._MADE", "unitwise._HELD"):
            monkeypatch.setattr(f"throughtime.flow.linear.{name}", 100)
    along = follow(cell, x, state)
    fast, slow = unitwise(along), Whole(along)
    if fast is None:
        return
    rows = torch.randn(len(cell.parts), 4, x.shape[1], cell.hidden_size, dtype=x.dtype)
    for at in (2, slice(1, 5)):
        for what in ("pull", "push", "node"):
            close(getattr(fast, what)(rows, at), getattr(slow, what)(rows, at))
        for what in ("pull_ports", "pull_inputs"):
            ours, theirs = getattr(fast, what)(rows, at), getattr(slow, what)(rows, at)
            assert ours.keys() == theirs.keys()
            for name in ours:
                near(ours[name], theirs[name])


def test_columns_go_on_as_the_matrices_say(cell: Cell) -> None:
    x, state = sequence(cell)
    along = follow(cell, x, state)
    tangent = unitwise(along) or Whole(along)
    v = torch.randn(len(cell.parts), 5, x.shape[1], cell.hidden_size, dtype=x.dtype)
    packed = v.permute(1, 2, 0, 3).flatten(2)
    expected = torch.einsum("tbij,tbj->tbi", tt.flow.jacobians(cell, x, state), packed)
    close(tangent.push(v, slice(0, 5)).permute(1, 2, 0, 3).flatten(2), expected)


def test_which_cells_keep_their_units_apart() -> None:
    """All known ones but a feed-forward net, whose weights come in with its input."""
    for variant in VARIANTS:
        cell = variant.make()
        apart = unitwise(follow(cell, *sequence(cell))) is not None
        assert apart == (variant.name != "feedforward" or variant.options.get("diagonal", False)), variant
    for own in OWN:
        cell = own(3, 3, dtype=torch.float64)
        assert unitwise(follow(cell, *sequence(cell))) is None


def test_a_long_sequence_is_linearised_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("throughtime.flow.linear.whole._HELD", 100)
    cell = Mixing(3, 3, dtype=torch.float64)
    x, state = sequence(cell, steps=9)
    start, states = from_step(cell, x, state, 1)
    close(tt.flow.transport(cell, x, 8, 1, state), matrix(cell, states[7], start))


def test_a_step_that_goes_another_way_later_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its diagonals are made for one stretch of steps after another, so it must be the same step in each."""
    monkeypatch.setattr("throughtime.flow.linear.unitwise._HELD", 1)

    class Counts(Fickle):
        calls = 0

    cell = Counts(3, 3, dtype=torch.float64)
    along = follow(cell, *sequence(cell))
    Counts.calls = 5  # however often it was run until here
    with pytest.raises(FlowError, match="goes another way at step 1 than at the first"):
        linearise(along).matrices(0, 2)


def test_a_module_stands_for_its_cell() -> None:
    layer = tt.LSTM(3, 4, batch_first=True, dtype=torch.float64)
    cell = tt.cells.make("lstm", 3, 4, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    assert torch.equal(tt.flow.jacobians(layer, x), tt.flow.jacobians(cell, x))
    with pytest.raises(FlowError, match="parameters_of"):
        tt.flow.jacobians(tt.LSTM(3, 4, num_layers=2), x)


def test_measuring_leaves_no_gradient_behind() -> None:
    cell = tt.cells.make("gru", 3, 4)
    x = torch.randn(6, 2, 3, requires_grad=True)
    assert not tt.flow.jacobians(cell, x).requires_grad
    assert x.grad is None
    assert all(parameter.grad is None for parameter in cell.parameters())


def test_what_is_not_defined_is_said() -> None:
    x = torch.randn(5, 2, 3)
    with pytest.raises(FlowError, match="random numbers"):
        tt.flow.jacobians(Noisy(3, 4), x)
    with pytest.raises(FlowError, match="sequences of a batch hear each other"):
        tt.flow.jacobians(HearsOthers(3, 4), x)
    with pytest.raises(FlowError, match="0 <= k <= t < T"):
        tt.flow.transport(tt.cells.make("elman", 3, 4), x, 5, 1)
    with pytest.raises(FlowError, match="at least one step"):
        tt.flow.jacobians(tt.cells.make("elman", 3, 4), x[:0])
    with pytest.raises(FlowError, match=r"no cell to measure in GRU; make one by tt\.from_torch"):
        tt.flow.jacobians(torch.nn.GRU(3, 4), x)  # type: ignore[arg-type]
    with pytest.raises(CellError, match=r"x is torch\.float64"):
        tt.flow.jacobians(tt.cells.make("elman", 3, 4), x.double())
    wild = tt.cells.make("elman", 3, 4, nonlinearity="relu")
    torch.nn.init.constant_(wild.weight_hh, 1e30)
    with pytest.raises(FlowError, match=r"not finite at step \d"):
        tt.flow.jacobians(wild, x.abs() + 1)
