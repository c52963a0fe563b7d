"""Sequences of numbers in arrays: x (N, T, I), y (N,) or (N, O) or (N, T), and lengths (N,) if they differ."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from throughtime.data import ucr
from throughtime.data.answers import LARGEST, Answers, classes, classes_each_step, moments, values
from throughtime.data.assembly import separate
from throughtime.data.dataset import Dataset
from throughtime.data.draws import checked
from throughtime.data.files import File
from throughtime.data.options import Options
from throughtime.data.sequences import Pool, plainly
from throughtime.data.ucr import Arrays
from throughtime.errors import InputError
from throughtime.records.preparation import Preparation

FITS = ("split", "standardise")
ENDINGS = (".npz", *ucr.ENDINGS)
_ARRAYS = Preparation("arrays")


def load(file: File, options: Options) -> Dataset:
    """The arrays of a `.npz`, `.ts` or `.arff` file.

    Raises InputError if the file is damaged, holds pickled objects, or its arrays do not fit each other.
    """
    options.refuse_all_but(FITS, f"{file.name}, read as arrays")
    return labelled(file.name, file.digest, opened(file), options)


def labelled(
    name: str,
    digest: str,
    arrays: Arrays,
    options: Options,
    prepared: Preparation = _ARRAYS,
    told: tuple[str, ...] = (),
) -> Dataset:
    """Classification if y holds whole numbers, truth values, names or one-hot rows; regression if it holds fractions.

    Whole numbers or names (N, T) or (N, T, 1) beside x (N, T, I) are a class for each step; -100 does not count. Values
    are standardised by the training samples. Samples and steps count from 0 in messages.
    Raises InputError if the arrays do not fit each other.
    """
    shares = checked(options.split)
    x = values_of(arrays, name)
    count, longest, inputs = x.shape
    lengths = lengths_of(arrays, name, count, longest)
    inside = np.arange(longest) < lengths[:, None]
    flat = x[inside]
    refuse_gaps(flat, lengths, name)
    standardise = options.standardise is not False
    answers = _answers(arrays["y"], name, lengths, longest, shares, options.seed, standardise)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    notes = [*told]
    if rest := sorted(set(arrays) - {"x", "y", "lengths"}):
        notes.append(f"arrays left out: {', '.join(rest)}")
    if arrays["x"].ndim == 2:
        notes.append("x is (N, T): read as one value a step")
    if standardise:
        trained = np.zeros(count, dtype=bool)
        trained[answers.rows[0]] = True
        mean, spread = moments(flat[np.repeat(trained, lengths)])
        flat = (flat - mean) / spread
        prepared = replace(prepared, mean=tuple(mean.tolist()), deviation=tuple(spread.tolist()))
        notes.append("values standardised by the training samples")
    pool = Pool(
        torch.from_numpy(flat.astype(np.float32)),
        starts,
        answers.y,
        plainly,
        each_step=answers.kind == "next",
        counted=answers.counted,
    )
    return separate(
        pool,
        answers,
        name=name,
        step="step",
        inputs=inputs,
        digest=digest,
        prepared=prepared,
        notes=(*notes, *answers.notes),
    )


def opened(file: File, needed: tuple[str, ...] = ("x", "y")) -> Arrays:
    """The arrays of a file by name, those that are `needed` among them."""
    if file.ending in ucr.ENDINGS:
        found = ucr.read(file)
        if "y" in needed and "y" not in found:
            raise InputError(f"{file.name}: its series have no labels; give a file that says what is to be learned.")
        return found
    try:
        opened = np.load(io.BytesIO(file.data), allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise InputError(f"{file.name}: holds one array without a name; save x and y together with numpy.savez.")
        with opened:
            found = {name: opened[name] for name in opened.files}
    except ValueError as error:
        if "pickle" in str(error):
            raise InputError(
                f"{file.name}: holds pickled Python objects, or is no .npz file at all; loading pickles can run code, "
                "so it is refused. Save plain arrays with numpy.savez."
            ) from None
        raise InputError(f"{file.name}: this .npz file is damaged ({error}); save it again.") from None
    except (OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error, SyntaxError) as error:
        raise InputError(f"{file.name}: this .npz file is damaged ({error}); save it again.") from None
    for name in needed:
        if name not in found:
            names = ", ".join(sorted(found)) or "nothing"
            raise InputError(f'{file.name}: there is no array "{name}", only {names}; save x (N, T, I) and y (N,).')
    return found


def values_of(arrays: Arrays, name: str) -> NDArray[np.float64]:
    """X as (N, T, I)."""
    x = arrays["x"]
    if x.ndim not in (2, 3) or x.dtype.kind not in "biuf":
        raise InputError(f"{name}: x must hold numbers as (N, T, I), but is {x.dtype} {x.shape}.")
    x = x[..., None] if x.ndim == 2 else x
    if 0 in x.shape:
        raise InputError(f"{name}: x is {x.shape}: there are no {('sequences', 'steps', 'values')[x.shape.index(0)]}.")
    return x.astype(np.float64)


def lengths_of(arrays: Arrays, name: str, count: int, longest: int) -> NDArray[np.int64]:
    """The steps of each sequence, (N,)."""
    given = arrays.get("lengths")
    if given is None:
        return np.full(count, longest, dtype=np.int64)
    if given.shape != (count,) or given.dtype.kind not in "iu":
        raise InputError(
            f"{name}: lengths must be whole numbers ({count},), one a sequence of x, but is "
            f"{given.dtype} {given.shape}."
        )
    lengths = given.astype(np.int64)
    wrong = np.flatnonzero((lengths < 1) | (lengths > longest))
    if len(wrong):
        at = int(wrong[0])
        raise InputError(f"{name}, sequence {at}: its length is {lengths[at]}, but must be 1 to {longest} (x's steps).")
    return lengths


def refuse_gaps(flat: NDArray[np.float64], lengths: NDArray[np.int64], name: str) -> None:
    """Raise InputError for the first step (of all steps, (sum of lengths, I)) that is no number."""
    wrong = np.flatnonzero(~(np.abs(flat) <= LARGEST).all(axis=1))
    if len(wrong):
        at = int(wrong[0])
        sequence = int(np.searchsorted(np.cumsum(lengths), at, side="right"))
        step = at - int(lengths[:sequence].sum())
        raise InputError(
            f"{name}, sequence {sequence}, step {step}: x is not a number up to {LARGEST:.0e} "
            f"({len(wrong):,} such steps in all); fill the gaps or drop these sequences."
        )


def _answers(
    y: NDArray[np.generic],
    name: str,
    lengths: NDArray[np.int64],
    longest: int,
    shares: tuple[float, float, float],
    seed: int,
    standardise: bool,
) -> Answers:
    count = len(lengths)
    if y.ndim not in (1, 2, 3) or y.shape[0] != count or 0 in y.shape:
        raise InputError(
            f"{name}: y is {y.shape}, but x has {count} sequences; y must be ({count},), ({count}, O) or, for a label "
            f"at each step, ({count}, {longest})."
        )
    inside = np.arange(longest) < lengths[:, None]
    shape, y = y.shape, _from_one_hot(y, inside, name)
    told = (f"y is one-hot {shape}: read as the classes 0 to {shape[-1] - 1}",) if y.shape != shape else ()
    if y.ndim == 3 and y.shape[1:] == (longest, 1):
        y = y[..., 0]
    elif y.shape[1:] == (1,) and y.dtype.kind in "biuU" and longest > 1:
        y = y[:, 0]
    steps = y.ndim == 2 and y.shape[1] == longest and (longest > 1 or len(shape) == 3)
    if y.ndim == 3 or (steps and y.dtype.kind not in "biuU"):
        raise InputError(
            f"{name}: y is {y.dtype} {shape}, beside x of {longest} steps; of each step whole numbers or names are "
            f"read, as labels ({count}, {longest}); save labels so, or one answer for each sequence."
        )
    if steps:
        named = y[inside]
        counted = np.array(named != -100) if y.dtype.kind in "iu" else np.ones(len(named), dtype=bool)
        answers = classes_each_step(
            [str(each) for each in named.tolist()], counted, lengths, shares, seed, f"{name}, y"
        )
        return replace(answers, notes=(*told, *answers.notes))
    if y.dtype.kind == "f":
        numbers = y.astype(np.float64).reshape(count, -1)
        wrong = np.flatnonzero(~(np.abs(numbers) <= LARGEST).all(axis=1))
        if len(wrong):
            raise InputError(
                f"{name}, sequence {wrong[0]}: y is not a number up to {LARGEST:.0e}; drop the sequence or mend it."
            )
        names = ("y",) if y.ndim == 1 else tuple(f"y{i}" for i in range(y.shape[1]))
        answers = values(numbers, names, shares, seed, name, standardise)
        if (numbers == np.round(numbers)).all():
            note = "y is floating point, so it is read as values to predict; save whole numbers for classes"
            answers = replace(answers, notes=(*answers.notes, note))
        return answers
    if y.ndim == 2 or y.dtype.kind not in "biuU":
        raise InputError(
            f"{name}: y is {y.dtype} {y.shape}; it must be whole numbers or names ({count},) for classes, or floating "
            "point for values to predict."
        )
    answers = classes([str(each) for each in y.tolist()], shares, seed, f"{name}, y")
    return replace(answers, notes=(*told, *answers.notes))


def _from_one_hot(y: NDArray[np.generic], inside: NDArray[np.bool_], name: str) -> NDArray[np.generic]:
    """The classes (N,) or (N, T) where y is one-hot (N, K) or (N, T, K), else y as it is."""
    longest = inside.shape[1]
    if y.ndim < 2 or y.shape[-1] < 2 or y.dtype.kind not in "biuf" or (y.ndim == 3 and y.shape[1] != longest):
        return y
    looked = y[inside] if y.ndim == 3 else y
    if not np.isin(looked, (0, 1)).all() or (looked.sum(axis=-1) != 1).any():
        return y
    if y.ndim == 2 and y.shape[1] == longest:
        raise InputError(
            f"{name}: y {y.shape} could be one-hot classes or a label at each of {longest} steps; save classes as "
            f"({len(y)},), or labels at each step as {(*y.shape, 1)}."
        )
    return np.asarray(y.argmax(axis=-1))
