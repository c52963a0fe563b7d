"""Rows taken back through a step in one compiled function, where the machine has a compiler.

The function is pull.h; it knows no cell, so one library a dtype serves them all. Dimensions: as in diagonals.py.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor
from torch.nn import functional as F

from throughtime.engines.cpu.library import load
from throughtime.engines.cpu.threads import parallel, threads_for
from throughtime.errors import EngineError, FlowError

_CALL = struct.Struct("22q")  # struct Call in pull.h
_REALS = {torch.float32: "float", torch.float64: "double"}


@dataclass(frozen=True)
class Stage:
    """target = Σ rows of source ⊙ table `past` the maps + Σ over calls (Σ rows of source ⊙ table) W."""

    target: int  # a part, or an inner map's source, which must be made before it is asked for
    past: Mapping[int, Tensor]  # source -> (n, B, H)
    calls: Sequence[tuple[Tensor, Mapping[int, Tensor]]]  # W (H, H) and its tables


class Pull:
    """The stages of a step, ready to be called. Not for two threads at once to make, but to call."""

    def __init__(self, library: ctypes.CDLL, stages: Sequence[Stage], P: int, inner: int) -> None:
        self._library = library
        self._kept: list[object] = []  # what the words below point to
        self._operations = 0
        words = [word for stage in stages for word in self._words(stage)]
        first = self._point(words)
        self._plan = [inner, first, first + 8 * len(words)]

    def __call__(self, rows: Tensor, step: int, out: Tensor, norms: Tensor | None = None) -> None:
        """gᵀ J for rows (P, R, B, H) into `out`, and the 2-norms of what comes out into `norms` (P, R, B)."""
        P, R, B, H = rows.shape
        threads = threads_for(R * B * self._operations)
        runtime = parallel() if threads > 1 else 0
        places = [rows.data_ptr(), *rows.stride()[:3], out.data_ptr(), *out.stride()[:3]]
        places += [0, 0, 0, 0] if norms is None else [norms.data_ptr(), *norms.stride()]
        if self._library.pull(_CALL.pack(P, B, H, *self._plan, R, step, threads, runtime, *places)):
            raise FlowError("there is not enough memory to take rows back through a step; measure fewer at a time.")

    def _words(self, stage: Stage) -> list[int]:
        sources = sorted({source for _, tables in stage.calls for source in tables})
        opened: set[int] = set()
        terms: list[int] = []
        for slot, source in enumerate(sources):
            for call, (_, tables) in enumerate(stage.calls):
                if source in tables:
                    terms += [source, slot, call, call not in opened, *self._table(tables[source])]
                    opened.add(call)
        past = len(terms)
        for source, table in stage.past.items():
            terms += [source, 0, -1, 0, *self._table(table)]
        at = self._point(terms)
        weights = self._packed([weight for weight, _ in stage.calls])
        self._operations += sum(weight.numel() for weight, _ in stage.calls)
        sizes = [stage.target, len(stage.calls), len(sources), self._point(sources)]
        return [*sizes, at, at + 8 * past, at + 8 * len(terms), weights]

    def _table(self, table: Tensor) -> list[int]:
        if table.stride(-1) != 1:
            table = table.contiguous()
        self._kept.append(table)
        return [table.stride(0), table.stride(1), table.data_ptr()]

    def _packed(self, weights: Sequence[Tensor]) -> int:
        """One W under the other, cut into panels of as many columns as two vectors hold, zero where there are none."""
        if not weights:
            return 0
        wide = self._library.wide()
        whole = F.pad(torch.cat(list(weights)), (0, -weights[0].shape[1] % wide))
        packed = whole.view(len(whole), -1, wide).transpose(0, 1).contiguous()
        self._kept.append(packed)
        return packed.data_ptr()

    def _point(self, words: Sequence[int]) -> int:
        array = (ctypes.c_int64 * len(words))(*words)
        self._kept.append(array)
        return ctypes.addressof(array)


def compiled(stages: Sequence[Stage], P: int, inner: int, like: Tensor) -> Pull | None:
    """The compiled way through these stages; None where there is none: another device or dtype, or no compiler."""
    if like.device.type != "cpu" or like.dtype not in _REALS:
        return None
    library = _library(like.dtype)
    return None if library is None else Pull(library, stages, P, inner)


@cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    texts = [
        f"typedef {_REALS[dtype]} real;",
        f"#define REAL_IS_DOUBLE {int(dtype == torch.float64)}",
        (files("throughtime.engines.cpu") / "vector.h").read_text(encoding="utf-8"),
        (files("throughtime.flow.linear") / "pull.h").read_text(encoding="utf-8"),
    ]
    try:
        return load("\n".join(texts), "sweep")
    except EngineError:  # the way without it is as right, if slower
        return None
