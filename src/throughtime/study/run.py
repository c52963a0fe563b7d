"""Runs a study: each cell in turn is built, measured, trained, measured again; everything goes to the folder.

Yields typed events as it goes; who shows them decides how.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from inspect import signature
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from throughtime import training as learning
from throughtime.cells import find
from throughtime.data import load
from throughtime.data.dataset import Batch, Dataset, Split, Stream
from throughtime.data.front import known
from throughtime.data.options import Options, flag
from throughtime.errors import FlowError, InputError, TrainingError
from throughtime.models import Net
from throughtime.records import DataCard, Evaluation, FlowRecord, RunRecord, Update, decode
from throughtime.study import surroundings
from throughtime.study.eyes import Eyes, seconds_of
from throughtime.study.folder import NAME, Folder, Moment, Origin, Outcome
from throughtime.study.plan import Choice, Measure, Plan, Trial
from throughtime.study.recipes import CLOCKS, settle
from throughtime.training.machine import check_trackers

SMALL = 1 << 20  # multiplications; on two cores a GRU of 64 units and 16 sequences runs three times faster on one


@dataclass(frozen=True)
class Started:
    """A cell's run begins, or goes on after `done` updates."""

    choice: Choice
    updates: int  # in all, at most
    done: int
    parameters: int
    notes: tuple[str, ...]  # what had to be passed over on going on


@dataclass(frozen=True)
class Looking:
    """A layer is measured next, until the following event; an interrupt in the meantime ends the run at once."""

    choice: Choice
    moment: Moment
    layer: int  # from 0
    layers: int


@dataclass(frozen=True)
class Ended:
    """A cell's run is whole."""

    choice: Choice
    run: RunRecord


@dataclass(frozen=True)
class Interrupted:
    """The run was stopped from outside, and what it has is saved."""

    choice: Choice
    update: int


@dataclass(frozen=True)
class Failed:
    """The run could not go on, now or when it was last tried: its loss was not finite, say. What it had is kept."""

    choice: Choice
    why: str


Event = Started | Looking | Ended | Failed | Interrupted | Update | Evaluation | FlowRecord


MOST_LAYERS = 1000


def prepare(
    source: str,
    cells: tuple[Choice, ...],
    reading: Mapping[str, Any],
    shape: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    seed: int,
    device: str | None,
    trackers: tuple[str, ...],
    command: str,
    measure: Measure = "usual",
) -> tuple[Origin, Dataset]:
    """Read the source and settle the plan: the task's recipe, and over it whatever was chosen.

    Raises ThroughtimeError for whatever cannot be built or trained, before anything is written.
    """
    for choice in cells:
        find(choice.name)
    dataset = load(source, seed=seed, **reading)
    trials = tuple(settle(choice, dataset.card, shape, settings) for choice in cells)
    unheard = [name for name in CLOCKS if name in shape and all(getattr(t.shape, name) is None for t in trials)]
    if unheard:
        raise InputError(
            f"{' and '.join(map(flag, unheard))}: none of these cells has a gate that keeps memory; leave it out, or "
            "choose lstm or gru."
        )
    origin = Origin(
        title=dataset.card.name,
        plan=Plan(source, dict(reading), trials, seed, device, trackers, measure, _base(source)),
        data=dataset.card,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=surroundings.versions(),
        machine="",
        prepared=dataset.prepared,
    )
    check_trackers(trackers)
    for each in trials:  # what cannot be built, run or trained is found before anything is written
        net = _build(each, origin)
        with torch.no_grad():
            net(dataset.train.batch([0]))
        learning.train(net, dataset, each.settings, seed=seed, device=device).close()
    return replace(origin, machine=surroundings.machine(net.head.weight.device)), dataset


def reopen(folder: Folder) -> tuple[Origin, Dataset]:
    """The plan and the data of a study that was begun.

    Raises InputError if the folder holds none, or if the source has changed since.
    """
    origin = folder.read_origin()
    dataset = load(origin.plan.place, seed=origin.plan.seed, **_reading(origin, folder))
    if dataset.card.digest != origin.data.digest:
        raise InputError(
            f"{origin.plan.place} is not what it was when {folder.path} was begun (SHA-256 "
            f"{dataset.card.digest[:12]}, then {origin.data.digest[:12]}); restore it, or begin a new study."
        )
    return origin, dataset


def _base(source: str) -> str:
    return str(Path.cwd()) if source not in known() and Path(source).exists() else ""


