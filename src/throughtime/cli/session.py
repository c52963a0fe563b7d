"""What the verbs that train share: settle the plan, run the study on the screen, print the result."""

from __future__ import annotations

import signal
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from throughtime.cli import notes, terminal
from throughtime.cli.options import Reading, Running, SettingsOptions, ShapeOptions, given
from throughtime.errors import InputError, TrainingError
from throughtime.shell import command_line, shell_word

if TYPE_CHECKING:
    from rich.console import Console

    from throughtime.data.dataset import Dataset
    from throughtime.study.folder import Folder, Origin

INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended


def hold(
    source: str | None,
    cells: str | None,
    usual_cells: str,
    reading: Reading,
    shape: ShapeOptions,
    settings: SettingsOptions,
    running: Running,
) -> None:
    """Run a study from the command line's values, or go on with one."""
    chosen = {**given(reading), **given(shape), **given(settings)}
    if running.quiet:
        notes.take(quiet=True)
    if running.resume is not None:
        allowed = Running(resume=running.resume, quiet=running.quiet)
        if source is not None or cells is not None or chosen or running != allowed:
            raise InputError(
                "--resume goes on with the plan in its folder; give nothing beside it but --quiet: no source, cell, "
                "setting, seed or --out."
            )
    elif source is None:
        raise InputError(
            "no source was named: give a file (a table, text or .npz) or one of digits, adding, copy, order, jane; "
            "or --resume FOLDER."
        )

    from throughtime.study import run as study
    from throughtime.study.folder import Folder, fresh
    from throughtime.study.plan import parse_cells

    if running.resume is not None:
        place = Folder(running.resume)
        with place.go_on() if study.leads() else nullcontext():
            origin, dataset = study.reopen(place)
            origin, told = study.continued(origin, place)
            notes.say(told)
            _run(origin, dataset, place, running)
        return
    assert source is not None
    origin, dataset = study.prepare(
        source,
        parse_cells(usual_cells if cells is None else cells),
        given(reading),
        given(shape),
        _clipping(given(settings)),
        seed=running.seed,
        device=running.device,
        trackers=tuple(running.tracker or ()),
        command=command_line("throughtime", *sys.argv[1:]),
        measure=running.measure.value,
    )
    if running.dry_run:
        with tempfile.TemporaryDirectory(prefix="throughtime-") as scratch:
            place = Folder(Path(scratch) / "study")
            with _begun(place, origin, overwrite=False):
                _run(*study.shortened(origin, dataset), place, running)
        terminal.say("dry run: training, measures and report went through on two batches; nothing was kept.")
        return
    place = Folder(running.out or fresh(origin.data.name))
    with _begun(place, origin, overwrite=running.overwrite):
        _run(origin, dataset, place, running)


def _clipping(settings: dict[str, Any]) -> dict[str, Any]:
    """On the command line a threshold of 0 is the word for no clipping."""
    return settings | {"clip": None} if settings.get("clip") == 0 else settings


def _begun(place: Folder, origin: Origin, *, overwrite: bool) -> AbstractContextManager[object]:
    from throughtime.study.run import leads

    return place.begin(origin, overwrite=overwrite) if leads() else nullcontext()


def _run(origin: Origin, dataset: Dataset, place: Folder, running: Running) -> None:
    from throughtime.cli import screen as screens
    from throughtime.study.run import Failed, Interrupted, Looking, leads, run
    from throughtime.view import report

    errors = terminal.console(error=True)
    screen: screens.Screen = screens.Quiet()
    if leads() and not running.quiet:
        screen = screens.Live(errors, origin.data) if errors.is_terminal else screens.Plain(errors, origin.data)
        for note in origin.data.notes:
            errors.print(f"note: {note}", soft_wrap=True)
    failures: dict[str, str] = {}  # cell -> why it could not go on
    interrupt = _Interrupt(errors)
    with interrupt, screen:
        events = run(origin, dataset, place, stop=interrupt.asked)
        for event in events:
            screen.show(event)
            if interrupt.looking(isinstance(event, Looking)):
                event = events.throw(KeyboardInterrupt())
            if isinstance(event, Failed):
                failures[event.choice.label] = event.why
            if isinstance(event, Interrupted):
                screen.__exit__(None, None, None)
                errors.print(f"saved. Go on with: throughtime train --resume {shell_word(place.path)}", soft_wrap=True)
                raise typer.Exit(INTERRUPTED)
    if not leads():
        return
    study = place.read_study()
    report(study, place.report, overwrite=True)
    notes.tell(study)
    results = terminal.console()
    results.print(screens.table(study))
    results.print(screens.guess(study), style="dim", soft_wrap=True)
    if not running.dry_run:
        terminal.say(f"report: {place.report}")
    if failures:
        why: dict[str, list[str]] = {failure: [] for failure in failures.values()}
        for label, failure in failures.items():
            why[failure].append(label)
        raise TrainingError(" ".join(f"{', '.join(labels)}: {failure}" for failure, labels in why.items()))


class _Interrupt:
    """Ctrl-C asks for an end after the running update, or ends a measurement at once; a second one quits at once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._asked = self._looking = False

    def asked(self) -> bool:
        """Whether somebody asked."""
        return self._asked

    def looking(self, now: bool) -> bool:
        """Say whether a measurement comes next; returns whether it is to be ended, as somebody asked before."""
        self._looking = now
        return now and self._asked

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGINT, self._take)

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._looking:
            raise KeyboardInterrupt
        self._console.print("saving after this update; Ctrl-C again quits at once.", soft_wrap=True)
