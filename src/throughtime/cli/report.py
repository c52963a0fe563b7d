"""`throughtime report`: draw a study's report again from its records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: throughtime report runs/digits"


def run(
    folder: Annotated[Path, typer.Argument(help="The folder of a study.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="File to write (default: FOLDER/report.html, drawn again).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file at --out.")] = False,
) -> None:
    """Draw the report of the study in FOLDER again, from its records alone."""
    from throughtime.study.folder import Folder
    from throughtime.view import report

    place = Folder(folder)
    path = place.report if out is None else out
    report(place.read_study(), path, overwrite=overwrite or out is None)
    typer.echo(path)
