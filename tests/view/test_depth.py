"""The picture of a feed-forward chain: a page of its own, or a section beside what went through time."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

import throughtime as tt
from tests.view import studies
from tests.view.test_report import QUESTIONS, Page
from throughtime.records import DepthRecord

QUESTION = "How far down the layers does the gradient reach?"


def dead() -> DepthRecord:
    """Nothing comes through the upper half; no Jacobian was measured."""
    one = studies.chain("dead", 8)
    gradient = np.where(np.arange(8) < 4, -np.inf, one.gradient)
    gone = np.full(8, np.nan)
    return dataclasses.replace(one, gradient=gradient, weights=gradient, gain=gone, steps=gone, bound=gone, samples=0)


def silent() -> DepthRecord:
    """The loss has no gradient at all."""
    nothing = np.full(8, -np.inf)
    return dataclasses.replace(studies.chain("silent", 8), gradient=nothing, weights=nothing)


def hostile() -> DepthRecord:
    layers = (studies.HOSTILE,) * 5
    return dataclasses.replace(
        studies.chain(studies.HOSTILE, 5), layers=layers, dtype=studies.HOSTILE, left_out=(studies.HOSTILE,)
    )


CHAINS = (studies.chain(), studies.chain("logistic", 400, 1.1), dead(), silent(), hostile(), studies.chain("one", 1))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tt.report(CHAINS, tmp_path_factory.mktemp("depth") / "chains.html")


def test_chains_alone_are_asked_what_can_be_asked_of_chains(drawn: Path) -> None:
    text = drawn.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.text_of("h2") == [QUESTION, QUESTIONS[-1]]
    headline = page.text_of("p", class_="headline")[0]
    assert "6 of the 20 layers of tanh (10" in headline
    assert "all 1 layer of one (100% left at the first)" in headline
    assert "exactly 0 left at the first" in headline
    assert "no layer of silent, whose loss has no gradient" in headline
    assert "<img" not in text
    assert len(text.encode()) < 1_000_000
    assert "Some Jacobians: wide." in text


def test_the_numbers_are_those_of_the_record(drawn: Path) -> None:
    text = drawn.read_text(encoding="utf-8")
    found = {key: json.loads(spec) for key, spec in re.findall(r'id="(fig-[a-z]+-0)-data">(.*?)</script>', text, re.S)}
    one = CHAINS[0]
    told = {series["name"]: series["values"] for series in found["fig-depth-0"]["series"]}
    np.testing.assert_allclose(told["activations ∂L/∂a"], one.gradient, rtol=1e-4)
    assert [value is None for value in told["weights ∂L/∂W"]] == np.isnan(one.weights).tolist()
    through = {series["name"]: series["values"] for series in found["fig-through-0"]["series"]}
    np.testing.assert_allclose(through["gradient left"], one.gradient - one.gradient[-1], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(through["gain, all at once"], one.gain, rtol=1e-4, atol=1e-9)


def test_stands_beside_what_went_through_time(tmp_path: Path) -> None:
    both = tt.report([studies.flow("lstm", "after", 10), studies.chain()], tmp_path / "both.html")
    asked = Page(both.read_text(encoding="utf-8")).text_of("h2")
    assert [question for question in asked if question in QUESTIONS] == list(QUESTIONS)
    assert QUESTION in asked


@pytest.mark.browser
@pytest.mark.parametrize("width", [1400, 420])
def test_every_figure_is_drawn(browser, drawn: Path, width: int) -> None:
    heard: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.goto(drawn.as_uri())
    page.wait_for_function(
        "() => [...document.querySelectorAll('[data-figure]')].every(home => home.querySelector('canvas'))"
    )
    assert page.locator("[data-figure] canvas").count() >= 1 + 2 * len(CHAINS)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert heard == []
    page.close()
