"""A recurrence within torch.compile: one operator, which the compiler calls and does not look into.

The compiler sees shapes alone. When its code runs, the operator asks the engines as any call does, and keeps the graph
that autograd records of it; the way back is a second operator, which asks that graph. This file is loaded while
something is compiled, never before: it loads the compiler.

Dimensions: T steps, B sequences, H units, L layers, D directions, N packed rows.
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, State
from throughtime.engines import choose, choose_stack
from throughtime.engines.packing import lengths_on_cpu, run_padded
from throughtime.engines.recompute import Recomputed, recompute
from throughtime.engines.seam import Job, Stack, Unrolled
from throughtime.errors import EngineError


@dataclass(frozen=True)
class Call:
    """What is known of a call when it is compiled, beside the tensors."""

    cells: tuple[weakref.ref[Cell], ...]
    kind: str  # "stack": a module's layers; "packed": the same on packed rows; "job": one cell, with its inside
    names: tuple[tuple[str, ...], ...]  # of the parameters, for each layer and direction
    directions: int
    training: bool
    engine: str
    recompute: bool

    @property
    def cell(self) -> Cell:
        """The first layer's."""
        return _there(self.cells[0])


class Recorded(bytearray):
    """Eight bytes, and the graph of a call. A tensor stands on the bytes; while anyone holds it, the graph is there."""

    leaves: list[Tensor]
    outputs: list[Tensor]


_CALLS: list[Call] = []  # by the number that compiled code knows them by
_RECORDED: weakref.WeakValueDictionary[int, Recorded] = weakref.WeakValueDictionary()
_COUNT = itertools.count(1)


def stack(given: Stack, engine: str, recomputed: bool, lengths: Tensor | None = None) -> tuple[Tensor, State]:
    """Run a stack: the output and the final state. `lengths` (B,) end the sequences of a padded one early."""
    parts = given.cells[0].parts
    names = tuple(tuple(parameters) for parameters in given.parameters)
    kind = "stack" if given.batch_sizes is None else "packed"
    call = _number(kind, names, given.directions, given.training, engine, recomputed, *given.cells)
    parameters = [value for each in given.parameters for value in each.values()]
    ends = lengths if given.batch_sizes is None else given.batch_sizes
    output, *final = _ask(
        call, given.x, [given.state[part] for part in parts], parameters, ends, given.dropout, given.damping
    )
    return output, State(**dict(zip(parts, final, strict=True)))


def job(given: Job, engine: str, recomputed: bool) -> Unrolled:
    """Run a job, with its inside."""
    cell, parts = given.cell, given.cell.parts
    gates = _gates(cell)
    call = _number("job", (tuple(given.parameters),), 1, False, engine, recomputed, cell)
    parameters = list(given.parameters.values())
    found = _ask(call, given.x, [given.state[part] for part in parts], parameters, given.lengths, 0.0, given.damping)
    count = len(parts)
    return Unrolled(
        cell=cell,
        states=dict(zip(parts, found[:count], strict=True)),
        gates=dict(zip(gates, found[count:-count], strict=True)),
        final=State(**dict(zip(parts, found[-count:], strict=True))),
        engine=engine,
        initial=given.state,
        lengths=given.lengths,
    )


def _ask(
    call: int,
    x: Tensor,
    state: list[Tensor],
    parameters: list[Tensor],
    ends: Tensor | None,
    dropout: float,
    damping: float | None,
) -> list[Tensor]:
    dtype = parameters[0].dtype  # under autocast too
    x, state = x.to(dtype), [part.to(dtype) for part in state]
    needed = [torch.is_grad_enabled() and tensor.requires_grad for tensor in (x, *state, *parameters)]
    found: list[Tensor] = recurrent(call, x, state, parameters, ends, dropout, damping, needed)
    return found[:-1]


# Run as they are while the rest is compiled; what they answer is a constant of what is compiled.


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def transformed() -> bool:
    """Whether one of torch.func's transforms is at work."""
    return torch._C._functorch.peek_interpreter_stack() is not None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _number(
    kind: str,
    names: tuple[tuple[str, ...], ...],
    directions: int,
    training: bool,
    engine: str,
    recomputed: bool,
    *cells: Cell,
) -> int:
    """The number of a call; equal ones have the same."""
    call = Call(tuple(map(weakref.ref, cells)), kind, names, directions, training, engine, recomputed)
    if call not in _CALLS:
        _CALLS.append(call)
    return _CALLS.index(call)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _gates(cell: Cell) -> tuple[str, ...]:
    """The names of a cell's gates, from one step on tensors that hold no numbers."""
    parameters = {name: torch.empty(shape, device="meta") for name, shape in cell.shapes().items()}
    x = torch.empty(1, cell.input_size, device="meta")
    return tuple(cell.advance(cell.share(x, parameters), cell.zero_state(1, x), cell.weights(parameters))[1])


# What compiled code calls. Said to be random, so that two calls are never taken for one.


