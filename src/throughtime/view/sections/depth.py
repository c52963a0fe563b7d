"""How far down a feed-forward chain the gradient reaches, and what the layers let through."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from throughtime.records import DepthRecord, Floats
from throughtime.view import words
from throughtime.view.figures import PERCENT, Axis, Lines, Rule, Series
from throughtime.view.markup import Html, Node, joined, tag, text
from throughtime.view.page import Section, cell, figure, figures
from throughtime.view.subject import Deep, Subject
from throughtime.view.tables import table

QUESTION = "How far down the layers does the gradient reach?"
FLOOR = -16.0  # how far down the axes go; the tables have the numbers


def section(subject: Subject) -> Section | None:
    """The gradient by layer, and its bounds; None without a record of a chain."""
    deep = subject.deep
    if not deep:
        return None
    each = [figures(figure(f"fig-depth-{i}", _norms(one)), figure(f"fig-through-{i}", _through(one)))
            for i, one in enumerate(deep)]  # fmt: skip
    body = (
        figure("fig-depth", _shares(deep), "From the last layer, 0, down to the first. Dotted across: 1%."),
        *(
            node
            for one, pictures in zip(deep, each, strict=True)
            for node in (tag("h3", cell(one.label, one.colour)), pictures, _names(one))
        ),
    )
    return Section("depth", "Through the layers", QUESTION, _headline(deep), body)


def _share(record: DepthRecord) -> Floats:
    """log10 ‖∂L/∂a_l‖ − log10 ‖∂L/∂a_N‖; NaN where the loss asks for nothing."""
    last = record.gradient[-1]
    return record.gradient - last if np.isfinite(last) else np.full(len(record.layers), np.nan)


def _headline(deep: Sequence[Deep]) -> Node:
    return text("1% of the gradient still reaches {}.", joined(map(_reach, deep)))


def _reach(one: Deep) -> Html:
    share = _share(one.record)
    N = len(share)
    named = cell(one.label, one.colour)
    if not np.isfinite(share[-1]):
        return text("no layer of {}, whose loss has no gradient", named)
    under = np.flatnonzero(~(share >= PERCENT.at))
    down = N - 1 - int(under[-1]) if under.size else N
    far = f"all {words.some(N, 'layer')}" if down == N else f"{down} of the {words.some(N, 'layer')}"
    return text("{} of {} ({} left at the first)", far, named, words.left(float(share[0])))


def _axis(name: str, several: Sequence[Floats]) -> Axis:
    """From what was seen, but never so far that a decade cannot be seen."""
    found = np.concatenate([values[np.isfinite(values)] for values in several])
    high = math.ceil(float(found.max(initial=-math.inf if found.size else 0.0))) + 0.5
    low = math.floor(float(found.min(initial=math.inf if found.size else 0.0))) - 0.5
    return Axis(name, "log10", min(max(low, high + FLOOR), high - 3.0), high)


def _places(record: DepthRecord) -> list[int]:
    return list(range(1, len(record.layers) + 1))


def _batch(record: DepthRecord) -> str:
    return f"Over the whole batch, evaluation mode. Computed in {record.dtype}."


def _shares(deep: Sequence[Deep]) -> Lines:
    shares = [_share(one.record) for one in deep]
    dtypes = ", ".join(dict.fromkeys(one.record.dtype for one in deep))
    return Lines(
        title="Share of the gradient left after each layer it passed",
        note="Ratio ‖∂L/∂a_l‖ / ‖∂L/∂a_N‖ of 2-norms, a_l what layer l puts out, dimensionless, logarithmic axis. Over "
        f"the whole batch, evaluation mode. Computed in {dtypes}.",
        file="gradient-by-layer",
        x=Axis("layers passed, N − l"),
        y=_axis("share of the gradient left", [*shares, np.array([PERCENT.at])]),
        series=tuple(
            Series(one.label, one.colour, range(len(share)), share[::-1], weight=2.5)
            for one, share in zip(deep, shares, strict=True)
        ),
        rules=(PERCENT,),
        height=360,
    )


def _norms(one: Deep) -> Lines:
    record = one.record
    return Lines(
        title="What each layer is told",
        note="2-norms, loss per unit of activation and loss per unit of weight; a gap: the layer has no weights. "
        + _batch(record),
        file=f"gradient-norms-{one.label}",
        x=Axis("layer l, from the input"),
        y=_axis("norm", [record.gradient, record.weights]),
        series=(
            Series("activations ∂L/∂a", one.colour, _places(record), record.gradient, weight=2.5),
            Series("weights ∂L/∂W", "ink", _places(record), record.weights, dash="dashed", weight=1.5),
        ),
        height=300,
    )


def _through(one: Deep) -> Lines:
    record = one.record
    share = _share(record)
    top = max(3.0, float(np.nanmax(np.where(np.isfinite(record.gain), record.gain, 0.0))) + 1)
    axis = _axis("largest factor", [np.minimum(each, top) for each in (share, record.gain, record.steps, record.bound)])
    series = [
        Series("gradient left", one.colour, _places(record), share, weight=2.5),
        Series("gain, all at once", "ink", _places(record), record.gain, weight=1.75),
        Series("product of ‖J‖", "ink", _places(record), record.steps, dash="dashed", weight=1.25),
    ]
    if not np.isnan(record.bound[:-1]).all():
        series.append(Series("bound Π γ‖W‖", "muted", _places(record), record.bound, dash="dotted", weight=1.75))
    return Lines(
        title="What the layers above let through at most",
        note="Spectral norm of the product of the Jacobians J of the layers above l, the product of their norms, and "
        f"of γ‖W‖; dimensionless, medians over {words.some(record.samples, 'sample')} of the batch. The gain lies "
        f"under the product, that under the bound. Computed in {record.dtype}.",
        file=f"gradient-through-layers-{one.label}",
        x=Axis("layer l, from the input"),
        y=axis,
        series=tuple(series),
        rules=(Rule("y", 0.0, ""),),
        height=300,
    )


def _names(one: Deep) -> Html:
    """Which layer is which number, and what is left there."""
    record = one.record
    rows = (
        (str(place), name, words.left(float(share)), words.logarithm(float(record.weights[place - 1])))
        for place, name, share in zip(_places(record), record.layers, _share(record), strict=True)
    )
    heads = ("Layer", "Modules", "Gradient left", "log10 of ‖∂L/∂W‖")
    return tag("details", tag("summary", "Layers by name"), tag("div", table(heads, rows), class_="scroll", tabindex=0))
