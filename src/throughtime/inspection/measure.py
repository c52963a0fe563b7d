"""Measures a model that somebody wrote: one training step on one batch, looked at from all sides."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from throughtime.errors import FlowError, InputError
from throughtime.inspection import calling, specimen
from throughtime.inspection.factory import Loss, Made, check, load, place, seeded, short, theirs
from throughtime.inspection.specimen import SEQUENCES, Batches, Specimen
from throughtime.inspection.witness import witness
from throughtime.microscope.finding import find, nothing
from throughtime.microscope.watcher import Watch, watch
from throughtime.records import DataCard, FlowRecord, Measurement
from throughtime.study import surroundings

LOOKED_AT = 8  # sequences of the batch whose gradient is followed through time

Derivative = Literal["boundary", "node"]
Say = Callable[[str], None]

NO_DATA = (
    "no data were named; give --data: an .npz batch with x and y, a table of texts or numbers, a text, or one of "
    "digits, adding, copy, order, jane."
)


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line."""

    data: str | None
    reading: Mapping[str, Any]  # keyword arguments of `tt.data.load`
    batch: int | None = None  # sequences; None: SEQUENCES
    seed: int = 0
    device: str | None = None  # None: where the factory left the model
    layers: tuple[str, ...] = ()  # names, or beginnings of names; empty: all
    time_first: bool = False
    derivative: Derivative = "boundary"
    command: str = ""
    lag: int | None = None  # how many steps back the task has to be learned; None: the data's own, if they have one


def measure(path: Path, name: str, asked: Asked, say: Say = lambda _: None) -> Measurement:
    """Run `path`, let its function `name` make a model, and measure one training step of it on the data.

    `say` is told what is being done. Nothing is written. Raises InputError for whatever cannot be used, FlowError for
    what cannot be measured.
    """
    check(path, name)
    if asked.data is None:
        raise InputError(NO_DATA)
    target = _device(asked.device)
    say(f"reading {asked.data}")
    taken, batches = _read(asked)
    say(f"running {path}: the code in it runs with your rights")
    with seeded(asked.seed):
        factory = load(path, name)
        say(f"calling {name} in {path}")
        made = factory.make(taken.card, batches) if batches is not None else factory.make(taken.card)
        say("measuring one training step")
        with _threads_that_are_free():
            return _step(made, path, name, taken, target, asked)


