"""`throughtime train`: train one cell on a source, measure, one report."""

from __future__ import annotations

from typing import Annotated

import typer

from throughtime.cli.options import Reading, Running, SettingsOptions, ShapeOptions
from throughtime.cli.session import hold

EXAMPLE = "Example: throughtime train reviews.csv --cell lstm --window 64 --clip 1.0"


def run(
    reading: Reading,
    shape: ShapeOptions,
    settings: SettingsOptions,
    running: Running,
    source: Annotated[
        str | None,
        typer.Argument(
            help="A table, text or .npz file; or digits, adding, copy, order, jane; or hub:NAME.", show_default=False
        ),
    ] = None,
    cell: Annotated[
        str | None, typer.Option(help="The cell; options as in gru:reset=before.", show_default="lstm")
    ] = None,
) -> None:
    """Train one cell on SOURCE, measure how far back it learns, and write a report."""
    hold(source, cell, "lstm", reading, shape, settings, running)
