"""What the engines of compiled kernels have in common: from a job or a stack to packed rows, and back.

Dimensions: T steps, B sequences, I inputs, H units, N packed rows.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.nn import functional as F

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.engines.cpu.kernel import Kernel
from throughtime.engines.cpu.rows import Rows
from throughtime.engines.cpu.sequence import Course, Done, run
from throughtime.engines.packing import Packing
from throughtime.engines.seam import Job, Stack, Stacked, Unrolled
from throughtime.engines.trace import Traced, traced
from throughtime.errors import CellError, EngineError

DTYPES = (torch.float32, torch.float64)
Ready = Callable[[Cell, torch.dtype], tuple[Traced, Kernel] | str]  # a cell's trace and kernel; or why there is none


def kept(make: Callable[[Traced, Cell, torch.dtype], Kernel | str]) -> Ready:
    """What traces a cell and makes its kernel (or says why not), once for each cell and dtype."""
    made: WeakKeyDictionary[Cell, dict[torch.dtype, tuple[Traced, Kernel | str]]] = WeakKeyDictionary()

    def ready(cell: Cell, dtype: torch.dtype) -> tuple[Traced, Kernel] | str:
        trace = traced(cell, dtype)
        if isinstance(trace, str):
            return trace
        of_cell = made.get(cell)
        before = None if of_cell is None else of_cell.get(dtype)
        if before is None or before[0] is not trace:
            before = trace, make(trace, cell, dtype)
            made.setdefault(cell, {})[dtype] = before
        found = before[1]
        return found if isinstance(found, str) else before  # type: ignore[return-value]

    return ready


def dtype_of(parameters: Parameters, x: Tensor) -> torch.dtype:
    """What is computed in: the parameters' dtype, also under autocast."""
    return next(iter(parameters.values()), x).dtype


