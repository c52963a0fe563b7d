"""Arrays of sequences in a .npz file."""

import zipfile

import numpy as np
import pytest
import torch

import throughtime as tt
from tests.data.files import write
from throughtime.errors import InputError

N, T, VALUES = 40, 9, 3


def arrays(**changes):
    random = np.random.default_rng(0)
    given = {
        "x": random.normal(5, 2, size=(N, T, VALUES)),
        "y": np.arange(N) % 4 + 1,
        "lengths": random.integers(1, T + 1, size=N),
    } | changes
    return {name: value for name, value in given.items() if value is not None}


def save(tmp_path, **changes):
    np.savez(tmp_path / "a.npz", **arrays(**changes))
    return tmp_path / "a.npz"


def everything(data):
    for split in (data.train, data.valid, data.test):
        batch = split.batch(range(len(split)))
        for i, steps in enumerate(batch.lengths.tolist()):
            yield batch.x[:steps, i].numpy(), batch.y[i]
            assert (batch.x[steps:, i] == 0).all()


def test_classification(tmp_path):
    data = tt.data.load(save(tmp_path), standardise=False)
    card = data.card
    assert (card.kind, card.metric, card.labels) == ("classification", "accuracy", ("1", "2", "3", "4"))
    assert (card.inputs, card.outputs, card.tokens) == (VALUES, 4, False)
    made = arrays()
    wanted = {
        x[:steps].astype("f4").tobytes(): str(y)
        for x, y, steps in zip(made["x"], made["y"], made["lengths"], strict=True)
    }
    seen = {x.tobytes(): card.labels[int(y)] for x, y in everything(data)}
    assert seen == wanted
    assert card.lengths[0] == made["lengths"].min()


def test_values_are_standardised_by_what_is_inside_training(tmp_path):
    broken = arrays()["x"]
    for row, steps in zip(broken, arrays()["lengths"], strict=True):
        row[steps:] = np.nan  # outside of every length: never read
    data = tt.data.load(save(tmp_path, x=broken))
    batch = data.train.batch(range(len(data.train)))
    inside = batch.x[torch.arange(batch.x.shape[0])[:, None] < batch.lengths]
    assert torch.allclose(inside.mean(0), torch.zeros(VALUES), atol=1e-5)
    assert torch.allclose(inside.std(0, correction=0), torch.ones(VALUES), atol=1e-5)


def test_regression(tmp_path):
    y = np.random.default_rng(1).normal(3, 5, size=(N, 2))
    data = tt.data.load(save(tmp_path, y=y, lengths=None))
    assert (data.card.kind, data.card.metric, data.card.outputs) == ("regression", "mse", 2)
    batch = data.train.batch(range(len(data.train)))
    assert batch.x.shape == (T, 32, VALUES)
    assert torch.allclose(batch.y.mean(0), torch.zeros(2), atol=1e-5)
    test = data.test.batch(range(len(data.test))).y
    assert data.card.baseline == pytest.approx(float(test.square().mean()), rel=1e-4)
    whole = tt.data.load(save(tmp_path, y=np.round(y)))
    assert any("read as values to predict; save whole numbers for classes" in note for note in whole.card.notes)


def test_names_truth_values_and_flat_sequences(tmp_path):
    assert tt.data.load(save(tmp_path, y=np.array(["up", "down"] * 20))).card.labels == ("down", "up")
    assert tt.data.load(save(tmp_path, y=np.arange(N) % 2 == 0)).card.labels == ("False", "True")
    data = tt.data.load(save(tmp_path, x=np.ones((N, T)), extra=np.ones(3)))
    assert data.card.inputs == 1
    assert data.card.notes[:2] == ("arrays left out: extra", "x is (N, T): read as one value a step")


def holed(value):
    x = arrays()["x"].copy()
    x[7, 0, 1] = value
    return x


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x": None}, r'a.npz: there is no array "x", only lengths, y; save x \(N, T, I\)'),
        ({"y": None}, r'there is no array "y"'),
        ({"y": np.arange(7)}, r"y is \(7,\), but x has 40 sequences; y must be \(40,\)"),
        ({"y": np.ones(N, dtype=int)}, r'a.npz, y: every row says "1"'),
        ({"y": np.ones(N)}, r"every row says 1; there is nothing to predict"),
        ({"y": np.where(np.arange(N) == 3, np.nan, 1.5)}, r"a.npz, sequence 3: y is not a number up to 1e.18"),
        ({"y": np.ones((N, 2), dtype=int)}, r"y is int64 \(40, 2\)"),
        ({"y": np.array([None] * N)}, r"pickled Python objects.* refused"),
        ({"x": holed(np.nan)}, r"a.npz, sequence 7, step 0: x is not a number up to 1e.18 \(1 such steps"),
        ({"y": np.where(np.arange(N) == 3, 1e300, 1.5)}, r"a.npz, sequence 3: y is not a number"),
        ({"x": holed(1e300)}, r"a.npz, sequence 7, step 0: x is not a number"),
        ({"x": holed(-np.inf)}, r"a.npz, sequence 7, step 0: x is not a number up to 1e.18"),
        ({"x": np.ones(5)}, r"x must hold numbers as \(N, T, I\), but is float64 \(5,\)"),
        ({"x": np.array(["a"])}, r"x must hold numbers"),
        ({"x": np.ones((N, 0, VALUES))}, r"x is \(40, 0, 3\): there are no steps"),
        ({"x": np.ones((0, T, VALUES))}, r"there are no sequences"),
        ({"lengths": np.arange(N)}, r"a.npz, sequence 0: its length is 0, but must be 1 to 9"),
        ({"lengths": np.full(N, 10)}, r"its length is 10, but must be 1 to 9"),
        ({"lengths": np.ones(3, dtype=int)}, r"lengths must be whole numbers \(40,\)"),
        ({"lengths": np.ones(N)}, r"lengths must be whole numbers"),
        ({"x": np.ones((2, T, VALUES)), "y": np.array([0, 1]), "lengths": None}, r"2 usable rows are too few"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, changes, match):
    with pytest.raises(InputError, match=match):
        tt.data.load(save(tmp_path, **changes))


def test_damaged_files(tmp_path):
    path = save(tmp_path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    for data in (whole[:-30], b"x" * 100, whole[:middle] + bytes(200) + whole[middle + 200 :], b"\x93NUMPY\x01\x00"):
        with pytest.raises(
            InputError, match=r"a.npz: (this .npz file is damaged|holds pickled Python objects, or is no)"
        ):
            tt.data.load(write(path, data))
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(InputError, match=r"a.npz: holds one array without a name"):
        tt.data.load(write(path, (tmp_path / "one.npy").read_bytes()))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.md", "hello")
    with pytest.raises(InputError, match=r'there is no array "x"'):
        tt.data.load(path)


def test_options_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match=r"--text does not fit a.npz, read as arrays; leave it out"):
        tt.data.load(save(tmp_path), text="x")
