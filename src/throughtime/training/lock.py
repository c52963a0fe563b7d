"""One process at a time trains in a folder."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from throughtime.errors import TrainingError


def lock(folder: Path) -> FileLock:
    """Hold the folder until the lock is released or the process ends, however it ends.

    The system drops the lock of a dead process, so a file that was left behind does not keep anybody out.

    Raises TrainingError if another process trains there, or if nothing can be written there.
    """
    held = FileLock(folder / ".training.lock")
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise TrainingError(
            f"{folder}: another process is training in this folder; wait for it to end, or choose another folder."
        ) from None
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written to ({error.strerror}); choose another folder.") from error
    return held
