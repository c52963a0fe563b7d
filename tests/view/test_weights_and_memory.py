"""What the two pictures say of records whose answer is known: which lags taught the weights, what is remembered."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest

import throughtime as tt
from tests.view import studies
from tests.view.test_report import Page
from throughtime.records import FlowRecord, LagProfile, ParameterCredit
from throughtime.view.sections import memory, weights
from throughtime.view.subject import subject

NEG = -math.inf


def credit(*shares: float, name: str = "weight_hh", whole: float = 0.0) -> ParameterCredit:
    """A record that leaves out these shares when looking back 0, 1, … steps; its terms are the differences."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rest, terms = np.log10(shares), np.log10(-np.diff([1.0, *shares]))
    lags = np.arange(len(shares))
    return ParameterCredit("made", lags, {name: terms + whole}, {name: rest}, {name: whole}, 2, "float64", 0.1)


def flow(cell: str = "lstm", **changes) -> FlowRecord:
    return dataclasses.replace(studies.flow(cell, "after", 10, T=8), **changes)


def headline(records, key: str, tmp_path) -> str:
    written = tt.report(records, tmp_path / "report.html", overwrite=True).read_text(encoding="utf-8")
    whole = re.search(rf'<section id="{key}".*?</section>', written, re.S)
    assert whole is not None
    return " ".join(Page(whole[0]).text_of("p", class_="headline")[0].split())


def drawn(records, key: str, tmp_path) -> dict:
    written = tt.report(records, tmp_path / "figure.html", overwrite=True).read_text(encoding="utf-8")
    return json.loads(re.search(rf'id="{key}-data">(.*?)</script>', written, re.S)[1])


def test_how_far_a_window_has_to_look_back(tmp_path) -> None:
    one = flow("elman", parameters=credit(0.5, 0.09, 0.02, 0.009, 0.0))
    two = flow("lstm", parameters=credit(0.9, 0.8, 0.7))
    said = headline([one, two], "weights", tmp_path)
    assert said == (
        "To leave out less than 1% of the gradient of weight_hh, a window has to look back 3 steps (1 for 10%) in "
        "elman; over 2 steps (so many leave out 70%) in lstm."
    )


def test_a_rest_that_comes_back_is_not_done(tmp_path) -> None:
    """Terms that point against each other can leave out little, then much again."""
    again = credit(0.5, 0.001, 0.2, 0.005, 0.0)
    assert again.look_back("weight_hh") == 3
    assert again.look_back("weight_hh", 0.3) == 1
    spread = dataclasses.replace(again, lags=np.array([0, 1, 2, 8, 9]))
    assert spread.look_back("weight_hh") == 8


def test_shares_are_of_the_whole(tmp_path) -> None:
    picture = drawn(flow(parameters=credit(0.5, 0.1, 0.0, whole=3.0)), "fig-terms", tmp_path)
    assert picture["series"][0]["values"] == pytest.approx([math.log10(0.5), math.log10(0.4), -1.0], rel=1e-4)
    picture = drawn(flow(parameters=credit(0.5, 0.1, 0.0, whole=3.0)), "fig-left-out", tmp_path)
    assert picture["series"][0]["values"] == [pytest.approx(math.log10(0.5), rel=1e-4), -1.0, "zero"]
    assert [rule["at"] for rule in picture["rules"]] == [-1.0, -2.0]


def test_parameters_that_agree_share_a_line(tmp_path) -> None:
    one, two = credit(0.5, 0.0, name="bias_ih"), credit(0.5, 0.0, name="bias_hh")
    both = dataclasses.replace(
        one, log10_rest={**one.log10_rest, **two.log10_rest}, log10_terms={**one.log10_terms, **two.log10_terms},
        log10_whole={**one.log10_whole, **two.log10_whole},
    )  # fmt: skip
    assert [s["name"] for s in drawn(flow(parameters=both), "fig-left-out-0", tmp_path)["series"]] == [
        "bias_ih, bias_hh"
    ]


def test_a_gradient_of_nothing_has_no_picture(tmp_path) -> None:
    nothing = ParameterCredit(
        "made", np.arange(3), {"weight_hh": np.full(3, NEG)}, {"weight_hh": np.full(3, math.nan)}, {"weight_hh": NEG},
        2, "float64", 0.1,
    )  # fmt: skip
    assert (
        headline(flow(parameters=nothing), "weights", tmp_path) == "The gradient of the weights is exactly 0 in lstm."
    )
    beside = [flow("elman", parameters=credit(0.5, 0.0)), flow(parameters=nothing)]
    said = headline(beside, "weights", tmp_path)
    assert said.endswith("a window has to look back 1 step in elman; the gradient is exactly 0 in lstm.")


def test_what_no_record_has_is_no_question() -> None:
    bare = subject(flow(parameters=None, memory=None))
    assert weights.section(bare) is None
    assert memory.section(bare) is None


def test_the_last_measurement_that_has_it_counts(tmp_path) -> None:
    """Quick looks while training leave it out."""
    late = flow(parameters=None, memory=None, update=20)
    early = flow(parameters=credit(0.5, 0.001, 0.0), memory=profile(0.0, -1.0, -3.0), moment="during", update=5)
    assert "look back 1 step in lstm" in headline([early, late], "weights", tmp_path)
    assert "1 step in lstm" in headline([early, late], "memory", tmp_path)


def profile(*median: float) -> LagProfile:
    values = np.array(median)
    return LagProfile(np.arange(len(values)), values, values - 0.1, values + 0.1, np.full(len(values), 3))


def test_how_long_an_input_is_remembered(tmp_path) -> None:
    records = [
        flow("elman", memory=profile(0.0, -1.0, -1.9, -2.1)),
        flow("lstm", memory=profile(0.0, -0.1, -0.2, -0.3)),
        flow("gru", memory=profile(math.nan, math.nan)),
    ]
    said = headline(records, "memory", tmp_path)
    assert said == (
        "For how long the last state keeps 1% of an input: 2 steps in elman; at least 3 steps in lstm; not measured in "
        "gru."
    )
