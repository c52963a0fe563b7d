"""The loss and score on held-out data, in memory that does not follow the length of the sequences.

Dimensions: T steps, B sequences, H units, D directions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from throughtime.cells.cell import State
from throughtime.data.dataset import Batch, Split
from throughtime.models import Net, Tally
from throughtime.training.machine import Machine
from throughtime.training.order import shard

NUMBERS = 2**22  # of one output, at most: 16 MiB in float32


@torch.no_grad()
def assess(net: Net, split: Split, batch_size: int, machine: Machine) -> tuple[float, float]:
    """The mean loss and the score of every sample of a split, the model in evaluation mode.

    Sequences of similar length go together; long ones are read in stretches, the state carried along (those that
    are read from both ends cannot be cut, so fewer go side by side).
    """
    lengths = split.lengths()
    sums = torch.zeros(3, dtype=torch.float64)
    learning = net.training
    net.eval()
    try:
        order = np.argsort(lengths, kind="stable").astype(np.int64)
        at = len(order)
        while at > 0:  # longest first, so that memory that is too little shows at once
            together = _together(net, int(lengths[order[at - 1]]), batch_size)
            mine = shard(order[max(0, at - together) : at], machine.process, machine.processes)
            at -= together
            if len(mine):
                sums += _sums(net, split.batch(mine.tolist()), machine)
    finally:
        net.train(learning)
    loss, right, count = machine.sum(sums.to(machine.device)).cpu()
    tally = Tally(loss, right, count)
    return float(loss) / max(1, int(count)), net.metric_of(tally)


def _width(net: Net) -> int:
    return net.recurrent.hidden_size * net.recurrent.directions


def _together(net: Net, steps: int, batch_size: int) -> int:
    if not net.recurrent.bidirectional:
        return batch_size
    return max(1, min(batch_size, NUMBERS // max(1, steps * _width(net))))


def _sums(net: Net, batch: Batch, machine: Machine) -> Tensor:
    """Loss, right answers and count of a batch on the host, (3,) float64."""
    steps = batch.x.shape[0]
    stretch = max(1, NUMBERS // (batch.size * _width(net)))
    if net.recurrent.bidirectional:
        stretch = steps
    sums = torch.zeros(3, dtype=torch.float64)
    state: State | None = None
    summary: Tensor | None = None
    for start in range(0, steps, stretch):
        piece = batch.window(start, min(start + stretch, steps))
        here = piece.to(machine.device)
        with machine.autocast():
            output, state = net.recurrent.run(net.encode(here.x), state, piece.lengths)
            if steps <= stretch or batch.each_step:
                sums += _numbers(net.tally(net.decode(output, here.lengths), here))
            else:
                summary = _gather(net, output, here.lengths, summary)
    if summary is not None:
        whole = batch.lengths.to(machine.device)
        if net.readout == "mean":
            summary = summary / whole.clamp(min=1).unsqueeze(-1).to(summary.dtype)
        with machine.autocast():
            prediction = net.decode(summary.unsqueeze(0), torch.ones_like(whole))
        sums += _numbers(net.tally(prediction, Batch(batch.x, batch.lengths, batch.y.to(machine.device))))
    return sums


def _gather(net: Net, output: Tensor, lengths: Tensor, summary: Tensor | None) -> Tensor:
    """What the readout needs of all stretches so far, (B, H): the sum of the outputs, or each sequence's last one."""
    if net.readout == "mean":
        total = output.sum(0)
        return total if summary is None else summary + total
    last = output[(lengths - 1).clamp(min=0), torch.arange(output.shape[1], device=output.device)]
    return last if summary is None else torch.where((lengths > 0).unsqueeze(-1), last, summary)


def _numbers(tally: Tally) -> Tensor:
    return torch.stack([number.detach().to("cpu", torch.float64) for number in tally])
