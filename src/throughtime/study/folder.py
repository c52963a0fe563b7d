"""A study's folder: where everything is, written whole or not at all, and read back into records. No torch.

study.json              the plan, the data's card, the command, the versions, the machine
report.html
LABEL/run.json          how the run ended, once it has, and the model's card
LABEL/events.jsonl      updates and evaluations, append-only
LABEL/flows/*.npz       flow records, in the order they were measured
LABEL/checkpoints/      to go on from
LABEL/best.safetensors  weights; last.safetensors beside it
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from throughtime import history
from throughtime.disk import LOCK, clear, lock, make_folder, replace_folder, restore, sweep
from throughtime.errors import InputError
from throughtime.records import (
    DataCard,
    Evaluation,
    FlowRecord,
    ModelCard,
    RunRecord,
    Study,
    read,
    read_json,
    write,
    write_json,
)
from throughtime.records.preparation import Preparation
from throughtime.shell import shell_word
from throughtime.study.plan import Choice, Plan, Trial
from throughtime.view.report import MARK

Moment = Literal["before", "during", "after"]

NAME = "study.json"
REPORT = "report.html"
_AGAIN = "train again"

# What a study writes, by its path in the folder; a folder ends with "/".
_LEFT = r"\.[^/]+\.writing|" + re.escape(LOCK)  # the lock, and what a kill left half-written
_TOP = rf"{re.escape(NAME)}|{re.escape(REPORT)}|{_LEFT}"
_CHECKPOINT = r"(manifest\.json|state\.json|[a-z]+\.safetensors)"
_RUN = (
    rf"run\.json|{re.escape(history.NAME)}|(best|last)\.safetensors|{_LEFT}"
    rf"|flows/(|[012]-[a-z]+-\d+-[^/]*\.npz|{_LEFT})"
    rf"|checkpoints/(|latest|{_LEFT}|(\.writing-)?\d{{12}}/(|{_CHECKPOINT}))"
    r"|throughtime/([^/]+/)*(|events\.out\.tfevents\.[^/]*|hparams\.yml)"  # what a tracker writes
)
_UNBEGUN = {LOCK, f".{NAME}.writing"}  # all there is after a kill before `study.json` was whole


@dataclass(frozen=True)
class Origin:
    """Where a study comes from: what `study.json` holds."""

    title: str
    plan: Plan
    data: DataCard
    command: str
    created: str
    versions: Mapping[str, str]
    machine: str
    prepared: Preparation | None = None  # how other data become sequences alike; None: a study of before


@dataclass(frozen=True)
class Outcome:
    """How one run stands: what `run.json` holds; `stopped` is empty while it has not ended."""

    model: ModelCard
    stopped: str = ""
    test: Evaluation | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended before it could be tested: its loss was not finite, say."""
        return bool(self.stopped) and self.test is None


