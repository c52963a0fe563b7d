"""A sequence through a kernel, as one differentiable operation.

What needs no recurrence is done for all steps at once: the input's share before the kernel runs; after it ran back,
when dL/du and dL/d product are written down for every step, the gradients of the weights and of x.

Dimensions: T steps, B sequences, I inputs, H units, N packed rows, P parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from throughtime.cells.cell import Cell, Parameters, Share, State
from throughtime.engines.compiled.gradients import Asked, ask, bias_gradient
from throughtime.engines.compiled.kernel import Kernel
from throughtime.engines.compiled.rows import Rows
from throughtime.engines.compiled.stretches import stretches
from throughtime.engines.trace import Traced
from throughtime.errors import EngineError


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
    """What it came to."""

    states: Sequence[Tensor]  # (T, B, H) or (N, H), as x, a part; of the output alone if the inside was not asked for
    final: Sequence[Tensor]  # as the initial state, a part
    gates: Sequence[Tensor]  # as the states, each; none if the inside was not asked for


class Inputs(NamedTuple):
    """All tensors that a course is differentiated by, in the order in which autograd sees them."""

    x: Tensor  # (T, B, I) or (N, I); where there is no weight_ih: the input's share itself, (…, blocks·H)
    weight_ih: Tensor | None
    bias_ih: Tensor | None
    weight_hh: Tensor | None
    bias_hh: Tensor | None
    initial: tuple[Tensor, ...]  # (B, H) or (1, B, H) a part
    vectors: tuple[Tensor, ...]  # (H,) each; kernels give their gradients
    others: tuple[Tensor, ...]  # the parameters that these hang on; the cell's own step gives gradients of them

    @classmethod
    def of(cls, course: Course, tensors: Sequence[Any]) -> Inputs:
        """As autograd gives them back."""
        begin = 5 + len(course.cell.parts)
        end = begin + course.traced.program.vectors
        x, weight_ih, bias_ih, weight_hh, bias_hh = tensors[:5]
        initial, vectors, others = tuple(tensors[5:begin]), tuple(tensors[begin:end]), tuple(tensors[end:])
        return cls(x, weight_ih, bias_ih, weight_hh, bias_hh, initial, vectors, others)

    def share(self) -> Tensor:
        """The input's share of each pre-activation, (N, blocks·H)."""
        u = self.x if self.weight_ih is None else F.linear(self.x, self.weight_ih, self.bias_ih)
        return u.flatten(0, -2)


def run(course: Course, x: Tensor, initial: Sequence[Tensor], *, shared: bool) -> Done:
    """Run x (T, B, I) or (N, I), or where `shared` the input's share (…, blocks·H), from `initial`.

    Differentiable in x, the state and the parameters.
    """
    given = course.parameters
    vectors = course.traced.vectors(given)
    recurrent = bool(course.cell.recurrent)
    tensors = (
        x,
        None if shared else given["weight_ih"],
        None if shared else given.get("bias_ih"),
        given["weight_hh"] if recurrent else None,
        given.get("bias_hh") if recurrent else None,
        *initial,
        *vectors,
        *(given[name] for name in course.traced.hung_on),
    )
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        made = _Run.apply(course, *tensors)  # type: ignore[no-untyped-call]
    else:
        made = _forward(course, Inputs.of(course, tensors), save=False)[0]
    shown, parts = (len(initial) if course.inside else 1), len(initial)
    return Done(made[:shown], made[shown : shown + parts], made[shown + parts :])


