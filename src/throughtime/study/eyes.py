"""When a run's gradient is looked at, and on what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from throughtime.data.dataset import Batch, Dataset, Split
from throughtime.flow import probe
from throughtime.models import Net
from throughtime.records import DataCard, FlowRecord
from throughtime.study.plan import Measure, Trial

SHARES = (0.02, 0.1, 0.25, 0.5, 0.75)  # of all updates, after which to look
SEQUENCES = 8  # held-out sequences in the fixed probe batch
READABLE = 60  # steps a person reads at a glance
EXAMPLES = 4
STEPS = 512  # of long sequences, their last ones; more where training takes longer
FREE = 15.0  # seconds of training for which so many are measured
NUMBERS = 1 << 22  # units of all steps of the probe batch: some 30 arrays of float64 are made of them
SPEED = 1e10  # multiplications a second of two cores, about
OVERHEAD = 1e-5  # seconds that a step takes beside them
CANDIDATES = 64  # of about readable length, to choose examples with different answers from


class Eyes:
    """Looks at the gradient of one model of a study, always on the same held-out sequences.

    `measure` says how much is measured; `work` is what training takes, in seconds as estimated by `seconds_of`.
    """

    def __init__(self, dataset: Dataset, trial: Trial, measure: Measure, work: float) -> None:
        self._labels = dataset.card.labels
        self._measure = measure
        # A budget in seconds of a clock would make another folder each time: it is one of steps.
        self._most_steps = None if measure == "whole" else round(STEPS * max(1.0, work / FREE))
        lengths = dataset.valid.lengths()
        by_length = np.argsort(lengths, kind="stable")  # from the shortest to the longest
        room = NUMBERS // max(1, int(lengths.max()) * trial.shape.hidden)
        count = min(SEQUENCES, len(by_length), max(1, room))
        spread = np.linspace(len(by_length) - 1, 0, count).round().astype(int)[::-1]
        self._batch = dataset.valid.batch([int(index) for index in by_length[spread]])
        self._examples = readable(dataset.test) if measure != "none" else ()

    def due(self, update: int, total: int) -> bool:
        """Whether it is time to look, after this update of `total`."""
        return self.open and update in {max(1, round(share * total)) for share in SHARES}

    @property
    def open(self) -> bool:
        """Whether anything is measured at all."""
        return self._measure != "none"

    def look(self, net: Net, moment: Literal["before", "during", "after"], update: int, layer: int) -> FlowRecord:
        """Measure a layer now; the model, its gradients and every random stream stay as they are."""
        top = layer == net.recurrent.num_layers - 1
        return probe(
            net,
            self._batch,
            moment=moment,
            update=update,
            layer=layer,
            extent="quick" if self._measure == "quick" else "whole" if moment == "after" else "usual",
            most_steps=self._most_steps,
            examples=self._examples if moment == "after" and top else (),
            labels=self._labels,
        )


def readable(split: Split) -> tuple[tuple[Batch, Sequence[str]], ...]:
    """Samples of about a readable length, with as many different answers as there are."""
    nearest = np.argsort(np.abs(split.lengths() - READABLE), kind="stable")[:CANDIDATES]
    singles = {int(index): split.batch([int(index)]) for index in nearest}
    turns: dict[str, int] = {}  # how many candidates with this answer came before
    rank: dict[int, int] = {}
    for index, single in singles.items():
        answer = str(single.y.tolist())
        rank[index] = turns[answer] = turns.get(answer, -1) + 1
    chosen = sorted(singles, key=lambda index: rank[index])[:EXAMPLES]
    return tuple((singles[index], split.words(index)) for index in chosen)


def seconds_of(trial: Trial, data: DataCard, updates: int) -> float:
    """About how long training takes, by its multiplications: the same on every machine."""
    shape, settings = trial.shape, trial.settings
    steps = min(data.lengths[1], settings.window or data.lengths[1]) * updates
    products = 3 * 4 * shape.hidden * (shape.hidden + (shape.embedding or data.inputs))  # forward, and twice back
    return steps * shape.layers * (products * settings.batch_size / SPEED + OVERHEAD)
