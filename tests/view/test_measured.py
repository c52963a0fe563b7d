"""The page of somebody's own model: every layer under its own name, nothing said of a training that is not known."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import throughtime as tt
from tests.view import studies
from throughtime.errors import InputError
from throughtime.records import Measurement, Place
from throughtime.view.report import page
from throughtime.view.subject import subject


def measurement(**changed) -> Measurement:
    flows = (
        replace(studies.flow("lstm", "during", 0), layer="encoder.l0", place=Place("encoder", "LSTM"), examples=()),
        replace(
            studies.flow("lstm", "during", 0, last_only=True),
            layer="encoder.l1",
            place=Place("encoder", "LSTM", 1),
            examples=(),
        ),
        replace(studies.flow("gru", "during", 0, T=48), layer="decoder", place=Place("decoder", "GRU"), examples=()),
    )
    whole = Measurement(
        title="Translator of my_model.py",
        command="throughtime measure my_model.py:make --data pairs.npz",
        created="2026-11-21T07:00:00+00:00",
        versions={"throughtime": "0.1.0", "torch": "2.13.0"},
        machine="Linux x86_64, 2 threads, on the CPU",
        model="my_model.py:make, a Translator of 12,345 parameters, in training mode",
        data="32 of 400 sequences in pairs.npz, 64 steps each",
        flows=flows,
        left_out=("proj (LSTM) cannot be watched: it has a projection.",),
        loss="0.693, cross-entropy",
        card=None,
        notes=("Dropout is on, as the factory left it.",),
    )
    return replace(whole, **changed)


def text(of: Measurement) -> str:
    plain = re.sub(r"<script.*?</script>|<style.*?</style>|<details.*?</details>", "", page(subject(of)), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", plain))


def test_every_layer_has_its_own_name_and_colour():
    strands = subject(measurement()).strands
    assert [strand.label for strand in strands] == ["encoder.l0", "encoder.l1", "decoder"]
    assert len({strand.colour for strand in strands}) == 3
    twice = measurement(flows=(measurement().flows[0],) * 2)
    assert [strand.label for strand in subject(twice).strands] == ["encoder.l0", "encoder.l0 (2)"]


def test_the_page_says_what_was_measured_and_how_to_do_it_again():
    said = text(measurement())
    for wanted in (
        "Translator of my_model.py",
        "throughtime measure my_model.py:make --data pairs.npz",
        "a Translator of 12,345 parameters",
        "32 of 400 sequences in pairs.npz",
        "0.693, cross-entropy",
        "Dropout is on, as the factory left it.",
        "21 November 2026",
        "proj (LSTM) cannot be watched",
    ):
        assert wanted in said, wanted


def test_nothing_is_said_of_training():
    said = text(measurement())
    for unknown in (
        "No training was recorded",
        "Clipping",
        "Held-out score",
        "Horizon untrained",
        "the untrained net, so",
    ):
        assert unknown not in said, unknown
    assert "while training" not in said
    assert "throughtime train" not in said


def test_the_lag_of_a_task_is_held_against_the_layers():
    known = measurement(card=replace(studies.card(), lag=60))
    assert "the task needs 60" in text(known)
    told = [finding for finding in tt.diagnose(known) if "the task needs 60" in finding.title + finding.evidence[0]]
    assert {finding.cell for finding in told} <= {"encoder.l0", "encoder.l1", "decoder"}
    leading = {finding.cell for finding in tt.diagnose(known) if finding.rule in ("reach", "vanishing")}
    assert len(leading & {"encoder.l0", "encoder.l1"}) == 1, "one layer of a stack speaks for it"
    assert {finding.cell for finding in tt.diagnose(measurement())} >= {"encoder.l0", "encoder.l1", "decoder"}


def test_names_are_only_text():
    odd = replace(measurement().flows[0], layer=studies.HOSTILE)
    said = page(subject(measurement(flows=(odd,), title=studies.HOSTILE, notes=(studies.HOSTILE,))))
    assert "<img" not in said


def test_a_measurement_is_a_report_of_its_own(tmp_path: Path):
    assert tt.report(measurement(), tmp_path / "a.html").stat().st_size < 2_000_000
    with pytest.raises(InputError, match="draw it alone"):
        tt.report([measurement(), measurement().flows[0]], tmp_path / "b.html")
    with pytest.raises(InputError, match="no flow record"):
        tt.report(measurement(flows=()), tmp_path / "b.html")


@pytest.mark.browser
def test_it_fits_a_narrow_screen(browser, tmp_path: Path):
    file = tt.report(measurement(), tmp_path / "a.html")
    for width in (1400, 420):
        opened = browser.new_page(viewport={"width": width, "height": 900})
        told: list[str] = []
        opened.on("console", lambda message, told=told: told.append(message.text))
        opened.on("pageerror", lambda error, told=told: told.append(str(error)))
        opened.goto(file.as_uri())
        opened.wait_for_selector("figure canvas")
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        assert not told
        opened.close()