@dataclass(frozen=True)
class Folder:
    """The paths of one study."""

    path: Path

    @property
    def report(self) -> Path:
        """The report's file."""
        return self.path / REPORT

    def run(self, choice: Choice) -> Path:
        """The folder of one cell's run."""
        return self.path / re.sub(r"^\.+|[^A-Za-z0-9=.+_-]", "-", choice.label)

    def weights(self, choice: Choice) -> Path | None:
        """The file of a run's best weights, or of its last ones; None if it has none yet."""
        files = (self.run(choice) / f"{name}.safetensors" for name in ("best", "last"))
        return next((file for file in files if file.is_file()), None)

    # -- writing

    def begin(self, origin: Origin, *, overwrite: bool = False) -> ExitStack:
        """Begin a study; until what this returns is closed nobody else trains in its folder, or replaces it.

        What is replaced stands until the new one is begun. Raises InputError if something stands there already and
        overwriting was not asked for, or is more than a study, or if it cannot be made; TrainingError if another
        process trains there.
        """
        with ExitStack() as held:
            try:
                restore(self.path)
                if not _taken(self.path):
                    clear(self.path)
                    make_folder(self.path)
                    held.callback(lock(self.path).release)
                if not _taken(self.path):  # nobody was quicker
                    self.write_origin(origin)
                elif overwrite:
                    held.callback(self._replace(origin).release)
                else:
                    raise InputError(self._exists())
            except OSError as error:
                raise InputError(
                    f"{self.path}: cannot be written ({error.strerror or error}); choose another --out."
                ) from error
            return held.pop_all()

    def go_on(self) -> ExitStack:
        """Hold the folder of a study that was begun, as `begin` does, free of what a kill may have left half-written.

        Raises InputError if it holds none; TrainingError if another process trains there.
        """
        origin = self.read_origin()
        with ExitStack() as held:
            held.callback(lock(self.path).release)
            clear(self.path)
            runs = [self.run(trial.choice) for trial in origin.plan.trials]
            sweep((self.path, *runs, *(run / "flows" for run in runs)))
            return held.pop_all()

    def _replace(self, origin: Origin) -> FileLock:
        """Put a new study in the place of this one, if it is one and nobody trains in it; returns its lock, held."""
        path = Path(os.path.realpath(self.path))  # not the link that leads there
        if not (path / NAME).is_file():
            raise InputError(f"{self.path} is not the folder of a study, so it is not replaced; choose another --out.")
        try:
            plan = self.read_origin().plan
        except InputError as error:
            raise InputError(
                f"{self.path} is not replaced, as it cannot be told what in it is of a study: {error}"
            ) from error
        with ExitStack() as held:
            for folder in (path, *(file.parent for file in sorted(path.glob(f"*/{LOCK}")))):
                held.callback(lock(folder).release)
            runs = "|".join(re.escape(self.run(trial.choice).name) for trial in plan.trials)
            refuse_strange(path, rf"{_TOP}|({runs})/(|{_RUN})", "study")
            return replace_folder(path, lambda new: Folder(new).write_origin(origin))

    def _exists(self) -> str:
        told = f"{self.path} exists already"
        if not (self.path / NAME).is_file():
            return f"{told}, and is not the folder of a study; choose another --out."
        return (
            f"{told}; choose another --out, continue it with --resume {shell_word(self.path)}, or replace it with "
            "--overwrite."
        )

    def write_origin(self, origin: Origin) -> None:
        """Write `study.json`."""
        write_json(origin, self.path / NAME)

    def write_outcome(self, choice: Choice, outcome: Outcome) -> None:
        """Write a run's `run.json`."""
        make_folder(self.run(choice))
        write_json(outcome, self.run(choice) / "run.json")

    def write_flow(self, choice: Choice, flow: FlowRecord) -> None:
        """Write a flow record, named so that their order is the order of measuring."""
        make_folder(self.run(choice) / "flows")
        write(flow, self._flow(choice, flow.moment, flow.update, flow.layer))

    def has_flows(self, choice: Choice, moment: Moment, update: int, layers: int) -> bool:
        """Whether so many layers were measured then."""
        found = self._flow(choice, moment, update, "*")
        return len(list(found.parent.glob(found.name))) >= layers

    def _flow(self, choice: Choice, moment: Moment, update: int, layer: str) -> Path:
        rank = ("before", "during", "after").index(moment)
        return self.run(choice) / "flows" / f"{rank}-{moment}-{update:09d}-{layer.replace('/', '-')}.npz"

    # -- reading

    def read_origin(self) -> Origin:
        """Read `study.json`.

        Raises InputError if it is absent or damaged.
        """
        restore(self.path)
        place = self.path / NAME
        return read_json(Origin, place, absent="is this the folder of a study?", again=_AGAIN)

    def read_outcome(self, choice: Choice) -> Outcome | None:
        """Read a run's `run.json`; None if the run has not begun."""
        path = self.run(choice) / "run.json"
        return read_json(Outcome, path, absent=_AGAIN, again=_AGAIN) if path.exists() else None

    def read_run(self, trial: Trial, seed: int) -> RunRecord | None:
        """One run from its files; None if it has not begun."""
        choice = trial.choice
        outcome = self.read_outcome(choice)
        if outcome is None:
            return None
        past = history.read(self.run(choice) / history.NAME)
        lost = past.lost(self.reached(choice))
        flows = tuple(read(FlowRecord, path) for path in sorted((self.run(choice) / "flows").glob("*.npz")))
        return RunRecord(
            label=choice.label,
            model=outcome.model,
            settings=trial.settings,
            seed=seed,
            updates=past.updates,
            evaluations=past.evaluations,
            flows=flows,
            stopped=outcome.stopped or "it has not ended yet, or was interrupted.",
            seconds=sum(update.seconds for update in past.updates),
            test=outcome.test,
            notes=(lost,) if lost else (),
        )

    def reached(self, choice: Choice) -> int:
        """The update that a run has certainly come to, whatever is left of its history."""
        outcome = self.read_outcome(choice)
        tested = 0 if outcome is None or outcome.test is None else outcome.test.update
        past = history.read(self.run(choice) / history.NAME)
        try:
            latest = (self.run(choice) / "checkpoints" / "latest").read_text(encoding="ascii", errors="replace")
        except OSError:
            latest = ""
        saved = int(latest) if re.fullmatch(r"\d{12}", latest) else 0
        return max(tested, saved, *(update.update for update in past.updates[-1:]))

    def read_study(self) -> Study:
        """The whole study from its files.

        Raises InputError if no run has begun, or a file is damaged.
        """
        origin = self.read_origin()
        runs = [self.read_run(trial, origin.plan.seed) for trial in origin.plan.trials]
        begun = tuple(run for run in runs if run is not None)
        if not begun:
            raise InputError(
                f"{self.path}: no run has begun here; go on with `throughtime train --resume {shell_word(self.path)}`."
            )
        return Study(
            title=origin.title,
            command=origin.command,
            created=origin.created,
            versions=origin.versions,
            machine=origin.machine,
            data=origin.data,
            runs=begun,
        )