def _forward(course: Course, inputs: Inputs, *, save: bool) -> tuple[tuple[Tensor, ...], list[Tensor | None]]:
    """The outputs, and what the way back needs beside the inputs: every part's states, what was saved, u."""
    kernel, last = course.kernel, len(inputs.initial) - 1
    read_back = kernel.plan.read_back
    keep = [course.inside or part == last or (save and read_back[part]) for part in range(last + 1)]
    walked = kernel.forward(
        course.rows,
        _plain(inputs.x),
        _plain_if(inputs.weight_ih),
        _plain_if(inputs.bias_ih),
        _plain_if(inputs.weight_hh),
        _plain_if(inputs.bias_hh),
        inputs.vectors,
        [_plain(part) for part in inputs.initial],
        reverse=course.reverse,
        keep=keep,
        gates=course.inside,
        save=save,
    )
    shown = walked.states if course.inside else walked.states[last:]
    held = [states if kept else None for states, kept in zip(walked.states, keep, strict=True)] if save else []
    return (*shown, *walked.final, *walked.gates), [*held, walked.saved, walked.u if kernel.plan.reads_u else None]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, course: Course, *tensors: Any) -> tuple[Tensor, ...]:
        outputs, held = _forward(course, Inputs.of(course, tensors), save=True)
        ctx.course = course
        ctx.save_for_backward(*tensors, *held)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        course: Course = ctx.course
        parts, saved = len(course.cell.parts), ctx.saved_tensors
        kind = saved[0].device.type
        if torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return _Run.backward(ctx, *gradients)
        inputs, held = Inputs.of(course, saved[: -parts - 2]), saved[-parts - 2 :]
        needed = ctx.needs_input_grad[1:]
        of_gates = gradients[parts + (parts if course.inside else 1) :]
        if torch.is_grad_enabled() or any(gradient is not None for gradient in of_gates):
            return None, *_by_steps(course, saved[: -parts - 2], needed, gradients)
        return None, *_backward(course, inputs, held, needed, gradients)


class _Back(NamedTuple):
    """What a run back came to."""

    x: Tensor | None  # dL/dx, as x
    initial: Sequence[Tensor | None]  # dL/d initial, as it, a part
    sums: Asked


