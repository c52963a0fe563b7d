"""What the engines of compiled kernels have in common: from a job or a stack to packed rows, and back.

Dimensions: T steps, B sequences, I inputs, H units, N packed rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.nn import functional as F
from torch.utils._device import DeviceContext

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.engines.compiled.kernel import Kernel
from throughtime.engines.compiled.rows import Rows
from throughtime.engines.compiled.sequence import Course, Done, run
from throughtime.engines.packing import Packing
from throughtime.engines.seam import Job, Stack, Stacked, Unrolled
from throughtime.engines.trace import Traced, traced
from throughtime.errors import CellError, EngineError

DTYPES = (torch.float32, torch.float64)


class Ready(NamedTuple):
    """A cell that can be run, and what its tensors must look like."""

    traced: Traced
    kernel: Kernel
    shapes: tuple[tuple[str, torch.Size], ...]  # of the parameters, by name


class Kept:
    """What traces cells and makes their kernels (or says why not), once for each cell and dtype."""

    def __init__(self, make: Callable[[Traced, Cell, torch.dtype], Kernel | str]) -> None:
        self._make = make
        self._made: WeakKeyDictionary[Cell, dict[torch.dtype, tuple[Traced, Ready | str]]] = WeakKeyDictionary()

    def ready(self, cell: Cell, dtype: torch.dtype) -> Ready | str:
        """The cell made ready; or why it cannot be, in a sentence."""
        trace = traced(cell, dtype)
        if isinstance(trace, str):
            return trace
        of_cell = self._made.get(cell)
        found = None if of_cell is None else of_cell.get(dtype)
        if found is None or found[0] is not trace:
            made = self._make(trace, cell, dtype)
            shapes = tuple((name, torch.Size(shape)) for name, shape in cell.shapes().items())
            found = trace, made if isinstance(made, str) else Ready(trace, made, shapes)
            self._made.setdefault(cell, {})[dtype] = found
        return found[1]

    def why_not(self, cell: Cell, parameters: Parameters, dtype: torch.dtype, *, plain: bool) -> str | None:
        """Why the cell cannot be run with these parameters, in a sentence.

        `plain`: all sequences run forward to the last step of x.
        """
        ready = self.ready(cell, dtype)
        if isinstance(ready, str):
            return ready
        for name, _ in ready.shapes:
            if name not in parameters:
                return f'"{name}" is not among the parameters, and compiled kernels of "{cell.title}" read it.'
        if not plain and cell.own_share:
            return (
                f'"{cell.title}" makes the share of its inputs itself and may look along time: compiled kernels run it '
                "forward only, on sequences of one length."
            )
        return None

    def held(self, cell: Cell, dtype: torch.dtype) -> Ready:
        """As `ready` said a moment ago, when the engine was asked whether it serves."""
        of_cell = self._made.get(cell)
        found = None if of_cell is None else of_cell.get(dtype)
        ready = self.ready(cell, dtype) if found is None else found[1]
        if isinstance(ready, str):
            raise EngineError(ready)
        return ready


def dtype_of(parameters: Parameters, x: Tensor) -> torch.dtype:
    """What is computed in: the parameters' dtype, also under autocast."""
    return next(iter(parameters.values()), x).dtype


def why_not(parameters: Parameters, x: Tensor, batch: int, damping: float | None) -> str | None:
    """What no compiled kernel serves, whatever the cell and the device."""
    if _watched(x, *parameters.values()):
        return (
            "compiled kernels do not show the operators that are looked at here (by torch.export, torch.jit.trace, a "
            "mode of torch's, or tensors of a class of their own)."
        )
    dtype = dtype_of(parameters, x)
    if dtype not in DTYPES:
        return f"compiled kernels are made for float32 and float64, not for {dtype}."
    if damping is not None:
        return "clipping while backpropagating acts at every step, which compiled kernels do not stop at."
    if x.numel() == 0 or batch == 0:
        return "compiled kernels do not run a sequence of length 0, nor a batch of none."
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return "compiled kernels do not have the rules that torch.func and forward differentiation need."
    return None


def _watched(*tensors: Tensor) -> bool:
    """Whether each operator must be seen as it is called, or tensors may hold no numbers."""
    for tensor in tensors:
        if type(tensor) is not Parameter and type(tensor) is not Tensor:
            return True
    for level in range(torch._C._len_torch_function_stack()):
        if not isinstance(torch._C._get_function_stack_at(level), DeviceContext):
            return True
    return bool(torch._C._len_torch_dispatch_stack()) or torch._C._get_tracing_state() is not None


