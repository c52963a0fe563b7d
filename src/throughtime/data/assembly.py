"""The last step of every source of separate sequences: splits and a card out of a pool and its answers."""

from __future__ import annotations

import numpy as np

from throughtime.data.answers import Answers
from throughtime.data.dataset import Dataset, Split
from throughtime.data.sequences import Pool, Sequences
from throughtime.records import DataCard
from throughtime.records.preparation import Preparation


def separate(
    pool: Pool,
    answers: Answers,
    *,
    name: str,
    step: str,
    inputs: int,
    digest: str,
    notes: tuple[str, ...],
    prepared: Preparation,
    vocabulary: tuple[str, ...] = (),
) -> Dataset:
    """A dataset of separate sequences; tokens if there is a vocabulary."""
    train, valid, test = (Sequences(pool, rows) for rows in answers.rows)
    card = DataCard(
        name=name,
        kind=answers.kind,
        step=step,
        tokens=bool(vocabulary),
        inputs=inputs,
        outputs=answers.outputs,
        labels=answers.labels,
        metric=answers.metric,
        baseline=answers.baseline,
        baseline_is=answers.baseline_is,
        lag=None,
        sizes=sizes(train, valid, test),
        lengths=spread(train, valid, test),
        digest=digest,
        notes=notes,
    )
    return Dataset(card, train, valid, test, vocabulary, pool.each_step, prepared=answers.prepared(prepared))


def sizes(train: Split, valid: Split, test: Split) -> dict[str, int]:
    """How many samples each split has."""
    return {"train": len(train), "valid": len(valid), "test": len(test)}


def spread(*splits: Split) -> tuple[int, int, int]:
    """The shortest, median (rounded down) and longest sample of all splits, steps."""
    lengths = np.concatenate([split.lengths() for split in splits])
    return int(lengths.min()), int(np.median(lengths)), int(lengths.max())
