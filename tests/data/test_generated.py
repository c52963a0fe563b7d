"""Tasks made by rule: the rule holds on every sample, and a sample depends on nothing but its number."""

import math

import numpy as np
import pytest
import torch

import throughtime as tt
from throughtime.errors import InputError

TASKS = ("adding", "copy", "order", "jane")


@pytest.mark.parametrize("name", TASKS)
def test_a_sample_is_a_function_of_its_number(name):
    a = tt.data.load(name, lag=20, samples=50)
    b = tt.data.load(name, lag=20, samples=500)
    together = a.train.batch([3, 7, 11])
    for place, index in enumerate((3, 7, 11)):
        alone = b.train.batch([index])
        steps = int(alone.lengths)
        assert int(together.lengths[place]) == steps == a.train.lengths()[index]
        assert torch.equal(together.x[:steps, place], alone.x[:, 0])
        answer = together.y[:steps, place] if a.answers_each_step else together.y[place]
        assert torch.equal(answer, alone.y[:, 0] if a.answers_each_step else alone.y[0])
        assert (together.x[steps:, place] == 0).all()
        assert len(a.train.words(index)) == steps


@pytest.mark.parametrize("name", TASKS)
def test_splits_and_seeds_differ(name):
    data, other = tt.data.load(name, samples=20), tt.data.load(name, samples=20, seed=1)
    assert data.card.digest == tt.data.load(name, samples=20).card.digest
    assert data.card.digest != other.card.digest
    first = data.train.words(0), data.valid.words(0), data.test.words(0), other.train.words(0)
    assert len(set(first)) == 4


@pytest.mark.parametrize("name", TASKS)
def test_the_card_says_what_the_batches_are(name):
    data = tt.data.load(name, lag=30, samples=200)
    card = data.card
    batch = data.train.batch(range(200))
    assert (
        card.sizes
        == {"train": 200, "valid": 20, "test": 20}
        == {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)}
    )
    assert batch.x.dtype == (torch.int64 if card.tokens else torch.float32)
    assert batch.each_step == data.answers_each_step
    assert batch.y.shape[-1] == (200 if card.kind != "regression" else card.outputs)
    assert len(card.labels) == card.outputs
    if card.tokens:
        assert len(data.vocabulary) == card.inputs
        assert int(batch.x.max()) < card.inputs
        assert int(batch.y.max()) == card.outputs - 1
    else:
        assert batch.x.shape[-1] == card.inputs
    shortest, _, longest = card.lengths
    assert shortest <= int(batch.lengths.min())
    assert int(batch.lengths.max()) <= longest


def test_adding():
    data = tt.data.load("adding", lag=31, samples=4000)
    batch = data.train.batch(range(4000))
    value, mark = batch.x[..., 0], batch.x[..., 1]
    assert torch.equal(mark[:15].sum(0), torch.ones(4000))
    assert torch.equal(mark[15:].sum(0), torch.ones(4000))
    assert torch.allclose((value * mark).sum(0), batch.y[:, 0])
    assert float((batch.y - 1).square().mean()) == pytest.approx(data.card.baseline, abs=0.01)
    assert data.card.baseline == 1 / 6


def test_copying():
    data = tt.data.load("copy", lag=12, samples=20)
    batch = data.train.batch(range(20))
    x, y = batch.x, batch.y
    assert x.shape == (32, 20)
    assert torch.equal(x[:10], y[-10:])
    assert ((x[:10] >= 1) & (x[:10] <= 8)).all()
    assert (y[:-10] == 0).all()
    assert (x[21] == 9).all()
    assert (x[10:21] == 0).all()
    assert (x[22:] == 0).all()
    assert data.card.baseline == pytest.approx(10 * math.log(8) / 32)
    assert data.card.lag == 22


def test_temporal_order():
    data = tt.data.load("order", lag=100, samples=400)
    batch = data.train.batch(range(400))
    for index in range(400):
        words = data.train.words(index)
        places = [t for t, word in enumerate(words) if word in ("X", "Y")]
        assert 10 <= places[0] < 20
        assert 50 <= places[1] < 60
        assert "".join(words[t] for t in places) == data.card.labels[int(batch.y[index])]
        assert (words[0], words[-1]) == ("begin", "end")
    assert (np.bincount(batch.y.numpy(), minlength=4) > 70).all()
    assert data.card.baseline == math.log(4)


def test_jane():
    data = tt.data.load("jane", lag=40, samples=2000)
    batch = data.train.batch(range(2000))
    pronouns = {"jane": "she", "rosa": "she", "john": "he", "fred": "he"}
    seen = set()
    for index in range(2000):
        words = data.train.words(index)
        if words[0] in pronouns:
            seen.add(words[0])
            assert data.card.labels[int(batch.y[index])] == pronouns[words[0]]
        assert words[-1] == "then"
        assert not set(words[1:]) & set(pronouns)
    assert seen == set(pronouns)
    lengths = data.train.lengths()
    assert (lengths.min(), lengths.max()) == (2, 41)
    assert float(batch.y.float().mean()) == pytest.approx(0.5, abs=0.05)


def test_filler_says_nothing_of_the_pronoun():
    data = tt.data.load("jane", lag=30, samples=4000)
    batch = data.train.batch(range(4000))
    filler = batch.x[1:].clone()
    for token in filler.unique().tolist():
        has = (filler == token).any(0)
        if 300 < int(has.sum()) < 3700:
            rates = batch.y[has].float().mean(), batch.y[~has].float().mean()
            assert abs(rates[0] - rates[1]) < 0.12


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"--lag 1 is too small: it must be at least 2"):
        tt.data.load("adding", lag=1)
    with pytest.raises(InputError, match=r"--samples 3 is too small"):
        tt.data.load("jane", samples=3)
    with pytest.raises(InputError, match=r"--text does not fit copy; leave it out. What fits: --lag, --samples"):
        tt.data.load("copy", text="review")
    with pytest.raises(InputError, match=r"--max-length does not fit order"):
        tt.data.load("order", max_length=0)
    with pytest.raises(IndexError):
        tt.data.load("adding", samples=10).train.batch([10])
