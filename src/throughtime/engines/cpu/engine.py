"""The engine of kernels that are compiled for the processor from a cell's own step."""

from __future__ import annotations

import warnings
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.engines.cpu import library
from throughtime.engines.cpu.emit import REALS
from throughtime.engines.cpu.kernel import Kernel, Rows, kernel
from throughtime.engines.cpu.sequence import Course, Done, run
from throughtime.engines.packing import Packing
from throughtime.engines.seam import Engine, Job, Stack, Stacked, StackEngine, Unrolled
from throughtime.engines.trace import Traced, traced
from throughtime.errors import EngineError, EngineWarning


class Cpu(Engine):
    """One cell in one direction through its own compiled kernel."""

    name: ClassVar = "cpu"

    def why_not(self, job: Job) -> str | None:
        """Cells whose step cannot be traced or compiled, other devices and dtypes, torch.func."""
        return _why_not(job.cell, job.parameters, job.x, next(iter(job.state.values())).shape[0], job.damping)

    def run(self, job: Job) -> Unrolled:
        """Compile the cell's kernel, unless that was done before, and run it."""
        cell, lengths = job.cell, job.lengths
        T, B = job.x.shape[:2]
        if lengths is None or not len(lengths) or int(lengths.min()) == T:
            done = _serve(cell, job.parameters, job.x.flatten(0, 1), job.state, Rows.whole(T, B), inside=job.inside)
            states = {part: rows.view(T, B, -1) for part, rows in done.states.items()}
            gates = {gate: rows.view(T, B, -1) for gate, rows in done.gates.items()}
            return Unrolled(cell, states, gates, done.final, self.name, job.state, lengths)
        order = torch.argsort(lengths, descending=True, stable=True)
        packing = Packing.by_length(lengths, order, T, job.x.device)
        start = job.state.map(lambda part: part.index_select(0, order))
        rows = Rows.packed(packing.batch_sizes, B)
        done = _serve(cell, job.parameters, packing.pack(job.x), start, rows, inside=job.inside)
        back = torch.argsort(order)
        # Past its length a sequence shows its last step again; before there was one, its initial state.
        assert rows.first is not None
        t = torch.minimum(torch.arange(T).unsqueeze(1), lengths - 1)
        place = (
            torch.where(t >= 0, rows.first[t.clamp(min=0)] + back, rows.N + back) if rows.N else rows.N + back + 0 * t
        )
        place = place.flatten()

        def shown(made: Tensor, before: Tensor) -> Tensor:
            return torch.cat([made, before]).index_select(0, place).view(T, B, -1)

        states = {part: shown(made, start[part]) for part, made in done.states.items()}
        gates = {gate: shown(made, torch.zeros_like(start[cell.parts[-1]])) for gate, made in done.gates.items()}
        final = done.final.map(lambda part: part.index_select(0, back))
        return Unrolled(cell, states, gates, final, self.name, job.state, lengths)


class CpuStack(StackEngine):
    """Layers and directions through compiled kernels; packed sequences stay packed from the first to the last."""

    name = "cpu"

    def why_not(self, stack: Stack) -> str | None:
        """As for each of its layers."""
        batch = next(iter(stack.state.values())).shape[1]
        for cell, parameters in zip(stack.cells, stack.parameters[:: stack.directions], strict=True):
            reason = _why_not(cell, parameters, stack.x, batch, stack.damping)
            if reason is not None:
                return reason
        return None

    def run(self, stack: Stack) -> Stacked:
        """The loop over layers and directions."""
        B = next(iter(stack.state.values())).shape[1]
        packed = stack.batch_sizes is not None
        rows = Rows.packed(stack.batch_sizes, B) if stack.batch_sizes is not None else Rows.whole(stack.x.shape[0], B)
        x = stack.x if packed else stack.x.flatten(0, 1)
        finals = []
        for layer, cell in enumerate(stack.cells):
            if layer > 0 and stack.dropout > 0:
                x = _dropped(x, stack, rows)
            outputs = []
            for direction in range(stack.directions):
                index = layer * stack.directions + direction
                start = stack.state.map(lambda part, index=index: part[index])
                done = _serve(cell, stack.parameters[index], x, start, rows, inside=False, reverse=direction == 1)
                outputs.append(done.states[cell.parts[-1]])
                finals.append(done.final)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        final = State(**{part: torch.stack([each[part] for each in finals]) for part in stack.state})
        return Stacked(x if packed else x.view(rows.T, B, -1), final, self.name)


