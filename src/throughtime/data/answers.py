"""What is to be learned about whole sequences, as classes or as numbers, with the score of the obvious guess."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from throughtime.data.draws import Shares, cut
from throughtime.errors import InputError
from throughtime.records.preparation import Preparation

MOST_LABELS = 1000
MOST_ASKED = 20_000  # where the column of labels was named
LARGEST = 1e18  # a larger number's square would not fit into 32 bits


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of all rows, and which rows are for what."""

    kind: Literal["classification", "regression", "next"]  # "next": a class for each step
    y: Tensor  # (N,) classes; or (N, O) values; or (total steps,) classes
    rows: tuple[NDArray[np.int64], ...]  # of train, valid, test
    labels: tuple[str, ...]
    outputs: int
    metric: Literal["accuracy", "mse", "nats"]
    baseline: float
    baseline_is: str
    notes: tuple[str, ...]
    mean: tuple[float, ...] = ()  # (O,) of values, before they were standardised; empty if they were not
    deviation: tuple[float, ...] = ()
    counted: Tensor | None = None  # (total steps,) bool: which classes count; None: all

    def prepared(self, reading: Preparation) -> Preparation:
        """How the source is read, with how its answers are scaled."""
        return replace(reading, answer_mean=self.mean, answer_deviation=self.deviation)


def classes(named: Sequence[str], shares: Shares, seed: int, name: str, most: int = MOST_LABELS) -> Answers:
    """One label for each row, at most `most` different ones. `name` is what errors call the source and its column.

    Raises InputError for a single label, far too many, or too few rows to split.
    """
    labels = _ordered(set(named))
    if len(labels) == 1:
        raise InputError(f'{name}: every row says "{labels[0]}"; to tell sequences apart takes at least two labels.')
    if len(labels) > MOST_LABELS and len(labels) > min(most, len(named) // 2):
        raise InputError(
            f"{name}: {len(labels):,} different labels in {len(named):,} rows; this looks like numbers to predict "
            "(pass it as --target) or an identity, not a label."
        )
    number = {label: i for i, label in enumerate(labels)}
    codes = np.array([number[label] for label in named], dtype=np.int64)
    rows = cut(codes, shares, seed)
    _enough(rows, name)
    train, _, test = rows
    trained = Counter(codes[train].tolist())
    if len(trained) < 2:
        raise InputError(
            f"{name}: after the split only one label is left in the {len(train)} training rows; give more rows."
        )
    guess = max(trained, key=lambda code: (trained[code], -code))
    unseen = [label for label, code in number.items() if code not in trained]
    notes: tuple[str, ...] = (f"labels that no training row has: {', '.join(unseen[:10])}",) if unseen else ()
    tested = Counter(codes[test].tolist())
    missing = [label for label, code in number.items() if code in trained and code not in tested]
    often = max(tested.values()) / len(test)
    doubt = ""
    if missing or often >= 0.99:
        told = (
            f"none of {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
            if missing
            else f"{often:.0%} one label"
        )
        doubt = f". The test split cannot tell how well the labels are told apart: {told} is in its {len(test):,} rows"
        notes += (doubt.removeprefix(". "),)
    return Answers(
        "classification",
        torch.from_numpy(codes),
        rows,
        labels,
        len(labels),
        "accuracy",
        float((codes[test] == guess).mean()),
        f'always "{labels[guess]}", the commonest label in training; scored on the test split{doubt}',
        notes,
    )


def classes_each_step(
    named: Sequence[str], counted: NDArray[np.bool_], lengths: NDArray[np.int64], shares: Shares, seed: int, name: str
) -> Answers:
    """One label for each step of each sequence: `named` and `counted` (total steps,), `lengths` (N,).

    Raises InputError for a single label, far too many, or too few sequences to split.
    """
    labels = _ordered({label for label, counts in zip(named, counted.tolist(), strict=True) if counts})
    if not 2 <= len(labels) <= MOST_LABELS:
        raise InputError(
            f"{name}: {len(labels):,} different labels at its steps; 2 to {MOST_LABELS:,} can be told apart."
        )
    number = {label: i for i, label in enumerate(labels)}
    codes = np.array([number.get(label, 0) for label in named], dtype=np.int64)
    rows = cut(np.zeros(len(lengths), dtype=np.int64), shares, seed)
    _enough(rows, name)
    which = np.repeat(np.arange(len(lengths)), lengths)
    train, _, test = (codes[np.isin(which, some) & counted] for some in rows)
    if not len(train) or not len(test):
        raise InputError(f"{name}: no step of the training or the test split has a label; give more sequences.")
    times = np.bincount(train, minlength=len(labels)) + 1.0  # a label that training never shows is not impossible
    baseline = float((np.log(times.sum()) - np.log(times))[test].mean())
    said = "each label as often as in training, whatever is read; scored on the test split"
    return Answers(
        "next",
        torch.from_numpy(codes),
        rows,
        labels,
        len(labels),
        "nats",
        baseline,
        said,
        ("a label at each step",),
        counted=None if counted.all() else torch.from_numpy(counted),
    )


def values(
    y: NDArray[np.float64],
    names: tuple[str, ...],
    shares: Shares,
    seed: int,
    name: str,
    standardise: bool,
    number: Callable[[float], str] = "{:.6g}".format,
) -> Answers:
    """Numbers (N, O) for each row, standardised by the training rows unless told otherwise.

    Raises InputError if they are all the same, or too few to split.
    """
    rows = cut(np.zeros(len(y), dtype=np.int64), shares, seed)
    _enough(rows, name)
    train, _, test = rows
    mean, spread = moments(y[train])
    if (y == y[0]).all():
        raise InputError(f"{name}: every row says {number(float(y[0, 0]))}; there is nothing to predict.")
    notes: tuple[str, ...] = ()
    if standardise:
        y = (y - mean) / spread
        told = [
            f"{each} {'+' if m < 0 else '−'} {number(abs(m))}, divided by {number(s)}"
            for each, m, s in zip(names, mean.tolist(), spread.tolist(), strict=True)
        ]
        notes = (f"answers standardised by the training rows: {'; '.join(told[:8])}{' ...' if len(told) > 8 else ''}",)
    baseline = float(((y[test] - y[train].mean(axis=0)) ** 2).mean())
    answer = torch.from_numpy(y.astype(np.float32))
    said = "always the mean of the training rows; scored on the test split"
    scales = (tuple(mean.tolist()), tuple(spread.tolist())) if standardise else ((), ())
    return Answers("regression", answer, rows, names, y.shape[1], "mse", baseline, said, notes, *scales)


def moments(x: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column of x (N, I), gaps (NaN) left out; 1 for a column that never varies."""
    mean = np.nanmean(x, axis=0, dtype=np.float64)
    spread = np.nanstd(x, axis=0, dtype=np.float64)
    # Rounding gives a constant column a spread near zero, which must not be divided by.
    return np.asarray(mean), np.where(spread > np.maximum(1e-100, 1e-12 * np.abs(mean)), spread, 1.0)


def _ordered(labels: set[str]) -> tuple[str, ...]:
    """Labels in the order of their numbers if all are whole numbers, else of their letters."""
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _enough(rows: tuple[NDArray[np.int64], ...], name: str) -> None:
    if min(len(each) for each in rows) == 0:
        total = sum(len(each) for each in rows)
        raise InputError(
            f"{name}: {total} usable rows are too few to share out to train, valid and test; give more rows, or "
            "other shares (--split)."
        )
