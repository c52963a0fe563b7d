"""One cell's compiled kernels, and how torch's tensors get to them.

Dimensions: T steps, B sequences, H units, N packed rows (T·B, or the sum of the lengths), P parts.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from struct import Struct, pack

import torch
from torch import Tensor

from throughtime.engines.compiled.gradients import Asked
from throughtime.engines.compiled.kernel import Kernel, Walked
from throughtime.engines.compiled.plan import Plan, plan
from throughtime.engines.compiled.rows import Rows
from throughtime.engines.cpu.emit import REALS, source
from throughtime.engines.cpu.library import load
from throughtime.engines.cpu.threads import parallel, threads_for
from throughtime.engines.trace.program import Program
from throughtime.errors import EngineError


class CpuKernel(Kernel):
    """The functions of one program in one dtype. Compiled, or found in the cache, when it is made.

    Raises EngineError if there is no compiler or it fails.
    """

    def __init__(self, program: Program, dtype: torch.dtype, name: str) -> None:
        self.program = program
        self.plan: Plan = plan(program)
        self.dtype = dtype
        library = load(source(self.plan, dtype), f"{name} {REALS[dtype]}")
        self._forward, self._backward, self._gradients = library.forward, library.backward, library.gradients
        for function, given in ((self._forward, 1), (self._backward, 1), (self._gradients, 2)):
            function.argtypes, function.restype = [ctypes.c_char_p] * given, ctypes.c_int
        parts, vectors, gates = len(program.parts), program.vectors + 1, len(program.gates) + 1
        self._pack_forward = Struct(f"{17 + vectors + 3 * parts + gates}q").pack
        self._pack_backward = Struct(f"{12 + vectors + 5 * parts}q").pack

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
        """See Kernel."""
        program, N, (*steps, I), H = self.program, rows.N, x.shape, initial[0].shape[-1]  # noqa: E741
        shape = (*steps, H)
        states = [x.new_empty(*shape) if kept else x.new_empty(2 * rows.B, H) for kept in keep]
        final = [torch.empty_like(part) for part in initial]
        opened = [x.new_empty(*shape) for _ in program.gates] if gates else []
        saved = x.new_empty(N, len(program.saved) * H) if save and program.saved else None
        u = x if weight_ih is None else x.new_empty(N, program.inputs * H) if save and self.plan.reads_u else None
        threads = self._threads(rows, H, I)
        kept = 0
        for part, wanted in enumerate(keep):
            kept |= wanted << part
        words = self._pack_forward(
            *rows.words(),
            H,
            I,
            reverse,
            threads,
            kept,
            parallel() if threads > 1 else 0,
            0 if weight_ih is None else x.data_ptr(),
            _at(weight_ih),
            _at(bias_ih),
            _at(u),
            _at(weight),
            _at(bias),
            _at(saved),
            *_several(vectors, program.vectors + 1),
            *[part.data_ptr() for part in initial],
            *[part.data_ptr() for part in states],
            *[part.data_ptr() for part in final],
            *_several(opened, len(program.gates) + 1),
        )
        _call(self._forward, words)
        return Walked(u, states, final, opened, saved)

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
        """See Kernel."""
        program, like, H = self.program, initial[0], initial[0].shape[-1]
        slots = like.new_empty(rows.N, len(self.plan.slots) * H)
        begun = [torch.empty_like(like) if wanted else None for wanted in first]
        threads = self._threads(rows, H, 0)
        words = self._pack_backward(
            *rows.words(),
            H,
            reverse,
            threads,
            parallel() if threads > 1 else 0,
            _at(u),
            _at(weight),
            _at(saved),
            *_several(vectors, program.vectors + 1),
            *[part.data_ptr() for part in initial],
            *map(_at, states),
            *map(_at, outer),
            *map(_at, last),
            *map(_at, begun),
            slots.data_ptr(),
        )
        _call(self._backward, words)
        return slots, begun

    def gradients(self, slots: Tensor, asked: Asked) -> None:
        """See Kernel."""
        wide = slots.shape[1]
        H, work = wide // len(self.plan.slots), 0
        jobs: list[int] = []
        for sum_ in asked.sums:
            K = 0 if sum_.out is None else sum_.out.shape[1]
            work += slots.shape[0] * sum_.slots * H * (K + 1)
            first, second = (*sum_.pieces, (0, 0, sum_.pieces[0][2]))[:2]
            jobs += (
                sum_.slot * H,
                sum_.slots * H,
                K,
                _at(sum_.out),
                _at(asked.totals) + sum_.slot * H * slots.element_size() if sum_.totals else 0,
                first[0],
                second[0],
                first[1],
                second[1],
                first[2].data_ptr(),
                second[2].data_ptr(),
                first[2].stride(-2),
                second[2].stride(-2),
            )
        if not jobs:
            return
        threads = threads_for(work)
        words = pack("5q", wide, threads, len(asked.sums), parallel() if threads > 1 else 0, slots.data_ptr())
        _call(self._gradients, words, pack(f"{len(jobs)}q", *jobs))
        for target, more in asked.again:
            target += more

    def _threads(self, rows: Rows, H: int, I: int) -> int:  # noqa: E741
        return threads_for(rows.N * H * (H * len(self.program.products) + I * self.program.inputs + 32))


def _at(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _several(tensors: Sequence[Tensor], room: int) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors] + [0] * (room - len(tensors))


def _call(function: Callable[..., int], *words: bytes) -> None:
    if function(*words):
        raise EngineError("there is not enough memory for the kernel's working space; use fewer sequences at a time.")


_KERNELS: dict[tuple[Program, torch.dtype], CpuKernel] = {}
_LOCK = threading.Lock()


def kernel(program: Program, dtype: torch.dtype, name: str) -> CpuKernel:
    """The kernel of a program, made once a process.

    Raises EngineError as `CpuKernel` does.
    """
    found = _KERNELS.get((program, dtype))
    if found is None:
        with _LOCK:
            found = _KERNELS.get((program, dtype))
            if found is None:
                found = _KERNELS[program, dtype] = CpuKernel(program, dtype, name)
    return found
