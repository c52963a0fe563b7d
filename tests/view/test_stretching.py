"""What the picture of exponents and singular values says of records whose answer is known."""

from __future__ import annotations

import dataclasses
import html
import math
import re

import numpy as np
import pytest

import throughtime as tt
from tests.view import studies
from throughtime.records import FlowRecord, LyapunovRecord
from throughtime.view.sections import stretching
from throughtime.view.subject import subject


def exponents(largest: float, error: float = 0.01, check: float | None = None) -> LyapunovRecord:
    found = np.array([largest, largest - 1.0])
    check = largest if check is None else check
    return LyapunovRecord("made", found, np.full(2, error), check, 10, 3, 90, 4, "float64", 0.1)


def flow(**changes: object) -> FlowRecord:
    return dataclasses.replace(studies.flow("lstm", "after", 9, T=12, H=4), **changes)


def headline(one: FlowRecord, folder) -> str:
    page = tt.report(one, folder / "page.html", overwrite=True).read_text(encoding="utf-8")
    found = re.search(r'<section id="stretching".*?class="headline">(.*?)</p>', page, re.S)
    assert found is not None
    return html.unescape(re.sub("<[^>]*>", "", found[1]))


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (exponents(-0.25), "forgets all but 1/e in 4 steps (−0.25 ± 0.01 nats a step; two neighbouring runs: −0.25)."),
        (exponents(0.1), "lstm explodes, e-fold in 10 steps (0.1 ± 0.01"),
        (exponents(0.015), "lstm neither forgets nor explodes, as far as 90 steps tell (0.015 ± 0.01"),
        (exponents(-0.25, math.nan, math.nan), "in 4 steps (−0.25 nats a step)."),
        (exponents(-0.25, check=-0.5), "two neighbouring runs: −0.5, which does not fit)."),
        (exponents(-math.inf, math.nan, math.nan), "lstm loses everything within some steps, exactly."),
        (exponents(math.nan, math.nan, math.nan), "lstm was not measured."),
    ],
)  # fmt: skip
def test_the_headline_says_what_it_means(record, says, tmp_path) -> None:
    assert says in headline(flow(lyapunov=record), tmp_path)


def test_with_singular_values_alone(tmp_path) -> None:
    said = headline(flow(lyapunov=None), tmp_path)
    assert said.startswith("At the longest lag measured there is left: ")


def test_lost_directions_are_counted_not_drawn() -> None:
    lost = dataclasses.replace(exponents(-0.25), exponents=np.array([-0.25, -math.inf]))
    drawn = stretching.section(subject(flow(lyapunov=lost, singular=None)))
    assert drawn is not None
    (picture,) = drawn.body
    assert "1 direction is lost altogether" in picture
    assert "over" not in re.findall(r'"values":(\[.*?\])', picture)[0]


def test_there_is_nothing_to_draw() -> None:
    assert stretching.section(subject(flow(lyapunov=None, singular=None))) is None