def refuse_strange(folder: Path, known: str, what: str) -> None:
    """Raise InputError unless every path in a folder matches `known` and may be removed: files of ours, no links.

    A report is known by what stands in it, the rest by where it is.
    """
    if Path.cwd().is_relative_to(os.path.realpath(folder)):
        raise InputError(f"{folder} is the folder you are in, so it is not replaced; name it from outside of it.")
    for path in _within(folder):
        name = path.relative_to(folder).as_posix() + "/" * (path.is_dir() and not path.is_symlink())
        ours = not path.is_symlink() and (path.is_file() or path.is_dir()) and re.fullmatch(known, name)
        if not ours or (name == REPORT and MARK.encode() not in path.read_bytes()):
            raise InputError(
                f"{folder} also holds {name.rstrip('/')}, which is not of the {what} in it, so it is not replaced; "
                "move that elsewhere, or choose another --out."
            )


def _within(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _within(path)


def _taken(path: Path) -> bool:
    """Whether something stands at `path`, beside what a kill may have left of a study that never began."""
    if path.is_symlink() and not path.exists():
        return True
    return path.exists() and (not path.is_dir() or any(entry.name not in _UNBEGUN for entry in path.iterdir()))


def folder_of(path: Path) -> tuple[Folder, bool]:
    """The study that a folder is of, and whether the folder is that of one of its runs."""
    inside = (path / "run.json").is_file() and (path.parent / NAME).is_file()
    return Folder(path.parent if inside else path), inside


def fresh(name: str, under: Path = Path("runs")) -> Path:
    """A folder of that name (a file's without its ending) that `under` does not have yet: `digits`, then `digits-2`."""
    name = re.sub(r"[^\w=+-]+", "-", name.lstrip(".").split(".")[0]).strip("-") or "study"
    candidates = (under / (name if n == 1 else f"{name}-{n}") for n in range(1, 1_000_000))
    return next(path for path in candidates if not path.exists())
