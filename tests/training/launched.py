"""A script for `accelerate launch`, and for comparison in one process: trains several kinds in one folder each.

Beside each run every process leaves what it saw: the samples it asked for, and the test's loss and score.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import throughtime as tt
from tests.training import toys
from throughtime.data.dataset import Batch, Dataset, Split
from throughtime.errors import EngineWarning
from throughtime.models import Net
from throughtime.records import Settings
from throughtime.training import Training, train

KINDS = {
    "digits": Settings(epochs=1, batch_size=130, rate=3e-3),
    # 25 samples in batches of 8: the last batch has fewer samples than there are processes
    "classes": Settings(epochs=3, batch_size=8, rate=1e-2, clip=50.0, clip_by="percentile"),
    "lanes": Settings(epochs=2, batch_size=5, rate=1e-2, window=6, stride=4),
    "uneven": Settings(epochs=2, batch_size=7, rate=1e-2, window=4, stride=2),
}
STOP = {"lanes": 9}  # left after so many updates, in the middle of an epoch


class Recording:
    """A split that remembers what was asked for."""

    def __init__(self, whole: Split) -> None:
        self.whole = whole
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, indices: Sequence[int]) -> Batch:
        self.asked += list(indices)
        return self.whole.batch(indices)

    def lengths(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return self.whole.lengths()

    def words(self, index: int) -> tuple[str, ...]:
        return self.whole.words(index)


def data_of(kind: str) -> Dataset:
    if kind == "digits":
        data = tt.data.load("digits")
        return replace(data, train=Recording(data.train))
    if kind == "classes":
        return toys.classes(25, (2, 9))
    return toys.series(120) if kind == "lanes" else toys.steps(15, (2, 11), counted=True)


def begin(kind: str, folder: Path, data: Dataset) -> Training:
    readout = "every" if data.answers_each_step else None
    net = Net.build(data.card, "lstm", hidden=6, readout=readout, seed=2).double()
    return train(net, data, KINDS[kind], seed=9, folder=folder / kind, resume=True, device="cpu")


def run(kind: str, folder: Path) -> None:
    data = data_of(kind)
    training = begin(kind, folder, data)
    for update in training:
        if training.processes > 1 and update.update == STOP.get(kind):
            training.save()
            training.close()
            return
    test = training.evaluate("test")
    seen = {"asked": getattr(data.train, "asked", []), "test": [test.loss, test.score]}
    (folder / kind / f"process{training.process}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*slower engines serve", EngineWarning)  # where there is no compiler
    torch.set_num_threads(1)
    for each in KINDS:
        run(each, Path(sys.argv[1]))
