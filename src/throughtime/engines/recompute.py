"""Backpropagation through long sequences in little memory: what a step leaves for the way back is made again.

The sequence is cut into windows of about √T steps. Forward, only the state between two windows is kept; on the way
back each window is run a second time, right before it is differentiated. Beside the input, the output and their
gradients that is √T states and the inside of one window of √T steps at a time, for one more forward pass.

Source: Chen, Xu, Zhang, Guestrin 2016, "Training deep nets with sublinear memory cost", section 3.

Dimensions: T steps, B sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import isqrt
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import get_device_states, set_device_states

from throughtime.cells.cell import State
from throughtime.engines import choose
from throughtime.engines.layers import LayerByLayer
from throughtime.engines.seam import Engine, Job, Stack, Stacked, Unrolled


class Recomputed(Engine):
    """Runs a job window by window through another engine, whose name is in the answer.

    The outputs of all windows exist whole, and so does the inside if it is asked for.
    """

    name: ClassVar = "recomputed"

    def __init__(self, asked: str) -> None:
        self._asked = asked

    def why_not(self, job: Job) -> str | None:
        """It always serves; `run` raises EngineError where the engine that was asked for cannot."""
        return None

    def run(self, job: Job) -> Unrolled:
        """The loop over windows; torch.func and forward differentiation keep nothing, and get the whole at once."""
        steps = len(job.x)
        transformed = torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
        if steps < 2 or transformed:
            return choose(job, self._asked).run(job)
        size = isqrt(steps - 1) + 1
        shortest = steps if job.lengths is None or not len(job.lengths) else int(job.lengths.min())
        engine, state = None, job.state
        done: list[Unrolled] = []
        # Split at once: of a slice the gradient is as long as the whole sequence, and there is one for each window.
        for start, x in zip(range(0, steps, size), torch.split(job.x, size), strict=True):
            ends = None
            if job.lengths is not None and shortest < start + len(x):
                ends = (job.lengths - start).clamp(0, len(x))
            piece = replace(job, x=x, state=state, lengths=ends)
            engine = engine or choose(piece, self._asked)
            done.append(_window(engine, piece))
            state = done[-1].final
        return replace(
            done[-1],
            states=_joined([each.states for each in done]),
            gates=_joined([each.gates for each in done]),
            initial=job.state,
            lengths=job.lengths,
        )


def recompute(stack: Stack, engine: str) -> Stacked:
    """Run a stack one layer and direction after another, each in windows; dropout is drawn between layers, once."""
    return LayerByLayer(Recomputed(engine)).run(stack)


def _joined(windows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([window[name] for window in windows]) for name in windows[0]}


def _window(engine: Engine, job: Job) -> Unrolled:
    answer: list[Unrolled] = []
    inputs = (job.x, *job.state.values(), *job.parameters.values())
    tensors = iter(_Again.apply(engine, job, answer, *inputs))  # type: ignore[no-untyped-call]
    return replace(
        answer[0],
        states=dict(zip(answer[0].states, tensors, strict=False)),
        gates=dict(zip(answer[0].gates, tensors, strict=False)),
        final=State(**dict(zip(answer[0].final, tensors, strict=True))),
    )


class _Again(torch.autograd.Function):
    """A job run without a graph; on the way back it is run again with one, which is differentiated and let go.

    Not torch.utils.checkpoint: it drops the tensors that a graph holds but keeps its nodes, which for a loop over
    small steps are the larger part.
    """

    @staticmethod
    def forward(ctx: Any, engine: Engine, job: Job, answer: list[Unrolled], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)  # and so autograd sees if one of them is changed before the way back
        ctx.set_materialize_grads(False)
        ctx.engine, ctx.job, ctx.dtype = engine, job, _cast_to(job.x)
        before = _random(job.x)
        # What autocast would keep of a parameter now has no graph, and later layers would take it.
        with _casting(job.x, ctx.dtype, cache=False):
            done = engine.run(job)
        ctx.random = None if all(map(torch.equal, before, _random(job.x))) else before
        answer.append(replace(done, states=dict.fromkeys(done.states), gates=dict.fromkeys(done.gates)))  # type: ignore[arg-type]
        return _tensors(done)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        twice = torch.is_grad_enabled()  # whether what is done here will be differentiated in its turn
        job, needed = ctx.job, ctx.needs_input_grad[3:]
        with torch.enable_grad(), _casting(job.x, ctx.dtype), _drawing(job.x, ctx.random):
            inputs = [
                tensor.view_as(tensor) if twice else tensor.detach().requires_grad_(need)
                for tensor, need in zip(ctx.saved_tensors, needed, strict=True)
            ]
            rest = iter(inputs[1:])
            state = State(**dict(zip(job.state, rest, strict=False)))
            parameters = dict(zip(job.parameters, rest, strict=True))
            tensors = _tensors(ctx.engine.run(replace(job, x=inputs[0], state=state, parameters=parameters)))
        pairs = [(y, g) for y, g in zip(tensors, gradients, strict=True) if g is not None and y.requires_grad]
        wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
        if not pairs:
            return None, None, None, *(None for _ in inputs)
        outputs, given = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=twice, allow_unused=True))
        return None, None, None, *(next(found) if need else None for need in needed)


def _tensors(done: Unrolled) -> tuple[Tensor, ...]:
    """All that came out; a final state may be a view of all states, and would keep them alive."""
    return (*done.states.values(), *done.gates.values(), *(part.clone() for part in done.final.values()))


@contextmanager
def _casting(x: Tensor, dtype: torch.dtype | None, *, cache: bool = True) -> Iterator[None]:
    """Autocast to `dtype`, or with None not at all."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):
        yield
        return
    with torch.autocast(kind, dtype, enabled=dtype is not None, cache_enabled=cache):
        yield


def _cast_to(x: Tensor) -> torch.dtype | None:
    kind = x.device.type
    casts = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if casts else None


def _random(x: Tensor) -> list[Tensor]:
    """How the generators stand from which a step could draw: the CPU's and that of x's device."""
    return [torch.get_rng_state(), *get_device_states(x)[1]]


@contextmanager
def _drawing(x: Tensor, random: list[Tensor] | None) -> Iterator[None]:
    """Draw from there, and leave the generators as they were; None: nothing is drawn."""
    if random is None:
        yield
        return
    devices = get_device_states(x)[0]
    with torch.random.fork_rng(devices, device_type=x.device.type if devices else "cuda"):
        torch.set_rng_state(random[0])
        set_device_states(devices, random[1:], device_type=x.device.type)
        yield
