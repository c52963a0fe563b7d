"""Digits at hand, and images in idx format."""

import struct

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import throughtime as tt
from tests.data.files import write
from throughtime.errors import InputError


def test_digits():
    data = tt.data.load("digits", seed=4)
    card = data.card
    assert dict(card.sizes) == {"train": 1437, "valid": 180, "test": 180}
    assert (card.kind, card.step, card.inputs, card.outputs, card.lengths) == (
        "classification",
        "pixel",
        1,
        10,
        (64,) * 3,
    )
    found = load_digits()
    wanted = {
        (row / 16).astype("f4").tobytes(): str(label) for row, label in zip(found.data, found.target, strict=True)
    }
    seen = 0
    for split in (data.train, data.valid, data.test):
        batch = split.batch(range(len(split)))
        assert batch.x.dtype == torch.float32
        assert 0 <= float(batch.x.min()) <= float(batch.x.max()) <= 1
        counts = np.bincount(batch.y.numpy(), minlength=10)
        assert counts.max() - counts.min() <= 0.03 * len(split) + 2
        for i in range(len(split)):
            assert wanted[batch.x[:, i, 0].contiguous().numpy().tobytes()] == card.labels[int(batch.y[i])]
            seen += 1
    assert seen == len(found.target)
    assert card.digest == tt.data.load("digits").card.digest
    assert len(data.train.words(0)) == 64
    with pytest.raises(InputError, match=r"--lag does not fit digits; leave it out. What fits: --split"):
        tt.data.load("digits", lag=3)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pair(tmp_path, images, labels):
    write(tmp_path / "small-labels-idx1-ubyte.gz", idx(labels))
    return write(tmp_path / "small-images-idx3-ubyte.gz", idx(images))


def test_idx(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, size=(30, 4, 5), dtype=np.uint8)
    labels = (images[:, 0, 0] > 127).astype(np.uint8)
    data = tt.data.load(pair(tmp_path, images, labels))
    batch = data.train.batch(range(24))
    assert batch.x.shape == (20, 24, 1)
    assert torch.equal(batch.y, (batch.x[0, :, 0] > 0.5).long())
    rows = {tuple(np.round(batch.x[:, i, 0].numpy() * 255).astype(int)) for i in range(24)}
    assert rows <= {tuple(image.reshape(-1).tolist()) for image in images}
    with pytest.raises(InputError, match=r"labels-idx1-ubyte.gz: every row says"):
        tt.data.load(pair(tmp_path, images, labels * 0))
    with pytest.raises(InputError, match=r"holds 30 images, but small-labels-idx1-ubyte.gz 29 labels"):
        tt.data.load(pair(tmp_path, images, labels[:29]))
    whole = idx(images)
    for broken in (whole[:-1], whole[:10], b"nonsense" * 10, idx(images[:0])):
        with pytest.raises(InputError, match=r"this is not an idx file of 3 dimensions, or it is cut off"):
            tt.data.load(write(tmp_path / "small-images-idx3-ubyte.gz", broken))
    (tmp_path / "small-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"labels-idx1-ubyte.gz: no such file"):
        tt.data.load(pair(tmp_path, images, labels).rename(tmp_path / "other-images-idx3-ubyte.gz"))