def why_not(parameters: Parameters, x: Tensor, batch: int, damping: float | None) -> str | None:
    """What no compiled kernel serves, whatever the cell and the device."""
    if _watched(x, *parameters.values()):
        return (
            "compiled kernels do not show the operators that are looked at here (by torch.export, torch.jit.trace, a "
            "dispatch mode, or tensors of a class of their own)."
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
    watching = torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state() is not None
    return bool(watching) or any(type(tensor) not in (Tensor, Parameter) for tensor in tensors)


def run_job(job: Job, engine: str, ready: Ready) -> Unrolled:
    """Run one cell in one direction through its kernel."""
    cell, lengths, parameters = job.cell, job.lengths, job.parameters
    names = _gates(cell, parameters, job.x, ready) if job.inside else ()
    parts = cell.parts if job.inside else cell.parts[-1:]
    (T, B), H = job.x.shape[:2], cell.hidden_size
    ends = None if lengths is None else lengths.cpu()
    if ends is None or not len(ends) or int(ends.min()) == T:
        done = _serve(cell, parameters, job.x.flatten(0, 1), job.state, Rows.whole(T, B), ready, inside=job.inside)
        states = {part: made.view(T, B, H) for part, made in zip(parts, done.states, strict=True)}
        gates = {gate: made.view(T, B, H) for gate, made in zip(names, done.gates, strict=True)}
        final = State(**dict(zip(cell.parts, done.final, strict=True)))
        return Unrolled(cell, states, gates, final, engine, job.state, lengths)
    device = job.x.device
    order = torch.argsort(ends, descending=True, stable=True)
    packing = Packing.by_length(ends, order, T, device)
    sorted_by, back = order.to(device), torch.argsort(order)
    start = job.state.map(lambda part: part.index_select(0, sorted_by))
    rows = Rows.packed(packing.batch_sizes, B)
    done = _serve(cell, parameters, packing.pack(job.x), start, rows, ready, inside=job.inside)
    # Past its length a sequence shows its last step again; before there was one, its initial state.
    assert rows.first is not None
    t = torch.minimum(torch.arange(T).unsqueeze(1), ends - 1)
    place = torch.where(t >= 0, rows.first[t.clamp(min=0)] + back, rows.N + back) if rows.N else rows.N + back + 0 * t
    place, back = place.flatten().to(device), back.to(device)

    def shown(made: Tensor, before: Tensor) -> Tensor:
        return torch.cat([made, before]).index_select(0, place).view(T, B, H)

    none = torch.zeros_like(done.final[-1])
    states = {part: shown(made, start[part]) for part, made in zip(parts, done.states, strict=True)}
    gates = {gate: shown(made, none) for gate, made in zip(names, done.gates, strict=True)}
    final = State(**{part: made.index_select(0, back) for part, made in zip(cell.parts, done.final, strict=True)})
    return Unrolled(cell, states, gates, final, engine, job.state, lengths)


def _gates(cell: Cell, parameters: Parameters, x: Tensor, ready: Ready) -> tuple[str, ...]:
    found = ready(cell, dtype_of(parameters, x))
    return () if isinstance(found, str) else found[0].program.gates


def run_stack(stack: Stack, engine: str, ready: Ready) -> Stacked:
    """The loop over layers and directions; packed sequences stay packed from the first to the last."""
    x, sizes, parts = stack.x, stack.batch_sizes, stack.cells[0].parts
    B = stack.state[parts[0]].shape[1]
    if sizes is None:
        rows = Rows.whole(x.shape[0], B)
        x = x.flatten(0, 1)
    else:
        rows = Rows.packed(sizes, B)
    finals = []
    for layer, cell in enumerate(stack.cells):
        if layer > 0 and stack.dropout > 0:
            x = _dropped(x, stack, rows)
        outputs = []
        for direction in range(stack.directions):
            index = layer * stack.directions + direction
            start = State(**{part: stack.state[part][index] for part in parts})
            done = _serve(cell, stack.parameters[index], x, start, rows, ready, inside=False, reverse=direction == 1)
            outputs.append(done.states[0])
            finals.append(done.final)
        x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
    final = (torch.stack(made) if len(made) > 1 else made[0].unsqueeze(0) for made in zip(*finals, strict=True))
    output = x if sizes is not None else x.view(rows.T, B, x.shape[1])
    return Stacked(output, State(**dict(zip(parts, final, strict=True))), engine)


def _dropped(x: Tensor, stack: Stack, rows: Rows) -> Tensor:
    shape = x.shape if stack.batch_sizes is not None else (rows.T, rows.B, x.shape[-1])
    return F.dropout(x.view(shape), stack.dropout, stack.training).view(x.shape)


def _serve(
    cell: Cell,
    parameters: Parameters,
    x: Tensor,
    state: State,
    rows: Rows,
    ready: Ready,
    *,
    inside: bool,
    reverse: bool = False,
) -> Done:
    """Run rows x (N, I) of a cell."""
    found = ready(cell, dtype_of(parameters, x))
    if isinstance(found, str):
        raise EngineError(found)
    course = Course(found[1], found[0], cell, parameters, rows, reverse, inside)
    initial = [state[part] for part in cell.parts]
    if not torch._C._is_any_autocast_enabled():
        return _run(course, x, initial)
    with torch.autocast(x.device.type, enabled=False):
        dtype = found[0].dtype
        return _run(course, x.to(dtype), [part.to(dtype) for part in initial])


def _check(course: Course, x: Tensor, initial: list[Tensor]) -> None:
    """Kernels take memory for what these shapes say is there, so refuse what does not fit."""
    cell, rows, dtype, device = course.cell, course.rows, course.traced.dtype, x.device
    shapes: dict[str, tuple[int, ...]] = {**cell.shapes(), "x": (rows.N, cell.input_size)}
    given = {**course.parameters, "x": x}
    for part, tensor in zip(cell.parts, initial, strict=True):
        shapes[part], given[part] = (rows.B, cell.hidden_size), tensor
    for name, tensor in given.items():
        if tensor.shape != shapes.get(name, tensor.shape) or tensor.dtype != dtype or tensor.device != device:
            raise CellError(
                f"{name} is {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}; this cell and the other tensors "
                f"want {shapes.get(name, tuple(tensor.shape))} {dtype} on {device}: give it so, or convert it"
            )


def _run(course: Course, x: Tensor, initial: list[Tensor]) -> Done:
    _check(course, x, initial)
    cell = course.cell
    if type(cell).share is Cell.share:
        return run(course, x, initial, shared=False)
    share = cell.share(x, course.parameters)
    some = next(iter(share.values()))
    # A block that is not given is not used by the step either; it only keeps its place.
    blocks = [share[block] if block in share else torch.zeros_like(some) for block in cell.inputs]
    u = torch.cat(blocks, dim=-1)
    if u.shape != (course.rows.N, len(cell.inputs) * cell.hidden_size) or u.dtype != course.traced.dtype:
        raise EngineError(
            f"the share of {cell.title} makes {tuple(u.shape)} {u.dtype} here, other than where it was looked at: its "
            'shape must not hang on the batch. Use engine="reference".'
        )
    return run(course, u, initial, shared=True)
