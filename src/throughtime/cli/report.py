"""`throughtime report`: draw the report of a study or a measurement again from its records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from throughtime.cli import notes, terminal

EXAMPLE = "Example: throughtime report runs/digits"


def run(
    folder: Annotated[Path, typer.Argument(help="The folder of a study or a measurement.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="File to write (default: FOLDER/report.html, drawn again).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file at --out.")] = False,
) -> None:
    """Draw the report of the study or measurement in FOLDER again, from its records alone."""
    from throughtime.inspection.folder import read_records
    from throughtime.view import report

    path = folder / "report.html" if out is None else out
    records = read_records(folder)
    report(records, path, overwrite=overwrite or out is None)
    notes.tell(records)
    terminal.say(path)
