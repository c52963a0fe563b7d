"""What a study is to do: a source, the cells to compare on it, and how to train them. Plain values; no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from throughtime.errors import InputError
from throughtime.records import Settings
from throughtime.records.arrays import Count, Finite, Seed

SPOKEN = {"rnn": "elman"}  # how people call a cell on the command line -> its known name
NO_DATA = ("feedforward",)  # cells whose input is not data


Measure = Literal["quick", "usual", "whole", "none"]  # how much is measured while training


@dataclass(frozen=True)
class Choice:
    """One cell of a study, as typed: `rnn`, `gru:reset=before`, `lstm:peephole=true:coupled=true`."""

    label: str
    name: str  # a known cell
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """The model around the cell."""

    hidden: Count = 64
    layers: Count = 1
    bidirectional: bool = False
    embedding: Count | None = None  # units; None: by the task
    dropout: Finite = 0.0
    readout: Literal["last", "mean", "every"] | None = None  # None: by the task
    engine: str = "auto"
    recompute: bool = False  # what a step leaves for the way back is made again: less memory, more time
    forget_bias: Finite | None = None  # None: as torch.nn draws it
    recurrent_init: Literal["orthogonal", "identity"] | None = None
    input_init: Literal["lecun"] | None = None
    chrono: Count | None = None  # the longest lag to remember, steps


@dataclass(frozen=True)
class Trial:
    """One cell of a study, and how it is built and trained."""

    choice: Choice
    shape: Shape
    settings: Settings


@dataclass(frozen=True)
class Plan:
    """Everything that decides a study's result."""

    source: str
    reading: Mapping[str, Any]  # keyword arguments of `tt.data.load`
    trials: tuple[Trial, ...]
    seed: Seed = 0
    device: str | None = None
    trackers: tuple[str, ...] = ()
    measure: Measure = "usual"
    base: str = ""  # the folder that a source which is a file was named from; empty: it is a name

    @property
    def place(self) -> str:
        """The source, wherever the plan is read: as it lay when it was named, else as it lies from here."""
        there = Path(self.base) / self.source
        return str(there) if self.base and there.exists() else self.source


def parse_cells(text: str) -> tuple[Choice, ...]:
    """Read `rnn,lstm,gru:reset=before` into choices.

    Raises InputError for an empty list, a cell named twice, or an option that is not `key=value`.
    """
    choices = tuple(_parse_cell(part.strip()) for part in text.split(",") if part.strip())
    if not choices:
        raise InputError("no cell was named; name at least one, as in --cells rnn,lstm,gru (see `throughtime cells`).")
    labels = [choice.label for choice in choices]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise InputError(f'cell "{twice}" is named twice; name each once, with options where they differ.')
    return choices


def _parse_cell(text: str) -> Choice:
    spoken, *options = text.split(":")
    if spoken.endswith(".py") or "/" in spoken:
        raise InputError(
            f'cell "{text}": the command line knows the cells of `throughtime cells` alone. A cell of your own is '
            "trained in Python: import its file, then call tt.Net.build(data.card, NAME) with the name its class was "
            "given, and tt.train (docs/cells.md)."
        )
    pairs: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key or not value:
            raise InputError(f'cell "{text}": option "{option}" is not KEY=VALUE, as in gru:reset=before.')
        pairs[key] = _value(value)
    name = SPOKEN.get(spoken, spoken)
    if name in NO_DATA:
        raise InputError(
            f'cell "{name}" cannot be trained on data: its input picks the next layer of a deep net, so that the '
            "measures of tt.flow can be taken on one; name another cell (see `throughtime cells`)."
        )
    return Choice(text, name, pairs)


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text)
    return float(text) if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text) else text
