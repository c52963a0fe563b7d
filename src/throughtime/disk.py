"""Files and folders that are whole or not there, whatever happens while they are written. No torch here.

A folder is replaced by writing the new one beside it (`.NAME.writing`) and exchanging the two. Where the system cannot
exchange, the old one is set aside (`.NAME.replaced`) for the moment of two renames, and `restore` puts it back if that
moment was the last. Whoever writes in a folder holds its lock.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from throughtime.errors import InputError, TrainingError

LOCK = ".training.lock"
_EXCHANGE = 2  # renameat2's flag
_HERE = -100  # AT_FDCWD: paths are as the process sees them


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old one or the new one whole, also after a crash.

    Raises InputError if it cannot be written; the old one still stands then.
    """
    beside = path.with_name(f".{path.name}.writing")
    try:
        write_through(beside, content)
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); make room, check the rights, or "
            "name another place."
        ) from error


def write_through(path: Path, content: bytes) -> None:
    """Write a file and bring it to the disk. Raises OSError."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Bring a folder's entries to the disk, where the system can. Raises OSError."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder that may be there already, with those above it, and bring it to the disk. Raises OSError."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sweep(folders: Iterable[Path]) -> None:
    """Remove the half-written files that a kill left in these folders. Only who holds the lock may. Raises OSError."""
    for folder in folders:
        for leftover in folder.glob(".*.writing"):
            if leftover.is_file():
                leftover.unlink()


# -- folders


def lock(folder: Path) -> FileLock:
    """Hold a folder until the lock is released or the process ends, however it ends.

    The system drops the lock of a dead process, so a file that was left behind does not keep anybody out.

    Raises TrainingError if another process holds it, or if nothing can be written there.
    """
    held = FileLock(folder / LOCK, fallback_to_soft=False)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise TrainingError(
            f"{folder}: another process is training in this folder; wait for it to end, or choose another folder."
        ) from None
    except OSError as error:
        raise TrainingError(
            f"{folder}: cannot be written to ({error.strerror or error}); choose another folder."
        ) from error
    return held


def replace_folder(path: Path, fill: Callable[[Path], None]) -> FileLock:
    """Let `fill` write a new folder, and put it at `path`, in the place of what may stand there; returns its lock.

    The lock is held. A kill at any point leaves the old one or the new one there, whole, once `restore` was called.
    Who calls this holds the old one, and has made sure that all in it may go. Raises OSError, and whatever `fill`
    raises: the old one still stands then.
    """
    clear(path)
    beside = _beside(path)
    make_folder(beside)
    held = lock(beside)
    try:
        fill(beside)
        sync_folder(beside)
        _swap(beside, path)
    except BaseException:
        with suppress(OSError):
            _put_back(path)
            _remove(beside)
        held.release()
        raise
    with suppress(OSError):  # what stays of the old one is cleared the next time
        for old in (beside, _aside(path)):
            _remove(old)
    return held


def restore(path: Path) -> None:
    """Put a folder back that a kill caught between two renames; nothing is done where there is none such.

    Raises TrainingError if another process is replacing it at this moment.
    """
    if not path.exists() and (_aside(path) / LOCK).is_file():
        lock(_aside(path)).release()
        with suppress(FileNotFoundError):  # another reader was first
            _put_back(path)


def clear(path: Path) -> None:
    """Remove what a killed replacement left beside a folder.

    Raises TrainingError if another process is replacing it at this moment; OSError.
    """
    for leftover in (_beside(path), _aside(path)):
        if leftover.is_dir() and not leftover.is_symlink():
            if (leftover / LOCK).is_file():
                held = lock(leftover)
                _remove(leftover)
                held.release()
            else:
                with suppress(OSError):  # not empty: nothing of ours
                    leftover.rmdir()


def _beside(path: Path) -> Path:
    real = Path(os.path.realpath(path))  # `.` has no name
    return real.parent / f".{real.name}.writing"


def _aside(path: Path) -> Path:
    real = Path(os.path.realpath(path))  # `.` has no name
    return real.parent / f".{real.name}.replaced"


def _swap(new: Path, path: Path) -> None:
    if not path.exists():
        os.rename(new, path)
    elif not _exchanged(new, path):
        os.rename(path, _aside(path))
        os.rename(new, path)
    sync_folder(path.parent)


def _put_back(path: Path) -> None:
    if _aside(path).is_dir() and not path.exists():
        os.rename(_aside(path), path)
        sync_folder(path.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, and return whether that was possible: Linux can, on most file systems."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):  # an older C library
        return False
    done: int = rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE)
    return done == 0


def _remove(folder: Path) -> None:
    """Remove a folder, the lock last: by it a leftover is known for ours."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
    (folder / LOCK).unlink(missing_ok=True)
    folder.rmdir()
