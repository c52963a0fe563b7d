"""Handwritten digits that are always at hand: scikit-learn's, read pixel by pixel, row after row."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from throughtime.data.answers import classes
from throughtime.data.assembly import separate
from throughtime.data.dataset import Dataset
from throughtime.data.draws import checked
from throughtime.data.options import Options
from throughtime.data.sequences import Pool, plainly
from throughtime.records.preparation import Preparation

FITS = ("split",)


def load(options: Options) -> Dataset:
    """1,797 images of 8 by 8 pixels: 64 steps of one value in [0, 1], and which of ten digits it is.

    Source: Alpaydin and Kaynak 1998, as kept by scikit-learn.
    """
    options.refuse_all_but(FITS, "digits")
    from sklearn.datasets import load_digits  # takes a second to import, which no other source should wait for

    found = load_digits()
    pixels = np.asarray(found.data, dtype=np.float32)
    answers = classes([str(label) for label in found.target.tolist()], checked(options.split), options.seed, "digits")
    starts = np.arange(len(pixels) + 1, dtype=np.int64) * pixels.shape[1]
    digest = hashlib.sha256(pixels.astype("<f4").tobytes() + found.target.astype("<i8").tobytes()).hexdigest()
    pool = Pool(torch.from_numpy(pixels.reshape(-1, 1) / 16), starts, answers.y, plainly)
    notes = ("scikit-learn's digits, each image read pixel by pixel, row after row", *answers.notes)
    prepared = Preparation("pixels", scale=1 / 16)
    return separate(pool, answers, name="digits", step="pixel", inputs=1, digest=digest, prepared=prepared, notes=notes)
