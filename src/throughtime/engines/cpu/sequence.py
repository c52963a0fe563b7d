"""A sequence through a kernel, as one differentiable operation.

What needs no recurrence stays outside: the input's share is one product before, its gradients are autograd's. Inside,
the way back writes down dL/d product for every step, and the gradients of weights are products over all of them.

Dimensions: T steps, B sequences, H units, N packed rows, P parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, Share, State
from throughtime.engines.cpu.gradients import bias_gradient, weight_gradient
from throughtime.engines.cpu.kernel import Kernel
from throughtime.engines.cpu.rows import Rows
from throughtime.engines.trace import Traced


class Course(NamedTuple):
    """One cell over packed rows in one direction."""

    kernel: Kernel
    traced: Traced
    cell: Cell
    parameters: Parameters
    rows: Rows
    reverse: bool
    inside: bool  # whether the states of every step and the gates are asked for, or the output alone


class Done(NamedTuple):
    """What it came to: each part and gate (N, H), the final state (B, H) a part."""

    states: Mapping[str, Tensor]  # the output alone if the inside was not asked for
    gates: Mapping[str, Tensor]
    final: State


def run(course: Course, u: Tensor, initial: State) -> Done:
    """Run u (N, blocks·H) from `initial`; differentiable in u, the state and the parameters."""
    cell, given = course.cell, course.parameters
    weight, bias = given.get("weight_hh"), given.get("bias_hh")
    if not cell.recurrent:
        weight = bias = None
    # What vectors hang on may be any parameter, the weights again among them.
    others = tuple(given.values()) if course.traced.program.vectors else ()
    inputs = (u, weight, bias, *(initial[part] for part in cell.parts), *others)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs):
        made = _Run.apply(course, *inputs)  # type: ignore[no-untyped-call]
    else:
        made = _forward(course, inputs, save=False)[0]
    parts = cell.parts if course.inside else cell.parts[-1:]
    gates = course.traced.program.gates if course.inside else ()
    count = len(parts)
    return Done(
        states=dict(zip(parts, made[:count], strict=True)),
        final=State(**dict(zip(cell.parts, made[count : count + len(cell.parts)], strict=True))),
        gates=dict(zip(gates, made[count + len(cell.parts) :], strict=True)),
    )


Inputs = Sequence[Tensor | None]


def _split(course: Course, inputs: Inputs) -> tuple[Tensor, Tensor | None, Tensor | None, list[Tensor], list[Any]]:
    u, weight, bias, *rest = inputs
    parts = len(course.cell.parts)
    assert u is not None
    return u, weight, bias, [part for part in rest[:parts] if part is not None], rest[parts:]


def _vectors(course: Course, others: Sequence[Tensor]) -> list[Tensor]:
    if not others:
        return []
    return course.traced.vectors(dict(zip(course.parameters, others, strict=True)))


def _forward(course: Course, inputs: Inputs, *, save: bool) -> tuple[tuple[Tensor, ...], list[Tensor | None]]:
    """The outputs, and what the way back needs beside the inputs: every part's states, saved values."""
    u, weight, bias, initial, others = _split(course, inputs)
    kernel = course.kernel
    parts = len(initial)
    keep = [course.inside or part == parts - 1 or (save and kernel.plan.read_back[part]) for part in range(parts)]
    walked = kernel.forward(
        course.rows,
        u.contiguous(),
        None if weight is None else weight.contiguous(),
        None if bias is None else bias.contiguous(),
        [vector.contiguous() for vector in _vectors(course, others)],
        [part.contiguous() for part in initial],
        reverse=course.reverse,
        keep=keep,
        gates=course.inside,
        save=save,
    )
    shown = walked.states if course.inside else walked.states[-1:]
    held = [states if kept else None for states, kept in zip(walked.states, keep, strict=True)]
    return (*shown, *walked.final, *walked.gates), [*held, walked.saved]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, course: Course, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        outputs, held = _forward(course, inputs, save=True)
        ctx.course = course
        ctx.save_for_backward(*inputs, *held)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        course: Course = ctx.course
        count = len(ctx.saved_tensors) - len(course.cell.parts) - 1
        inputs, held = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        needed = ctx.needs_input_grad[1:]
        shown = len(course.cell.parts) if course.inside else 1
        of_gates = gradients[shown + len(course.cell.parts) :]
        if torch.is_grad_enabled() or any(gradient is not None for gradient in of_gates):
            return None, *_by_steps(course, inputs, needed, gradients)
        return None, *_backward(course, inputs, held, needed, gradients)


