"""The hub's library, stood in for by one of our own: what is asked of it, and what becomes of its answer."""

import sys
from types import ModuleType, SimpleNamespace

import polars as pl
import pytest

import throughtime as tt
from tests.data.files import reviews
from throughtime.errors import InputError


class Split:
    def __init__(self, frame, features):
        self.frame, self.features = frame, features

    def to_polars(self):
        return self.frame


@pytest.fixture
def hub(monkeypatch):
    library = ModuleType("datasets")
    codes = reviews().with_columns(sentiment=pl.Series([1, 0] * 30))
    features = {"review": SimpleNamespace(), "sentiment": SimpleNamespace(names=["bad", "good"])}
    library.asked = []
    library.answer = {"test": Split(codes, features), "train": Split(codes, features)}

    def load_dataset(*asked):
        library.asked.append(asked)
        return library.answer

    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    return library


def test_a_table_of_the_hub(hub):
    data = tt.data.load("hub:some/films:plain")
    assert hub.asked == [("some/films", "plain")]
    assert data.card.labels == ("bad", "good")
    assert data.card.name == "hub:some/films:plain"
    assert 'split "train" of the hub\'s dataset; left out: "test"' in data.card.notes
    tt.data.load("hub:films")
    assert hub.asked[1] == ("films", None)


def test_faults_of_the_hub(hub, monkeypatch):
    hub.answer["train"] = Split(reviews().head(0), {})
    with pytest.raises(InputError, match='hub:films: its split "train" has no row'):
        tt.data.load("hub:films")

    def fails(*asked):
        raise ConnectionError("no route to host\nand much more")

    hub.load_dataset = fails
    with pytest.raises(InputError, match=r"^hub:films: cannot be fetched \(no route to host\); check the name and the"):
        tt.data.load("hub:films")
    with pytest.raises(InputError, match="needs the name of a dataset"):
        tt.data.load("hub:")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r'install it with: pip install "throughtime\[hub\]"'):
        tt.data.load("hub:films")
