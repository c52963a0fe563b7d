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

import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from throughtime import history
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
from throughtime.study.plan import Choice, Plan, Trial

_AGAIN = "train again"


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


@dataclass(frozen=True)
class Outcome:
    """How one run stands: what `run.json` holds; `stopped` is empty while it has not ended."""

    model: ModelCard
    stopped: str = ""
    test: Evaluation | None = None


@dataclass(frozen=True)
class Folder:
    """The paths of one study."""

    path: Path

    @property
    def report(self) -> Path:
        """The report's file."""
        return self.path / "report.html"

    def run(self, choice: Choice) -> Path:
        """The folder of one cell's run."""
        return self.path / re.sub(r"^\.+|[^A-Za-z0-9=.+_-]", "-", choice.label)

    # -- writing

    def create(self, *, overwrite: bool = False) -> None:
        """Make the folder.

        Raises InputError if something stands there already and overwriting was not asked for, or if it cannot be made.
        """
        try:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                if not overwrite:
                    raise InputError(
                        f"{self.path} exists already; choose another --out, continue it with --resume "
                        f"{_typed(self.path)}, or replace it with --overwrite."
                    )
                if not (self.path / "study.json").is_file():
                    raise InputError(
                        f"{self.path} is not the folder of a study, so it is not replaced; choose another --out."
                    )
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror or error}); choose another --out."
            ) from error

    def write_origin(self, origin: Origin) -> None:
        """Write `study.json`."""
        write_json(origin, self.path / "study.json")

    def write_outcome(self, choice: Choice, outcome: Outcome) -> None:
        """Write a run's `run.json`."""
        self.run(choice).mkdir(exist_ok=True)
        write_json(outcome, self.run(choice) / "run.json")

    def write_flow(self, choice: Choice, flow: FlowRecord) -> None:
        """Write a flow record, named so that their order is the order of measuring."""
        flows = self.run(choice) / "flows"
        flows.mkdir(exist_ok=True)
        rank = ("before", "during", "after").index(flow.moment)
        write(flow, flows / f"{rank}-{flow.moment}-{flow.update:09d}-{flow.layer.replace('/', '-')}.npz")

    # -- reading

    def read_origin(self) -> Origin:
        """Read `study.json`.

        Raises InputError if it is absent or damaged.
        """
        place = self.path / "study.json"
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
        past = history.read(self.run(choice) / "events.jsonl")
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
        )

    def read_study(self) -> Study:
        """The whole study from its files.

        Raises InputError if no run has begun, or a file is damaged.
        """
        origin = self.read_origin()
        runs = [self.read_run(trial, origin.plan.seed) for trial in origin.plan.trials]
        begun = tuple(run for run in runs if run is not None)
        if not begun:
            raise InputError(
                f"{self.path}: no run has begun here; go on with `throughtime train --resume {_typed(self.path)}`."
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


def fresh(name: str, under: Path = Path("runs")) -> Path:
    """A folder of that name (a file's without its ending) that `under` does not have yet: `digits`, then `digits-2`."""
    name = re.sub(r"[^A-Za-z0-9=+_-]+", "-", name.lstrip(".").split(".")[0]).strip("-") or "study"
    candidates = (under / (name if n == 1 else f"{name}-{n}") for n in range(1, 1_000_000))
    return next(path for path in candidates if not path.exists())


def _typed(path: Path) -> str:
    return shlex.quote(str(path))