def _backward(
    course: Course,
    inputs: Inputs,
    held: Inputs,
    needed: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    u, weight, bias, initial, others = _split(course, inputs)
    kernel, rows, reverse, program = course.kernel, course.rows, course.reverse, course.kernel.program
    parts, H = len(initial), initial[0].shape[1]
    shown = parts if course.inside else 1
    # The part that is put out is the last; where the inside was not asked for the others have no gradient of their own.
    outer = [None] * (parts - shown) + [_contiguous(gradient) for gradient in gradients[:shown]]
    last = [_contiguous(gradient) for gradient in gradients[shown : shown + parts]]
    *states, saved = held
    initial = [part.contiguous() for part in initial]
    # A part that the way back does not read is not there; anything of its shape stands in its place.
    there = [initial[part] if state is None else state for part, state in enumerate(states)]
    free, vectors = [], []
    if others:
        with torch.enable_grad():
            free = [other.detach().requires_grad_(other.requires_grad) for other in others]
            vectors = _vectors(course, free)
    slots, first, _ = kernel.backward(
        rows,
        u.contiguous(),
        None if weight is None else weight.contiguous(),
        [vector.detach().contiguous() for vector in vectors],
        initial,
        there,
        saved,
        outer,
        last,
        reverse=reverse,
    )
    found: list[Tensor | None] = [None] * len(inputs)
    totals = slots.sum(0).view(-1, H) if needed[2] or others else None
    if needed[0]:
        found[0] = slots[:, : program.inputs * H]
    if needed[1] and weight is not None:
        found[1] = weight_gradient(kernel.plan, rows, slots, weight.shape, initial, there, saved, reverse=reverse)
    if needed[2] and bias is not None and totals is not None:
        found[2] = bias_gradient(kernel.plan, totals, bias)
    for part in range(parts):
        if needed[3 + part]:
            found[3 + part] = first[part]
    if totals is not None and any(needed[3 + parts :]):
        found[3 + parts :] = _through_vectors(kernel, totals, vectors, free)
    return found


def _through_vectors(kernel: Kernel, totals: Tensor, vectors: list[Tensor], free: list[Tensor]) -> list[Tensor | None]:
    """From dL/d vectors to what they hang on."""
    pairs = [
        (vector, totals[slot])
        for vector, slot in zip(vectors, kernel.plan.of_vector, strict=True)
        if slot >= 0 and vector.requires_grad
    ]
    leaves = [tensor for tensor in free if tensor.requires_grad]
    if not pairs or not leaves:
        return [None] * len(free)
    made, given = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(made, leaves, given, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in free]


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _by_steps(
    course: Course, inputs: Inputs, needed: Sequence[bool], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The same gradients through the cell's own step under autograd, which differentiates again, and through gates."""
    with torch.enable_grad():
        fresh = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        outputs = _stepped(course, fresh)
        pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None and o.requires_grad]
        wanted = [tensor for tensor, need in zip(fresh, needed, strict=True) if need and tensor is not None]
        found = iter(
            torch.autograd.grad(
                [o for o, _ in pairs],
                wanted,
                [g for _, g in pairs],
                create_graph=torch.is_grad_enabled(),
                allow_unused=True,
            )
            if pairs
            else [None] * len(wanted)
        )
    return [next(found) if need and tensor is not None else None for tensor, need in zip(fresh, needed, strict=True)]


def _stepped(course: Course, inputs: Inputs) -> list[Tensor]:
    """What `_forward` puts out, by the cell's step, one step at a time."""
    cell, rows = course.cell, course.rows
    u, weight, bias, initial, others = _split(course, inputs)
    given = dict(course.parameters) | dict(zip(course.parameters, others, strict=False))
    given |= {name: value for name, value in (("weight_hh", weight), ("bias_hh", bias)) if value is not None}
    W, blocks = cell.weights(given), u.chunk(len(cell.inputs), dim=-1)
    z = list(initial)
    states: list[list[Tensor]] = [[] for _ in cell.parts]
    gates: list[list[Tensor]] = [[] for _ in course.traced.program.gates]
    for n in range(rows.T):
        here = rows.step(rows.T - 1 - n if course.reverse else n)
        count = here.stop - here.start
        share = Share(**{name: block[here] for name, block in zip(cell.inputs, blocks, strict=True)})
        new, opened = cell.advance(share, State(**{part: z[p][:count] for p, part in enumerate(cell.parts)}), W)
        for p, part in enumerate(cell.parts):
            states[p].append(new[part])
            z[p] = torch.cat([new[part], z[p][count:]])
        for g, value in enumerate(opened.values()):
            gates[g].append(value)

    def together(steps: list[Tensor]) -> Tensor:
        return torch.cat(steps[::-1] if course.reverse else steps)

    shown = states if course.inside else states[-1:]
    seen = [together(steps) for steps in gates] if course.inside else []
    return [*(together(steps) for steps in shown), *z, *seen]
