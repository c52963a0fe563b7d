"""The timer of benchmarks/ is fair, and its table says what was measured."""

from __future__ import annotations

from importlib import import_module

import pytest

from benchmarks import table
from benchmarks.__main__ import cells, known, machine, markdown
from benchmarks.table import Row, paired


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
