"""How a sequence is run. The engines are asked in order, usually the fastest first; the result names who served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from throughtime.engines.cpu.engine import Cpu, CpuStack
from throughtime.engines.cudnn import flatten
from throughtime.engines.layers import LayerByLayer
from throughtime.engines.native import Native, NativeStack
from throughtime.engines.reference import Reference
from throughtime.engines.seam import Engine, Job, Stack, Stacked, StackEngine, Unrolled, unknown
from throughtime.engines.triton.engine import Triton, TritonStack
from throughtime.errors import EngineError

_REFERENCE = Reference()

# In the order in which "auto" asks; the last one always serves. Compiled kernels come first because they were faster
# than torch's own at every size that `python -m benchmarks engines` measures; where they refuse (a GPU, half precision)
# torch's kernels are next, cuDNN's among them, and on a GPU Triton's for the cells that cuDNN does not have.
ENGINES: tuple[Engine, ...] = (Cpu(), Native(), Triton(), _REFERENCE)
STACK_ENGINES: tuple[StackEngine, ...] = (CpuStack(), NativeStack(), TritonStack(), LayerByLayer(_REFERENCE))

__all__ = [
    "ENGINES",
    "STACK_ENGINES",
    "Engine",
    "Job",
    "Stack",
    "StackEngine",
    "Stacked",
    "Unrolled",
    "check_engine",
    "choose",
    "choose_stack",
    "flatten",
]

_E = TypeVar("_E", Engine, StackEngine)


def choose(job: Job, engine: str = "auto") -> Engine:
    """The engine asked for, or with "auto" the first that serves.

    Raises EngineError if there is no such engine, or if the one that was asked for cannot serve.
    """
    return _first(ENGINES, lambda candidate: candidate.why_not(job), engine)


def choose_stack(stack: Stack, engine: str = "auto") -> StackEngine:
    """As `choose`, for the layers of a module."""
    return _first(STACK_ENGINES, lambda candidate: candidate.why_not(stack), engine)


def check_engine(asked: str) -> None:
    """Raise EngineError if there is no engine of that name, and it is not "auto"."""
    names = [candidate.name for candidate in STACK_ENGINES]
    if asked not in ("auto", *names):
        raise unknown(asked, names)


def _first(engines: Sequence[_E], why_not: Callable[[_E], str | None], asked: str) -> _E:
    if asked == "auto":
        if torch.compiler.is_compiling():  # it looks into what it cannot take for one operator
            return engines[-1]
        for candidate in engines:
            if why_not(candidate) is None:
                return candidate
        raise AssertionError("the last engine serves whatever comes")
    for candidate in engines:
        if candidate.name == asked:
            reason = why_not(candidate)
            if reason is not None:
                raise EngineError(f'engine "{asked}" cannot serve here: {reason} Ask for engine="auto" instead.')
            return candidate
    raise unknown(asked, [candidate.name for candidate in engines])
