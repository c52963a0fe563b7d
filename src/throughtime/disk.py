"""Files that are whole or not there, whatever happens while they are written. No torch here."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from throughtime.errors import InputError


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
