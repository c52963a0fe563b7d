"""A page that is one file: its style, its script and its data inside, and a policy that lets nothing else in or out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from throughtime.view.figures import Figure, Lines, block
from throughtime.view.markup import Html, Node, escape, tag
from throughtime.view.tables import numbers
from throughtime.view.thin import lines


@dataclass(frozen=True)
class Section:
    """One question of a page, and what answers it."""

    key: str  # its anchor
    short: str  # its name in the contents
    question: str
    headline: Node  # one sentence that answers, with numbers
    body: tuple[Node, ...] = ()


@cache
def asset(name: str) -> Html:
    """A built file of the bundle, as it stands inside a page."""
    content = files("throughtime.view").joinpath("assets", name).read_text(encoding="utf-8")
    ending = {"js": "script", "css": "style"}[name.rsplit(".", 1)[1]]
    if f"</{ending}" in content.lower() or "<!--" in content:
        raise ValueError(f"{name} would end its own element; build it again (web/)")
    return Html(content)


def policy(script: str, style: str) -> str:
    """The content security policy: this script and this style by their hashes, pictures made here, nothing else."""

    def hashed(content: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; script-src {hashed(script)}; style-src {hashed(style)}; img-src blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def figure(key: str, content: Figure, says: Node = None) -> Html:
    """A figure: its title, what to see in it, a place for its picture, its note, its numbers."""
    if isinstance(content, Lines):
        content = lines(content)
    return tag(
        "figure",
        tag("figcaption", tag("b", content.title), " " if says else None, says),
        tag("div", data_figure=f"{key}-data", class_="plot"),
        tag("p", content.note, class_="note"),
        tag("details", tag("summary", "Numbers"), tag("div", numbers(content), class_="scroll", tabindex=0)),
        tag("script", Html(block(content)), type="application/json", id=f"{key}-data"),
        id=key,
    )


def figures(*several: Html) -> Html:
    """Figures beside each other where there is room."""
    columns = {1: "", 2: " two", 4: " two"}.get(len(several), " three")
    return tag("div", *several, class_=f"figures{columns}")


def document(title: str, byline: Node, sections: tuple[Section, ...], foot: Node, fold: Node = None) -> str:
    """The whole page; `fold` stands under its byline."""
    script, style = asset("figures.js"), asset("figures.css")
    contents = tag("ol", (tag("li", tag("a", section.short, href=f"#{section.key}")) for section in sections))
    side = tag(
        "div",
        tag("div", tag("nav", contents, aria_label="Sections"), tag("div", data_theme_home=True)),
        class_="side",
    )
    top = tag("header", tag("h1", title), tag("p", byline, class_="byline"), fold, class_="top")
    main = tag("main", (_section(section) for section in sections), id="main")
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy(script, style)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", style),
    )
    body = (
        tag("a", "To the answers", href="#main", class_="skip"),
        tag("div", top, side, main, tag("footer", foot), class_="sheet"),
        tag("script", script),
    )
    return "<!DOCTYPE html>\n" + tag("html", tag("head", head), "\n", tag("body", body), lang="en") + "\n"


def _section(section: Section) -> Html:
    return escape(
        [
            Html("\n"),
            tag(
                "section",
                tag("h2", section.question, id=f"{section.key}-question"),
                tag("p", section.headline, class_="headline"),
                section.body,
                id=section.key,
                aria_labelledby=f"{section.key}-question",
            ),
        ]
    )


def cell(label: str, colour: str) -> Html:
    """The name of a cell in its colour."""
    return tag("span", label, class_=f"cell {colour}")


def facts(pairs: Mapping[str, Node], *, columns: bool = False) -> Html:
    """Names and what they stand for; short ones in columns."""
    there = [(tag("dt", name), tag("dd", node)) for name, node in pairs.items() if node]
    if columns:
        return tag("dl", (tag("div", *pair) for pair in there), class_="facts columns")
    return tag("dl", there, class_="facts")
