"""Layers and directions over any engine that runs one cell in one direction."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from throughtime.cells.cell import State
from throughtime.engines.packing import Packing, backwards
from throughtime.engines.seam import Engine, Job, Stack, Stacked, StackEngine


class LayerByLayer(StackEngine):
    """Serves a stack as one job for each layer and direction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = engine.name

    def why_not(self, stack: Stack) -> str | None:
        """As the engine answers for the first layer; the layers differ only in how many inputs they have."""
        packing = _packing(stack)
        x = stack.x if packing is None else packing.pad(stack.x)
        return self.engine.why_not(_job(stack, 0, x, packing))

    def run(self, stack: Stack) -> Stacked:
        """The loop over layers and directions; dropout draws as torch.nn's does, on packed rows where there are any."""
        packing = _packing(stack)
        lengths = None if packing is None else packing.lengths
        x, finals = stack.x, []
        for layer in range(len(stack.cells)):
            if layer > 0 and stack.dropout > 0:
                x = F.dropout(x, stack.dropout, stack.training)
            padded = x if packing is None else packing.pad(x)
            outputs = []
            for direction in range(stack.directions):
                given = backwards(padded, lengths) if direction else padded
                done = self.engine.run(_job(stack, layer * stack.directions + direction, given, packing))
                outputs.append(backwards(done.output, lengths) if direction else done.output)
                finals.append(done.final)
            output = torch.cat(outputs, dim=-1)
            x = output if packing is None else packing.pack(output)
        together = {part: torch.stack([final[part] for final in finals]) for part in stack.state}
        return Stacked(x, State(**together), done.engine)


def _packing(stack: Stack) -> Packing | None:
    if stack.batch_sizes is None:
        return None
    batch = next(iter(stack.state.values())).shape[1]
    return Packing.as_packed(stack.batch_sizes, batch, stack.x.device)


def _job(stack: Stack, index: int, x: Tensor, packing: Packing | None) -> Job:
    return Job(
        cell=stack.cells[index // stack.directions],
        parameters=stack.parameters[index],
        x=x,
        state=stack.state.map(lambda part: part[index]),
        lengths=None if packing is None else packing.lengths,
        inside=False,
        damping=stack.damping,
    )