def _dropped(x: Tensor, stack: Stack, rows: Rows) -> Tensor:
    shape = x.shape if stack.batch_sizes is not None else (rows.T, rows.B, x.shape[-1])
    return F.dropout(x.view(shape), stack.dropout, stack.training).view(x.shape)


def _why_not(cell: Cell, parameters: Parameters, x: Tensor, batch: int, damping: float | None) -> str | None:
    dtype = _dtype(parameters, x)
    if dtype not in REALS:
        return f"compiled kernels are made for float32 and float64, not for {dtype}."
    if x.device.type != "cpu":
        return f"compiled kernels run on the processor, and x is on {x.device}."
    if damping is not None:
        return "clipping while backpropagating acts at every step, which compiled kernels do not stop at."
    if x.numel() == 0 or batch == 0:
        return "compiled kernels do not run a sequence of length 0, nor a batch of none."
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return "compiled kernels do not have the rules that torch.func and forward differentiation need."
    found = _ready(cell, dtype)
    return found if isinstance(found, str) else None


def _dtype(parameters: Parameters, x: Tensor) -> torch.dtype:
    return next(iter(parameters.values()), x).dtype


_READY: WeakKeyDictionary[Cell, dict[torch.dtype, tuple[Traced, Kernel | str]]] = WeakKeyDictionary()


def _ready(cell: Cell, dtype: torch.dtype) -> tuple[Traced, Kernel] | str:
    """A cell's trace and its kernel, compiled if it must be; or why there is none."""
    trace = traced(cell, dtype)
    if isinstance(trace, str):
        return trace
    kept = _READY.setdefault(cell, {})
    before = kept.get(dtype)
    if before is None or before[0] is not trace:
        before = kept[dtype] = trace, _compiled(trace, cell, dtype)
    found = before[1]
    return found if isinstance(found, str) else (trace, found)


def _compiled(trace: Traced, cell: Cell, dtype: torch.dtype) -> Kernel | str:
    reason = library.why_not()
    if reason is None:
        try:
            return kernel(trace.program, dtype, cell.title)
        except EngineError as error:
            reason = str(error)
    _notice(reason)
    return reason


_noticed = False


def _notice(reason: str) -> None:
    """Once a process: what could be faster is not, and why."""
    global _noticed
    if not _noticed:
        _noticed = True
        warnings.warn(f"{reason} Until then slower engines serve.", EngineWarning, stacklevel=2)


def _serve(
    cell: Cell,
    parameters: Parameters,
    x: Tensor,
    state: State,
    rows: Rows,
    *,
    inside: bool,
    reverse: bool = False,
) -> Done:
    """Run rows x (N, I) of a cell."""
    dtype = _dtype(parameters, x)
    found = _ready(cell, dtype)
    if isinstance(found, str):
        raise EngineError(found)
    trace, compiled = found
    course = Course(compiled, trace, cell, parameters, rows, reverse, inside)
    with torch.autocast("cpu", enabled=False):
        given = x.to(dtype)
        if type(cell).share is Cell.share:
            u = F.linear(given, parameters["weight_ih"], parameters.get("bias_ih"))
        else:
            share = cell.share(given, parameters)
            u = torch.cat([share[block] for block in cell.inputs], dim=-1)
        return run(course, u, state.map(lambda part: part.to(dtype)))
