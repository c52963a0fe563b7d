"""Runs a cell over time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.cells.contract import require_tensor
from throughtime.cells.share_check import refuse_drawing, require_share_of_one_step
from throughtime.cells.words import Words
from throughtime.engines import Job, Unrolled, choose
from throughtime.engines.packing import lengths_on_cpu
from throughtime.engines.recompute import Recomputed
from throughtime.engines.seam import compiling
from throughtime.errors import CellError


def unroll(
    cell: Cell,
    x: Tensor,
    state: State | None = None,
    engine: str = "auto",
    *,
    lengths: Tensor | None = None,
    parameters: Parameters | None = None,
    recompute: bool = False,
) -> Unrolled:
    """Run a cell over x (T, B, I), from `state` (zeros if None; each part (B, H)).

    `lengths` (B,) ends sequences early: past its length a sequence's state stays as it was. `parameters` stand in
    for the cell's own. The result has `.states` (part -> (T, B, H)), `.gates` (gate -> (T, B, H)), `.final` (a
    State) and `.engine`, the name of the engine that served; states and gates answer to the other words a cell has
    for them too (`Cell.also`). Differentiable in x, the state and the parameters.

    With `recompute`, what a step leaves for the way back is made again in windows of √T steps: one more forward pass,
    and memory beside x, the result and their gradients for √T steps alone (`engines.recompute`).

    Raises CellError if shapes, lengths or dtypes do not fit, EngineError if the engine asked for cannot serve.

    >>> import torch, throughtime as tt
    >>> result = tt.unroll(tt.cells.make("lstm", 3, 4), torch.zeros(7, 2, 3))
    >>> result.states["s"].shape, result.final.h.shape
    (torch.Size([7, 2, 4]), torch.Size([2, 4]))
    """
    if not isinstance(cell, Cell):
        raise CellError(
            f"tt.unroll runs a cell, not {type(cell).__name__}; a module is called on x, and its layer l runs as "
            "module.cells[l] with parameters=module.parameters_of(l)"
        )
    require_tensor(x, "x")
    if x.ndim != 3 or x.shape[-1] != cell.input_size:
        raise CellError(f"x must be (T, B, {cell.input_size}) for this cell, got {tuple(x.shape)}")
    start = cell.zero_state(x.shape[1], x) if state is None else state
    expected = (x.shape[1], cell.hidden_size)
    if set(start) != set(cell.parts) or any(tuple(part.shape) != expected for part in start.values()):
        raise CellError(f"the state must have the parts {', '.join(cell.parts)}, each {expected}, got {start}")
    if cell.own_share and not compiling():
        refuse_drawing(cell, len(x))
        cut = {"with recompute": recompute, "with lengths": lengths is not None, "from a state": state is not None}
        for where, asked in cut.items():
            if asked:
                require_share_of_one_step(cell, len(x), where)
    values = cell.values() if parameters is None else parameters
    weight = next(iter(values.values()), x)
    mixed = torch._C._is_any_autocast_enabled()
    for name, tensor in {"x": x, **start}.items():
        if tensor.device != weight.device or (tensor.dtype != weight.dtype and not mixed):
            raise CellError(
                f"{name} is {tensor.dtype} on {tensor.device}, the cell's parameters are {weight.dtype} on "
                f"{weight.device}; convert one with .to(...)"
            )
    if compiling():
        from throughtime.engines import opaque

        result = opaque.job(Job(cell, values, x, start, lengths), engine, recompute)
    else:
        ends = None if lengths is None else lengths_on_cpu(lengths, *x.shape[:2]).to(x.device)
        job = Job(cell, values, x, start, ends)
        result = (Recomputed(engine) if recompute else choose(job, engine)).run(job)
    if not cell.also:
        return result
    return replace(result, states=Words(result.states, cell.also), gates=Words(result.gates, cell.also))
