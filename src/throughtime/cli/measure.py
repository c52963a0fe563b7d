"""`throughtime measure`: the microscope on somebody's own torch model, or again on a run of ours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from throughtime.cli import terminal
from throughtime.cli.options import Reading, given
from throughtime.cli.session import INTERRUPTED
from throughtime.errors import InputError
from throughtime.shell import command_line

if TYPE_CHECKING:
    from throughtime.records import Measurement

EXAMPLE = (
    "Example: throughtime measure my_model.py:make --data reviews.csv\n\n"
    "Example: throughtime measure my_model.py:make --data batch.npz --time-first --lag 20\n\n"
    "Example: throughtime measure runs/digits"
)


class Derivative(StrEnum):
    """Which of the two derivatives."""

    boundary = "boundary"
    node = "node"


_RUN = "Run"


def run(
    reading: Reading,
    model: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="FILE.py:FUNCTION, a function of yours that returns your torch model, or (model, loss); its code is "
            "run. Or the folder of a run of ours.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="A batch in an .npz file (x, y, lengths, …), or whatever can be trained on: a table, a text, digits, "
            "adding, …",
            show_default=False,
        ),
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Only this layer, as the model names it (repeatable).", show_default=False)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Sequences in the step that is measured.", show_default="32", min=1)
    ] = None,
    time_first: Annotated[bool, typer.Option("--time-first", help="The model reads (T, B, …), not (B, T, …).")] = False,
    derivative: Annotated[
        Derivative, typer.Option(help="With the parts of the state held apart, or in all.")
    ] = Derivative.boundary,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write (default: runs/measure-NAME).", rich_help_panel=_RUN, show_default=False),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the measurement at --out.", rich_help_panel=_RUN)
    ] = False,
    seed: Annotated[
        int,
        typer.Option(help="Decides the split and what the factory draws.", rich_help_panel=_RUN, min=0, max=2**63 - 1),
    ] = 0,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, … (default: where the model is).", rich_help_panel=_RUN, show_default=False),
    ] = None,
) -> None:
    """Measure how far back a torch model of your own learns, on one training step of it, and write a report.

    FUNCTION may be make(), make(data) or make(data, batches):

    data.inputs, .outputs, .tokens, .labels and .lengths say what it will read;
    batches of (x, lengths, y) are there to train on before it is measured.

    Your model is called as model(x), or model(x, lengths) if it asks for them.
    Without a loss of yours it is cross-entropy, or mean squared error.
    """
    folder = Path(model)
    file, name = ("", "") if folder.is_dir() else _parsed(model)
    from throughtime.inspection.folder import check_free, keep
    from throughtime.study.folder import fresh

    place = out or fresh(f"measure-{(Path(file).stem if file else folder.resolve().name)}")
    check_free(place, overwrite=overwrite)
    whole = place.absolute()  # before code is run that may go to another folder

    from throughtime.data.front import known
    from throughtime.inspection.measure import Asked, measure
    from throughtime.inspection.runs import measure_again

    command = command_line("throughtime", *sys.argv[1:])
    how = given(reading)
    lag = None if data in known() or not file else how.pop("lag", None)  # a generated task is made with it
    asked = Asked(data, how, batch, seed, device, tuple(layer or ()), time_first, derivative.value, command, lag)
    with _interruptible(), _saying() as say:
        measured = measure(Path(file), name, asked, say) if file else measure_again(folder, asked, say)
        say("writing the report")
        keep(measured, whole, overwrite=overwrite)
    _show(measured)
    terminal.say(f"report: {place / 'report.html'}")


def _parsed(target: str) -> tuple[str, str]:
    """FILE.py:FUNCTION in two; without a function, "" for it."""
    file, _, name = target.rpartition(":")
    if target.endswith(".py"):
        return target, ""
    if file.endswith(".py"):
        return file, name
    raise InputError(
        f"{target}: is no folder, and not FILE.py:FUNCTION; name a Python file and a function in it that returns your "
        "model, as in my_model.py:make, or the folder of a run."
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends with a line: whoever trains in the factory is to know that nothing of it was kept."""
    try:
        yield
    except KeyboardInterrupt:
        terminal.say("throughtime: interrupted; nothing was kept.", error=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _saying() -> Iterator[Callable[[str], None]]:
    """Tells on stderr what is being done: one line that changes on a terminal, else a line each."""
    from rich.text import Text

    console = terminal.console(error=True)

    def line(text: str) -> None:
        console.print(f"{text} …", soft_wrap=True)

    if not console.is_terminal:
        yield line
        return
    with console.status("") as status:

        def change(text: str) -> None:
            if text.startswith("running "):
                line(text)  # that somebody's code is run stays to be read
            status.update(Text(f"{text} …", style="dim"))

        yield change


def _show(measured: Measurement) -> None:
    """The result: a row a layer, and what to know of it."""
    from rich.table import Table

    from throughtime.cli.screen import decay_text, half_life_text, horizon_text
    from throughtime.diagnosis import diagnose
    from throughtime.diagnosis.wording import factor

    console = terminal.console()
    first: dict[str, str] = {}
    for finding in diagnose(measured):
        first.setdefault(finding.cell, finding.title.removeprefix(f"{finding.cell}: "))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    table.add_column("cell", no_wrap=True)
    for head in ("steps", "horizon", "half-life", "decay", "gradient at start", "at end"):
        table.add_column(head, justify="right", no_wrap=True)
    for flow in measured.flows:
        ends = [factor(float(flow.adjoint[at])) for at in (0, -1)]
        table.add_row(
            flow.layer, flow.cell, str(flow.T), horizon_text(flow), half_life_text(flow), decay_text(flow), *ends
        )
    console.print(table)
    told = [f"{flow.layer}: {first[flow.layer]}" for flow in measured.flows if flow.layer in first]
    told += [f"loss: {measured.loss}", f"data: {measured.data}"]
    told += [f"note: {note}" for note in measured.notes]
    told += [f"left out: {what}" for what in measured.left_out]
    for text in told:
        console.print(text, soft_wrap=True)
