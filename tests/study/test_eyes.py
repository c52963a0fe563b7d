"""How much is measured beside training: a choice of a person, and a budget that is the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import throughtime as tt
from tests.tolerances import MEASURE
from throughtime.flow import probe, survey
from throughtime.study import run as study
from throughtime.study.eyes import SEQUENCES, STEPS, Eyes, seconds_of
from throughtime.study.folder import Folder
from throughtime.study.plan import Choice, parse_cells
from throughtime.study.recipes import settle
from throughtime.view import report
from throughtime.view.sections.notes import note
from throughtime.view.words import count


def series(path, steps: int, count: int = 20):
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.normal(size=(count, steps, 1)).astype(np.float32), y=np.arange(count) % 2)
    return str(path)


def begun(path, source: str, measure: str):
    """A study of one small net, not yet run."""
    origin, dataset = study.prepare(
        source, parse_cells("lstm"), {}, {"hidden": 3}, {"epochs": 1, "batch_size": 8},
        seed=0, device="cpu", trackers=(), command="", measure=measure,
    )  # fmt: skip
    return origin, dataset, Folder(path)


MOMENTS = {"none": set(), "quick": {"before", "during", "after"}, "usual": {"before", "during", "after"}}


@pytest.mark.parametrize("measure", MOMENTS)
def test_measure_decides_what_is_in_the_records(measure: str, tmp_path) -> None:
    origin, dataset, folder = begun(tmp_path / "out", series(tmp_path / "a.npz", 9), measure)
    with folder.begin(origin):
        list(study.run(origin, dataset, folder))
    whole = folder.read_study()
    flows = whole.runs[0].flows
    assert {flow.moment for flow in flows} == MOMENTS[measure]
    assert whole.runs[0].test is not None
    if measure != "none":
        assert (flows[-1].blame is None) == (measure == "quick")
        assert (flows[-1].paths is None) == (measure == "quick")
    page = report(whole, tmp_path / "report.html").read_text()
    assert ("no gradient flow was measured" in page) == (measure == "none")


def test_probe_of_the_last_steps_equals_the_end_of_the_whole() -> None:
    data = tt.data.load("adding", lag=40, samples=40)
    net = tt.Net.build(data.card, "lstm", hidden=4, layers=2)
    batch = data.train.batch(range(5))
    whole = probe(net, batch, moment="after", update=0, extent="usual")
    late = probe(net, batch, moment="after", update=0, extent="usual", most_steps=15)
    assert (whole.T, whole.before, late.T, late.before) == (40, 0, 15, 25)
    assert late.adjoint == pytest.approx(whole.adjoint[-15:], rel=MEASURE[torch.float64])
    assert late.step_gain == pytest.approx(whole.step_gain[-15:], rel=MEASURE[torch.float64])
    assert late.blame[-1] == pytest.approx(whole.blame[-1, -15:], rel=MEASURE[torch.float64])
    assert any(
        note.startswith("Only the last 15 of 40 steps were measured; `--measure whole`") for note in late.left_out
    )
    assert not any(note.startswith("Only the last") for note in whole.left_out)
    assert probe(net, batch, moment="after", update=0, extent="quick", most_steps=40).before == 0


def test_example_of_a_long_sequence_shows_its_last_steps() -> None:
    data = tt.data.load("adding", lag=40, samples=40)
    net = tt.Net.build(data.card, "lstm", hidden=4)
    one, words = data.train.batch([0]), data.train.words(0)
    whole = probe(net, one, moment="after", update=0, extent="quick", examples=[(one, words)]).examples[0]
    late = probe(net, one, moment="after", update=0, extent="quick", examples=[(one, words)], most_steps=15).examples[0]
    assert late.steps == whole.steps[-15:]
    assert (late.truth, late.answer) == (whole.truth, whole.answer)
    for field in ("memory", "blame"):
        assert getattr(late, field) == pytest.approx(getattr(whole, field)[-15:], rel=MEASURE[torch.float64])
    assert late.gates["forget"] == pytest.approx(whole.gates["forget"][-15:], rel=MEASURE[torch.float64])


def test_sequences_that_end_before_the_last_steps_are_left_out_with_a_note() -> None:
    data = tt.data.load("adding", lag=20, samples=40)
    net = tt.Net.build(data.card, "gru", hidden=3)
    batch = data.train.batch(range(4))
    short = type(batch)(batch.x, torch.tensor([20, 7, 20, 16]), batch.y)
    late = probe(net, short, moment="after", update=0, extent="usual", most_steps=8)
    assert (late.T, late.B, late.before) == (8, 3, 12)
    assert any("and 1 of 4 sequences, which end before them, were left out" in note for note in late.left_out)


def test_pairs_of_steps_are_bounded_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tt.data.load("adding", lag=60, samples=40)
    net = tt.Net.build(data.card, "gru", hidden=3, readout="mean")
    batch = data.train.batch(range(4))
    assert probe(net, batch, moment="after", update=0, extent="usual").lags.pairs.max() == 60 * 4
    monkeypatch.setattr(survey, "_NUMBERS", 60 * 4 * 7)
    record = probe(net, batch, moment="after", update=0, extent="usual")
    assert record.lags.pairs.max() == 7 * 4
    assert any("Credit was taken from 7 of the steps" in note for note in record.left_out)


def test_the_budget_is_of_steps_and_follows_the_training(tmp_path) -> None:
    data = tt.data.load(series(tmp_path / "long.npz", 3000))
    trial = settle(Choice("lstm", "lstm"), data.card, {"hidden": 8}, {"batch_size": 8})
    few, many = seconds_of(trial, data.card, 10), seconds_of(trial, data.card, 10_000)
    assert many == pytest.approx(1000 * few)
    net = tt.Net.build(data.card, "lstm", hidden=8)
    short = Eyes(data, trial, "quick", few).look(net, "before", 0, 0)
    assert (short.T, short.before) == (STEPS, 3000 - STEPS)
    assert Eyes(data, trial, "quick", many).look(net, "before", 0, 0).T > STEPS
    assert not Eyes(data, trial, "none", few).due(1, 1)
    assert f"{short.B} sequences over the last {count(512)} of {count(3000)} steps" in note([short], "Steps")


def test_fewer_sequences_are_measured_where_they_are_long(tmp_path) -> None:
    short = tt.data.load(series(tmp_path / "short.npz", 50, 200))
    long = tt.data.load(series(tmp_path / "long.npz", 50_000, 10))
    for data, hidden, sequences in ((short, 128, SEQUENCES), (long, 128, 1)):
        trial = settle(Choice("lstm", "lstm"), data.card, {"hidden": hidden}, {})
        assert Eyes(data, trial, "quick", 0.0)._batch.size == sequences
