"""Figures as data: what the bundle draws (web/src/spec.ts names the same fields) and what the tables are set from.

On a "log10" axis the values are base-10 logarithms already. Three things a number can be besides a number have their
own sign: −inf on such an axis is "zero" (exactly zero), +inf is "over", NaN is null (not measured).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from throughtime.records import Floats, Integers
from throughtime.view.markup import fit

Kind = Literal["linear", "log10"]
Dash = Literal["solid", "dashed", "dotted"]
Numbers = Sequence[float] | Floats | Integers
DASHES: tuple[Dash, ...] = ("solid", "dashed", "dotted")
DIGITS = 5  # significant digits a page keeps


@dataclass(frozen=True)
class Axis:
    """An axis or colour scale; ends of None are found from the values."""

    label: str
    kind: Kind = "linear"
    from_: float | None = None
    to: float | None = None


@dataclass(frozen=True)
class Rule:
    """A line across a picture that says where something stands."""

    across: Literal["x", "y"]
    at: float
    label: str


PERCENT = Rule("y", math.log10(0.01), "1%")  # on a logarithmic axis of shares


@dataclass(frozen=True)
class Series:
    """One line, with its band where it has quartiles or extremes."""

    name: str
    colour: str  # "c0" … "c7" (cells), "ink", "muted"
    x: Numbers
    values: Numbers
    lower: Numbers | None = None
    upper: Numbers | None = None
    dash: Dash = "solid"
    weight: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What every figure has."""

    title: str
    note: str  # which derivative, units, dtype, how many sequences
    file: str  # the name of its downloads, without an ending; letters and digits of it are kept


@dataclass(frozen=True, kw_only=True)
class Lines(Figure):
    """Curves over one axis."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()
    height: int = 340
    kind: str = field(default="lines", init=False)


@dataclass(frozen=True)
class Panel:
    """One grid of a map; a row shorter than the widest ends where nothing can be."""

    name: str
    values: Sequence[Numbers]
    rows: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Map(Figure):
    """Grids of numbers as colours, all panels on one scale."""

    x: str
    y: str
    scale: Axis
    panels: tuple[Panel, ...]
    block: int = 1  # steps behind one square
    kind: str = field(default="map", init=False)


@dataclass(frozen=True)
class StripRow:
    """One quantity along a sequence."""

    name: str
    scale: Axis
    values: Numbers


@dataclass(frozen=True, kw_only=True)
class Strip(Figure):
    """One real sequence with quantities at each step."""

    layout: Literal["text", "grid"]
    step: str
    words: tuple[str, ...]
    rows: tuple[StripRow, ...]
    kind: str = field(default="strip", init=False)


@dataclass(frozen=True)
class Bar:
    """One bar, with what is written at its end."""

    group: str
    name: str
    colour: str
    value: float
    text: str
    hollow: bool = False
    at_least: bool = False


@dataclass(frozen=True, kw_only=True)
class Bars(Figure):
    """Bars on one axis, gathered in groups."""

    axis: Axis
    bars: tuple[Bar, ...]
    rules: tuple[Rule, ...] = ()
    kind: str = field(default="bars", init=False)


def value(number: float, kind: Kind) -> float | str | None:
    """A number as it stands in a page."""
    number = float(number)
    if math.isnan(number):
        return None
    if math.isinf(number):
        return "zero" if kind == "log10" and number < 0 else "over"
    return float(f"{number:.{DIGITS}g}")


def values(numbers: Numbers | None, kind: Kind) -> list[float | str | None] | None:
    """Numbers as they stand in a page."""
    return None if numbers is None else [value(number, kind) for number in numbers]


def spec(figure: Figure) -> dict[str, Any]:
    """A figure as plain JSON values."""
    plain = {f.name: getattr(figure, f.name) for f in dataclasses.fields(figure)}
    plain["file"] = re.sub(r"[^\w]+", "-", figure.file).strip("-")[:80]
    match figure:
        case Lines():
            plain |= {"x": _axis(figure.x), "y": _axis(figure.y), "rules": _rules(figure.rules)}
            plain["series"] = [
                dataclasses.asdict(series)
                | {"x": values(series.x, figure.x.kind)}
                | {name: values(getattr(series, name), figure.y.kind) for name in ("values", "lower", "upper")}
                for series in figure.series
            ]
        case Map():
            plain["scale"] = _axis(figure.scale)
            plain["panels"] = [
                {
                    "name": panel.name,
                    "rows": list(panel.rows),
                    "values": [values(row, figure.scale.kind) for row in panel.values],
                }
                for panel in figure.panels
            ]
        case Strip():
            plain["rows"] = [
                {"name": row.name, "scale": _axis(row.scale), "values": values(row.values, row.scale.kind)}
                for row in figure.rows
            ]
        case Bars():
            plain |= {"axis": _axis(figure.axis), "rules": _rules(figure.rules)}
            plain["bars"] = [
                dataclasses.asdict(bar) | {"value": value(bar.value, figure.axis.kind)} for bar in figure.bars
            ]
    return plain


def _axis(axis: Axis) -> dict[str, Any]:
    return {"label": axis.label, "kind": axis.kind, "from": axis.from_, "to": axis.to}


def _rules(rules: tuple[Rule, ...]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(rule) for rule in rules]


_ESCAPED = re.compile(r"\\(u00[01][0-9a-f]|.)")  # what JSON escapes by itself: quotes, and what does not print


def block(figure: Figure) -> str:
    """A figure as JSON that can stand inside a script element: no character of it can end that element."""
    written = fit(json.dumps(spec(figure), ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    written = _ESCAPED.sub(lambda found: found[0] if found[1] in '\\"/nrt' else "\ufffd", written)
    for character in "<>&\u2028\u2029":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written
