"""Running text, character by character."""

import numpy as np
import pytest

import throughtime as tt
from tests.data.files import write
from throughtime.errors import InputError

TEXT = "It was the best of times, it was the worst of times.\n" * 40


@pytest.mark.parametrize("name", ["play.txt", "play.txt.gz"])
def test_every_character_is_answered_by_the_next(tmp_path, name):
    data = tt.data.load(write(tmp_path / name, TEXT))
    card = data.card
    assert (card.kind, card.step, card.metric, card.tokens) == ("next", "character", "nats", True)
    assert card.inputs == card.outputs == len(data.vocabulary) == len(set(TEXT)) + 2
    whole = "".join("".join(data.train.windows(50).words(i)) for i in range(len(data.train.windows(50))))
    assert whole == TEXT[: len(whole)]
    assert len(whole) == round(0.8 * len(TEXT)) - 1
    batch = data.test.lanes(1).batch([0])
    assert "".join(data.vocabulary[token] for token in batch.y[:, 0].tolist()) == TEXT[-batch.y.shape[0] :]
    assert data.answers_each_step
    assert data.continues


def test_the_obvious_guess_is_the_unigram(tmp_path):
    data = tt.data.load(write(tmp_path / "a.txt", TEXT))
    train, test = TEXT[: round(0.8 * len(TEXT))], TEXT[-round(0.1 * len(TEXT)) + 1 :]
    share = {c: (train.count(c) + 1) / (len(train) + len(data.vocabulary)) for c in set(TEXT)}
    assert data.card.baseline == pytest.approx(-np.mean([np.log(share[c]) for c in test]), rel=1e-9)


def test_a_character_that_training_never_saw_is_unknown(tmp_path):
    data = tt.data.load(write(tmp_path / "a.txt", TEXT + "é" * 10))
    assert "é" not in data.vocabulary
    assert data.test.words(len(data.test) - 1)[-1] == "<unknown>"
    assert any("10 characters are outside the vocabulary" in note for note in data.card.notes)


def test_line_ends_are_made_one(tmp_path):
    data = tt.data.load(write(tmp_path / "a.txt", TEXT.replace("\n", "\r\n")))
    assert "\r" not in data.vocabulary
    assert any("CRLF" in note for note in data.card.notes)


def test_a_line_separator_is_a_character_like_others(tmp_path):
    data = tt.data.load(write(tmp_path / "a.txt", "a\x85b\u2028c" * 50))
    assert {"\x85", "\u2028"} <= set(data.vocabulary)


@pytest.mark.parametrize(
    ("text", "options", "match"),
    [
        ("a", {}, r"a.txt: 1 character is too short to predict"),
        ("abcde", {}, r"a.txt: 5 characters are too short to predict"),
        (TEXT, {"label": "x"}, r"--label does not fit a.txt, read as running text; leave it out"),
        (TEXT, {"gaps": "previous"}, r"--gaps does not fit"),
        (TEXT, {"max_length": 0}, r"--max-length 0 is too small"),
    ],
)
def test_what_cannot_be_read(tmp_path, text, options, match):
    with pytest.raises(InputError, match=match):
        tt.data.load(write(tmp_path / "a.txt", text), **options)
