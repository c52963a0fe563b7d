"""One cell's compiled kernels, and how torch's tensors get to them.

Dimensions: T steps, B sequences, H units, N packed rows (T·B, or the sum of the lengths), P parts.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.engines.cpu.emit import source
from throughtime.engines.cpu.library import load
from throughtime.engines.cpu.plan import Plan, plan
from throughtime.engines.cpu.threads import parallel, threads_for
from throughtime.engines.trace.program import Program
from throughtime.errors import EngineError


@dataclass(frozen=True)
class Rows:
    """How sequences lie in packed rows: row t·B + b, or where `batch_sizes` end sequences early, longest first."""

    T: int
    B: int
    N: int
    batch_sizes: Tensor | None = None  # (T,) int64 on the CPU: how many sequences still run at step t
    first: Tensor | None = None  # (T,) int64: the first row of each step

    @classmethod
    def whole(cls, T: int, B: int) -> Rows:
        """Every sequence runs T steps."""
        return cls(T, B, T * B)

    @classmethod
    def packed(cls, batch_sizes: Tensor, B: int) -> Rows:
        """As torch's PackedSequence has them."""
        sizes = batch_sizes.contiguous()
        total = int(sizes.sum())
        return cls(len(sizes), B, total, sizes, (sizes.cumsum(0) - sizes).contiguous())

    def words(self) -> list[int]:
        """As the kernels take it."""
        if self.batch_sizes is None or self.first is None:
            return [self.T, self.B, 0, 0]
        return [self.T, self.B, self.first.data_ptr(), self.batch_sizes.data_ptr()]

    def step(self, t: int) -> slice:
        """The rows of step t."""
        if self.batch_sizes is None or self.first is None:
            return slice(t * self.B, (t + 1) * self.B)
        start = int(self.first[t])
        return slice(start, start + int(self.batch_sizes[t]))

    def before(self, states: Tensor, initial: Tensor, *, reverse: bool) -> list[tuple[slice, Tensor]]:
        """A part of the state before each step, from those after each: rows (n, H), and which rows they precede."""
        if self.batch_sizes is None or self.first is None:
            inner = self.N - self.B
            if reverse:
                return [(slice(inner, self.N), initial), (slice(0, inner), states[self.B :])]
            return [(slice(0, self.B), initial), (slice(self.B, self.N), states[:inner])]
        t = torch.repeat_interleave(torch.arange(self.T), self.batch_sizes)
        b = torch.arange(self.N) - self.first[t]
        other = t + 1 if reverse else t - 1
        there = (other >= 0) & (other < self.T)
        other = other.clamp(0, self.T - 1)
        there &= b < self.batch_sizes[other]
        rows = torch.where(there, self.first[other] + b, self.N + b)
        return [(slice(0, self.N), torch.cat([states, initial]).index_select(0, rows))]


@dataclass(frozen=True)
class Walked:
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
            function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int

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
        words = [
            *rows.words(),
            H,
            int(reverse),
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
        ]
        _call(self._forward, words)
        return Walked(states, final, opened, saved)

    def backward(
        self,
        rows: Rows,
        u: Tensor,
        weight: Tensor | None,
        vectors: Sequence[Tensor],
        initial: Sequence[Tensor],
        states: Sequence[Tensor],
        saved: Tensor | None,
        outer: Sequence[Tensor | None],
        last: Sequence[Tensor | None],
        *,
        reverse: bool,
        adjoint: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Carry the gradient back through what `forward` ran, from dL/dz_t `outer` (N, H) and dL/d final `last` (B, H).

        Returns the slots of the plan (N, slots·H), dL/d initial for each part (B, H), and, if the adjoint is asked
        for, all of dL/dz_t for each part (N, H).
        """
        program, H = self.program, initial[0].shape[1]
        slots = u.new_empty(rows.N, len(self.plan.slots) * H)
        first = [torch.empty_like(part) for part in initial]
        whole = [u.new_empty(rows.N, H) for _ in program.parts] if adjoint else []
        threads = threads_for(rows.N * H * (H * len(program.products) + 32))
        words = [
            *rows.words(),
            H,
            int(reverse),
            threads,
            u.shape[1],
            parallel() if threads > 1 else 0,
            u.data_ptr(),
            _at(weight),
            _at(saved),
            *_several(vectors, program.vectors + 1),
            *map(_at, initial),
            *map(_at, states),
            *map(_at, outer),
            *map(_at, last),
            *map(_at, first),
            *_several(whole, len(program.parts)),
            slots.data_ptr(),
        ]
        _call(self._backward, words)
        return slots, first, whole

    def weight_gradients(
        self,
        rows: Rows,
        slots: Tensor,
        shape: torch.Size,
        initial: Sequence[Tensor],
        states: Sequence[Tensor],
        saved: Tensor | None,
        *,
        reverse: bool,
    ) -> Tensor:
        """dL/d weight_hh: for each input of products one product over the whole sequence."""
        program, H = self.program, initial[0].shape[1]
        gradient = slots.new_zeros(shape)
        for number, node in enumerate(program.sources):
            runs = self.plan.segments(self.plan.by_source(number))
            if not runs:
                continue
            leaf = program.nodes[node]
            if leaf.op == "read":
                part = int(leaf.at)
                given = rows.before(states[part], initial[part], reverse=reverse)
            else:
                given = [(slice(0, rows.N), self._kept(node, states, saved))]
            for slot, blocks in runs:
                for here, before in given:
                    made = slots[here, slot * H : (slot + len(blocks)) * H].T
                    for place, (block, count) in _side_by_side(blocks):
                        gradient[block * H : (block + count) * H].addmm_(made[place * H : (place + count) * H], before)
        return gradient

    def _kept(self, node: int, states: Sequence[Tensor], saved: Tensor | None) -> Tensor:
        """A value of the step at every step, (N, H)."""
        program, H = self.program, states[0].shape[1]
        if node in program.states:
            return states[program.states.index(node)]
        assert saved is not None
        place = program.saved.index(node) * H
        return saved[:, place : place + H]

    def bias_gradient(self, totals: Tensor, bias: Tensor) -> Tensor:
        """dL/d bias_hh, from the slots summed over all rows (slots, H)."""
        gradient = torch.zeros_like(bias)
        blocks = gradient.view(-1, totals.shape[1])
        for product, slot in zip(self.program.products, self.plan.of_product, strict=True):
            if product.bias is not None and slot >= 0:
                blocks[product.bias] += totals[slot]
        return gradient


def _side_by_side(blocks: list[int]) -> list[tuple[int, tuple[int, int]]]:
    """Blocks that follow one another, as (where in the list, (first block, how many))."""
    found: list[tuple[int, tuple[int, int]]] = []
    for place, block in enumerate(blocks):
        if found and sum(found[-1][1]) == block:
            at, (first, count) = found[-1]
            found[-1] = at, (first, count + 1)
        else:
            found.append((place, (block, 1)))
    return found


def _at(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _several(tensors: Sequence[Tensor], room: int) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors] + [0] * (room - len(tensors))


def _call(function: ctypes._CFuncPtr, words: list[int]) -> None:  # type: ignore[name-defined]
    if function((ctypes.c_int64 * len(words))(*words)):
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
