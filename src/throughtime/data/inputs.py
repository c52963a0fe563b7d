"""Reads a source as one that was trained on before: with its columns, its vocabulary and its scales.

Dimensions: N sequences, T steps, I values a step, O answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from throughtime.data import arrays, files, idx, numerals, tables, ucr, words
from throughtime.data.dataset import Batch, Dataset
from throughtime.data.options import Options
from throughtime.data.tables import Table, listed, texts
from throughtime.errors import InputError
from throughtime.records import DataCard
from throughtime.records.preparation import Preparation


@dataclass(frozen=True, eq=False)
class Inputs:
    """Sequences without answers, in the source's order."""

    samples: tuple[Tensor, ...]  # (T,) tokens or (T, I) values; of no steps where there is nothing to read
    rows: tuple[int, ...]  # each one's number, as a person counts in the source
    truth: tuple[str, ...] = ()  # what the source itself says, where it has the column of answers; "" where it has not
    notes: tuple[str, ...] = ()  # what differs from the training data; sentences

    def batches(self, size: int) -> Iterator[tuple[list[int], Batch]]:
        """Their places and the sequences side by side, similar lengths together; those of no steps are left out."""
        lengths = np.array([len(sample) for sample in self.samples])
        order = [int(at) for at in np.argsort(lengths, kind="stable") if lengths[at]]
        for first in range(0, len(order), size):
            some = order[first : first + size]
            pieces = [self.samples[at] for at in some]
            yield some, Batch(pad_sequence(pieces), torch.tensor([len(p) for p in pieces]), torch.zeros(len(some)))


def read(source: str, prepared: Preparation, card: DataCard) -> Inputs:
    """A file's sequences, read as `prepared` says; of forecasts and running text see `forecast` and `sampling`.

    Raises InputError, naming the file and row where there is one, for what cannot be read so.
    """
    path = Path(source)
    if prepared.kind == "words":
        return _texts(_table(source), prepared)
    if card.tokens:
        raise InputError(f"{source}: this net reads the tokens of its own task; give the task's name, {card.name}.")
    if prepared.kind == "pixels" and idx.fits(path):
        return of_arrays(idx.images(path), None, prepared, card, path.name)
    file = files.read(path)
    if prepared.columns and file.ending in tables.known():
        return _series_in_rows(file, prepared, card)
    if file.ending not in arrays.ENDINGS:
        raise InputError(
            f"{file.name}: this net reads sequences of numbers; give an .npz file with x (N, T, {card.inputs}) and, "
            "where they differ, lengths (N,)."
        )
    found = arrays.opened(file, needed=("x",))
    count, longest = arrays.values_of(found, file.name).shape[:2]
    x, lengths = arrays.values_of(found, file.name), arrays.lengths_of(found, file.name, count, longest)
    truth = found.get("y")
    told = tuple(str(each) for each in truth.tolist()) if truth is not None and truth.shape == (count,) else ()
    return of_arrays(x, lengths, prepared, card, file.name, told)


def _series_in_rows(file: files.File, prepared: Preparation, card: DataCard) -> Inputs:
    """A table with a series a row; its labels may be there or not."""
    unnamed = all(re.fullmatch(r"column \d+", name) for name in prepared.columns)
    table = tables.read(file, not unnamed if file.ending in tables.HEADED else None)
    frame = table.frame
    if unnamed and frame.width == len(prepared.columns):  # the labels alone are not there
        frame = frame.rename(dict(zip(frame.columns, prepared.columns, strict=True)))
        table = replace(table, frame=frame)
    missing(table, prepared.columns, "the net reads")
    label = next((name for name in prepared.answer if name in frame.columns), None)
    columns = [*prepared.columns, *([label] if label else [])]
    table = numerals.plainly(replace(table, frame=frame.select(columns)), Options(decimal=prepared.decimal or None))
    found = ucr.rows_of(table, label)
    truth = tuple(str(each) for each in found["y"].tolist()) if label else ()
    inputs = of_arrays(found["x"], found["lengths"].astype(np.int64), prepared, card, file.name, truth)
    return replace(inputs, rows=tuple(range(table.first_row, table.first_row + len(inputs.samples))))


def held_out(dataset: Dataset) -> Inputs:
    """The test split of a dataset that was trained on."""
    batches = [dataset.test.batch([at]) for at in range(len(dataset.test))]
    labels = dataset.card.labels
    named = dataset.card.kind == "classification"
    truth = tuple(labels[int(batch.y)] if named and not batch.each_step else "" for batch in batches)
    return Inputs(tuple(batch.x[:, 0] for batch in batches), tuple(range(len(batches))), truth)


