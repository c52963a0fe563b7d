"""What a person meets when they ask for a cell, read about one, or define one."""

from __future__ import annotations

import copy
import re
from dataclasses import asdict
from typing import Literal

import pytest
import torch

import throughtime as tt
from tests.tolerances import close
from throughtime import cells
from throughtime.cells import Cell, Gates, State
from throughtime.cells import cell as contract
from throughtime.errors import CellError


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells made known here are forgotten afterwards."""
    monkeypatch.setattr(contract, "_KNOWN", dict(contract._KNOWN))


def test_the_table_of_the_lectures_is_known() -> None:
    assert cells.known() == (
        "carousel",
        "elman",
        "feedforward",
        "gru",
        "lstm",
        "lstm-fgr",
        "scalar",
        "selective-read",
        "selective-write",
        "taps",
    )


@pytest.mark.parametrize("name", cells.known())
def test_every_cell_tells_about_itself(name: str) -> None:
    about = cells.about(name)
    assert about.name == name
    assert about.summary.endswith(".")
    assert "_t" in about.summary or "_l" in about.summary  # its equations
    assert re.search(r"\d{4}|lectures", about.source)
    assert "lectures" in about.source
    assert set(about.ports.values()) <= set(about.parts)
    assert set(about.also.values()) <= {*about.parts, *about.gates}
    assert about.text.startswith(about.summary)
    assert all(not option.choices or option.default in option.choices for option in about.options)
    assert not any(isinstance(value, torch.Tensor) for value in asdict(about).values())
    made = cells.make(name, 3, 4, **{option.name: option.default for option in about.options})
    assert made.options == {option.name: option.default for option in about.options}


def test_about_the_lstm() -> None:
    about = cells.about("lstm")
    assert about.parts == ("s", "h")
    assert about.ports["carousel"] == "s"
    assert about.gates == ("input", "forget", "candidate", "output")
    assert {option.name: option.choices for option in about.options} == {
        "candidate": ("tanh", "sigmoid"),
        "squash": ("tanh", "sigmoid", "identity"),
        "forget_gate": (True, False),
        "input_gate": (True, False),
        "output_gate": (True, False),
        "coupled": (True, False),
        "peephole": (True, False),
    }
    assert str(about.options[1]) == "squash=tanh|sigmoid|identity"


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("lsmt", {}, "no cell is named"),
        ("lstm", {"peepholes": True}, "no option .peepholes.; its options: candidate, squash"),
        ("elman", {"nonlinearity": "softplus"}, "nonlinearity is one of 'tanh', 'relu'"),
        ("lstm", {"candidate": "relu"}, "candidate is one of"),
        ("lstm", {"forget_gate": "no"}, "forget_gate is one of True, False; got 'no'"),
        ("lstm", {"forget_gate": 0}, "forget_gate is one of True, False"),
        ("lstm", {"coupled": True, "forget_gate": False}, "coupled"),
        ("gru", {"reset": "never"}, "reset is one of 'after', 'before'"),
        ("taps", {"taps": 0}, "taps is a number of steps"),
        ("taps", {"taps": 2.5}, "taps is a whole number; got 2.5"),
    ],
)
def test_what_cannot_be_made(name: str, options: dict, complaint: str) -> None:
    with pytest.raises(CellError, match=complaint):
        cells.make(name, 3, 4, **options)


def test_sizes_are_at_least_one() -> None:
    with pytest.raises(CellError, match="at least 1"):
        cells.make("lstm", 0, 4)


def test_the_words_of_memory() -> None:
    result = tt.unroll(cells.make("lstm", 3, 4), torch.randn(5, 2, 3))
    for word, gate in {"rem": "forget", "save": "input", "focus": "output", "ltm′": "candidate"}.items():
        assert result.gates[word] is result.gates[gate]
    assert result.gates["ltm'"] is result.gates["candidate"]
    assert result.states["ltm"] is result.states["s"]
    assert result.states["wm"] is result.states["h"]
    assert list(result.gates) == ["input", "forget", "candidate", "output"]
    with pytest.raises(KeyError, match=r"no 'remember' here; there is .*rem \(= forget\)"):
        result.gates["remember"]
    with pytest.raises(KeyError):
        result.states["rem"]


def test_words_for_a_gate_that_is_not_there() -> None:
    result = tt.unroll(cells.make("lstm", 3, 4, forget_gate=False), torch.randn(5, 2, 3))
    with pytest.raises(KeyError, match="no 'rem' here"):
        result.gates["rem"]


def test_a_cell_of_ones_own_is_known_by_its_name(registry: None) -> None:
    class Mine(Cell, name="mine"):
        """h_t = w ⊙ h_{t-1} + U x_t + b.

        Source: this test.
        """

        reads = {"recurrent": "h"}  # noqa: RUF012
        inputs = ("hidden",)
        recurrent = ()

        def __init__(self, input_size: int, hidden_size: int, *, sign: Literal["plus", "minus"] = "plus", **kwargs):
            self.sign = 1.0 if sign == "plus" else -1.0
            super().__init__(input_size, hidden_size, options={"sign": sign}, **kwargs)

        def step(self, u, read, W):
            return State(h=u.hidden + self.sign * read.recurrent), Gates()

    assert "mine" in cells.known()
    assert cells.about("mine").options[0].choices == ("plus", "minus")
    assert cells.about("mine").source == "this test."
    made = cells.make("mine", 3, 4, sign="minus")
    assert isinstance(made, Mine)
    x = torch.randn(6, 2, 3)
    assert tt.unroll(made, x).output.shape == (6, 2, 4)
    with pytest.raises(CellError, match="sign is one of"):
        cells.make("mine", 3, 4, sign="times")


def test_a_name_is_taken_once(registry: None) -> None:
    with pytest.raises(CellError, match='named "lstm" exists already'):

        class Other(Cell, name="lstm"):
            def step(self, u, read, W):
                raise NotImplementedError


def test_a_port_reads_a_part_that_is_there() -> None:
    class Wrong(Cell):
        parts = ("h",)
        reads = {"carousel": "c"}  # noqa: RUF012
        inputs = ("hidden",)

        def step(self, u, read, W):
            raise NotImplementedError

    with pytest.raises(CellError, match="Wrong: port 'carousel' reads part 'c'"):
        Wrong(3, 4)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ({"inputs": ("a",)}, "must name its reads, as in reads = {"),
        ({"reads": {"carousel": "h"}}, "must name its inputs"),
        ({"reads": {"carousel": "h"}, "inputs": ("leak")}, "must name its inputs, as in inputs = \\("),
        ({"reads": {"carousel": "h"}, "inputs": ("a",), "recurrent": "a"}, "must name its recurrent"),
        ({"reads": {"carousel": "h"}, "inputs": ("a",), "parts": "h"}, "must name its parts"),
    ],
)
def test_what_a_cell_must_name(names: dict, complaint: str) -> None:
    with pytest.raises(CellError, match=complaint):
        type("Mine", (Cell,), {**names, "step": lambda self, u, read, W: NotImplemented})(3, 4)


@pytest.mark.parametrize("made", [{}, {"h": (2, 5)}, {"h": (4,)}, {"h": (2, 4), "s": (2, 4)}], ids=str)
def test_a_step_returns_the_parts_it_promised(made: dict) -> None:
    class Mine(Cell):
        reads = {"carousel": "h"}  # noqa: RUF012
        inputs = ("a",)

        def step(self, u, read, W):
            return State(**{part: torch.zeros(shape) for part, shape in made.items()}), Gates()

    with pytest.raises(CellError, match=r"step of Mine must return State\(h=\(2, 4\)\)"):
        tt.unroll(Mine(3, 4), torch.zeros(1, 2, 3))


@pytest.mark.parametrize("name", cells.known())
def test_a_cell_copies_and_loads(name: str) -> None:
    cell = cells.make(name, 3, 4)
    twin = copy.deepcopy(cell)
    other = cells.make(name, 3, 4)
    other.load_state_dict(cell.state_dict())
    x = torch.randn(5, 2, 3)
    start = State(**{part: torch.randn(2, 4) for part in cell.parts})
    expected = tt.unroll(cell, x, start).output
    assert torch.equal(tt.unroll(twin, x, start).output, expected)
    assert torch.equal(tt.unroll(other, x, start).output, expected)


def test_one_step_by_hand() -> None:
    cell = cells.make("gru", 3, 4)
    x = torch.randn(6, 2, 3)
    state = None
    for x_t in x:
        state = cell(x_t, state)
    assert state is not None
    close(state.h, tt.unroll(cell, x).final.h)


def test_named_tensors_do_not_change() -> None:
    state = State(s=torch.zeros(1), h=torch.ones(1))
    assert state.s is state["s"]
    with pytest.raises(AttributeError, match="immutable"):
        state.s = torch.ones(1)
    with pytest.raises(AttributeError, match="no 'c' here; there is s, h"):
        _ = state.c
