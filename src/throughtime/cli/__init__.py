"""The command: one file per verb; each parses, calls and prints.

Only typer is loaded here; a verb loads the rest when it is called, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from throughtime import __version__
from throughtime.cli import cells, compare, demo, measure, notes, predict, report, terminal, train
from throughtime.cli.options import spread
from throughtime.cli.session import INTERRUPTED
from throughtime.errors import ThroughtimeError

BAD = 2  # the exit status of bad use and bad input

app = typer.Typer(
    name="throughtime",
    help="Recurrent networks whose gradients people can see: train them, and see how far back they learn, and why.",
    epilog="Start with: [bold]throughtime demo[/bold]",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (demo, compare, train, predict, measure, report, cells):
    app.command(name=verb.__name__.rpartition(".")[2], epilog=verb.EXAMPLE)(spread(verb.run))


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Recurrent networks whose gradients people can see: train them, and see how far back they learn, and why."""
    if version:
        terminal.say(f"throughtime {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command; bad use and bad input end with status 2 and one line on stderr."""
    terminal.settle()
    notes.take()
    try:
        sys.exit(app(prog_name="throughtime", standalone_mode=False) or 0)
    except TyperException as error:
        message = error.format_message().rstrip(".") if hasattr(error, "format_message") else str(error)
        stop = "" if message.endswith("?") else "."
        terminal.say(f"throughtime: {message}{stop} See `throughtime --help`.", error=True)
    except ThroughtimeError as error:
        terminal.say(f"throughtime: {error}", error=True)
    except MemoryError:
        terminal.say(
            "throughtime: there is not enough memory for this; take fewer units, samples or steps.", error=True
        )
    except OSError as error:  # a disk that fills up, a folder that goes away
        place = f"{error.filename}: " if error.filename else ""
        after = "mend that and run it again (training goes on with --resume)."
        terminal.say(f"throughtime: {place + str(error.strerror or error)}; {after}", error=True)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    sys.exit(BAD)
