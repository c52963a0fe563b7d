"""What to say when a loss or a gradient is not finite: what happened, why most likely, what to do."""

from __future__ import annotations

import math

import torch

from throughtime.data.dataset import Batch
from throughtime.records import Settings
from throughtime.training.order import Indices


def explain(update: int, loss: float, norm: float, batch: Batch, indices: Indices, settings: Settings) -> str:
    """The sentences, with the likeliest cure for what was seen."""
    what = f"update {update}: the loss is {loss:.4g} and the gradient's norm {norm:.4g}"
    return f"{what}, so training stopped before it reached the weights. {_cure(loss, batch, indices, settings)}"


def _cure(loss: float, batch: Batch, indices: Indices, settings: Settings) -> str:
    for name, values, dimension in (("input", batch.x, 1), ("answer", batch.y, 1 if batch.each_step else 0)):
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            others = [d for d in range(values.ndim) if d != dimension]
            bad = (
                int((~torch.isfinite(values)).sum(others).argmax())
                if others
                else int((~torch.isfinite(values)).argmax())
            )
            which = f"sample {indices[bad]}" if batch.size == len(indices) else "a sample of this batch"
            return f"The {name} of {which} of the training data is not finite: clean the data."
    less = slower(settings.rate)
    if settings.precision == "fp16":
        return f'Numbers left the range of fp16: use precision="bf16" or "no", or a lower rate, for example {less}.'
    if not math.isfinite(loss):
        if settings.clip is None:
            return f"No clipping holds the steps back: use clip=1.0, and if that is not enough {less}."
        return f"The steps are too large: lower the learning rate, for example {less}."
    return (
        "The gradient exploded on its way back, where clipping afterwards cannot help: clip while backpropagating "
        f'(clip_by="backward", clip=1.0), use a shorter window, or lower the learning rate, for example {less}.'
    )


def slower(rate: float) -> str:
    """A learning rate to try in place of one that was too large: a third of it, or one that is usual."""
    return f"rate={min(rate / 3, 1e-2):.2g}"
