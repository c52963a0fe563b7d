"""The command: one file per verb; each parses, calls and prints.

Only typer is loaded here; a verb loads the rest when it is called, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from throughtime import __version__
from throughtime.cli import cells, compare, demo, report, train
from throughtime.cli.options import spread
from throughtime.errors import ThroughtimeError

app = typer.Typer(
    name="throughtime",
    help="Recurrent networks whose gradients people can see: train them, and see how far back they learn, and why.",
    epilog="Start with: [bold]throughtime demo[/bold]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (demo, compare, train, report, cells):
    app.command(name=verb.__name__.rpartition(".")[2], epilog=verb.EXAMPLE)(spread(verb.run))


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    """Recurrent networks whose gradients people can see: train them, and see how far back they learn, and why."""
    if version:
        typer.echo(f"throughtime {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command; bad use and bad input end with status 2 and one line on stderr."""
    try:
        app()
    except ThroughtimeError as error:
        sys.stderr.write(f"throughtime: {error}\n")
        sys.exit(2)