def _backward(
    course: Course, inputs: Inputs, held: Sequence[Any], needed: Sequence[bool], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients of the inputs; None where the step does not hear them, as autograd has it."""
    plan, parts, H = course.kernel.plan, len(inputs.initial), inputs.initial[0].shape[-1]
    back = _gone_back(course, inputs, held, needed, gradients)
    totals = back.sums.totals
    found: list[Tensor | None] = [None] * len(needed)
    if plan.hears_input:
        found[0], found[1] = back.x, back.sums.weight_ih
        if needed[2] and totals is not None:
            found[2] = totals[: plan.program.inputs * H]
    if plan.weight_runs:
        found[3] = back.sums.weight_hh
    if needed[4] and totals is not None and inputs.bias_hh is not None and plan.bias_runs:
        found[4] = bias_gradient(plan, totals, inputs.bias_hh, H)
    for part, gradient in enumerate(back.initial):
        if plan.hears[part] or course.rows.batch_sizes is not None:  # a sequence of no steps ends as it began
            found[5 + part] = gradient
    for number, slot in enumerate(plan.of_vector, 5 + parts):
        if needed[number] and totals is not None and slot >= 0:
            found[number] = totals[slot * H : (slot + 1) * H].clone()  # .grad of each is changed in place by others
    return found


def _gone_back(
    course: Course, inputs: Inputs, held: Sequence[Any], needed: Sequence[bool], gradients: Sequence[Tensor | None]
) -> _Back:
    """Through the whole run, stretch by stretch."""
    kernel, plan, reverse = course.kernel, course.kernel.plan, course.reverse
    parts, H = len(inputs.initial), inputs.initial[0].shape[-1]
    shown = parts if course.inside else 1
    # The part that is put out is the last; where the inside was not asked for the others have no gradient of their own.
    outer = [None] * (parts - shown) + [_plain_if(gradient) for gradient in gradients[:shown]]
    last = [_plain_if(gradient) for gradient in gradients[shown : shown + parts]]
    *states, saved, u = held
    initial = [_plain(part) for part in inputs.initial]
    x, weight_hh = _plain(inputs.x), _plain_if(inputs.weight_hh)
    summed = needed[2] or needed[4] or any(needed[5 + parts : 5 + parts + len(inputs.vectors)])
    d_x = torch.empty_like(x) if needed[0] else None
    sums: Asked | None = None
    for stretch in stretches(course.rows, len(plan.slots) * H, initial, states, reverse=reverse):
        rows, of = stretch.rows, stretch.of
        made = [of(part) for part in states]
        slots, last = kernel.backward(
            rows,
            of(u),
            weight_hh,
            inputs.vectors,
            stretch.initial,
            made,
            of(saved),
            [of(gradient) for gradient in outer],
            last,
            reverse=reverse,
            first=needed[5 : 5 + parts] if stretch.first else [True] * parts,
        )
        asked = ask(
            plan,
            rows,
            of(x) if needed[1] else None,
            inputs.weight_hh if needed[3] else None,
            stretch.initial,
            made,
            of(saved),
            reverse=reverse,
            totals=summed,
        )
        kernel.gradients(slots, asked)
        sums = asked if sums is None else sums.plus(asked)
        d_x_here = of(d_x)
        if d_x_here is not None:
            _share_back(slots[:, : plan.program.inputs * H], inputs.weight_ih, d_x_here)
    assert sums is not None, "there is a step"
    return _Back(d_x, last, sums)


def _share_back(d_u: Tensor, weight_ih: Tensor | None, d_x: Tensor) -> None:
    """Fill in dL/dx (…, I) from dL/du (N, blocks·H); where there is no weight_ih they are the same."""
    d_x = d_x.view(len(d_u), d_x.shape[-1])
    if weight_ih is None:
        d_x.copy_(d_u)
    else:
        torch.mm(d_u, weight_ih, out=d_x)


def _plain(tensor: Tensor) -> Tensor:
    """The numbers as they lie in memory: row by row, and none of them to be negated when it is read."""
    return tensor.resolve_neg().contiguous()


def _plain_if(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _plain(tensor)


def _by_steps(
    course: Course, tensors: Sequence[Tensor | None], needed: Sequence[bool], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The same gradients through the cell's own step under autograd, which differentiates again, and through gates.

    Raises EngineError if the cell has changed since it was run.
    """
    if not course.traced.holds(course.cell):
        raise EngineError(
            f'"{course.cell.title}", or what its step reads, was changed between the forward and the backward pass: '
            'change it after the backward pass, or use engine="reference".'
        )
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        fresh = [
            tensor if tensor is None else tensor.view_as(tensor) if again else tensor.detach().requires_grad_(need)
            for tensor, need in zip(tensors, needed, strict=True)
        ]
        outputs = _stepped(course, Inputs.of(course, fresh))
        pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None and o.requires_grad]
        wanted = [tensor for tensor, need in zip(fresh, needed, strict=True) if need and tensor is not None]
        found: Any = [None] * len(wanted)
        if pairs:
            made, given = zip(*pairs, strict=True)
            found = torch.autograd.grad(made, wanted, given, create_graph=again, allow_unused=True)
    answers = iter(found)
    return [next(answers) if need and tensor is not None else None for tensor, need in zip(fresh, needed, strict=True)]


def _stepped(course: Course, inputs: Inputs) -> list[Tensor]:
    """What `_forward` puts out, by the cell's step, one step at a time."""
    cell, rows = course.cell, course.rows
    given = dict(course.parameters) | dict(zip(course.traced.hung_on, inputs.others, strict=True))
    bound = {"weight_hh": inputs.weight_hh, "bias_hh": inputs.bias_hh}
    W = cell.weights(given | {name: value for name, value in bound.items() if value is not None})
    blocks = inputs.share().chunk(len(cell.inputs), dim=-1)
    z = [part.flatten(0, -2) for part in inputs.initial]
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
        rows = torch.cat(steps[::-1] if course.reverse else steps) if steps else z[0][:0]
        return rows.view(*inputs.x.shape[:-1], rows.shape[-1])

    shown = states if course.inside else states[-1:]
    seen = [together(steps) for steps in gates] if course.inside else []
    final = [part.view_as(start) for part, start in zip(z, inputs.initial, strict=True)]
    return [*(together(steps) for steps in shown), *final, *seen]
