"""The names that people and programs outside this repository call stay as they are."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import throughtime as tt
from tests.snippets import complaint
from tests.tree import ROOT
from throughtime.cli import app

LAYER = (
    "input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False, "
    "*, engine='auto'"
)

# name -> how it is called. Arguments before the star are held in this order and with these defaults; those after
# it by name. What a callable takes beyond that is its own affair, as long as it may be left out.
HELD = {
    "RNN": f"{LAYER}, nonlinearity='tanh'",
    "LSTM": (
        f"{LAYER}, candidate='tanh', squash='tanh', forget_gate=True, input_gate=True, output_gate=True, "
        "coupled=False, peephole=False"
    ),
    "GRU": f"{LAYER}, reset='after'",
    "from_torch": "module",
    "unroll": "cell, x, state=None, engine='auto'",
    "cells.known": "",
    "cells.make": "name, input_size, hidden_size, **options",
    "data.load": "source",
    "train": "model, data",
    "watch": "model",
    "diagnose": "record",
    "report": "records, path",
    "flow.jacobians": "cell, x, state=None",
    "flow.transport": "cell, x, t, k",
    "flow.credit": "cell, x, delta",
    "flow.ports": "cell, x",
    "flow.bounds": "cell, x",
    "flow.lyapunov": "cell, x, k=None",
    "flow.memory": "cell, x",
    "flow.excursions": "cell, x, t, k",
    "flow.depth": "chain, x, loss",
}
# What a call may pass by keyword although the signature spells it otherwise (**options).
OPTIONS = {
    "RNN": {"nonlinearity": ("tanh", "relu", "sigmoid", "identity")},
    "LSTM": {
        "candidate": ("tanh", "sigmoid"),
        "squash": ("tanh", "sigmoid", "identity"),
        "forget_gate": (True, False),
        "input_gate": (True, False),
        "output_gate": (True, False),
        "coupled": (False, True),
        "peephole": (False, True),
    },
    "GRU": {"reset": ("after", "before"), "candidate": ("tanh", "sigmoid")},
}
ROOT_NAMES = sorted({name.partition(".")[0] for name in HELD} | {"Cell"})
VERBS = ("demo", "compare", "train", "predict", "measure", "report", "cells")


def held(name: str) -> Any:
    value: Any = tt
    for part in name.split("."):
        value = getattr(value, part)
    return value


def promised(signature: str) -> inspect.Signature:
    scope: dict[str, Callable[..., None]] = {}
    exec(f"def call({signature}): ...", scope)
    return inspect.signature(scope["call"])


@pytest.mark.parametrize("name", HELD)
def test_is_called_as_promised(name: str) -> None:
    real = list(inspect.signature(held(name)).parameters.values())
    promise = list(promised(HELD[name]).parameters.values())
    positional = [p for p in promise if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in real[: len(positional)]] == [(p.name, p.default) for p in positional]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in real[: len(positional)])

    named = {p.name: p for p in real}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in real)
    for p in promise[len(positional) :]:
        if p.kind is p.VAR_KEYWORD:
            assert takes_any, f"tt.{name} takes no options"
        elif p.name in named:
            assert named[p.name].default == p.default, f"tt.{name}: {p.name} has another default"
        else:
            assert takes_any, f"tt.{name} does not take {p.name}"
    must = [
        p.name
        for p in real[len(positional) :]
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    assert not must, f"tt.{name} asks for more than was promised: {must}"


@pytest.mark.parametrize(
    ("layer", "option", "value"),
    [(layer, option, value) for layer in OPTIONS for option in OPTIONS[layer] for value in OPTIONS[layer][option]],
)
def test_layers_take_their_options(layer: str, option: str, value: object) -> None:
    output, _ = held(layer)(2, 3, **{option: value})(torch.zeros(4, 1, 2))
    assert output.shape == (4, 1, 3)


@pytest.mark.parametrize("layer", ["RNN", "LSTM", "GRU"])
def test_parameters_are_named_and_shaped_as_torchs(layer: str) -> None:
    arguments = {"num_layers": 2, "bidirectional": True}
    ours, theirs = held(layer)(3, 4, **arguments), getattr(torch.nn, layer)(3, 4, **arguments)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_peepholes_have_the_name_and_shape_that_is_held() -> None:
    state = tt.LSTM(3, 4, num_layers=2, peephole=True).state_dict()
    assert state["weight_ch_l0"].shape == state["weight_ch_l1"].shape == (12,)


def test_the_cells_that_are_held() -> None:
    assert {"elman", "lstm", "gru"} <= set(tt.cells.known())
    assert tt.cells.make("elman", 2, 3, nonlinearity="relu").parts == ("h",)
    assert tt.cells.make("gru", 2, 3, reset="before").parts[-1] == "h"
    assert tt.cells.make("lstm", 2, 3).parts == ("s", "h")


def test_what_unroll_answers() -> None:
    result = tt.unroll(tt.cells.make("lstm", 2, 3), torch.zeros(5, 1, 2))
    assert {name: states.shape for name, states in result.states.items()} == {"s": (5, 1, 3), "h": (5, 1, 3)}
    assert all(gate.shape == (5, 1, 3) for gate in result.gates.values())
    assert set(result.final) == {"s", "h"}


def test_what_flow_answers() -> None:
    cell, x = tt.cells.make("lstm", 2, 3, dtype=torch.float64), torch.zeros(5, 1, 2, dtype=torch.float64)
    assert tt.flow.jacobians(cell, x).shape == (5, 1, 6, 6)
    assert tt.flow.transport(cell, x, 4, 1).shape == (1, 6, 6)
    assert tt.flow.excursions(cell, x, 4, 1).shape == (4, 1, 6, 6)
    assert {port: j.shape for port, j in tt.flow.ports(cell, x).items()} == dict.fromkeys(cell.reads, (5, 1, 6, 6))
    credit = tt.flow.credit(cell, x, torch.ones(5, 1, 3, dtype=torch.float64))
    assert credit.pairs.shape == (5, 5, 1)
    assert credit.pairs[1, 3, 0] == 0  # no credit for what comes later
    assert credit.lags is not None


def test_what_each_measure_means_is_written_down() -> None:
    page = (ROOT / "docs" / "measures.md").read_text(encoding="utf-8")
    assert not [name for name in tt.flow.__all__ if f"`{name}`" not in page]


# -- the root


def test_the_root_holds_the_names() -> None:
    assert set(ROOT_NAMES) <= set(tt.__all__)


def test_all_is_the_lazy_table_and_everything_in_it_loads() -> None:
    assert sorted(tt.__all__) == sorted(tt._HOME)
    for name in tt.__all__:
        value = getattr(tt, name)
        home = import_module(tt._HOME[name])
        assert value is home or value is getattr(home, name)


def test_type_checkers_see_the_same_names() -> None:
    """What is loaded lazily is also imported under TYPE_CHECKING, or editors would not know it."""
    tree = ast.parse(Path(tt.__file__).read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.asname or alias.name for node in checked.body for alias in node.names}
    assert seen == set(tt.__all__)


def test_dir_lists_what_there_is() -> None:
    assert set(tt.__all__) <= set(dir(tt))
    with pytest.raises(AttributeError, match="lstm"):
        tt.lstm  # noqa: B018


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import sys, throughtime; dir(throughtime); print('torch' in sys.modules, 'numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_no_submodule_takes_the_place_of_a_name() -> None:
    """`throughtime/unroll.py` would become `tt.unroll` as soon as it is imported."""
    for module in pkgutil.iter_modules(tt.__path__):
        assert tt._HOME.get(module.name, f"throughtime.{module.name}") == f"throughtime.{module.name}"


@pytest.mark.parametrize("verb", VERBS)
def test_the_command_has_its_verbs(verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0, result.output
    examples = re.findall(rf"Example: (throughtime {verb}.*)", result.output)
    assert examples, f"the help of {verb} shows no example"
    for example in examples:
        assert not complaint(app, example.split()[1:])
