"""What is typed for cells, and what each is given."""

import pytest

from throughtime.errors import CellError, InputError
from throughtime.records import DataCard
from throughtime.study.plan import Choice, parse_cells
from throughtime.study.recipes import settle

CARD = DataCard(
    "adding", "regression", "step", False, 2, 1, (), "mse", 1 / 6, "the mean", 100, {"train": 10}, (100, 100, 100), "ab"
)


def test_cells_as_typed():
    rnn, gru, lstm = parse_cells("rnn, gru:reset=before,lstm:peephole=true:coupled=false,")
    assert rnn == Choice("rnn", "elman", {})
    assert gru == Choice("gru:reset=before", "gru", {"reset": "before"})
    assert lstm.options == {"peephole": True, "coupled": False}
    assert parse_cells("taps:taps=4")[0].options == {"taps": 4}
    typed = "x:a=0.5:b=-1:c=1e-3:d=nan:e=1_0:f=.5:g=FALSE:h=1.:i=tanh"
    values = {"a": 0.5, "b": -1, "c": 0.001, "d": "nan", "e": "1_0", "f": 0.5, "g": False, "h": 1.0, "i": "tanh"}
    assert parse_cells(typed)[0].options == values
    assert {key: type(value) for key, value in parse_cells(typed)[0].options.items()} == {
        key: type(value) for key, value in values.items()
    }


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("", "no cell was named"),
        (",", "no cell"),
        ("gru,gru", "twice"),
        ("gru:reset", "KEY=VALUE"),
        ("gru,feedforward:diagonal=true", "cannot be trained on data"),
        ("mycells.py:MyCell", "A cell of your own is trained in Python"),
        ("cells/mine.py:MyCell:gain=0.5", "A cell of your own is trained in Python"),
    ],
)
def test_cells_mistyped(typed, why):
    with pytest.raises(InputError, match=why):
        parse_cells(typed)


def test_what_was_asked_for_wins_over_the_recipe():
    trial = settle(Choice("lstm", "lstm"), CARD, {"hidden": 7, "forget_bias": 3.0}, {"rate": 0.5, "clip": None})
    assert (trial.shape.hidden, trial.shape.forget_bias) == (7, 3.0)
    assert (trial.settings.rate, trial.settings.clip) == (0.5, None)


def test_little_data_gets_smaller_batches_and_a_percentile_its_own_threshold():
    assert settle(Choice("lstm", "lstm"), CARD, {}, {}).settings.batch_size == 10
    assert settle(Choice("lstm", "lstm"), CARD, {}, {"batch_size": 99}).settings.batch_size == 99
    assert settle(Choice("lstm", "lstm"), CARD, {}, {"clip_by": "percentile"}).settings.clip == 10
    asked = {"clip_by": "percentile", "clip": 50.0}
    assert settle(Choice("lstm", "lstm"), CARD, {}, asked).settings.clip == 50


def test_settings_of_a_gate_pass_by_a_cell_without_one():
    assert settle(Choice("rnn", "elman"), CARD, {"forget_bias": 3.0}, {}).shape.forget_bias is None
    assert settle(Choice("x", "lstm", {"forget_gate": False}), CARD, {}, {}).shape.forget_bias is None
    chrono = settle(Choice("lstm", "lstm"), CARD, {"chrono": 100}, {}).shape
    assert (chrono.chrono, chrono.forget_bias) == (100, None)


def test_an_option_the_cell_has_not_is_refused_before_anything_is_written():
    with pytest.raises(CellError, match="reset"):
        settle(Choice("lstm:reset=before", "lstm", {"reset": "before"}), CARD, {}, {})
