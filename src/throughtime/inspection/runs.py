"""Measures the trained nets of a study again, from their weights, on data that were held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from throughtime.data.dataset import Batch, Dataset
from throughtime.errors import InputError
from throughtime.flow.probe import probe
from throughtime.inspection.measure import LOOKED_AT, Asked, Say, chosen, gathered
from throughtime.inspection.specimen import spread
from throughtime.records import FlowRecord, Measurement
from throughtime.study.eyes import readable
from throughtime.study.folder import NAME, Folder, Origin, folder_of
from throughtime.study.plan import Trial
from throughtime.study.run import reopen
from throughtime.study.trained import trained_net


def measure_again(path: Path, asked: Asked, say: Say = lambda _: None) -> Measurement:
    """Rebuild every net of a study (or the one whose folder `path` is) from its best weights, and measure it.

    The nets are in evaluation mode: dropout is off. Nothing is written. Raises InputError if the folder, its data or
    its weights are not what they were, or if nothing was trained.
    """
    folder, inside = folder_of(path)
    if not (folder.path / NAME).is_file():
        raise InputError(
            f"{path}: is not the folder of a study, or of a run in one; name one, or FILE.py:FUNCTION to measure a "
            "model of your own."
        )
    if asked.data is not None or asked.reading:
        raise InputError(f"{path}: a study is measured on its own held-out data; leave out --data and how to read it.")
    if asked.device not in (None, "cpu") or asked.time_first:
        raise InputError(
            f"{path}: a study is measured on the CPU, as its nets read; leave out --device and --time-first."
        )
    say(f"reading the data of {folder.path}")
    origin, dataset = reopen(folder)
    trials = [t for t in origin.plan.trials if not inside or folder.run(t.choice) == path]
    begun = [trial for trial in trials if folder.weights(trial.choice) is not None]
    if not begun:
        raise InputError(f"{path}: holds no trained weights yet; train first, or go on with --resume.")
    batch = dataset.valid.batch(spread(dataset.valid, asked.batch or LOOKED_AT, continues=dataset.continues))
    flows: list[FlowRecord] = []
    seen: list[float] = []  # the loss of each net
    for trial in begun:
        say(f"measuring {trial.choice.label}")
        flows += _one(trial, origin, folder, batch, dataset, asked)
        seen.append(flows[-1].loss)
    losses = ", ".join(f"{trial.choice.label} {loss:.4g}" for trial, loss in zip(begun, seen, strict=True))
    card = origin.data
    return gathered(
        f"{origin.title}, measured again",
        asked,
        model=f"{path}, best weights, in evaluation mode",
        data=f"{batch.size} of {len(dataset.valid)} held-out sequences of {card.name}, up to "
        f"{int(batch.lengths.max())} {card.step}s",
        card=card,
        loss=f"{losses}; the one that was trained with",
        flows=chosen(flows, asked.layers),
        left_out=[f"{trial.choice.label}: it has no trained weights yet." for trial in trials if trial not in begun],
        notes=(),
        device=torch.device("cpu"),
    )


def _one(
    trial: Trial, origin: Origin, folder: Folder, batch: Batch, dataset: Dataset, asked: Asked
) -> list[FlowRecord]:
    """Every layer of one net, named after its run."""
    label = trial.choice.label
    net = trained_net(folder, origin, trial)
    updates = folder.reached(trial.choice)
    layers, examples = trial.shape.layers, readable(dataset.test)
    flows = []
    for layer in range(layers):
        flow = probe(
            net,
            batch,
            moment="after",
            update=updates,
            layer=layer,
            derivative=asked.derivative,
            examples=examples if layer == layers - 1 else (),
            labels=dataset.card.labels,
        )
        flows.append(replace(flow, layer=label if layers == 1 else f"{label} (layer {layer})"))
    return flows
