"""Plain text, to be predicted character by character."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from throughtime.data import words
from throughtime.data.assembly import sizes, spread
from throughtime.data.dataset import Dataset
from throughtime.data.draws import checked
from throughtime.data.files import File
from throughtime.data.options import Options
from throughtime.data.streams import LONGEST_WINDOW, Series, window_length
from throughtime.errors import InputError
from throughtime.records import DataCard
from throughtime.records.preparation import Preparation

FITS = ("max_length", "vocabulary", "minimum_count", "split")
_LEAST = 2  # characters a split needs: one to read and one to predict
_MOST = 10_000


def load(file: File, options: Options) -> Dataset:
    """Language modelling: every character is answered by the next one; the score is in nats a character.

    The first characters train, the last test; the vocabulary is that of the training split.
    Raises InputError if the text is too short.
    """
    options.refuse_all_but(FITS, f"{file.name}, read as running text")
    shares = checked(options.split)
    most, least_often = options.at_least("vocabulary", 3, _MOST), options.at_least("minimum_count", 1, 1)
    raw = file.text()
    text = raw.replace("\r\n", "\n")
    valid, test = (max(_LEAST, round(share * len(text))) for share in shares[1:])
    train = len(text) - valid - test
    if train < _LEAST:
        raise InputError(
            f"{file.name}: {'1 character is' if len(text) == 1 else f'{len(text)} characters are'} too short to "
            "predict; give a longer text."
        )
    pieces = text[:train], text[train : train + valid], text[train + valid :]
    vocabulary = words.vocabulary(pieces[:1], most, least_often)
    number = {character: i for i, character in enumerate(vocabulary)}
    length = options.at_least("max_length", 1, window_length(train) if train < 32 * LONGEST_WINDOW else LONGEST_WINDOW)

    def spell(steps: Tensor) -> tuple[str, ...]:
        return tuple(vocabulary[token] for token in steps.tolist())

    tokens = [torch.tensor([number.get(character, 1) for character in piece]) for piece in pieces]
    train_series, valid_series, test_series = (Series(each, each, spell, length, (len(each),)) for each in tokens)
    splits = train_series, valid_series, test_series
    unknown = sum(int((each == 1).sum()) for each in tokens)
    notes = (
        *(["line ends CRLF read as LF"] if len(raw) != len(text) else []),
        *([f"{unknown:,} characters are outside the vocabulary of the training split"] if unknown else []),
        "the first characters train, the last test",
        f"as separate samples: windows of {length} steps",
    )
    card = DataCard(
        name=file.name,
        kind="next",
        step="character",
        tokens=True,
        inputs=len(vocabulary),
        outputs=len(vocabulary),
        labels=vocabulary,
        metric="nats",
        baseline=_by_frequency(tokens[0], tokens[2], len(vocabulary)),
        baseline_is="each character as often as in training, whatever came before; scored on the test split",
        lag=None,
        sizes=sizes(*splits),
        lengths=spread(*splits),
        digest=file.digest,
        notes=notes,
    )
    prepared = Preparation("characters", vocabulary=vocabulary)
    return Dataset(card, *splits, vocabulary=vocabulary, answers_each_step=True, continues=True, prepared=prepared)


def _by_frequency(train: Tensor, test: Tensor, size: int) -> float:
    """The cross-entropy (nats) of the test answers under the training frequencies, each count raised by one."""
    counts = np.ones(size)
    for token, times in Counter(train.tolist()).items():
        counts[token] += times
    cost = np.log(counts.sum()) - np.log(counts)
    return float(cost[test[1:].numpy()].mean())
