"""`throughtime predict`: what a trained net answers for a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from throughtime.cli import terminal
from throughtime.errors import InputError

if TYPE_CHECKING:
    from throughtime.study.trained import Predictions

EXAMPLE = (
    "Example: throughtime predict runs/reviews new.csv --out predictions.csv\n\n"
    "Example: throughtime predict runs/sunspots sunspots.csv --steps 12\n\n"
    'Example: throughtime predict runs/shakespeare --prompt "ROMEO:" --steps 400'
)


def run(
    folder: Annotated[Path, typer.Argument(help="The folder of a study, or of one run in it.", show_default=False)],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="What to predict for: a file such as the one that was trained on, or the name of the task, as digits, "
            "for its test split.",
            show_default=False,
        ),
    ] = None,
    cell: Annotated[
        str | None,
        typer.Option(help="Which cell of a comparison (default: the best on validation).", show_default=False),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Forecasts: rows ahead (1). Running text: characters to write (200).", show_default=False),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Running text: what to go on from.", show_default=False)] = None,
    temperature: Annotated[
        float, typer.Option(help="Running text: 0 always writes the likeliest character, 1 draws as learned.", min=0.0)
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Running text: decides what is drawn.", min=0, max=2**63 - 1)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="File to write, as CSV (default: standard output).", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file at --out.")] = False,
) -> None:
    """Predict with a trained net: one row for each row of FILE, each step ahead, or text written on.

    The column `prediction` holds the label or the value in the data's own unit; `probability_LABEL` stands beside it.
    """
    if out is not None and (out.exists() or out.is_symlink()) and not overwrite:
        raise InputError(f"{out} exists already; choose another --out, or replace it with --overwrite.")
    from throughtime.data import known
    from throughtime.disk import write_whole
    from throughtime.study.trained import load

    trained = load(folder, cell)
    found = trained.predict(source, steps=steps, prompt=prompt, temperature=temperature, seed=seed)
    for note in (f"predicted by {trained.label}, trained on {trained.card.name}", *found.notes):
        terminal.say(f"note: {note}", error=True)
    if found.score is not None:
        told = f"{found.score:.1%} of the {found.answers:,} answers in {source} were predicted"
        of_training = (
            "the test split, which was held out" if source in known() else "rows that were trained on count too"
        )
        terminal.say(f"note: {told} ({of_training})", error=True)
    content = f"{found.text}\n" if found.text else _csv(found)
    if out is None:
        terminal.data(content)
        return
    write_whole(out, content.encode("utf-8"))
    rows = "" if found.text else f"{found.frame.height:,} rows: "
    terminal.say(f"{rows}{out}", error=True)


def _csv(found: Predictions) -> str:
    """The table as CSV, numbers with six digits that matter."""
    import polars as pl
    import polars.selectors as columns

    shown = columns.float().map_elements(lambda value: f"{value:.6g}", return_dtype=pl.String)
    return found.frame.with_columns(shown).write_csv()
