"""What a kernel must leave alone: what the step does not hear, what is changed after it ran, calls it cannot see."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode

import throughtime as tt
from tests.engines.comparing import agrees, case, run
from tests.tolerances import close
from throughtime.cells import Cell, Gates, State
from throughtime.errors import CellError, EngineError

pytestmark = pytest.mark.compiler

T, B, H = 5, 3, 7
ENGINES = ("cpu", "reference")


class Deaf(Cell):
    """h_t = tanh(U x_t + p): hears neither the state, nor the maps, nor the second share; `mute` is nowhere."""

    parts = ("c", "h")
    reads = {"h": "h"}  # noqa: RUF012
    inputs = ("a", "b")
    recurrent = ("a",)

    def extra(self):
        return {"p": (self.hidden_size,), "mute": (self.hidden_size,), "gate": (self.hidden_size,)}

    def step(self, u, read, W):
        h = torch.tanh(u.a + W["p"])
        return State(c=h, h=h), Gates(open=torch.sigmoid(W["gate"] + 0 * u.a))


class Still(Deaf):
    """Does not hear x either."""

    def step(self, u, read, W):
        h = torch.tanh(read.h + W["p"])
        return State(c=h, h=h), Gates(open=torch.sigmoid(W["gate"] + 0 * h))


@pytest.mark.parametrize("make", [Deaf, Still])
def test_what_is_not_heard_has_no_gradient(make: type[Cell]) -> None:
    """None, as autograd has it, and no zeros: an optimizer with weight decay would move the one and not the other."""
    found = []
    for engine in ENGINES:
        given = case(make, T, B, H)
        leaves = given.leaves
        gradients = torch.autograd.grad(run(given, engine).output.sum(), list(leaves.values()), allow_unused=True)
        found.append(dict(zip(leaves, gradients, strict=True)))
    mine, other = found
    assert [name for name, gradient in mine.items() if gradient is None] == [
        name for name, gradient in other.items() if gradient is None
    ]
    for name, gradient in mine.items():
        if gradient is not None:
            close(gradient, other[name])


def test_a_hook_on_a_parameter_that_nothing_hears_is_not_called() -> None:
    given = case(Deaf, T, B, H)
    called = []
    for name, parameter in given.cell.named_parameters():
        parameter.register_hook(lambda gradient, name=name: called.append((name, gradient is not None)))
    run(given, "cpu").output.sum().backward()
    assert ("p", True) in called
    assert "mute" not in dict(called)


class Slope(Cell):
    """h_t = tanh(slope · (U x_t + W h_{t-1})), with a gate."""

    parts = ("h",)
    reads = {"candidate": "h"}  # noqa: RUF012
    inputs = ("candidate",)
    slope = 1.5

    def step(self, u, read, W):
        h = torch.tanh(self.slope * (u.candidate + W.candidate(read.candidate)))
        return State(h=h), Gates(twice=2 * h)


def test_a_cell_that_was_changed_before_its_steps_are_made_again() -> None:
    """The kernel's way back is that of the step that was run; where the step itself is needed it must be the same."""
    given = case(Slope, T, B, H)
    right = case(Slope, T, B, H)
    (wanted,) = torch.autograd.grad(run(right, "reference").output.sum(), [right.cell.weight_hh])
    done = run(given, "cpu")
    given.cell.slope = 0.5
    (found,) = torch.autograd.grad(done.output.sum(), [given.cell.weight_hh], retain_graph=True)
    close(found, wanted)
    with pytest.raises(EngineError, match="changed between the forward and the backward pass"):
        done.gates["twice"].sum().backward()


def test_parameters_in_another_order_after_the_call() -> None:
    found = []
    for engine in ENGINES:
        given = case("lstm-peephole=True", T, B, H)
        values = dict(given.cell.values())
        done = tt.unroll(given.cell, given.x, parameters=values, engine=engine)
        first = next(iter(values))
        values[first] = values.pop(first)
        found.append(torch.autograd.grad(done.gates["forget"].sum(), list(given.cell.parameters()), allow_unused=True))
    for mine, other in zip(*found, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            close(mine, other)


def test_a_parameter_that_is_not_given() -> None:
    given = case("gru", T, B, H)
    weights = {name: value for name, value in given.cell.values().items() if name.startswith("weight")}
    with pytest.raises(EngineError, match='"bias_ih" is not among the parameters'):
        tt.unroll(given.cell, given.x, parameters=weights, engine="cpu")
    mine = tt.unroll(given.cell, given.x, parameters=weights)
    close(mine.output, tt.unroll(given.cell, given.x, parameters=weights, engine="reference").output)


class Differences(Cell):
    """Its input's share is of x_t − x_{t-1}."""

    parts = ("h",)
    reads = {"h": "h"}  # noqa: RUF012
    inputs = ("a",)

    def share(self, x, parameters=None):
        return super().share(x - x.roll(1, 0), parameters)

    def step(self, u, read, W):
        return State(h=torch.tanh(u.a + W.a(read.h))), Gates()


def test_a_share_that_looks_along_time() -> None:
    agrees(case(Differences, T, B, H))
    early = case(Differences, T, B, H, lengths=[5, 2, 0])
    with pytest.raises(EngineError, match="may look along time"):
        run(early, "cpu")
    with pytest.raises(CellError, match="looks along time"):
        tt.unroll(early.cell, early.x, lengths=early.lengths)


class _Doubled(TorchFunctionMode):
    """tanh twice as large."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        return 2 * made if func is torch.tanh else made


def test_a_mode_that_changes_what_functions_do() -> None:
    given = case("gru-reset=before", T, B, H)
    with _Doubled():
        with pytest.raises(EngineError, match="a mode of torch's"):
            run(given, "cpu")
        mine = tt.unroll(given.cell, given.x, given.state)
        other = run(given, "reference")
    close(mine.output, other.output)
    with torch.device("cpu"):
        assert run(given, "cpu").engine == "cpu"


@pytest.mark.parametrize("name", ["share", "weights"])
def test_a_method_that_is_put_on_the_cell_itself(name: str) -> None:
    """It is called, or the reference serves."""
    given = case("gru-reset=before", T, B, H)
    before = run(given, "reference").output
    own = getattr(given.cell, name)

    def halved(*args):
        made = own(*args)
        if name == "share":
            return made.map(lambda block: block / 2)
        return own({key: value / 2 for key, value in given.cell.values().items()})

    setattr(given.cell, name, halved)
    expected = run(given, "reference").output
    assert not torch.equal(expected, before)
    close(tt.unroll(given.cell, given.x, given.state).output, expected)


class Spare(Slope):
    """With a parameter of no numbers."""

    def extra(self):
        return {"spare": (0,)}


def test_a_parameter_without_numbers() -> None:
    agrees(case(Spare, T, B, H))
