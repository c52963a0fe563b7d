"""Texts with a label (or a number) each, out of a table: sequences of words.

Dimensions: N rows.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from throughtime.data import dates, numerals, words
from throughtime.data.answers import LARGEST, MOST_ASKED, MOST_LABELS, Answers, classes, values
from throughtime.data.assembly import separate
from throughtime.data.dataset import Dataset
from throughtime.data.draws import checked
from throughtime.data.options import Options
from throughtime.data.sequences import Pool
from throughtime.data.tables import GAPS, Table, listed, numbers, texts
from throughtime.errors import InputError
from throughtime.records.preparation import Preparation

FITS = (
    "text",
    "label",
    "target",
    "decimal",
    "header",
    "drop",
    "max_length",
    "vocabulary",
    "minimum_count",
    "split",
    "standardise",
    "skip_bad_rows",
)
LONGEST = 256  # words kept of a text
MOST_WORDS = 10_000
LEAST_OFTEN = 2  # how often a word must occur in training to be known
_NO_LABEL = tuple(gap for gap in GAPS if gap != "none")  # "none" is a name of a class as often as a gap
_ONE_WORD = 1.5  # words on average, up to which texts are single words (names, say), read by character
_MANY_VALUES = 20  # from here on, fractions are numbers to predict rather than names of classes


def prose(table: Table) -> list[str]:
    """The columns that read as running text: words on average, and mostly different from row to row."""
    found = []
    for name in table.frame.columns:
        column = table.frame[name]
        if column.dtype != pl.String:
            continue
        cells = [cell for cell in texts(column)[:2000] if cell]
        if not cells or len(set(cells)) <= len(cells) / 2:
            continue
        lettered = sum(
            any(map(str.isalpha, word)) and not any(map(str.isdecimal, word))
            for cell in cells
            for word in words.split(cell)
        )
        if lettered / len(cells) >= 2 and dates.read(column.head(2000)) is None:
            found.append(name)
    return found


def load(table: Table, options: Options) -> Dataset:
    """Classification of texts (a label column) or regression on them (a target column).

    The text is the last `max_length` words of each cell; the vocabulary is learned from the training rows.
    Raises InputError if the columns are not clear, or for the first row that cannot be used.
    """
    options.refuse_all_but(FITS, f"{table.name}, read as texts with a label")
    shares = checked(options.split)
    longest = options.at_least("max_length", 1, LONGEST)
    most, least_often = options.at_least("vocabulary", 3, MOST_WORDS), options.at_least("minimum_count", 1, LEAST_OFTEN)
    text, label = _columns(table, options)
    plain = numerals.plainly(replace(table, frame=table.frame.select(label), notes=()), options)
    cells, said = texts(table.frame[text]), texts(table.frame[label])
    split_cells = [words.split(cell) for cell in cells]
    by_character = options.text is not None and sum(map(len, split_cells)) <= _ONE_WORD * sum(map(bool, cells))
    step = "character" if by_character else "word"
    if by_character:
        split_cells = [words.steps(cell, True) for cell in cells]
    value, stray = numbers(plain.frame[label])
    regression = options.target is not None or (options.label is None and _many_fractions(value, stray))
    if not regression:
        said = ["" if each.lower() in _NO_LABEL else each for each in said]
    check = _number_fault if regression else _label_fault
    kept, dropped = _usable(table, options, text, label, split_cells, check(said, value, label))

    merged: tuple[str, ...] = ()
    if regression:
        merged = plain.notes
        standardise = options.standardise is not False
        answers = values(
            value[kept][:, None], (label,), shares, options.seed, f'{table.name}, column "{label}"', standardise
        )
    else:
        if options.standardise is not None:
            raise InputError(
                "--standardise does not fit labels; leave it out, or name a column of numbers as --target."
            )
        said, merged = _one_spelling(said, label)
        where, most_labels = f'{table.name}, column "{label}"', MOST_LABELS if options.label is None else MOST_ASKED
        answers = classes([said[i] for i in kept], shares, options.seed, where, most_labels)

    cut = [split_cells[i][-longest:] for i in kept]
    shortened = sum(len(split_cells[i]) > longest for i in kept)
    vocabulary = words.vocabulary((cut[row] for row in answers.rows[0]), most, least_often)
    if len(vocabulary) == len((words.PADDING, words.UNKNOWN)):
        raise InputError(
            f"{table.name}: no {step} occurs {least_often} times in the training rows, so none would be known; give "
            "more rows or pass --minimum-count 1."
        )
    notes = (
        *table.notes,
        f'text from column "{text}", answers from column "{label}"',
        *(["texts of one word: read character by character"] if by_character else []),
        *dropped,
        *merged,
        *([f"{shortened:,} of {len(cut):,} texts cut to their last {longest} {step}s"] if shortened else []),
        f"{len(vocabulary):,} {step}s known (seen at least {least_often} times in training); unknown ones are shown "
        "‹so› and are all one to the net",
        *_copies(cut, answers),
        *answers.notes,
    )
    return separate(
        _pool(cut, vocabulary, answers),
        answers,
        name=table.name,
        step=step,
        inputs=len(vocabulary),
        vocabulary=vocabulary,
        prepared=Preparation(
            "words", text=text, by_character=by_character, answer=(label,), vocabulary=vocabulary, longest=longest
        ),
        digest=table.digest,
        notes=notes,
    )


def _one_spelling(said: list[str], label: str) -> tuple[list[str], tuple[str, ...]]:
    """Labels that differ only in case or spaces as the commonest of them, and a note that says so."""
    times = Counter(said)
    groups: dict[str, list[str]] = {}
    for each in times:
        groups.setdefault(" ".join(unicodedata.normalize("NFKC", each).casefold().split()), []).append(each)
    several = {key: sorted(each, key=lambda one: (-times[one], one)) for key, each in groups.items() if len(each) > 1}
    if not several:
        return said, ()
    kept = {one: each[0] for each in several.values() for one in each}
    told = "; ".join(f"{', '.join(map(repr, each))} as {each[0]!r}" for each in several.values())
    note = f'labels in "{label}" that differ only in case or spaces are one: {told}'
    return [kept.get(each, each) for each in said], (note,)


def _pool(samples: list[list[str]], vocabulary: tuple[str, ...], answers: Answers) -> Pool:
    number = {word: i for i, word in enumerate(vocabulary)}
    total = sum(map(len, samples))
    flat = np.fromiter((number.get(word, 1) for word in chain.from_iterable(samples)), dtype=np.int32, count=total)
    starts = np.concatenate([[0], np.cumsum([len(sample) for sample in samples])]).astype(np.int64)

    def spell(row: int, steps: Tensor) -> tuple[str, ...]:
        return tuple(
            f"‹{word}›" if token == 1 else word for word, token in zip(samples[row], steps.tolist(), strict=True)
        )

    return Pool(torch.from_numpy(flat), starts, answers.y, spell)


def _columns(table: Table, options: Options) -> tuple[str, str]:
    """The text column and the column of answers: as asked for, or the only ones there can be."""
    if options.label is not None and options.target is not None:
        raise InputError("--label names classes and --target numbers to predict; pass one of the two.")
    if isinstance(options.target, tuple) and len(options.target) != 1:
        raise InputError(f"{table.name}: texts take one --target column, not {len(options.target)}.")
    asked = options.label
    by = "--label"
    if options.target is not None:
        asked, by = (options.target if isinstance(options.target, str) else options.target[0]), "--target"
    if asked is not None:
        table.column(asked, by)
    columns = table.frame.columns
    if options.text is not None:
        table.column(options.text, "--text")
        text = options.text
    else:
        candidates = [name for name in prose(table) if name != asked]
        if len(candidates) != 1:
            found = f"columns {listed(candidates)} all hold text" if candidates else "no column holds running text"
            text_like = [name for name in columns if name != asked and table.frame[name].dtype == pl.String]
            if not candidates and asked is not None and len(text_like) == 1:
                found += f'; for short texts or other signs pass --text "{text_like[0]}" --label "{asked}"'
            raise InputError(
                f"{table.name}: {found}; which one is to be read? Pass --text COLUMN; the columns are "
                f"{listed(columns)}."
            )
        text = candidates[0]
    if asked == text:
        raise InputError(f'{table.name}: "{text}" cannot be both the text and its answer; name two columns.')
    if asked is not None:
        return text, asked
    candidates = [name for name in columns if name != text and _may_label(table.frame[name])]
    # A column that says the same in every row is the answer only if no other can be.
    candidates = [name for name in candidates if table.frame[name].n_unique() > 1] or candidates
    if len(candidates) != 1:
        found = f"columns {listed(candidates)} could all be the label" if candidates else "no column looks like a label"
        others = listed([name for name in columns if name != text]) or "none but the text"
        raise InputError(
            f"{table.name}: {found}; which one is to be learned? Pass --label COLUMN (classes) or --target COLUMN "
            f"(numbers); the other columns are {others}."
        )
    return text, candidates[0]


def _may_label(column: pl.Series) -> bool:
    """Whether a column could be the answer: its values come back from row to row, or are numbers with fractions."""
    cells = [cell for cell in texts(column) if cell]
    distinct = len(set(cells))
    if not cells:
        return False
    return distinct <= min(MOST_LABELS, max(2, len(cells) // 2)) or _many_fractions(*numbers(column))


def _many_fractions(value: NDArray[np.float64], stray: NDArray[np.bool_]) -> bool:
    """Whether a column holds numbers to predict rather than the names of classes."""
    there = value[np.isfinite(value)]
    return not stray.any() and len(np.unique(there)) > _MANY_VALUES and bool((there != np.round(there)).any())


def _label_fault(said: list[str], _value: NDArray[np.float64], label: str) -> Callable[[int], str | None]:
    names = sorted({each for each in said if each})
    offered = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return lambda i: None if said[i] else f'label "{label}" is empty; every row needs one of {offered}'


def _number_fault(said: list[str], value: NDArray[np.float64], label: str) -> Callable[[int], str | None]:
    return lambda i: (
        None if abs(value[i]) <= LARGEST else f'target "{label}" is "{said[i]}", which is no number up to {LARGEST:.0e}'
    )


def _usable(
    table: Table,
    options: Options,
    text: str,
    label: str,
    split_cells: list[list[str]],
    answer_fault: Callable[[int], str | None],
) -> tuple[list[int], tuple[str, ...]]:
    """The rows that can be used, and a note on those that were skipped because that was asked for."""
    kept: list[int] = []
    skipped: list[int] = []
    for i, sample in enumerate(split_cells):
        fault = answer_fault(i) if sample else f'text "{text}" is empty, or holds no word'
        if fault is None:
            kept.append(i)
        elif options.skip_bad_rows:
            skipped.append(i)
        else:
            raise InputError(f"{table.where(i)}: {fault}. Drop the row or pass --skip-bad-rows.")
    if not kept:
        raise InputError(f'{table.name}: no row has both a text in "{text}" and an answer in "{label}".')
    places = ", ".join(str(table.first_row + i) for i in skipped[:10])
    more = ", ..." if len(skipped) > 10 else ""
    note = f"{len(skipped):,} rows without a text or an answer skipped, as asked: row {places}{more}"
    return kept, (note,) if skipped else ()


def _copies(samples: list[list[str]], answers: Answers) -> tuple[str, ...]:
    """A note if texts of the test split also stand in training: the score would flatter."""
    trained = {tuple(samples[row]) for row in answers.rows[0]}
    again = sum(tuple(samples[row]) in trained for row in answers.rows[2])
    return (f"texts of the test split that also stand in training: {again:,}",) if again else ()
