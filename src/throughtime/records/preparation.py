"""How a source became sequences: what another file needs to become sequences alike, without the first one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Preparation:
    """What was learned from a source when it was read; plain values, kept with a run.

    Numbers are (x − mean) / deviation, column by column; (0, 1) where they were left as they are.
    """

    kind: Literal["words", "characters", "rows", "arrays", "pixels", "made"]  # what a source is read as
    text: str = ""  # words: the column of texts
    by_character: bool = False  # words: whether a step is a character instead
    answer: tuple[
        str, ...
    ] = ()  # words: the column of labels, or of the target; rows: the predicted columns; arrays: the label's
    columns: tuple[str, ...] = ()  # rows: what a step reads, in order; arrays: the steps, where a row is a series
    series: str = ""  # rows: the column that tells series apart
    time: str = ""  # rows: the column of time
    date_format: str = ""  # rows: how its dates are written, where that was a choice
    decimal: Literal["", "point", "comma"] = ""  # rows, arrays: the mark of decimals
    gaps: str = ""  # rows: how gaps are filled; empty: they are refused
    vocabulary: tuple[str, ...] = ()  # words and characters: by token number
    longest: int = 0  # words: how many are kept of a text, its last ones
    mean: tuple[float, ...] = ()  # of the values of a step
    deviation: tuple[float, ...] = ()
    answer_mean: tuple[float, ...] = ()  # of the numbers that are predicted
    answer_deviation: tuple[float, ...] = ()
    scale: float = 1.0  # pixels: what a stored number is multiplied by
