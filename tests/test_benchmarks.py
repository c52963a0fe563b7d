"""The timer of benchmarks/ is fair, and its table says what was measured."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import engines, table
from benchmarks.__main__ import cells, known, machine, markdown
from benchmarks.engines import Promise, check_alike, summary
from benchmarks.families import OTHERS, STANDARD, Family, bare_products
from benchmarks.table import Row, paired
from tests.tree import ROOT
from throughtime.cells import cell as contract

FAMILIES = (*STANDARD, *OTHERS)


class Clock:
    """A clock that only work moves on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order = ""

    def work(self, name: str, seconds: float) -> None:
        self.order += name
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(table, "perf_counter", lambda: clock.now)
    return clock


def test_both_are_timed_in_rounds_in_which_they_have_the_same_neighbours(clock: Clock) -> None:
    paired(lambda: clock.work("a", 1), lambda: clock.work("b", 1), repeats=2, warmup=1)
    assert clock.order == "ab" + ("b" + table.ROUND) * 2
    followed = [("b" + table.ROUND)[place : place + 2] for place in range(len(table.ROUND))]
    assert sorted(followed) == ["aa", "ab", "ab", "ab", "ba", "ba", "ba", "bb"]


def test_a_shorter_round_divides_by_its_own_calls(clock: Clock) -> None:
    result = paired(lambda: clock.work("a", 3), lambda: clock.work("b", 2), repeats=1, warmup=0, order="abba")
    assert (result.ours, result.peer, result.ratio) == (3, 2, 1.5)
    assert clock.order == "babba"


def test_the_ratio_is_the_median_of_the_rounds_ratios(clock: Clock) -> None:
    """A machine that gets ten times slower half-way changes the times, not the ratio."""
    works = iter([1.0] * 14 + [10.0] * 13)  # 3 rounds of 9 runs
    result = paired(
        lambda: clock.work("a", 2 * next(works)), lambda: clock.work("b", 4 * next(works)), repeats=3, warmup=0
    )
    assert (result.ratio, result.low, result.high) == (0.5, 0.5, 0.5)
    assert 2 <= result.ours <= 20


def test_a_row_says_what_was_promised(clock: Clock) -> None:
    row = paired(lambda: clock.work("a", 0.003), lambda: clock.work("b", 0.002)).row(
        "layers", "T=9", "nn.LSTM", limit=1.1
    )
    assert cells(row) == ("layers", "T=9", "3 ms", "2 ms", "nn.LSTM", "1.50", "1.50 to 1.50, at most 1.1")


def test_the_page_names_machine_and_versions() -> None:
    text = markdown([Row("layers", "T|B", 3.0, 2.0, "nn.LSTM", "ms", 1.5)], "2000-01-01")
    assert f"2000-01-01: {machine()}." in text
    assert "| layers | T\\|B | 3 ms | 2 ms | nn.LSTM | 1.50 |  |" in text
    assert "torch " in machine()


@pytest.mark.parametrize("name", known())
def test_every_comparison_can_be_asked_for_its_rows(name: str) -> None:
    assert callable(import_module(f"benchmarks.{name}").rows)


# -- any cell beside the fastest there is for it


