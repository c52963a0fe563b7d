"""`throughtime compare`: train cells side by side on one source, measure, one report."""

from __future__ import annotations

from typing import Annotated

import typer

from throughtime.cli.options import Reading, Running, SettingsOptions, ShapeOptions
from throughtime.cli.session import hold

EXAMPLE = "Example: throughtime compare reviews.csv --cells rnn,lstm,gru"


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
    cells: Annotated[
        str | None,
        typer.Option(help="Cells, comma-separated; options as in gru:reset=before.", show_default="rnn,lstm,gru"),
    ] = None,
) -> None:
    """Train cells side by side on SOURCE, measure how far back each learns, and write one report."""
    hold(source, cells, "rnn,lstm,gru", reading, shape, settings, running)
