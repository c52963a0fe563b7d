"""What the sections say, against records whose answer is known beforehand."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest

from tests.view import studies
from throughtime.records import Finding, LagProfile, Study
from throughtime.view import words
from throughtime.view.sections import advice, blame, clipping, gaps, gates, lags, learning, repeat, verdict
from throughtime.view.subject import Subject, subject


def plain(node: object) -> str:
    """A headline without its markup."""
    from throughtime.view.markup import escape

    return re.sub(r"<[^>]+>", "", str(escape(node)))  # type: ignore[arg-type]


def about(study: Study | None = None) -> Subject:
    return subject(study or studies.digits())


def decaying(horizon: int, T: int = 64) -> LagProfile:
    """A profile that is at 1% exactly at `horizon` and under it after."""
    return studies.profile(T, 2 / horizon * 0.999999)


def with_lags(lags: LagProfile, lag: int | None) -> Study:
    run = studies.run("lstm", count=20)
    flow = dataclasses.replace(run.flows[-1], lags=lags)
    return studies.study(dataclasses.replace(run, flows=(flow,)), data=studies.card(lag=lag))


@pytest.mark.parametrize(
    ("reached", "lag", "enough", "says"),
    [
        (20, 30, "no", "10 steps short of the 30"),
        (30, 30, "yes", "Enough: the task needs 30 steps"),
        (20, None, "open", "20 steps; a sequence has 64 pixels; how many the task needs is not known"),
        (200, None, "yes", "Over the whole sequence: 63 steps"),
        (200, 90, "open", "the task needs 90, only 63 were measured"),
    ],
)
def test_a_horizon_is_held_against_the_tasks_lag(reached, lag, enough, says):
    study = about(with_lags(decaying(reached), lag))
    judged = verdict.judge(study.strands[0], study.data)
    assert judged.enough == enough
    assert says in judged.says


def test_a_horizon_at_the_longest_lag_measured_is_a_lower_bound():
    assert words.horizon(decaying(200)) == "at least 63"
    assert words.horizon(decaying(12)) == "12"
    assert words.half_life(studies.profile(64, 0.0)) == "over 63"
    none = np.full(4, np.nan)
    assert words.horizon(LagProfile(np.arange(4), none, none, none, np.zeros(4, int))) == "not measured"


def test_headlines_carry_the_numbers_of_the_records():
    study = studies.digits()
    whole = about(study)
    said = plain(verdict.section(whole).headline)
    for run in study.runs:
        assert words.horizon(run.flows[-1].lags) in said
    assert "96.8%" in plain(learning.section(whole).headline)
    assert "10.1%" in plain(learning.section(whole).headline)
    share = sum(u.grad_norm > 1 for u in study.runs[0].updates) / len(study.runs[0].updates)
    assert words.percent(share) in plain(clipping.section(whole).headline)
    assert "a step-size limiter in elman" in plain(clipping.section(whole).headline)
    assert "1257 sequences" in plain(repeat.section(whole).headline)
    assert "seed 0" in plain(repeat.section(whole).headline)


def test_what_is_left_at_the_tasks_lag_is_read_off_the_profile():
    said = plain(lags.section(about(studies.reviews())).headline)
    flow = studies.reviews().runs[1].flows[-1]
    assert f"lstm keeps {100 * 10 ** flow.lags.median[20]:.1f}%" in said
    assert said.startswith("At 20 steps back")


def test_blame_of_a_last_step_loss_is_one_row():
    one = blame.section(about(studies.digits(last_only=True)))
    assert len(one.body) == 1
    many = blame.section(about(studies.digits()))
    assert len(many.body) == 3
    flow = studies.run("lstm", last_only=True).flows[-1]
    t, k, share = blame.share_back(flow.blame)
    assert (t, k) == (63, 0)
    assert share == pytest.approx(flow.blame[63, 0] - flow.blame[63, 63])


def test_what_a_gate_keeps_is_its_mean_opening():
    study = studies.alone()
    mean = float(np.mean(study.runs[0].flows[-1].gates["forget"].mean))
    said = plain(gates.section(about(study), "pixel").headline)
    assert words.percent(mean) in said
    assert f"{round(math.log(0.5) / math.log(mean))} steps" in said


def test_what_is_missing_is_listed():
    said = plain(gaps.section(about(studies.unmeasured())).body)
    assert "no gradient flow was measured" in said
    assert "no score on test data" in said
    assert "Transport of single units" in plain(gaps.section(about()).body)


def test_findings_stand_with_the_most_serious_first():
    from throughtime.records import Finding

    several = [
        Finding(rule, severity, "lstm", f"{severity} thing.", ("why",), "do", "type", "check")
        for rule, severity in (("a", "good"), ("b", "warning"), ("c", "serious"), ("d", "note"))
    ]
    section = advice.section(about(), several)
    assert plain(section.headline).startswith("First, serious thing (2 of 4")
    assert [plain(part).split()[0] for part in section.body] == ["Serious", "Warning", "Note", "Good"]


def test_a_cell_keeps_its_colour_whatever_stands_beside_it():
    alone = {s.label: s.colour for s in about(studies.alone()).strands}
    beside = {s.label: s.colour for s in about(studies.digits()).strands}
    assert alone["lstm"] == beside["lstm"]
    assert len(set(beside.values())) == 3
    many = subject([studies.run(cell, count=10) for cell in ("lstm", "lstm", "gru", "elman", "gru")])
    assert len({one.colour for one in many.runs}) == 5
    assert [one.label for one in many.runs] == ["lstm", "lstm (2)", "gru", "elman", "gru (2)"]


@pytest.mark.parametrize(
    ("log10", "said"),
    [
        (-12.34, "10−12.3"), (0.0, "1"), (-2.0, "0.01"), (-math.inf, "exactly 0"), (math.nan, "not measured"),
        (math.inf, "infinite"), (-3000.0, "10−3000.0"),
    ],
)  # fmt: skip
def test_powers_of_ten(log10, said):
    assert plain(words.power(log10)) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.012345678, "0.0123"), (1234567.0, "1\u202f234\u202f567"), (2.0, "2"), (3.1e-9, "3.1e−9"), (-0.5, "−0.5"),
     (0.0, "0"), (1e12, "1.0e12"), (0.0001, "0.0001")],
)  # fmt: skip
def test_plain_numbers(value, said):
    assert words.plain(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(3.21, "3.2 s"), (45.0, "45 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 5 min")]
)
def test_durations(seconds, said):
    assert words.duration(seconds) == said


def test_each_layer_of_a_stack_has_its_own_account():
    run = studies.run("lstm", count=10)
    upper = tuple(dataclasses.replace(flow, layer="recurrent.1") for flow in run.flows)
    whole = subject(dataclasses.replace(run, flows=(*run.flows, *upper)))
    assert [strand.label for strand in whole.strands] == ["lstm (recurrent)", "lstm (layer 1)"]
    assert len({strand.colour for strand in whole.strands}) == 1
    assert all(strand.before is not None and strand.now.moment == "after" for strand in whole.strands)
    assert len(whole.runs) == 1


def test_without_a_known_lag_the_verdict_says_how_long_sequences_are():
    run = studies.run("lstm", count=10)
    words_ = studies.card(step="word", lengths=(1, 12, 73))
    said = plain(verdict.headline(about(studies.study(run, data=words_))))
    assert said.endswith("; a sequence has 12 words in the middle, 73 at most.")
    stream = plain(verdict.headline(about(studies.study(run, data=studies.card(kind="next")))))
    assert "a sequence has" not in stream, "a stream has no first step"


def test_a_run_without_a_score_says_why():
    run = studies.run("lstm", count=10)
    broken = dataclasses.replace(run, label="rnn", test=None, evaluations=(), stopped="update 11: the loss is inf.")
    assert plain(learning.section(about(studies.study(run, broken))).headline).endswith(
        "No score in rnn: update 11: the loss is inf."
    )
    assert "No score in rnn: update 11" in plain(learning.section(about(studies.study(broken))).headline)


@pytest.mark.parametrize(
    ("severities", "said"),
    [
        (("note", "good"), "Nothing asks for action; worth knowing: a note."),
        (("good", "serious"), "First, a serious (1 of 2 findings asks for action)."),
        (("good", "good"), "Nothing needs doing: all 2 findings are good."),
    ],
)
def test_what_to_do_first_is_said_only_where_something_is_to_be_done(severities, said):
    found = [Finding("rule", s, "lstm", f"a {s}.", (), "", "", "") for s in severities]
    assert plain(advice.section(about(), found).headline) == said