def _reading(origin: Origin, folder: Folder) -> dict[str, Any]:
    """How the data were read, as keyword arguments of `load`: what stands in the file may be anything."""
    reading = dict(origin.plan.reading)
    try:
        decode(Options, {**reading, "seed": origin.plan.seed}, {})
        strange = sorted(reading.keys() - signature(load).parameters.keys() - {"seed", "source"})
    except ValueError as error:
        strange = [str(error)]
    if strange:
        raise InputError(
            f"{folder.path / NAME}: plan.reading.{strange[0]} is no way to read data; restore the file, or train again."
        )
    return reading


def continued(origin: Origin, folder: Folder) -> tuple[Origin, tuple[str, ...]]:
    """The origin of a study that is gone on with, and in which versions it differs from what it was trained with.

    If anything is left to train, the versions of here are written down beside those, so that the report names all.
    """
    outcomes = [folder.read_outcome(trial.choice) for trial in origin.plan.trials]
    before = {name: versions.rpartition(_THEN)[2] for name, versions in origin.versions.items()}
    changed = {name: now for name, now in surroundings.versions().items() if before.get(name, now) != now}
    if not changed or all(outcome is not None and outcome.stopped for outcome in outcomes):
        return origin, ()
    versions = {name: f"{origin.versions[name]}{_THEN}{now}" for name, now in changed.items()}
    origin = replace(origin, versions={**origin.versions, **versions})
    if leads():
        folder.write_origin(origin)
    differing = ", ".join(f"{name} {before[name]} (here {now})" for name, now in changed.items())
    return origin, (
        f"{folder.path} was trained with {differing}; it goes on, but its numbers may differ from here on.",
    )


_THEN = ", then "  # between the versions that one study was trained with


def shortened(origin: Origin, dataset: Dataset) -> tuple[Origin, Dataset]:
    """The same study on two batches: a rehearsal of everything."""
    trials = tuple(replace(trial, settings=replace(trial.settings, epochs=1)) for trial in origin.plan.trials)
    origin = replace(origin, plan=replace(origin.plan, trials=trials))
    samples = 2 * max(trial.settings.batch_size for trial in trials)
    # A stream is read in windows, of the length its samples have or of the one that training is truncated to.
    longest = max(int(dataset.train.lengths().max()), *(trial.settings.window or 1 for trial in trials))
    splits = (dataset.train, dataset.valid, dataset.test)
    train, valid, test = (
        cast(Stream, split).first(samples * longest) if dataset.continues else Few(split, samples) for split in splits
    )
    return origin, replace(dataset, train=train, valid=valid, test=test)