def of_arrays(
    x: NDArray[np.generic],
    lengths: NDArray[np.int64] | None,
    prepared: Preparation,
    card: DataCard,
    name: str,
    truth: tuple[str, ...] = (),
) -> Inputs:
    """Numbers (N, T, I) in the units of the training data."""
    values = np.asarray(x, dtype=np.float64)
    values = values[..., None] if values.ndim == 2 else values
    if card.tokens:
        raise InputError(f"{name}: this net reads the tokens of its own task; give the task's name, {card.name}.")
    if values.ndim != 3 or values.shape[2] != card.inputs:
        raise InputError(
            f"{name}: x is {tuple(x.shape)}, and this net reads (N, T, {card.inputs}): {card.inputs} values a step."
        )
    ends = np.full(len(values), values.shape[1], dtype=np.int64) if lengths is None else lengths
    arrays.refuse_gaps(values[np.arange(values.shape[1]) < ends[:, None]], ends, name)
    scaled = values * prepared.scale
    if prepared.mean:
        scaled = (scaled - np.array(prepared.mean)) / np.array(prepared.deviation)
    samples = tuple(
        torch.from_numpy(one[:end].astype(np.float32)) for one, end in zip(scaled, ends.tolist(), strict=True)
    )
    return Inputs(samples, tuple(range(len(samples))), truth, _of_length(ends, card))


def _texts(table: Table, prepared: Preparation) -> Inputs:
    column = table.column(prepared.text, "the net, which was trained on texts of that column")
    known = {word: token for token, word in enumerate(prepared.vocabulary)}
    split = [words.steps(cell, prepared.by_character) for cell in texts(column)]
    step = "character" if prepared.by_character else "word"
    kept = [sample[-prepared.longest :] for sample in split]
    tokens = [[known.get(word, 1) for word in sample] for sample in kept]
    total, unknown = sum(map(len, tokens)), sum(token == 1 for sample in tokens for token in sample)
    cut = sum(len(sample) > prepared.longest for sample in split)
    empty = [table.first_row + at for at, sample in enumerate(split) if not sample]
    notes = []
    if unknown:
        notes.append(
            f"{unknown:,} of {total:,} {step}s ({unknown / total:.1%}) are not among the {len(known):,} that the net "
            f"knows; it reads each of them as the same unknown {step}"
        )
    if cut:
        notes.append(f"{cut:,} of {len(split):,} texts cut to their last {prepared.longest} {step}s, as in training")
    if empty:
        more = ", ..." if len(empty) > 10 else ""
        notes.append(
            f"{len(empty):,} rows hold no {step}, so they get no prediction: row "
            f"{', '.join(map(str, empty[:10]))}{more}"
        )
    answer = prepared.answer[0] if prepared.answer else ""
    truth = tuple(texts(table.frame[answer])) if answer in table.frame.columns else ()
    rows = tuple(range(table.first_row, table.first_row + len(split)))
    return Inputs(tuple(torch.tensor(sample, dtype=torch.int64) for sample in tokens), rows, truth, tuple(notes))


def _table(source: str) -> Table:
    file = files.read(Path(source))
    if file.ending in tables.known():
        return tables.read(file)
    lines = tables.labelled_lines(file) if file.ending == ".txt" else None
    if lines is None:
        raise InputError(
            f"{file.name}: this net reads a table with a column of texts; give a .csv, .tsv, .jsonl or .parquet file."
        )
    return lines


def _of_length(lengths: Sequence[int] | NDArray[np.int64], card: DataCard) -> tuple[str, ...]:
    """A note where sequences are longer or shorter than any that was trained on."""
    shortest, _, longest = card.lengths
    least, most = int(min(lengths)), int(max(lengths))
    if shortest <= least and most <= longest:
        return ()
    return (
        f"sequences of {least} to {most} steps, where those of the training data had {shortest} to {longest}; the net "
        "was not tried on such lengths",
    )


def missing(table: Table, names: Sequence[str], what: str) -> None:
    """Raise InputError if a table lacks columns that a net reads."""
    gone = [name for name in names if name not in table.frame.columns]
    if gone:
        raise InputError(
            f"{table.name}: there is no column {listed(gone)}, which {what}; the columns are "
            f"{listed(table.frame.columns)}."
        )