@torch.library.custom_op("throughtime::recurrent", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def recurrent(
    call: int,
    x: Tensor,
    state: list[Tensor],
    parameters: list[Tensor],
    ends: Tensor | None,
    dropout: float,
    damping: float | None,
    needed: list[bool],
) -> list[Tensor]:
    """Run a call: its outputs, and last what stands on its graph. `needed`: which tensors need a gradient."""
    run = _CALLS[call]
    recorded = Recorded(8)
    inputs = [x, *state, *parameters]
    if any(needed):
        with _as_outside():
            inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(inputs, needed, strict=True)]
            outputs = _run(run, inputs, ends, dropout, damping)
        number = next(_COUNT)
        recorded[:] = number.to_bytes(8, sys.byteorder)
        recorded.leaves = [tensor for tensor in inputs if tensor.requires_grad]
        recorded.outputs = outputs
        _RECORDED[number] = recorded
    else:
        with torch.autocast(x.device.type, enabled=False):
            outputs = _run(run, inputs, ends, dropout, damping)
    return [*_copies(outputs), torch.frombuffer(recorded, dtype=torch.int64)]


@recurrent.register_fake
def _(call: int, x: Tensor, state: list[Tensor], parameters: list[Tensor], *rest: Any) -> list[Tensor]:
    run, cell = _CALLS[call], _CALLS[call].cell
    units = cell.hidden_size
    if run.kind == "job":
        outputs = [x.new_empty(*x.shape[:-1], units) for _ in range(len(cell.parts) + len(_gates(cell)))]
    else:
        outputs = [x.new_empty(*x.shape[:-1], run.directions * units)]
    return [*outputs, *(part.new_empty(part.shape) for part in state), torch.empty(1, dtype=torch.int64)]


@torch.library.custom_op("throughtime::recurrent_backward", mutates_args=())
def recurrent_backward(
    recorded: Tensor, which: list[int], gradients: list[Tensor], wanted: list[Tensor]
) -> list[Tensor]:
    """The gradients of the tensors `wanted`, from those of some of the outputs."""
    graph = _RECORDED.get(int(recorded))
    if graph is None:
        raise EngineError(
            "the graph of a recurrence within compiled code is gone: something between forward and backward keeps "
            "copies of saved tensors; compile without it, or leave the recurrent layer out of what is compiled."
        )
    pairs = [(graph.outputs[at], g) for at, g in zip(which, gradients, strict=True) if graph.outputs[at].requires_grad]
    if not pairs:
        return [torch.zeros_like(tensor) for tensor in wanted]
    outputs, given = zip(*pairs, strict=True)
    with _as_outside():
        found = torch.autograd.grad(
            outputs, graph.leaves, given, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    return _copies(found)


@recurrent_backward.register_fake
def _(recorded: Tensor, which: list[int], gradients: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in wanted]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    _, x, state, parameters, *_, needed = inputs
    ctx.save_for_backward(output[-1], x, *state, *parameters)  # all: what is saved, the compiler leaves as it is
    ctx.set_materialize_grads(False)
    ctx.needed, ctx.parts = needed, len(state)


def _back(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    recorded, *inputs = ctx.saved_tensors
    came = [(at, gradient) for at, gradient in enumerate(gradients[:-1]) if gradient is not None]
    found: list[Tensor | None] = [None] * len(inputs)
    if came:
        wanted = [tensor for tensor, need in zip(inputs, ctx.needed, strict=True) if need]
        answers = iter(recurrent_backward(recorded, [at for at, _ in came], [g for _, g in came], wanted))
        found = [next(answers) if need else None for need in ctx.needed]
    return None, found[0], found[1 : 1 + ctx.parts], found[1 + ctx.parts :], None, None, None, None


recurrent.register_autograd(_back, setup_context=_remember)


def _run(
    call: Call, tensors: Sequence[Tensor], ends: Tensor | None, dropout: float, damping: float | None
) -> list[Tensor]:
    cells = tuple(map(_there, call.cells))
    parts = cells[0].parts
    x, given = tensors[0], iter(tensors[1:])
    state = State(**dict(zip(parts, given, strict=False)))
    parameters = tuple(dict(zip(names, given, strict=False)) for names in call.names)
    if call.kind == "job":
        lengths = None if ends is None else lengths_on_cpu(ends, *x.shape[:2]).to(x.device)
        work = Job(cells[0], parameters[0], x, state, lengths, damping=damping)
        done = (Recomputed(call.engine) if call.recompute else choose(work, call.engine)).run(work)
        gates = [done.gates[name] for name in _gates(cells[0])]
        return [*(done.states[part] for part in parts), *gates, *(done.final[part] for part in parts)]

    def run(x: Tensor, state: State, batch_sizes: Tensor | None) -> tuple[Tensor, State]:
        layers = Stack(cells, parameters, x, state, call.directions, batch_sizes, dropout, call.training, damping)
        done = recompute(layers, call.engine) if call.recompute else choose_stack(layers, call.engine).run(layers)
        return done.output, done.final

    output, final = run(x, state, ends) if call.kind == "packed" else run_padded(run, x, state, ends)
    return [output, *(final[part] for part in parts)]


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The compiler may reuse an output's memory, which the graph still needs, and asks for the layout it expects."""
    return [tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in tensors]


def _there(cell: weakref.ref[Cell]) -> Cell:
    found = cell()
    assert found is not None, "compiled code outlived the module it was made for"
    return found


@contextmanager
def _as_outside() -> Iterator[None]:
    """Autograd records and autocast does not cast, as in a thread that has just begun: operators have both shut out."""
    with torch._C._ForceDispatchKeyGuard(*_OUTSIDE), torch.enable_grad():
        yield


def _elsewhere(work: Callable[[], Any]) -> Any:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    thread.join()
    return answers[0]


_OUTSIDE = _elsewhere(lambda: (torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()))
