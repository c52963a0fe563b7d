"""When a run's gradient is looked at, and on what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from throughtime.data.dataset import Batch, Dataset, Split
from throughtime.flow import probe
from throughtime.models import Net
from throughtime.records import FlowRecord

SHARES = (0.02, 0.1, 0.25, 0.5, 0.75)  # of all updates, after which to look
SEQUENCES = 8  # held-out sequences in the fixed probe batch
READABLE = 60  # steps a person reads at a glance
EXAMPLES = 4
CANDIDATES = 64  # of about readable length, to choose examples with different answers from


class Eyes:
    """Looks at the gradient of the models of a study, always on the same held-out sequences."""

    def __init__(self, dataset: Dataset) -> None:
        self._labels = dataset.card.labels
        by_length = np.argsort(dataset.valid.lengths(), kind="stable")  # from the shortest to the longest
        spread = np.linspace(0, len(by_length) - 1, min(SEQUENCES, len(by_length))).round().astype(int)
        self._batch = dataset.valid.batch([int(index) for index in by_length[spread]])
        self._examples = readable(dataset.test)

    def due(self, update: int, total: int) -> bool:
        """Whether it is time to look, after this update of `total`."""
        return update in {max(1, round(share * total)) for share in SHARES}

    def look(self, net: Net, moment: Literal["before", "during", "after"], update: int, layer: int) -> FlowRecord:
        """Measure a layer now; the model, its gradients and every random stream stay as they are."""
        top = layer == net.recurrent.num_layers - 1
        return probe(
            net,
            self._batch,
            moment=moment,
            update=update,
            layer=layer,
            extent="whole" if moment == "after" else "usual",
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
