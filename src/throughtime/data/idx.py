"""Images in the idx format of MNIST, read pixel by pixel; their labels lie in a file beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from throughtime.data import files
from throughtime.data.answers import classes
from throughtime.data.assembly import separate
from throughtime.data.dataset import Dataset
from throughtime.data.draws import checked
from throughtime.data.options import Options
from throughtime.data.sequences import Pool, plainly
from throughtime.errors import InputError
from throughtime.records.preparation import Preparation

FITS = ("split",)


def fits(path: Path) -> bool:
    """Whether a file's name is that of idx images."""
    return "images-idx3-ubyte" in path.name


def load(path: Path, options: Options) -> Dataset:
    """Classification of images, one pixel in [0, 1] a step.

    Raises InputError if one of the two files is absent or is not what its header says.
    """
    options.refuse_all_but(FITS, f"{path.name}, read as images")
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    images_file, labels_file = files.read(path), files.read(beside)
    images, labels = _array(images_file, 3), _array(labels_file, 1)
    if len(images) != len(labels):
        raise InputError(
            f"{path.name} holds {len(images)} images, but {beside.name} {len(labels)} labels; fetch both again."
        )
    answers = classes([str(label) for label in labels.tolist()], checked(options.split), options.seed, beside.name)
    steps = images.shape[1] * images.shape[2]
    starts = np.arange(len(images) + 1, dtype=np.int64) * steps
    digest = hashlib.sha256(images_file.data + labels_file.data).hexdigest()
    pool = Pool(torch.from_numpy(images.reshape(-1, 1)), starts, answers.y, plainly, scale=1 / 255)
    notes = ("each image read pixel by pixel, row after row", *answers.notes)
    prepared = Preparation("pixels", scale=1 / 255)
    return separate(
        pool, answers, name=path.name, step="pixel", inputs=1, digest=digest, prepared=prepared, notes=notes
    )


def images(path: Path) -> NDArray[np.uint8]:
    """Images as (N, pixels), row after row."""
    found = _array(files.read(path), 3)
    return found.reshape(len(found), -1)


def _array(file: files.File, dimensions: int) -> NDArray[np.uint8]:
    head = 4 + 4 * dimensions
    magic = bytes([0, 0, 8, dimensions])  # two zeros, unsigned bytes, how many dimensions
    shape = tuple(np.frombuffer(file.data[4:head], dtype=">u4").tolist()) if len(file.data) >= head else ()
    if file.data[:4] != magic or len(file.data) != head + int(np.prod(shape)) or 0 in shape:
        raise InputError(
            f"{file.name}: this is not an idx file of {dimensions} dimensions, or it is cut off; fetch it again."
        )
    return np.frombuffer(file.data, dtype=np.uint8, offset=head).reshape(shape).copy()