@contextmanager
def _threads_that_are_free() -> Iterator[None]:
    """As many threads as the machine has idle cores: on a busy one, threads that wait for each other cost most."""
    before = torch.get_num_threads()
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    torch.set_num_threads(max(1, min(before, round((os.cpu_count() or 1) - busy))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read(asked: Asked) -> tuple[Specimen, Batches | None]:
    """The batch; if nobody asked for its size, never as many sequences as steps: that hides a layer that mixes them."""
    found = _taken(asked, SEQUENCES if asked.batch is None else asked.batch)
    if asked.batch is None and 1 < found[0].size == found[0].steps:
        return _taken(asked, found[0].size - 1)
    return found


def _taken(asked: Asked, count: int) -> tuple[Specimen, Batches | None]:
    source = str(asked.data)
    if source.endswith(".npz"):
        specimen.refuse_reading(Path(source), asked.reading)
        return specimen.from_arrays(Path(source), batch=count, time_first=asked.time_first), None
    return specimen.held_out(source, asked.reading, batch=count, seed=asked.seed, time_first=asked.time_first)


def _device(name: str | None) -> torch.device | None:
    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a name that is none; a kind that is not here
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"device {name!r} cannot be used here ({reason}); leave it out, or give cpu.") from None
    return device


def _step(made: Made, path: Path, name: str, taken: Specimen, target: torch.device | None, asked: Asked) -> Measurement:
    model = made.model
    if target is not None:
        with theirs(path, f"the model was moved to {target}"):
            model = model.to(target)
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    here = taken.to(
        torch.device("cpu") if first is None else first.device,
        torch.get_default_dtype() if first is None else first.dtype,
    )
    why = nothing(model, find(model))
    if why:
        raise FlowError(why)
    call = calling.arrange(model, here)
    watching = watch(model, every=1, derivative=asked.derivative, thorough=True, sequences=LOOKED_AT, lag=asked.lag)
    with torch.enable_grad(), watching, witness(model) as seen:
        try:
            output = call(model)
        except (Exception, SystemExit) as error:
            why = f"the model cannot be run on these data: {calling.failed(model, call, error)}"
            raise InputError(f"{place(path, error)}: {why}") from error
        unsure = seen.check(here.size, here.steps, time_first=here.time_first)
        judged = _judged(output, here, made.loss, path)
        with theirs(path, "the gradient was taken back"):
            judged.loss.backward()  # type: ignore[no-untyped-call]
    value = float(judged.loss.detach())
    if seen.lost and not math.isfinite(value):
        raise FlowError(f"the loss is {value}: {seen.lost}")
    flows = chosen([replace(flow, loss=value) for flow in _records(watching, value)], asked.layers)
    notes = (*call.notes, *_drops(model), *unsure)
    return gathered(
        f"{type(model).__name__} of {path.name}",
        asked,
        model=f"{path}:{name}, a {type(model).__name__} of {_count(model):,} parameters, "
        + ("in training mode" if model.training else "in evaluation mode"),
        data=here.said,
        card=here.card,
        loss=f"{value:.6g}, {judged.how}",
        flows=flows,
        left_out=watching.left_out,
        notes=notes,
        device=here.y.device,
    )


def _judged(output: Any, here: Specimen, loss: Loss | None, path: Path) -> calling.Judged:
    try:
        return calling.judge(output, here, loss)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        given = f"the loss was given {calling.what(output)} and the targets {calling.what(here.y)}"
        raise InputError(f"{place(path, error)}: {given}: {short(error)}") from error


def _records(watching: Watch, loss: float) -> tuple[FlowRecord, ...]:
    """What was seen; if that is nothing, why."""
    records = watching.records
    if not records:
        watching.record  # noqa: B018  # raises with the reason
    if not math.isfinite(loss):
        raise FlowError(
            f"the loss is {loss}, so its gradient says nothing, although every recurrent layer is finite; "
            "look at what the loss does, at the targets, and at what the model answers."
        )
    return records


def chosen(flows: Sequence[FlowRecord], names: Sequence[str]) -> tuple[FlowRecord, ...]:
    """The flows of the layers that were named: `encoder` means all of `encoder.l0`, `encoder.l1_reverse`.

    Raises InputError for a name that no layer has.
    """
    for name in names:
        if not any(_within(flow, name) for flow in flows):
            there = ", ".join(flow.layer for flow in flows)
            raise InputError(f'--layer "{name}": no layer that was measured is named so; there are {there}.')
    return tuple(flow for flow in flows if not names or any(_within(flow, name) for name in names))


def _within(flow: FlowRecord, name: str) -> bool:
    within = flow.place is not None and flow.place.module == name
    return within or flow.layer == name or flow.layer.startswith((f"{name}.", f"{name} "))


def _drops(model: nn.Module) -> tuple[str, ...]:
    """What is said of dropout, as one draw of it was measured."""
    names = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if module.training
        and (
            (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
            or (isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1)
        )
    ]
    if not names:
        return ()
    return (
        f"Dropout is on, as the factory left it ({', '.join(names)}): what is shown is one draw of it. Return "
        "model.eval() to measure without.",
    )


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def gathered(
    title: str,
    asked: Asked,
    *,
    model: str,
    data: str,
    card: DataCard,
    loss: str,
    flows: Sequence[FlowRecord],
    left_out: Sequence[str],
    notes: Sequence[str],
    device: torch.device,
) -> Measurement:
    """The record of what was measured here and now."""
    return Measurement(
        title=title,
        command=asked.command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=surroundings.versions(),
        machine=surroundings.machine(device),
        model=model,
        data=data,
        flows=tuple(flows),
        left_out=tuple(left_out),
        loss=loss,
        card=card,
        notes=tuple(notes),
    )
