"""Each rule on records made by hand: what it sees, where, what it advises, and when it keeps silent."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace

import numpy as np
import pytest

from tests.diagnosis.made import bounds, card, decay, flow, gate, lags, run, study, updates
from throughtime.diagnosis import RULES, diagnose
from throughtime.errors import InputError
from throughtime.records import Evaluation, Finding, FlowRecord, RunRecord, Settings, Study

NEG = -math.inf


def of(rule: str, record: FlowRecord | RunRecord | Study) -> list[Finding]:
    return [finding for finding in diagnose(record) if finding.rule == rule]


def one(rule: str, record: FlowRecord | RunRecord | Study) -> Finding:
    (finding,) = of(rule, record)
    return finding


def gated(rate: float = 0.5, **changes) -> FlowRecord:
    T = changes.get("T", 101)
    return flow(
        rate,
        cell="lstm",
        ports={"carousel": np.full(T, math.log10(rate)), "input": np.full(T, -3.0)},
        gates={"forget": gate(rate, T=T), "input": gate(0.5, T=T)},
        **changes,
    )


# -- vanishing


def test_vanishing_names_lag_port_and_step() -> None:
    port = np.full(101, math.log10(0.5))
    port[42] = -2.0
    finding = one("vanishing", study(run(flow(0.5, ports={"recurrent": port, "other": port - 1}), score=0.17)))
    assert finding.severity == "serious"
    assert finding.title == (
        "elman: after training 1% of the gradient reaches only 6 steps back; the task needs 100."
    )  # 0.5^6 = 1.6%, 0.5^7 = 0.8%
    evidence = " ".join(finding.evidence)
    assert "At lag 7 a median of 0.00781" in evidence
    assert "Half of it is gone at lag 2." in evidence  # under a half, not at it
    assert "100, 10^-30.1 of it is left" in evidence
    assert "recurrent 0.5, other 0.05" in evidence
    assert "recurrent carries least at step 42: 0.01." in evidence
    assert finding.command == "throughtime train adding --lag 100 --cell lstm --chrono 100"


def test_vanishing_in_a_gated_cell_is_a_matter_of_its_gate() -> None:
    record = study(run(gated(), label="lstm:peephole=true", score=0.17))
    finding = one("vanishing", record)
    assert finding.command == "throughtime train adding --lag 100 --cell lstm:peephole=true --chrono 100"
    assert "gate" in finding.advice


def test_a_reach_that_training_shortened() -> None:
    before = flow(0.99, moment="before")
    finding = one("vanishing", study(run(before, flow(0.5), score=0.17)))
    assert "Before training it reached at least 100 steps back." in finding.evidence
    assert finding.command == "throughtime train adding --lag 100 --cell elman --rate 0.001"


def test_what_was_learned_all_the_same_is_a_note() -> None:
    assert one("vanishing", study(run(flow(0.5), score=0.001))).severity == "note"


def test_an_untrained_net_is_no_verdict() -> None:
    finding = one("vanishing", study(run(flow(0.5, moment="before"))))
    assert finding.severity == "note"
    assert "before training" in finding.title


def test_without_a_lag_the_first_step_counts_if_only_the_last_answers() -> None:
    data = card(lag=None, kind="classification", lengths=(20, 101, 300))
    finding = one("vanishing", study(run(flow(0.5)), data=data))
    assert finding.severity == "warning"
    assert "the first step lies 100 back" in finding.title
    every = replace(run(flow(0.5)), model=replace(run().model, readout="mean"))
    assert not of("vanishing", study(every, data=data))
    assert one("reach", study(every, data=data)).severity == "note"


def test_of_a_flow_alone_the_direct_gradient_says_who_answers() -> None:
    assert one("vanishing", flow(0.5)).command == "throughtime train SOURCE --cell lstm --chrono 100"
    everywhere = flow(0.5, direct=np.full(101, -1.0))
    assert not of("vanishing", everywhere)
    assert one("reach", everywhere).severity == "note"


def test_a_gradient_that_is_exactly_zero() -> None:
    """Dead units: a true zero is not a small number."""
    dead = flow(
        lags=lags([0.0, *[NEG] * 100]),
        adjoint=np.array([NEG] * 100 + [-1.0]),
        ports={"recurrent": np.full(101, NEG)},
        step_gain=np.full(101, NEG),
    )
    finding = one("vanishing", study(run(dead, score=0.17)))
    assert "reaches only 0 steps back" in finding.title
    assert any("exactly nothing" in sentence for sentence in finding.evidence)
    assert any("recurrent 0." in sentence for sentence in finding.evidence)


def test_a_horizon_at_the_end_of_what_was_measured_is_a_lower_bound() -> None:
    short = flow(0.99, T=50)
    assert not of("vanishing", study(run(short, score=0.17)))
    finding = one("reach", study(run(short, score=0.17)))
    assert finding.severity == "note"
    assert "at least 49 steps back" in finding.title
    assert "100 are needed" in finding.title


def test_lags_that_were_not_measured_are_not_zero() -> None:
    median = np.arange(101) * math.log10(0.5)
    median[50:] = math.nan
    finding = one("vanishing", study(run(flow(lags=lags(median)), score=0.17)))
    assert not any("At the lag that is needed" in sentence for sentence in finding.evidence)


# -- reach


def test_the_good_news() -> None:
    enough = flow(0.99, T=151, lags=lags(np.where(np.arange(151) < 121, -0.01, -5.0) * (np.arange(151) > 0)))
    finding = one("reach", study(run(enough, score=0.001), data=card(lengths=(151, 151, 151))))
    assert finding.severity == "good"
    assert finding.title.endswith("1% of the gradient reaches 120 steps back; the task's lag is 100.")


def test_good_news_at_the_end_of_what_was_measured() -> None:
    assert "at least 100 steps" in one("reach", study(run(flow(0.99), score=0.001))).title


@pytest.mark.parametrize("median", [[], [math.nan] * 5])
def test_nothing_measured_is_said(median: list[float]) -> None:
    blank = flow(lags=lags(median), left_out=("All pairs: no step has a gradient.",))
    (finding,) = diagnose(blank)
    assert (finding.rule, finding.severity) == ("reach", "note")
    assert "was not measured" in finding.title
    assert finding.evidence == ("All pairs: no step has a gradient.",)


def test_a_run_without_flow() -> None:
    (finding,) = diagnose(run())
    assert "was not measured" in finding.title
    assert diagnose(study()) == ()


# -- exploding


def test_exploding_names_the_step() -> None:
    T = 21
    adjoint = -1.0 + 0.2 * np.arange(T)[::-1]
    adjoint[:8] += 1.5  # between step 8 and step 7
    gain = np.full(T, 0.2)
    gain[8] = 1.7
    grown = flow(lags=lags(0.2 * np.arange(T)), T=T, adjoint=adjoint, step_gain=gain, bounds=bounds(1.8, T))
    finding = one("exploding", grown)
    assert finding.severity == "serious"  # 10^4 at lag 20
    assert finding.title == "elman: after training the gradient grows 10^4.0 times on its way back to lag 20."
    evidence = " ".join(finding.evidence)
    assert "grows most from step 8 to step 7: 50.1 times" in evidence
    assert "step 8: ‖J_k‖₂ = 50.1" in evidence
    assert "γλ is 1.8 a step" in evidence
    assert "--clip 1 --init orthogonal" in finding.command


def test_some_growth_is_a_warning_and_a_little_is_none() -> None:
    assert one("exploding", flow(lags=lags([0.0, 0.5, 1.2]), T=3)).severity == "warning"
    assert not of("exploding", flow(lags=lags([0.0, 0.5, 0.9]), T=3))


def test_infinite_growth() -> None:
    broken = flow(lags=lags([0.0, 10.0, math.inf]), T=3, adjoint=np.array([math.inf, 9.0, -1.0]))
    finding = one("exploding", broken)
    assert finding.severity == "serious"
    assert "infinite" in finding.title
    assert any("from step 2 to step 1" in sentence for sentence in finding.evidence)


def test_a_loss_that_is_not_a_number() -> None:
    steps = (*updates([0.5] * 30), replace(updates([math.nan])[0], update=31, loss=math.nan))
    finding = one("exploding", study(run(flow(0.99), updates=steps)))
    assert finding.severity == "serious"
    assert "update 31" in finding.title
    assert any("0.5 in the median" in sentence for sentence in finding.evidence)


def test_a_spike_in_the_gradient_norm() -> None:
    finding = one("exploding", study(run(flow(0.99), updates=updates([0.1] * 40 + [30.0] + [0.1] * 40))))
    assert finding.severity == "warning"
    assert "300 times what it had been" in finding.title
    assert any("30 at update 41" in sentence for sentence in finding.evidence)
    assert "--clip 0.1" in finding.command


# -- window


def settings(**changes) -> Settings:
    return replace(Settings(), **changes)


def test_a_window_shorter_than_the_lag() -> None:
    finding = one("window", study(run(flow(0.9), settings=settings(window=32), score=0.17)))
    assert finding.severity == "serious"
    assert "32 steps is shorter than the task's lag of 100" in finding.title
    assert finding.command.endswith("--cell elman --window 101")


def test_a_window_of_just_the_lag_misses_it_by_one() -> None:
    data = card(lengths=(200, 200, 200))
    assert one("window", study(run(flow(0.9), settings=settings(window=100)), data=data)).severity == "serious"
    assert not of("window", study(run(flow(0.9), settings=settings(window=101)), data=data))


def test_a_window_shorter_than_the_reach() -> None:
    data = card(lag=None, lengths=(101, 101, 101))
    finding = one("window", study(run(flow(0.9), settings=settings(window=16)), data=data))
    assert finding.severity == "warning"  # 0.9^43 = 1.08%
    assert "gradient's reach of 43" in finding.title
    assert finding.command.endswith("--window 44")


def test_a_window_much_longer_than_needed() -> None:
    data = card(lag=None, lengths=(101, 500, 1000))
    record = study(run(flow(0.5), settings=settings(window=64)), data=data)
    finding = one("window", record)
    assert finding.severity == "note"
    assert finding.command.endswith("--window 14")  # horizon 6: 7 steps, twice
    near = study(run(flow(0.5), settings=settings(window=28)), data=data)
    assert not of("window", near)


def test_a_window_that_cuts_no_sequence() -> None:
    assert not of("window", study(run(flow(0.5), settings=settings(window=101))))
    assert not of("window", study(run(flow(0.5))))


# -- forgetting


def test_a_forget_bias_too_low_for_the_lag() -> None:
    before = gated(0.5, moment="before")
    finding = one("forgetting", study(run(before, gated(0.5), label="lstm", score=0.17)))
    assert finding.severity == "warning"
    assert "starts at 0.50, which keeps 10^-30.1 of a memory over 100 steps" in finding.title
    assert finding.command == "throughtime train adding --lag 100 --cell lstm --forget-bias 4.6"  # log 99
    assert any("log(100 − 1) = 4.60" in sentence for sentence in finding.evidence)


def test_one_unit_that_remembers_is_enough() -> None:
    """As chrono starts: few units keep for long, by intent."""
    spread = gated(0.9, moment="before")
    stats = gate(0.9, units=[0.5, 0.8, 0.9, 0.99])
    assert not of("forgetting", study(run(replace(spread, gates={"forget": stats}), label="lstm")))


def test_a_gate_that_starts_shut() -> None:
    shut = flow(0.5, cell="gru", ports={"carousel": np.zeros(101)}, gates={"update": gate(0.0)}, moment="before")
    assert "keeps 0 of a memory" in one("forgetting", study(run(shut, label="gru"))).title


def test_training_opened_it() -> None:
    assert not of("forgetting", study(run(gated(0.5, moment="before"), gated(0.999), label="lstm")))


def test_no_memory_gate_to_speak_of() -> None:
    assert not of("forgetting", study(run(flow(0.5, moment="before"))))
    assert not of("forgetting", study(run(replace(gated(0.5, moment="before"), gates={}), label="lstm")))
    unmeasured = replace(gated(0.5, moment="before"), gates={"forget": gate(math.nan)})
    assert not of("forgetting", study(run(unmeasured, label="lstm")))


def test_a_command_names_one_way_to_set_the_bias() -> None:
    typed = "throughtime compare adding --lag 100 --cells=lstm --chrono 20 --hidden 8"
    finding = one("forgetting", study(run(gated(0.5, moment="before"), label="lstm"), command=typed))
    assert finding.command == "throughtime train adding --lag 100 --hidden 8 --cell lstm --forget-bias 4.6"


# -- saturation


def test_saturated_units() -> None:
    finding = one("saturation", flow(saturation={"h": 0.7}))
    assert finding.severity == "warning"
    assert "h is saturated for 70% of units and steps" in finding.title


def test_an_open_memory_gate_is_no_fault_and_a_shut_one_is() -> None:
    open_ = replace(gated(0.99), gates={"forget": gate(0.99, high=0.95)}, saturation={"forget": 0.95})
    assert not of("saturation", open_)
    low = np.linspace(0.8, 1.0, 101)
    shut = replace(gated(0.5), gates={"forget": replace(gate(0.02), low=low)}, saturation={"forget": 0.9})
    finding = one("saturation", shut)
    assert "90% are at the lower end, 0% at the upper one." in finding.evidence
    assert "Most are at step 100: 100%." in finding.evidence


def test_little_or_unmeasured_saturation() -> None:
    assert not of("saturation", flow(saturation={"h": 0.4, "s": math.nan}))


# -- clipping


def test_clipping_that_limits_every_step() -> None:
    norms = [float(n) for n in range(2, 102)]
    finding = one("clipping", study(run(flow(0.99), updates=updates(norms), score=0.17)))
    assert finding.severity == "warning"
    assert "acts on 100% of updates" in finding.title
    assert finding.command.endswith("--clip 91")  # the 90th percentile of 2 … 101 is 91.1


def test_clipping_values_cannot_be_set_from_norms() -> None:
    record = run(flow(0.99), updates=updates([50.0] * 30), settings=settings(clip_by="value", clip=0.1))
    assert one("clipping", study(record)).command.endswith("--clip 1")


def test_a_safety_net_that_was_never_used() -> None:
    finding = one("clipping", run(flow(0.99), updates=updates([0.5] * 30)))
    assert finding.severity == "note"
    assert finding.command == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"updates": updates([2.0] * 10)},  # too few to judge
        {"updates": updates([2.0] * 15 + [0.5] * 15)},  # a safety net at work
        {"updates": updates([2.0] * 30), "settings": settings(clip_by="percentile", clip=10.0)},
        {"updates": updates([2.0] * 30), "settings": settings(clip_by="always")},
        {"updates": updates([2.0] * 30, None), "settings": settings(clip=None)},
        {"updates": ()},
    ],
)
def test_clipping_that_says_nothing(changes: dict) -> None:
    assert not of("clipping", run(flow(0.99), **changes))


# -- baseline


def test_not_better_than_the_obvious_guess() -> None:
    finding = one("baseline", study(run(flow(0.5), score=0.165, updates=updates([0.5]))))
    assert finding.severity == "serious"
    assert "error of 0.165 is hardly better than the obvious guess, 0.1667" in finding.title
    assert "dies at lag 6 of 100" in finding.advice
    assert finding.command == one("vanishing", study(run(flow(0.5), score=0.165))).command


def test_not_the_gradients_fault() -> None:
    finding = one("baseline", study(run(flow(0.99), score=0.3)))
    assert finding.command == "throughtime train adding --lag 100 --cell elman --epochs 40 --hidden 32"


def test_better_by_luck_is_not_better() -> None:
    data = card(metric="accuracy", baseline=0.5, baseline_is="the most frequent label", sizes={"test": 100})
    lucky = one("baseline", study(run(flow(0.99), score=0.59), data=data))  # two standard errors of 100 coins: 0.1
    assert "an accuracy of 59.0% is hardly better than the obvious guess, 50.0%" in lucky.title
    assert "within 10.0% of the guess may be luck" in " ".join(lucky.evidence)
    worse = one("baseline", study(run(flow(0.99), score=0.41), data=data))
    assert "41.0% does not beat the obvious guess, 50.0%" in worse.title
    assert not of("baseline", study(run(flow(0.99), score=0.61), data=data))


def test_a_score_that_is_not_a_number() -> None:
    assert of("baseline", study(run(flow(0.99), score=math.nan)))


def test_without_a_test_the_best_on_valid_counts() -> None:
    seen = tuple(
        Evaluation(n, 0, "valid", s, s, best) for n, s, best in [(1, 0.2, True), (2, 0.01, True), (3, 0.3, False)]
    )
    assert not of("baseline", study(run(flow(0.99), evaluations=seen)))
    assert not of("baseline", study(run(flow(0.99))))
    assert not of("baseline", run(flow(0.99), score=0.3))  # no data: no guess to beat


# -- all together


def test_most_serious_first() -> None:
    record = study(
        run(flow(0.5), score=0.17, updates=updates([2.0] * 30)),
        run(gated(0.5, moment="before"), gated(0.99), label="lstm", score=0.001, updates=updates([0.5] * 30)),
    )
    findings = diagnose(record)
    order = ("serious", "warning", "note", "good")
    assert [order.index(f.severity) for f in findings] == sorted(order.index(f.severity) for f in findings)
    assert {f.cell for f in findings} == {"elman", "lstm"}
    assert findings[0].cell == "elman"
    assert findings[-1].severity == "good"


def test_the_layer_that_reaches_furthest_speaks_for_the_run() -> None:
    """One layer that carries the gradient back is enough; stuck units are said of each."""
    flows = [
        flow(rate, layer=f"recurrent.{layer}", moment=when, saturation={"h": 0.8})
        for when in ("before", "after")
        for layer, rate in enumerate((0.5, 0.6, 0.4))
    ]
    record = study(run(*flows, score=0.17, updates=updates([2.0] * 30), settings=settings(window=8)))
    for rule in ("baseline", "clipping", "window", "vanishing"):
        assert len(of(rule, record)) == 1
    assert one("vanishing", record).title.startswith("elman (layer 1): after training 1% of the gradient")
    assert len(of("saturation", record)) == 3
    reaching = study(run(*flows, flow(0.99, layer="recurrent.3"), score=0.17))
    assert not of("vanishing", reaching)
    assert one("reach", reaching).severity == "good"


def test_during_counts_where_training_never_ended() -> None:
    record = run(flow(0.99, moment="before"), flow(0.5, moment="during"), flow(0.6, moment="during"))
    assert "while training 1% of the gradient reaches only 9 steps back" in one("vanishing", record).title


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("throughtime compare 'my file.csv' --cells rnn --seed 3 --out=x", "throughtime train 'my file.csv' --seed 3"),
        ("throughtime train adding --lag 100 --cell lstm --chrono=9", "throughtime train adding --lag 100"),
        ("throughtime demo", "throughtime train adding"),
        ("throughtime compare --resume runs/a", "throughtime train adding"),
        ("throughtime compare 'unclosed", "throughtime train adding"),
    ],
)
def test_the_command_repeats_what_was_typed(typed: str, expected: str) -> None:
    finding = one("vanishing", study(run(flow(0.5), score=0.17), command=typed))
    assert finding.command == f"{expected} --cell lstm --chrono 100"


def extreme_records() -> list[FlowRecord | RunRecord | Study]:
    flows = [
        flow(T=1),
        flow(T=0, lags=lags([])),
        flow(T=2, lags=lags([0.0, NEG])),
        flow(T=3, lags=lags([math.nan, 0.0, NEG]), ports={"carousel": np.full(3, math.nan)}),
        flow(adjoint=np.full(101, math.nan), step_gain=np.full(101, math.nan), ports={}),
        flow(adjoint=np.full(101, NEG), direct=np.full(101, NEG)),
        flow(0.5, saturation={"h": 1.0, "forget": 1.0}, gates={"forget": gate(math.nan, low=math.nan, high=math.nan)}),
        flow(2.0, bounds=replace(bounds(2.0), globally=None)),
        flow(2.0, bounds=replace(bounds(2.0), globally=np.full(101, math.nan))),
    ]
    norms = [[], [0.0] * 30, [math.nan] * 30, [math.inf] * 30, [1e300, 1e-300] * 20]
    runs = [run(each, score=score) for each in flows for score in (None, 0.0, math.inf)]
    runs += [run(flow(), updates=updates(each), settings=settings(window=1)) for each in norms]
    cards = [card(lag=0), card(lag=1), card(lag=None, lengths=(0, 0, 0)), card(baseline=0.0, metric="nats", sizes={})]
    cards += [card(kind="next", metric="accuracy", baseline=1.0)]
    return [*flows, *runs, *(study(*runs, data=each) for each in cards)]


@pytest.mark.parametrize("number", range(len(extreme_records())))
def test_whatever_the_record_findings_are_whole(number: int) -> None:
    """Zeros, NaN, infinities and nothing at all: sentences with a meaning, and commands a shell can read."""
    for finding in diagnose(extreme_records()[number]):
        assert finding.title.endswith(".")
        assert finding.evidence
        assert all(sentence.endswith(".") for sentence in finding.evidence)
        assert finding.advice
        assert finding.check
        assert "nan" not in finding.command
        assert not finding.command or shlex.split(finding.command)[:2] == ["throughtime", "train"]


def test_each_rule_has_a_name_of_its_own() -> None:
    assert len({rule.__name__ for rule in RULES}) == len(RULES)


def test_decay_is_what_it_says() -> None:
    assert decay(0.5, 20).horizon() == 6


@pytest.mark.parametrize("record", [None, (), "gru", np.zeros(3)])
def test_what_is_no_record_is_refused(record: object) -> None:
    with pytest.raises(InputError, match="findings are made from a FlowRecord"):
        diagnose(record)
