"""`throughtime cells`: what recurrences there are."""

from __future__ import annotations

from typing import Annotated

import typer

from throughtime.cli import terminal

EXAMPLE = "Example: throughtime cells lstm"


def run(
    name: Annotated[
        str | None, typer.Argument(help="A cell, for its equations and options.", show_default=False)
    ] = None,
) -> None:
    """List the cells, or show one: its equations, its options, what its state holds and which gates it has."""
    from rich.table import Table

    from throughtime.cells import about, known
    from throughtime.study.plan import SPOKEN

    screen = terminal.console()
    if name is None:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("cell", "equations", "options"):
            table.add_column(column)
        called: dict[str, list[str]] = {}
        for spoken, known_as in SPOKEN.items():
            called.setdefault(known_as, []).append(spoken)
        for each in known():
            card = about(each)
            table.add_row(
                ", ".join([each, *called.get(each, ())]),
                card.summary,
                ", ".join(option.name for option in card.options),
            )
        screen.print(table)
        return
    card = about(SPOKEN.get(name, name))
    first, *paragraphs = [" ".join(block.split()) for block in card.text.split("\n\n")]
    screen.print(card.name, style="bold")
    screen.print(f"  {first}\n")
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    facts.add_row("options", "\n".join(str(option) for option in card.options) or "none")
    facts.add_row("state", ", ".join(card.parts) + " (the last is the output)")
    facts.add_row("ports", ", ".join(f"{port} reads {part}" for port, part in card.ports.items()))
    facts.add_row("gates", ", ".join(card.gates) or "none")
    if card.also:
        facts.add_row("also called", ", ".join(f"{also} = {usual}" for also, usual in card.also.items()))
    for option in card.options[:1]:
        facts.add_row(
            "on the command line",
            f"--cells {card.name}:{option.name}={option.choices[-1] if option.choices else option.default}",
        )
    screen.print(facts)
    for paragraph in paragraphs:
        screen.print(f"\n{paragraph}")
