"""How many threads a run takes, and whose they are.

The threads are those of the OpenMP runtime that torch has loaded: no second pool contends with the first for the same
cores, and `torch.set_num_threads` holds. In a process that was forked that runtime's threads are gone, and asking it
for them would wait for ever; there, and where none is found, a run starts threads of its own.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import torch

_WORTH = 400_000  # operations that one more thread must have to do, to be worth its start

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def threads_for(operations: int) -> int:
    """How many threads a run of so many operations takes."""
    most = torch.get_num_threads()
    return max(1, min(most, operations // _WORTH)) if most > 1 else 1


def parallel() -> int:
    """The address of torch's OpenMP runtime's `GOMP_parallel`; 0 if there is none to use."""
    return 0 if _forked else _runtime()


@cache
def _runtime() -> int:
    for library in _loaded():
        try:
            handle = ctypes.CDLL(library, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            address = ctypes.cast(handle.GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
        if address:
            return address
    return 0


def _loaded() -> list[str]:
    """The OpenMP runtimes in this process; torch's own folder first, as other packages bring others."""
    maps = Path("/proc/self/maps")
    if not maps.exists() or not hasattr(os, "RTLD_NOLOAD"):
        return []
    paths = {line.split(maxsplit=5)[-1] for line in maps.read_text(encoding="utf-8").splitlines() if "/" in line}
    known = ("libgomp", "libiomp", "libomp")
    found = [path for path in paths if Path(path).name.startswith(known)]
    torchs = str(Path(torch.__file__).parent)
    return sorted(found, key=lambda path: (not path.startswith(torchs), path))