@pytest.fixture
def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell made up there is known only while this test runs."""
    monkeypatch.setattr(contract, "_KNOWN", dict(contract._KNOWN))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_bare_products_are_the_cells_own(family: Family, unnamed: None) -> None:
    """As many operations as torch counts in the eager loop, but for the step that has nothing before it."""
    T, B, I, H = 7, 3, 5, 4  # noqa: E741
    layer, x = family.layer(I, H, "reference"), torch.randn(T, B, I)
    with FlopCounterMode(display=False) as loop:
        layer(x)[0].sum().backward()
    with FlopCounterMode(display=False) as bare:
        bare_products(T, B, I, H, family.products)()
    first = 2 * B * H * len(layer.cell.squares(layer.parameters_of(0))) * H
    # The loop's first step goes through the products that read the initial state, which has no gradient of its own.
    assert loop.get_total_flops() <= bare.get_total_flops() <= loop.get_total_flops() + first


def test_layers_of_torch_have_the_same_parameters() -> None:
    for family in STANDARD:
        assert issubclass(family.theirs, nn.RNNBase)
        assert set(family.theirs(3, 4).state_dict()) == set(family.layer(3, 4).state_dict())


def test_a_row_whose_sides_differ_is_not_timed() -> None:
    good = torch.tensor([1.0, -4.0]), {"weight": torch.tensor([2.0])}
    check_alike("x", good, good, lambda: good)
    with pytest.raises(ValueError, match=r"x differ in outputs by 2\.5e-01 relative"):
        check_alike("x", (torch.tensor([2.0, -4.0]), good[1]), good, lambda: good)
    with pytest.raises(ValueError, match="x differ in weight by nan"):
        check_alike("x", (good[0], {"weight": torch.tensor([float("nan")])}), good, lambda: good)


def test_where_rounding_grows_the_numbers_of_float64_decide() -> None:
    ours, theirs, right = ((torch.tensor([1.0 + off, -4.0]), {}) for off in (1e-3, -1e-3, 0.0))
    check_alike("x", ours, theirs, lambda: right)
    with pytest.raises(ValueError, match="x differ in outputs"):
        check_alike("x", ours, theirs, lambda: theirs)


def test_the_mean_is_geometric_and_the_worst_is_named() -> None:
    some = [Row("c", size, ratio, 1.0, peer, "ms", ratio) for size, ratio, peer in (("A", 0.1, "p"), ("B", 0.4, "q"))]
    mean, worst = summary(some, Promise(3, 2, 1))
    assert (mean.size, mean.peer_name) == ("geometric mean of 2", "p or q")
    assert mean.ratio == pytest.approx(0.2)
    assert mean.note == "5 times as fast, aimed at 3, at least 2"
    assert (worst.size, worst.ratio, worst.note) == ("worst of 2: B", 0.4, "2.5 times as fast, at least 1")


def test_one_size_gives_its_rows(unnamed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Without JAX and without a compiler, on the eager loop alone: what is measured is not the point here."""

    def eager(family: Family, inputs: int, units: int, engine: str = "auto") -> nn.Module:
        return family.make(inputs, units, engine="reference", **family.options)

    monkeypatch.setattr(Family, "layer", eager)
    monkeypatch.setattr(table.gc, "collect", lambda: 0)  # takes long where so much is loaded
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    monkeypatch.setattr(engines, "SIZES", ((3, 2, 2, 3),))
    monkeypatch.setattr(engines, "TIMING", 0.0)
    monkeypatch.setattr(engines, "PATIENCE", 0.0)
    monkeypatch.setattr(engines, "LARGE_H", 3)
    monkeypatch.setattr(engines, "LARGE_B", 2)
    found = engines.rows()
    assert "JAX is not installed" in capsys.readouterr().err
    measured, summed = found[: len(FAMILIES)], found[len(FAMILIES) :]
    assert [row.peer_name for row in measured] == ["torch.nn"] * 3 + ["eager loop"] * 5
    assert all(row.ratio > 0 and "times the bare products, at most 1.4" in row.note for row in measured)
    assert len(summed) == 2 * len(FAMILIES) + 1
    assert summed[-1].size == "where products dominate, worst of 8: T=3 B=2 I=2 H=3"


AGAINST_JAX = """
from benchmarks import engines
engines.SIZES, engines.TIMING, engines.PATIENCE, engines.LARGE_H, engines.LARGE_B = ((4, 3, 2, 5),), 0.0, 0.0, 1, 1
engines.rows()
"""

if find_spec("jax"):  # not part of what the tests need; the comparison checks the same before it times anything

    @pytest.mark.slow
    def test_scans_of_jax_answer_as_the_cells() -> None:
        """In a process of its own: JAX's threads would make every later fork a warning."""
        run = subprocess.run([sys.executable, "-c", AGAINST_JAX], cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