class Few:
    """The first samples of a split."""

    def __init__(self, whole: Split, count: int) -> None:
        self._whole = whole
        self._count = min(count, len(whole))

    def __len__(self) -> int:
        return self._count

    def batch(self, indices: Sequence[int]) -> Batch:
        """As the whole split's."""
        return self._whole.batch(indices)

    def lengths(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """As the whole split's."""
        return self._whole.lengths()[: self._count]

    def words(self, index: int) -> tuple[str, ...]:
        """As the whole split's."""
        return self._whole.words(index)


def leads() -> bool:
    """Whether this process is the one that writes and prints, among those of `accelerate launch`."""
    return int(os.environ.get("RANK", "0")) == 0


def run(
    origin: Origin, dataset: Dataset, folder: Folder, *, stop: Callable[[], bool] = lambda: False
) -> Generator[Event]:
    """Train and measure every cell of the plan that has not ended yet.

    `stop` is asked after each update; once it says yes the run is saved, and `Interrupted` is the last event. So it is
    if KeyboardInterrupt is raised while something is measured (see `Looking`); what was being measured is measured on
    going on.
    """
    for trial in origin.plan.trials:
        outcome = folder.read_outcome(trial.choice)
        if outcome is not None and outcome.stopped:
            if outcome.failed:
                yield Failed(trial.choice, outcome.stopped)
            continue
        with _threads(trial):
            ended = yield from _run_one(trial, origin, dataset, folder, stop)
        if not ended:
            return


@contextmanager
def _threads(trial: Trial) -> Iterator[None]:
    """One thread for a small net, for which handing work over costs more than the work; else as many as there are."""
    usual = torch.get_num_threads()
    step = trial.settings.batch_size * trial.shape.hidden**2  # multiplications of one gate at one step
    torch.set_num_threads(1 if step < SMALL else usual)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _build(trial: Trial, origin: Origin) -> Net:
    _check_size(trial, origin.data)
    try:
        return Net.build(
            origin.data, trial.choice.name, options=trial.choice.options, seed=origin.plan.seed, **vars(trial.shape)
        )
    except (RuntimeError, OverflowError) as error:  # how torch says that a size is beyond what can be allocated
        raise TrainingError(
            f"{trial.choice.label}: a net of {trial.shape.hidden} units in {trial.shape.layers} layers cannot be made "
            "here; take fewer."
        ) from error


def _check_size(trial: Trial, data: DataCard) -> None:
    """Refuse, before anything is built, a net that memory cannot hold, or one so deep that building it never ends."""
    shape, label = trial.shape, trial.choice.label
    if shape.layers > MOST_LAYERS:
        raise TrainingError(
            f"{label}: {shape.layers:,} layers cannot be built and trained here (at most {MOST_LAYERS:,}); take fewer."
        )
    width = data.inputs if shape.embedding is None else shape.embedding
    ways = 1 + shape.bidirectional
    # At least one block of weights a layer: a floor, so that nothing which fits is refused.
    deeper = (shape.layers - 1) * ways * (ways + 1) * shape.hidden**2
    weights = ways * shape.hidden * (shape.hidden + width) + deeper + (shape.embedding or 0) * data.inputs
    need = weights * 4 * 4  # float32; a weight, its gradient, Adam's two means
    steps = data.lengths[2] if trial.settings.window is None else min(trial.settings.window, data.lengths[2])
    if not shape.recompute:  # what each step keeps for the backward pass: its new state at least
        need += steps * shape.hidden * ways * shape.layers * 4
    there = surroundings.memory()
    if there is not None and need > there:
        raise TrainingError(
            f"{label}: {shape.hidden:,} units in {shape.layers:,} layers"
            + ("" if shape.embedding is None else f", an embedding of {shape.embedding:,},")
            + f" need at least {need / 2**30:,.0f} GiB to train on {steps:,} steps, and this machine has "
            f"{there / 2**30:,.0f}; take fewer."
        )


def _run_one(
    trial: Trial, origin: Origin, dataset: Dataset, folder: Folder, stop: Callable[[], bool]
) -> Generator[Event, None, bool]:
    """Train and measure one cell; returns whether it came to an end, not to an interruption."""
    choice, plan = trial.choice, origin.plan
    net = _build(trial, origin)
    training = learning.train(
        net,
        dataset,
        trial.settings,
        seed=plan.seed,
        folder=folder.run(choice),
        resume=True,
        device=plan.device,
        trackers=plan.trackers,
    )
    eyes = Eyes(dataset, trial, plan.measure, seconds_of(trial, origin.data, training.total))
    layers = net.recurrent.num_layers

    def look(seen: Net, moment: Moment, update: int) -> Iterator[Event]:
        """Measure, unless that was done before the run was last stopped."""
        if not eyes.open or not leads() or folder.has_flows(choice, moment, update, layers):
            return
        for layer in range(layers):
            with _interruptible():
                yield Looking(choice, moment, layer, layers)
                flow = eyes.look(seen, moment, update, layer)
                folder.write_flow(choice, flow)
            yield flow

    def due() -> Iterator[Event]:
        if eyes.due(training.done, training.total):
            with suppress(FlowError):  # states that are not finite: the next update says so, and ends the run
                yield from look(net, "during", training.done)

    try:
        yield Started(choice, training.total, training.done, net.card().parameters, training.notes)
        if leads():
            folder.write_outcome(choice, Outcome(net.card()))
        yield from look(_build(trial, origin), "before", 0)  # a net of its own: this one may have gone on learning
        yield from due()  # a kill may have come between the checkpoint and the measurement of its update
        for update in training:
            yield update
            if training.evaluations and training.evaluations[-1].update == update.update:
                yield training.evaluations[-1]
            if stop():
                raise _Stopped
            yield from due()
        training.restore_best()
        with _interruptible():
            yield Looking(choice, "after", 0, layers)
            test = training.evaluate("test")
        yield from look(net, "after", training.done)
    except TrainingError as error:
        if leads():
            folder.write_outcome(choice, Outcome(net.card(), str(error)))
        yield Failed(choice, str(error))
    except _Stopped:
        if training.done:
            training.save()
        yield Interrupted(choice, training.done)
        return False
    else:
        if leads():
            folder.write_outcome(choice, Outcome(net.card(), training.stopped, test))
            record = folder.read_run(trial, plan.seed)
            assert record is not None
            yield Ended(choice, record)
    finally:
        training.close()
    return True


class _Stopped(Exception):  # noqa: N818 (it is no error)
    """Somebody asked for an end where the run can be saved."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """What it does is done again on going on, so an interrupt ends it at once."""
    try:
        yield
    except KeyboardInterrupt:
        raise _Stopped from None
