"""What the window rule says where it is known how much of the weights' gradient a window leaves out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tests.diagnosis.made import card, flow, run, study
from throughtime.diagnosis import diagnose
from throughtime.records import Finding, FlowRecord, ParameterCredit, Settings, Study

T = 101


def credit(rate: float, name: str = "weight_hh", last: int = T - 1) -> ParameterCredit:
    """Looking back τ steps leaves out rate^(τ+1), all that is left at the first step included."""
    lags = np.arange(last + 1)
    rest = (lags + 1) * math.log10(rate)
    return ParameterCredit("made", lags, {name: rest}, {name: rest}, {name: 0.0}, 4, "float64", 0.1)


def windowed(size: int, record: FlowRecord, score: float | None = None) -> Study:
    return study(run(record, settings=replace(Settings(), window=size), score=score), data=card(lag=None))


def found(record: Study) -> list[Finding]:
    return [finding for finding in diagnose(record) if finding.rule == "window"]


def test_a_short_window_says_what_it_leaves_out() -> None:
    (finding,) = found(windowed(16, flow(0.9, parameters=credit(0.95))))
    assert "shorter than the gradient's reach of 43" in finding.title
    assert "It leaves out at least 44% of the gradient of weight_hh, after training." in finding.evidence  # 0.95^16
    assert "A window of 90 steps would leave out less than 1% of it." in finding.evidence  # 0.95^90 = 0.99%
    (bare,) = found(windowed(16, flow(0.9)))
    assert not any("leave" in sentence for sentence in bare.evidence)


def test_faint_shares_that_add_up_are_a_finding_of_their_own() -> None:
    """The median pair is under 1% after 6 steps, yet a fifth of the sum lies beyond 20."""
    (finding,) = found(windowed(20, flow(0.5, parameters=credit(0.92))))
    assert finding.severity == "warning"
    assert finding.title == "elman: the window of 20 steps leaves out at least 19% of the gradient of weight_hh."
    assert finding.command.endswith("--window 56")  # 0.92^56 = 0.94%
    (learned,) = found(windowed(20, flow(0.5, parameters=credit(0.92)), score=0.001))
    assert learned.severity == "note"
    (further,) = found(windowed(20, flow(0.5, parameters=credit(0.92, "weight_self", last=30))))
    assert "of weight_self" in further.title
    assert further.command.endswith("--window 40")


def test_a_window_that_leaves_out_little_is_left_alone() -> None:
    assert not found(windowed(28, flow(0.5, parameters=credit(0.92))))  # 0.92^28 = 9.7%


def test_no_window_is_called_too_long_that_the_weights_need() -> None:
    assert found(windowed(64, flow(0.5)))
    assert not found(windowed(64, flow(0.5, parameters=credit(0.8))))  # 0.8^21 = 0.92%, so 21 of 64
    (finding,) = found(windowed(64, flow(0.5, parameters=credit(0.7))))
    assert "is 5 times what the gradient uses" in finding.title  # 0.7^13 = 0.97%
    assert finding.command.endswith("--window 26")


def test_what_was_not_measured_is_not_spoken_of() -> None:
    nothing = credit(0.9)
    nothing = replace(nothing, log10_rest={"weight_hh": np.full(T, math.nan)}, log10_whole={"weight_hh": -math.inf})
    for parameters in (nothing, replace(nothing, log10_rest={}, log10_whole={}, log10_terms={})):
        (finding,) = found(windowed(16, flow(0.9, parameters=parameters)))
        assert not any("leave" in sentence for sentence in finding.evidence)


def test_the_next_lag_that_was_measured_counts() -> None:
    spread = replace(credit(0.9, last=4), lags=np.array([0, 1, 2, 8, 16]))
    assert spread.left_out("weight_hh", 5) == spread.left_out("weight_hh", 8)
    assert math.isclose(spread.left_out("weight_hh", 8) or 0, 0.9**4)
    assert spread.left_out("weight_hh", 17) is None
