"""HTML that is escaped unless somebody says otherwise: text of others can become data on a page, never markup."""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = frozenset({"br", "hr", "meta"})


class Html(str):
    """Text that already is markup."""

    __slots__ = ()


_UNFIT = {code: "\ufffd" for code in (*range(32), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF) if code not in (9, 10, 13)}


def fit(text: str) -> str:
    """A text with U+FFFD for each character that XML and UTF-8 cannot hold: pages and pictures stay well-formed."""
    return text.translate(_UNFIT)


Node = Html | str | int | None | Iterable["Node"]


def escape(node: Node) -> Html:
    """A node as markup: text escaped, markup as it is, None left out, several one after another."""
    if isinstance(node, Html):
        return node
    if node is None:
        return Html("")
    if isinstance(node, str | int):
        return Html(html.escape(fit(str(node))))
    return Html("".join(escape(inner) for inner in node))


def tag(name: str, /, *children: Node, **attributes: str | int | bool | None) -> Html:
    """An element; `class_` is class, `data_figure` is data-figure, None and False leave an attribute out."""
    written = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        written += f" {key.rstrip('_').replace('_', '-')}"
        written += "" if value is True else f'="{html.escape(fit(str(value)))}"'
    return Html(f"<{name}{written}>" + ("" if name in VOID else f"{escape(children)}</{name}>"))


def text(pattern: str, *nodes: Node, **named: Node) -> Html:
    """A sentence with nodes in its {}; the pattern is ours, what goes in is escaped."""
    return Html(pattern.format(*map(escape, nodes), **{name: escape(node) for name, node in named.items()}))


def joined(parts: Iterable[Node], between: str = ", ", last: str = " and ") -> Html:
    """Parts as people list them: a, b and c."""
    whole = [escape(part) for part in parts]
    if len(whole) < 2:
        return Html("".join(whole))
    return Html(between.join(whole[:-1]) + last + whole[-1])