def run_job(job: Job, engine: str, kept: Kept) -> Unrolled:
    """Run one cell in one direction through its kernel."""
    cell, lengths, parameters = job.cell, job.lengths, job.parameters
    ready = kept.held(cell, dtype_of(parameters, job.x))
    parts = cell.parts if job.inside else cell.parts[-1:]
    names = ready.traced.program.gates if job.inside else ()
    T, B = job.x.shape[:2]
    ends = None if lengths is None else lengths.cpu()
    initial = [job.state[part] for part in cell.parts]
    if ends is None or not len(ends) or int(ends.min()) == T:
        done = _serve(cell, ready, parameters, job.x, initial, Rows.whole(T, B), inside=job.inside)
        states, gates = dict(zip(parts, done.states, strict=True)), dict(zip(names, done.gates, strict=True))
        return Unrolled(cell, states, gates, _state(cell, done.final), engine, job.state, lengths)
    device = job.x.device
    order = torch.argsort(ends, descending=True, stable=True)
    packing = Packing.by_length(ends, order, T, device)
    sorted_by, back = order.to(device), torch.argsort(order)
    initial = [part.index_select(0, sorted_by) for part in initial]
    rows = Rows.packed(packing.batch_sizes, B)
    done = _serve(cell, ready, parameters, packing.pack(job.x), initial, rows, inside=job.inside)
    # Past its length a sequence shows its last step again; before there was one, its initial state.
    assert rows.first is not None
    t = torch.minimum(torch.arange(T).unsqueeze(1), ends - 1)
    place = torch.where(t >= 0, rows.first[t.clamp(min=0)] + back, rows.N + back) if rows.N else rows.N + back + 0 * t
    running = torch.arange(T).unsqueeze(1) < ends
    shut = torch.where(running, place, rows.N).flatten().to(device)  # of gates there is nothing to show: 0
    place, back = place.flatten().to(device), back.to(device)

    def shown(made: Tensor, before: Tensor, at: Tensor) -> Tensor:
        return torch.cat([made, before]).index_select(0, at).view(T, B, -1)

    before, none = initial if job.inside else initial[-1:], torch.zeros_like(initial[-1][:1])
    states = {part: shown(made, was, place) for part, made, was in zip(parts, done.states, before, strict=True)}
    gates = {gate: shown(made, none, shut) for gate, made in zip(names, done.gates, strict=True)}
    final = _state(cell, [made.index_select(0, back) for made in done.final])
    return Unrolled(cell, states, gates, final, engine, job.state, lengths)


def run_stack(stack: Stack, engine: str, kept: Kept) -> Stacked:
    """The loop over layers and directions; packed sequences stay packed from the first to the last."""
    x, sizes, parts = stack.x, stack.batch_sizes, stack.cells[0].parts
    B = stack.state[parts[0]].shape[1]
    rows = Rows.whole(x.shape[0], B) if sizes is None else Rows.packed(sizes, B)
    alone = len(stack.parameters) == 1
    finals = []
    for layer, cell in enumerate(stack.cells):
        if layer > 0 and stack.dropout > 0:
            x = F.dropout(x, stack.dropout, stack.training)
        outputs = []
        for direction in range(stack.directions):
            index = layer * stack.directions + direction
            parameters = stack.parameters[index]
            ready = kept.held(cell, dtype_of(parameters, x))
            initial = [stack.state[part] if alone else stack.state[part][index] for part in parts]
            done = _serve(cell, ready, parameters, x, initial, rows, inside=False, reverse=direction == 1)
            outputs.append(done.states[0])
            finals.append(done.final)
        x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
    final = finals[0] if alone else [torch.stack(made) for made in zip(*finals, strict=True)]
    return Stacked(x, _state(stack.cells[0], final), engine)


def _state(cell: Cell, parts: Sequence[Tensor]) -> State:
    return State(**dict(zip(cell.parts, parts, strict=True)))


def _serve(
    cell: Cell,
    ready: Ready,
    parameters: Parameters,
    x: Tensor,
    initial: list[Tensor],
    rows: Rows,
    *,
    inside: bool,
    reverse: bool = False,
) -> Done:
    """Run x (T, B, I), or packed (N, I); what is put out has x's leading dimensions, and `initial`'s shape."""
    course = Course(ready.kernel, ready.traced, cell, dict(parameters), rows, reverse, inside)
    if not torch._C._is_any_autocast_enabled():
        return _run(course, ready, x, initial)
    with torch.autocast(x.device.type, enabled=False):
        dtype = ready.traced.dtype
        return _run(course, ready, x.to(dtype), [part.to(dtype) for part in initial])


def _run(course: Course, ready: Ready, x: Tensor, initial: list[Tensor]) -> Done:
    cell, rows = course.cell, course.rows
    dtype, device, H = ready.traced.dtype, x.device, cell.hidden_size
    # Kernels take memory for what these shapes say is there, so what does not fit is refused.
    if x.shape[-1] != cell.input_size or x.numel() != rows.N * cell.input_size or x.dtype is not dtype:
        raise _unfit("x", x, (rows.N, cell.input_size), dtype, device)
    for part in initial:
        if part.shape[-1] != H or part.numel() != rows.B * H or part.dtype is not dtype or part.device != device:
            raise _unfit("a part of the state", part, (rows.B, H), dtype, device)
    for name, shape in ready.shapes:
        value = course.parameters[name]
        if value.shape != shape or value.dtype is not dtype or value.device != device:
            raise _unfit(name, value, shape, dtype, device)
    if not cell.own_share:
        return run(course, x, initial, shared=False)
    share = cell.share(x, course.parameters)
    some = next(iter(share.values()))
    # A block that is not given is not used by the step either; it only keeps its place.
    blocks = [share[block] if block in share else torch.zeros_like(some) for block in cell.inputs]
    u = torch.cat(blocks, dim=-1)
    if u.shape != (*x.shape[:-1], len(cell.inputs) * H) or u.dtype is not dtype:
        raise EngineError(
            f"the share of {cell.title} makes {tuple(u.shape)} {u.dtype} here, other than where it was looked at: its "
            'shape must not hang on the batch. Use engine="reference".'
        )
    return run(course, u, initial, shared=True)


def _unfit(name: str, given: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> CellError:
    return CellError(
        f"{name} is {tuple(given.shape)} {given.dtype} on {given.device}; this cell and the other tensors want "
        f"{tuple(shape)} {dtype} on {device}: give it so, or convert it"
    )
