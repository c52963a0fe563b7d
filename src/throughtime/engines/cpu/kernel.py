"""One cell's compiled kernels, and how torch's tensors get to them.

Dimensions: T steps, B sequences, H units, N packed rows (T·B, or the sum of the lengths), P parts.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from struct import Struct
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime.engines.cpu.emit import source
from throughtime.engines.cpu.library import load
from throughtime.engines.cpu.plan import Plan, plan
from throughtime.engines.cpu.rows import Rows
from throughtime.engines.cpu.threads import parallel, threads_for
from throughtime.engines.trace.program import Program
from throughtime.errors import EngineError


class Walked(NamedTuple):
    """What a run forward leaves."""

    states: list[Tensor]  # (N, H) for each part; (2·B, H) of one that was not to be kept
    final: list[Tensor]  # (B, H) for each part
    gates: list[Tensor]  # (N, H) each, if they were asked for
    saved: Tensor | None  # (N, saved·H)


class Kernel:
    """The two functions of one program in one dtype. Compiled, or found in the cache, when it is made.

    Raises EngineError if there is no compiler or it fails.
    """

    def __init__(self, program: Program, dtype: torch.dtype, name: str) -> None:
        self.program = program
        self.plan: Plan = plan(program)
        self.dtype = dtype
        library = load(source(self.plan, dtype), name)
        self._forward, self._backward = library.forward, library.backward
        for function in (self._forward, self._backward):
            function.argtypes, function.restype = [ctypes.c_char_p], ctypes.c_int
        parts, vectors, gates = len(program.parts), program.vectors + 1, len(program.gates) + 1
        self._pack_forward = Struct(f"{14 + vectors + 3 * parts + gates}q").pack
        self._pack_backward = Struct(f"{13 + vectors + 6 * parts}q").pack

    def forward(
        self,
        rows: Rows,
        u: Tensor,
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
        """Run rows u (N, blocks·H) from the initial state, each part (B, H). All tensors are contiguous.

        `keep` says for each part whether its state is wanted at every step, `save` whether a run back follows.
        """
        program, H = self.program, initial[0].shape[1]
        states = [u.new_empty(rows.N if kept else 2 * rows.B, H) for kept in keep]
        final = [torch.empty_like(part) for part in initial]
        opened = [u.new_empty(rows.N, H) for _ in program.gates] if gates else []
        saved = u.new_empty(rows.N, len(program.saved) * H) if save and program.saved else None
        threads = threads_for(rows.N * H * (H * len(program.products) + 32))
        words = self._pack_forward(
            *rows.words(),
            H,
            reverse,
            threads,
            u.shape[1],
            sum(1 << part for part, kept in enumerate(keep) if kept),
            parallel() if threads > 1 else 0,
            u.data_ptr(),
            _at(weight),
            _at(bias),
            _at(saved),
            *_several(vectors, program.vectors + 1),
            *map(_at, initial),
            *map(_at, states),
            *map(_at, final),
            *_several(opened, len(program.gates) + 1),
        )
        _call(self._forward, words)
        return Walked(states, final, opened, saved)

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
        adjoint: bool = False,
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor]]:
        """Carry the gradient back through what `forward` ran, from dL/dz_t `outer` (N, H) and dL/d final `last` (B, H).

        `u`, a part's `states` and `saved` are given where the plan reads them on the way back. Returns the slots of
        the plan (N, slots·H); dL/d initial, (B, H) for each part for which `first` asks; and, if the adjoint is asked
        for, all of dL/dz_t for each part (N, H).
        """
        program, (B, H), like = self.program, initial[0].shape, initial[0]
        slots = like.new_empty(rows.N, len(self.plan.slots) * H)
        begun = [like.new_empty(B, H) if wanted else None for wanted in first]
        whole = [like.new_empty(rows.N, H) for _ in program.parts] if adjoint else []
        threads = threads_for(rows.N * H * (H * len(program.products) + 32))
        words = self._pack_backward(
            *rows.words(),
            H,
            reverse,
            threads,
            program.inputs * H,
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
            *_several(whole, len(program.parts)),
            slots.data_ptr(),
        )
        _call(self._backward, words)
        return slots, begun, whole


def _at(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _several(tensors: Sequence[Tensor], room: int) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors] + [0] * (room - len(tensors))


def _call(function: Callable[[bytes], int], words: bytes) -> None:
    if function(words):
        raise EngineError("there is not enough memory for the kernel's working space; use fewer sequences at a time.")


_KERNELS: dict[tuple[Program, torch.dtype], Kernel] = {}
_LOCK = threading.Lock()


def kernel(program: Program, dtype: torch.dtype, name: str) -> Kernel:
    """The kernel of a program, made once a process.

    Raises EngineError as `Kernel` does.
    """
    found = _KERNELS.get((program, dtype))
    if found is None:
        with _LOCK:
            found = _KERNELS.get((program, dtype))
            if found is None:
                found = _KERNELS[program, dtype] = Kernel(program, dtype, name)
    return found
