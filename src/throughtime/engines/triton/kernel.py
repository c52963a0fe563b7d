"""One cell's Triton kernels, and how torch's tensors get to them.

Dimensions: T steps, B sequences, H units, N packed rows (T·B, or the sum of the lengths), P parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from throughtime.engines.compiled.gradients import Asked
from throughtime.engines.compiled.kernel import Kernel, Walked
from throughtime.engines.compiled.plan import plan
from throughtime.engines.compiled.rows import Rows
from throughtime.engines.trace.program import Program
from throughtime.engines.triton.emit import back_code, step_code

# What fits into the registers of a program instance, with four products side by side (compiled for an H200, none had
# to be kept in memory), and into the shared memory of small GPUs.
SEQUENCES = 16  # of a program instance: the least that a product takes on every device
MOST_UNITS = 64  # of a tile
DEPTHS = {torch.float32: 32, torch.float64: 16}  # of the products, at a time


class TritonKernel(Kernel):
    """The two kernels of one program; Triton compiles them at the first launch for each dtype and number of units."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.plan = plan(program)
        self._step, self._back = step_code(self.plan), back_code(self.plan)

    def forward(
        self,
        rows: Rows,
        x: Tensor,
        weight_ih: Tensor | None,
        bias_ih: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        vectors: Sequence[Tensor],
        initial: Sequence[Tensor],
        *,
        reverse: bool,
        keep: Sequence[bool],
        gates: bool,
        save: bool,
    ) -> Walked:
        """As on the processor, but that every part is kept."""
        program, B, N, H = self.program, rows.B, rows.N, initial[0].shape[-1]
        u = (x if weight_ih is None else F.linear(x, weight_ih, bias_ih)).flatten(0, -2)
        states = u.new_empty(len(initial), B + N, H)
        for part, start in zip(states, initial, strict=True):
            part[:B] = start
        final = u.new_empty(len(initial), B, H)
        opened = u.new_empty(len(program.gates) if gates else 0, N, H)
        saved = u.new_empty(N, len(program.saved) * H) if save else None
        self._launch(
            "forward",
            rows,
            u,
            None if weight is None else weight.T.contiguous(),
            bias,
            tuple(vectors),
            states.unbind(),
            final.unbind(),
            opened.unbind(),
            saved,
            u.new_empty(self._step.scratch, B, H),
            STAGES=self._step.stages,
            WRITES=self._step.writes,
            H=H,
            U=u.shape[1] // H,
            BLOCKS=0 if weight is None else len(weight) // H,
            SAVED=len(program.saved),
            REVERSE=reverse,
        )
        shape = (*x.shape[:-1], H)
        return Walked(
            u,
            [part[B:].view(shape) for part in states],
            [part.view_as(start) for part, start in zip(final, initial, strict=True)],
            [gate.view(shape) for gate in opened],
            saved,
        )

    def backward(
        self,
        rows: Rows,
        u: Tensor | None,
        weight: Tensor | None,
        vectors: Sequence[Tensor],
        initial: Sequence[Tensor],
        states: Sequence[Tensor | None],
        saved: Tensor | None,
        outer: Sequence[Tensor | None],
        last: Sequence[Tensor | None],
        *,
        reverse: bool,
        first: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None]]:
        """As on the processor."""
        program, B, H = self.program, rows.B, initial[0].shape[-1]
        # What the plan does not read may be absent; a tensor of the right kind stands in its place.
        u = initial[0] if u is None else u
        states = [initial[part] if state is None else state for part, state in enumerate(states)]
        slots = u.new_empty(rows.N, len(self.plan.slots) * H)
        carry = [
            torch.zeros_like(start) if end is None else end.clone() for start, end in zip(initial, last, strict=True)
        ]
        self._launch(
            "backward",
            rows,
            u,
            weight,
            tuple(vectors),
            tuple(initial),
            tuple(states),
            saved,
            tuple(outer),
            tuple(carry),
            slots,
            u.new_empty(self._back.scratch, B, H),
            STAGES=self._back.stages,
            WRITES=self._back.writes,
            RUNS=self._back.runs,
            H=H,
            U=program.inputs,
            SAVED=len(program.saved),
            SLOTS=len(self.plan.slots),
            REVERSE=reverse,
        )
        return slots, [start if wanted else None for start, wanted in zip(carry, first, strict=True)]

    def gradients(self, slots: Tensor, asked: Asked) -> None:
        """As on the processor, by torch's products."""
        H = slots.shape[1] // len(self.plan.slots)
        for sum_ in asked.sums:
            columns = slots[:, sum_.slot * H : (sum_.slot + sum_.slots) * H]
            if sum_.out is not None:
                sum_.out.zero_()
                for first, count, b in sum_.pieces:
                    sum_.out.addmm_(columns[first : first + count].T, b.flatten(0, -2)[:count])
            if sum_.totals and asked.totals is not None:
                asked.totals[sum_.slot * H : (sum_.slot + sum_.slots) * H] = columns.sum(0)
        for target, more in asked.again:
            target += more

    def _launch(self, function: str, rows: Rows, u: Tensor, *tensors: Any, H: int, **constants: Any) -> None:
        """One program instance for each block of sequences, on u's device."""
        from throughtime.engines.triton import kernels  # here, as it loads Triton

        ends: tuple[Tensor | None, Tensor | None] = (None, None)
        if rows.batch_sizes is not None and rows.first is not None:
            ends = rows.first.to(u.device), rows.batch_sizes.to(u.device)
        power = max(16, 1 << (H - 1).bit_length())
        tile = min(power, MOST_UNITS)
        with torch.cuda.device(u.device) if u.is_cuda else nullcontext():
            getattr(kernels, function)[(-(-rows.B // SEQUENCES),)](
                u,
                *tensors,
                *ends,
                rows.T,
                rows.B,
                H=H,
                **constants,
                BLOCK_B=SEQUENCES,
                BLOCK_H=tile,
                BLOCK_K=min(power, DEPTHS[u.dtype]),
                num_warps=8 if tile > 32 else 4,
                num_stages=1,  # no load of a step may be moved before the step that writes what it reads
                enable_fp_fusion=True,
            )
