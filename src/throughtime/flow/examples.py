"""One real sequence, step by step, as a person would read it.

Dimensions: T steps, H units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from throughtime.data.dataset import Batch
from throughtime.errors import FlowError
from throughtime.flow.credit import log10_adjoint
from throughtime.flow.layer import Layer, look, twin
from throughtime.flow.memory import memory_along
from throughtime.flow.sighting import latest
from throughtime.models import Net, counts
from throughtime.records import Example


def example(net: Net, batch: Batch, words: Sequence[str], *, labels: Sequence[str] = (), layer: int = 0) -> Example:
    """One sequence through one recurrent layer of a net (its forward direction), in float64.

    `batch` holds that one sequence; `words` are its steps as text, `labels` the names of the classes. Memory is what
    the layer's last state still holds of the layer's input at each step; blame is the gradient of this sequence's own
    loss with respect to the layer's state. The net is not changed.

    Costs what `tt.flow.memory` costs for one sequence.
    Raises FlowError if the batch holds another number of sequences or of words.
    """
    if batch.size != 1 or len(words) != int(batch.lengths[0]):
        raise FlowError(
            f"an example is one sequence and a word for each of its steps; got {batch.size} sequences and "
            f"{len(words)} words for {batch.lengths.tolist()} steps."
        )
    return example_of(twin(net), batch, words, labels, layer)


def example_of(
    copy: Net, batch: Batch, words: Sequence[str], labels: Sequence[str], layer: int, most_steps: int | None = None
) -> Example:
    """The same with a `twin` of the net at hand; the last `most_steps` steps alone (None: all)."""
    looked = look(copy, batch.window(0, len(words)), layer)
    seen = looked.seen if most_steps is None else latest(looked.seen, most_steps)
    along, tangent = seen.along, seen.tangent
    truth, answer = _answers(copy, looked, labels)
    return Example(
        steps=tuple(words[seen.before :]),
        truth=truth,
        answer=answer,
        gates={name: values[:, 0].mean(-1).cpu().numpy() for name, values in along.run.gates.items()},
        state={part: _rms(values[:, 0]) for part, values in along.run.states.items()},
        memory=memory_along(tangent, along.ends())[:, 0].cpu().numpy(),
        blame=log10_adjoint(tangent, seen.adjoint, "boundary")[:, 0],
    )


def _rms(values: Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(values.square().mean(-1).sqrt().cpu().numpy())


def _answers(net: Net, seen: Layer, labels: Sequence[str]) -> tuple[str, str]:
    """What is right and what the net says; of answers at every step, at the last that counts."""
    truth, said = seen.batch.y, seen.prediction
    if seen.batch.each_step:
        counted = counts(seen.batch)
        steps = torch.arange(len(truth)) if counted is None else counted[:, 0].nonzero()[:, 0]
        if not len(steps):
            return "", ""
        truth, said = truth[steps[-1]], said[steps[-1]]
    if not net.classes:
        return _numbers(truth[0]), _numbers(said[0])
    names = [str(int(number)) for number in (truth[0], said[0].argmax())]
    chosen = [labels[int(name)] if int(name) < len(labels) else name for name in names]
    return chosen[0], chosen[1]


def _numbers(values: Tensor) -> str:
    return ", ".join(f"{float(value):.4g}" for value in values.flatten()[:8])
