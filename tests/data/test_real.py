"""Real files of every kind, where they are at hand."""

import time

import pytest

import throughtime as tt
from throughtime.errors import InputError


def test_film_reviews(real_data):
    start = time.process_time()
    data = tt.data.load(real_data / "reviews" / "imdb_train_5000.csv.gz")
    assert time.process_time() - start < 5
    assert dict(data.card.sizes) == {"train": 4000, "valid": 500, "test": 500}
    assert data.card.labels == ("negative", "positive")
    assert data.card.baseline == 0.5
    assert (data.card.inputs, data.card.lengths[2]) == (10_000, 256)


@pytest.mark.parametrize("name", ["imdb", "yelp", "amazon_cells"])
def test_sentences(real_data, name):
    data = tt.data.load(real_data / "reviews" / f"{name}_labelled.txt")
    assert sum(data.card.sizes.values()) == 1000
    assert data.card.labels == ("0", "1")


def test_plays(real_data):
    data = tt.data.load(real_data / "text" / "tinyshakespeare.txt.gz")
    assert data.card.inputs == 65 + 2
    assert 3.2 < data.card.baseline < 3.4
    assert "".join(data.train.words(0)).startswith("First Citizen:\nBefore we proceed")


def test_images(real_data):
    data = tt.data.load(real_data / "digits" / "t10k-images-idx3-ubyte.gz")
    assert dict(data.card.sizes) == {"train": 8000, "valid": 1000, "test": 1000}
    assert data.train.batch([0]).x.shape == (784, 1, 1)


def test_hours_of_weather(real_data):
    path = real_data / "series" / "pollution.csv.gz"
    with pytest.raises(
        InputError, match=r'pollution.csv.gz, row 2: "pm2.5" has a gap \(gaps by column: "pm2.5" 2,067\)'
    ):
        tt.data.load(path, drop="cbwd")
    data = tt.data.load(path, drop="cbwd", gaps="previous", target="pm2.5")
    assert (data.card.inputs, data.card.outputs) == (11, 1)
    assert int(data.train.lanes(1).batch([0]).counted.sum()) > 30_000


@pytest.mark.parametrize(("name", "rows"), [("airline-passengers.csv", 144), ("monthly-sunspots.csv", 2820)])
def test_months(real_data, name, rows):
    data = tt.data.load(real_data / "series" / name)
    assert sum(split.lanes(1).lengths()[0] + 1 for split in (data.train, data.valid, data.test)) == rows
    assert data.card.inputs == 1
