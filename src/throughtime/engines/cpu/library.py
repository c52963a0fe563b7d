"""The shared library of a C++ source: compiled once, kept, loaded. No torch here."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import tempfile
import threading
import warnings
from pathlib import Path

from throughtime.engines.cpu import cache
from throughtime.engines.cpu.compiler import TIMEOUT, NoCompiler, compile_library, compiler, identity, why_not
from throughtime.errors import EngineError, EngineWarning

__all__ = ["NoCompiler", "compiler", "load", "why_not"]

WAIT = TIMEOUT + 30.0  # seconds for another process that compiles the same; longer than it may take

_loaded: dict[str, ctypes.CDLL] = {}  # by source
_lock = threading.Lock()
_noticed = False


def load(source: str, name: str = "kernel") -> ctypes.CDLL:
    """The shared library of one C++ source; its functions are those declared `extern "C"` and visible.

    Compiled with the machine's compiler (CXX, or c++, g++, clang++ of PATH) once for each source, compiler, flags and
    processor, also if many processes ask at once, and kept in the user's cache folder, or in the folder that the
    environment variable THROUGHTIME_CACHE names. Where that folder cannot be used or trusted, one EngineWarning
    says so and the library is compiled for this process alone. `name` labels the file for people.

    Costs about a second the first time, milliseconds in the next process, nothing in this one. May be called from
    several threads, and after a fork.

    Raises NoCompiler if there is no compiler; EngineError if it fails, or if its library cannot be loaded.
    """
    library = _loaded.get(source)
    if library is None:
        with _lock:
            library = _loaded.get(source)
            if library is None:
                library = _loaded[source] = _obtain(source, re.sub(r"\W", "_", name, flags=re.ASCII)[:40])
    return library


def _obtain(source: str, name: str) -> ctypes.CDLL:
    key = hashlib.sha256(
        "\n".join([cache.FORMAT.decode(), identity(), source]).encode(errors="surrogateescape")
    ).hexdigest()
    try:
        return _kept(source, name, key)
    except OSError as error:
        _notice(error)
    try:
        with cache.workplace(Path(tempfile.gettempdir()).resolve(), f"throughtime-{name}") as own:
            cache.trust(own)
            return ctypes.CDLL(str(compile_library(source, name, own)))  # stays when its file goes
    except OSError as error:
        raise EngineError(
            f"{name} can neither be kept nor loaded here ({error}); name a folder of your own in the "
            'environment variable THROUGHTIME_CACHE, another compiler in CXX, or use engine="reference".'
        ) from error


def _kept(source: str, name: str, key: str) -> ctypes.CDLL:
    """The library in the cache, made if it is not there and sound. Raises OSError where that cannot be."""
    stem = f"{name}-{key}"
    folder = cache.place()
    path = folder / f"{stem}.so"
    library = cache.load(path, key)
    if library is not None:
        return library
    from filelock import FileLock, Timeout

    try:
        # The system drops the lock of a dead process, so one that was killed keeps nobody out; a soft lock would.
        with FileLock(folder / f"{stem}.lock", timeout=WAIT, mode=0o600, fallback_to_soft=False):
            library = cache.load(path, key)
            if library is None:  # else another process made it meanwhile
                cache.sweep(folder, stem)
                with cache.workplace(folder, stem) as own:
                    library = cache.keep(compile_library(source, name, own), path, key)
    except Timeout:
        raise TimeoutError(f"another process has been compiling {path} for {WAIT:.0f} s") from None
    except OSError as error:
        if error.errno and not error.filename:  # a full disk does not say which
            error.filename = str(folder)
        raise
    return library


def _notice(error: OSError) -> None:
    """Say once a process that nothing is kept, and why."""
    global _noticed
    if not _noticed:
        _noticed = True
        warnings.warn(
            f"compiled kernels are not kept, so each process compiles them again: {error}. Make that right, or name "
            "a folder of your own in the environment variable THROUGHTIME_CACHE.",
            EngineWarning,
            stacklevel=4,
        )


def _after_fork() -> None:
    """The thread that held the lock may not be in the child."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
