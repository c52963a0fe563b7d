"""Fewer points that tell the same: long curves in stretches, large maps in blocks."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from throughtime.records import Floats
from throughtime.view.figures import Lines, Numbers, Series

POINTS = 120  # of one line on a page


def curve(x: Sequence[float], y: Sequence[float], points: int = POINTS) -> tuple[Floats, Floats, Floats, Floats]:
    """A curve in at most `points` stretches: the middle of each, its median, its smallest and its largest value.

    Not finite values count as the largest of their stretch, so that a spike is never thinned away.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if len(xs) <= points:
        return xs, ys, ys, ys
    cuts = np.linspace(0, len(xs), points + 1).astype(int)
    stretches = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    return (
        np.array([xs[s][len(xs[s]) // 2] for s in stretches]),
        np.array([np.median(ys[s]) for s in stretches]),
        np.array([ys[s].min() for s in stretches]),
        np.array([ys[s].max() for s in stretches]),
    )


def blocks(pairs: Floats, side: int) -> tuple[list[Floats], int]:
    """The lower triangle of a (T, T) map as rows, in blocks so that it is at most `side` wide; the block's width.

    A square stands for the largest of its pairs: what reaches back anywhere in it is not averaged away. NaN only
    where no pair of it was measured.
    """
    T = pairs.shape[0]
    width = max(1, math.ceil(T / side))
    rows = []
    for top in range(0, T, width):
        row = []
        for start in range(0, top + 1, width):
            part = pairs[top : top + width, start : start + width]
            lower = part[np.tril(np.ones(part.shape, bool), k=top - start)]
            measured = lower[~np.isnan(lower)]
            row.append(float(measured.max()) if measured.size else math.nan)
        rows.append(np.array(row))
    return rows, width


def widest(T: int, panels: int, squares: int) -> int:
    """How many steps a side, so that all panels together keep to so many squares."""
    return max(8, min(T, int(math.sqrt(2 * squares / max(1, panels)))))


def row(values: Floats, width: int) -> Floats:
    """One row of a map in stretches of `width` steps, each its largest value."""
    stretches = [values[start : start + width] for start in range(0, len(values), width)]
    return np.array([math.nan if np.isnan(part).all() else float(np.nanmax(part)) for part in stretches])


def lines(figure: Lines, points: int = POINTS) -> Lines:
    """A figure whose lines have at most so many points: every n-th and the last, and its note says so.

    A profile over thousands of lags is smooth, so single points stand for their neighbours; `curve` is for what is not.
    """
    longest = max((len(series.x) for series in figure.series), default=0)
    if longest <= points:
        return figure
    every = math.ceil(longest / points)

    def kept(numbers: Numbers) -> Numbers:
        if len(numbers) <= points:
            return numbers
        places = sorted({*range(0, len(numbers), every), len(numbers) - 1})
        return [float(numbers[place]) for place in places]

    def thinned(series: Series) -> Series:
        band = [None if edge is None else kept(edge) for edge in (series.lower, series.upper)]
        return dataclasses.replace(series, x=kept(series.x), values=kept(series.values), lower=band[0], upper=band[1])

    series = tuple(thinned(each) for each in figure.series)
    return dataclasses.replace(figure, series=series, note=f"{figure.note} One point in {every} is shown.")
