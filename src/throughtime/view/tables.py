"""Tables: every number of a figure, set so that a page reads without scripts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from throughtime.view.figures import Bars, Figure, Kind, Lines, Map, Numbers, Strip
from throughtime.view.markup import Html, Node, escape, tag
from throughtime.view.words import logarithm, plain


def table(head: Sequence[Node], rows: Iterable[Sequence[Node]], *, named: bool = True, stack: bool = False) -> Html:
    """A table; the first cell of a row names it, the others are numbers unless they are markup.

    With `stack`, each row becomes a block on a narrow screen, each cell under its column's name.
    """
    names = [cell if isinstance(cell, str) else None for cell in head]
    top = tag("tr", (tag("th", cell, scope="col") for cell in head))
    body = (
        tag(
            "tr",
            (
                tag("th", cell, scope="row")
                if named and i == 0
                else tag("td", cell, data_name=names[i] if stack else None)
                for i, cell in enumerate(row)
            ),
        )
        for row in rows
    )
    return tag("table", tag("thead", top), tag("tbody", body), class_="stack" if stack else None)


def shown(number: float, kind: Kind) -> str:
    """One number of a table."""
    if kind == "log10":
        return logarithm(number)
    return "–" if math.isnan(number) else plain(number, 4)


def label(name: str, kind: Kind) -> str:
    """The head of a column of such numbers."""
    return f"log10 of {name}" if kind == "log10" else name


def numbers(figure: Figure) -> Html:
    """The table behind a figure."""
    match figure:
        case Lines():
            return _lines(figure)
        case Map():
            return _map(figure)
        case Strip():
            return _strip(figure)
        case Bars():
            heads = ("", "", label(figure.axis.label, figure.axis.kind), "as written")
            return table(heads, ((b.group, b.name, shown(b.value, figure.axis.kind), b.text) for b in figure.bars))
    raise TypeError(f"no table is known for {type(figure).__name__}")


def _lines(figure: Lines) -> Html:
    heads: list[Node] = [figure.x.label]
    columns: list[dict[float, str]] = []
    for series in figure.series:
        for suffix, each in (("", series.values), (", lower", series.lower), (", upper", series.upper)):
            if each is not None:
                heads.append(series.name + suffix)
                columns.append({float(x): shown(y, figure.y.kind) for x, y in zip(series.x, each, strict=True)})
    xs = sorted({x for column in columns for x in column})
    rows = ([shown(x, figure.x.kind), *(column.get(x, "") for column in columns)] for x in xs)
    return escape([tag("p", label(figure.y.label, figure.y.kind), class_="small"), table(heads, rows)])


def _map(figure: Map) -> Html:
    parts: list[Node] = [tag("p", label(figure.scale.label, figure.scale.kind), class_="small")]
    for panel in figure.panels:
        wide = max((len(row) for row in panel.values), default=0)
        names = panel.rows or tuple(str(i * figure.block) for i in range(len(panel.values)))
        rows = (_filled(name, row, wide, figure.scale.kind) for name, row in zip(names, panel.values, strict=True))
        top = tag("tr", tag("th", f"{figure.y} \\ {figure.x}"), (tag("th", i * figure.block) for i in range(wide)))
        heading = tag("caption", panel.name) if panel.name else None
        parts.append(tag("table", heading, tag("thead", top), tag("tbody", rows), class_="grid"))
    return escape(parts)


def _filled(name: str, row: Numbers, wide: int, kind: Kind) -> Html:
    rest = tag("td", colspan=wide - len(row)) if len(row) < wide else None
    return tag("tr", tag("th", name), (tag("td", shown(number, kind)) for number in row), rest)


def _strip(figure: Strip) -> Html:
    heads = ("", figure.step, *(label(row.name, row.scale.kind) for row in figure.rows))
    rows = (
        (str(i), word, *(shown(row.values[i], row.scale.kind) for row in figure.rows))
        for i, word in enumerate(figure.words)
    )
    return table(heads, rows)
