"""What the picture of paths says of records whose answer is known."""

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
from throughtime.records import CarouselRecord, FlowRecord, PathRecord
from throughtime.view.sections import paths
from throughtime.view.subject import subject

NEG = -math.inf


def record(whole: list[float], alone: dict[str, list[float]], closed: dict[str, list[float]], **changes) -> PathRecord:
    lags = np.arange(len(whole))
    arrays = [{port: np.array(values) for port, values in each.items()} for each in (alone, closed)]
    left = None
    if "carousel" in alone:
        left = np.stack([np.array(alone["carousel"]), *(np.where(lags >= m, -3.0 - m, NEG) for m in (1, 2, 3))])
    found = PathRecord(lags, np.array(whole), *arrays, "carousel" if "carousel" in alone else None, left,
                       np.full(len(lags), 24), "float64", 0.1)  # fmt: skip
    return dataclasses.replace(found, **changes)


GATED = record(
    [0.0, -0.5, -1.0, -2.5],
    {"carousel": [0.0, -0.6, -1.1, -2.6], "output": [0.0, NEG, NEG, NEG]},
    {"carousel": [0.0, -2.0, -3.5, -9.0], "output": [0.0, -0.5, -1.0, -2.5]},
)


def flow(cell: str = "lstm", **changes) -> FlowRecord:
    return dataclasses.replace(studies.flow(cell, "after", 10, T=8), **changes)


def written(records, tmp_path) -> str:
    return tt.report(records, tmp_path / "report.html", overwrite=True).read_text(encoding="utf-8")


def section(records, tmp_path) -> str:
    found = re.search(r'<section id="paths".*?</section>', written(records, tmp_path), re.S)
    assert found is not None
    return found[0]


def headline(records, tmp_path) -> str:
    return " ".join(Page(section(records, tmp_path)).text_of("p", class_="headline")[0].split())


def drawn(records, key: str, tmp_path) -> dict:
    return json.loads(re.search(rf'id="{key}-data">(.*?)</script>', written(records, tmp_path), re.S)[1])


def test_the_headline_speaks_of_the_farthest_lag_that_one_percent_reaches(tmp_path) -> None:
    single = record([0.0, -1.0], {"recurrent": [0.0, -1.0]}, {"recurrent": [0.0, NEG]})
    several = record(
        [0.0, -1.0, -3.0],
        {"tap_1": [0.0, -2.0, -4.0], "tap_2": [0.0, -1.3, NEG]},
        {"tap_1": [0.0, -1.3, -1.3], "tap_2": [0.0, NEG, -4.0]},
    )
    records = [
        flow("elman", paths=single),
        flow("lstm", paths=GATED),
        dataclasses.replace(flow("gru", paths=several), cell="taps"),
    ]
    assert headline(records, tmp_path) == (
        "2 steps back lstm keeps 10% of the gradient: 7.9% along the carousel alone, 0.032% without it; 1 step back "
        "taps keeps 10%: 5% along tap_2 alone, exactly 0 without it; elman has one way only."
    )


def test_a_task_names_the_lag(tmp_path) -> None:
    one = dataclasses.replace(studies.run("lstm", T=8, count=40), flows=(flow(paths=GATED),))
    assert headline(studies.study(one, data=studies.card(lag=1)), tmp_path).startswith("1 step back lstm keeps 31.6%")


def test_a_second_cell_of_the_same_kind_is_said_shortly(tmp_path) -> None:
    said = headline([flow(paths=GATED), flow("gru", paths=GATED)], tmp_path)
    assert said.endswith("; 2 steps back gru keeps 10%: 7.9% and 0.032%.")


def test_every_family_has_its_line_and_zeros_are_zeros(tmp_path) -> None:
    picture = drawn(flow(paths=GATED), "fig-paths-0", tmp_path)
    assert [series["name"] for series in picture["series"]] == [
        "every path", "the carousel alone", "left the carousel once", "left the carousel twice",
        "left the carousel 3 times", "the carousel closed",
    ]  # fmt: skip
    assert picture["series"][3]["values"] == ["zero", "zero", -5.0, -5.0]
    assert len({(series["colour"], series["dash"]) for series in picture["series"]}) == 6
    assert "Boundary derivative" in picture["note"]
    assert "24 sources" in picture["note"]
    assert "exactly 0" in Page(section(flow(paths=GATED), tmp_path)).text_of("td")


def test_the_two_paths_and_what_is_fair(tmp_path) -> None:
    lags = np.arange(3)
    kept = np.array([0.0, -0.1, -0.2])
    with_loop = CarouselRecord(lags, kept - 1, kept - 3, lags * 1.0, kept, kept, lags, "float32", 0.1)
    picture = drawn(flow(paths=GATED, carousel=with_loop), "fig-carousel-0", tmp_path)
    assert [series["name"] for series in picture["series"]] == [
        "t0, the carousel alone", "t1, the output gate's loop alone", "bound of t1, (‖K‖ ‖Wₒ‖)^τ",
        "state kept, forward", "gradient kept, backward",
    ]  # fmt: skip
    assert picture["series"][3]["values"] == picture["series"][4]["values"]
    assert picture["y"]["to"] >= 2
    assert "float32" in picture["note"]
    bare = dataclasses.replace(with_loop, t1=None, t1_bound=None, kept_forward=None, kept_backward=None)
    assert len(drawn(flow(paths=GATED, carousel=bare), "fig-carousel-0", tmp_path)["series"]) == 1


def test_the_last_measurement_that_has_it_counts_and_none_is_no_question(tmp_path) -> None:
    late = flow(paths=None, carousel=None, update=20)
    assert paths.section(subject(late)) is None
    assert "lstm keeps 10%" in headline([flow(paths=GATED, moment="during", update=5), late], tmp_path)


@pytest.mark.parametrize(
    ("value", "says"), [(math.nan, "lstm was not measured."), (NEG, "1 step back lstm keeps exactly")]
)
def test_gaps_and_zeros_are_not_numbers(value: float, says: str, tmp_path) -> None:
    values = [0.0, value, value] if value == NEG else [value] * 3
    same = record(values, {"carousel": values, "output": values}, {"carousel": values, "output": values})
    assert headline(flow(paths=same), tmp_path).startswith(says)
