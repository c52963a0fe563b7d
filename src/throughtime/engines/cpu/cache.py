"""Where compiled libraries are kept: the user's own cache folder, one file a key, nothing of anybody else's loaded.

Who may attack here is another user of the machine. A library is loaded only if no other user but root can have
written it or can exchange it: the file is ours, the folder is ours, only we may write to either, and no folder on the
way can be exchanged by others. Then nobody can change the file between the look at it and its loading either. Who
has our own rights, or root's, does not need a library to run code as us. The hash is therefore against accidents
(full disks, crashes, failing storage), the owner and the rights against people.

No torch here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from throughtime.disk import sync_folder, write_through

FORMAT = b"throughtime kernel 1"

_WORKPLACE = ".compiling"
_ORPHANED = 24 * 3600.0  # seconds after which a workplace of any key belongs to a compile that was killed
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def place() -> Path:
    """The folder `kernels` of the user's cache folder, or of the one named in THROUGHTIME_CACHE; made if absent.

    The rights are the owner's alone. Raises OSError, with a sentence, where it cannot be made or is not to be
    trusted.
    """
    folder = Path(os.path.realpath(_home())) / "kernels"
    missing = [folder, *folder.parents]
    missing = missing[: next(i for i, path in enumerate(missing) if os.path.lexists(path))]
    if missing:  # nothing is made in a folder of somebody else's either
        _trust_way(missing[-1])
    for path in reversed(missing):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:  # another process was faster
            continue
        os.chmod(path, 0o700)  # whatever the umask
    trust(folder)
    return folder


def trust(folder: Path) -> None:
    """Raise PermissionError, with a sentence, if another user may have put something into the folder, or could."""
    seen = os.lstat(folder)
    if not stat.S_ISDIR(seen.st_mode):
        raise PermissionError(f"{folder} is not a folder")
    if seen.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    if seen.st_mode & _OTHERS:
        raise PermissionError(f"others may write to {folder}")
    _trust_way(folder)


def sound(path: Path, key: str) -> bool:
    """Whether the file is a whole library of that key which only we can have written."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:  # absent, a symbolic link, not to be read
        return False
    with open(handle, "rb") as file:
        seen = os.fstat(handle)
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & _OTHERS:
            return False
        try:
            content = file.read()
        except OSError:
            return False
    trailer = len(_trailer(key, b""))
    library = content[:-trailer]
    return bool(library) and content[-trailer:] == _trailer(key, library)


def keep(library: Path, path: Path, key: str) -> None:
    """Put a library in its place in the cache, whole or not at all, also if the machine goes down meanwhile.

    Raises OSError if there is no room.
    """
    content = library.read_bytes()
    beside = library.with_name("kept")
    write_through(beside, content + _trailer(key, content))
    os.chmod(beside, 0o600)  # whatever the umask
    os.replace(beside, path)
    with suppress(OSError):  # some network folders cannot; what a crash loses is compiled again
        sync_folder(path.parent)


@contextmanager
def workplace(folder: Path, stem: str) -> Iterator[Path]:
    """A folder in the folder for one compile, ours alone, gone afterwards. Raises OSError."""
    made = Path(tempfile.mkdtemp(_WORKPLACE, f"{stem}.", folder))
    try:
        os.chmod(made, 0o700)  # whatever the umask
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def sweep(folder: Path, stem: str) -> None:
    """Remove what killed compiles left: of this stem, whose lock the caller holds, and of any other after a day."""
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if entry.name.endswith(_WORKPLACE)]
    for entry in found:
        try:
            age = time.time() - entry.stat(follow_symlinks=False).st_mtime
        except OSError:  # somebody else swept it
            continue
        if entry.name.startswith(f"{stem}.") or age > _ORPHANED:
            shutil.rmtree(entry.path, ignore_errors=True)


def _trailer(key: str, library: bytes) -> bytes:
    """What follows the library in its file, and what loaders do not look at: the format, the key, the hash."""
    return b"\n".join([b"", FORMAT, key.encode(), hashlib.sha256(library).hexdigest().encode(), b""])


def _home() -> Path:
    """The cache folder of this package. Raises OSError if there is none."""
    named = os.environ.get("THROUGHTIME_CACHE")
    if named:
        return Path(os.path.expanduser(named))
    # Without HOME the user database may name a folder, but who takes HOME away wants nothing written there.
    if not os.environ.get("XDG_CACHE_HOME") and not os.path.isdir(os.environ.get("HOME", "")):
        raise FileNotFoundError("there is no home folder (HOME)")
    from platformdirs import user_cache_path

    home = user_cache_path("throughtime")
    if not home.is_absolute():
        raise FileNotFoundError(f'the cache folder "{home}" is not an absolute path')
    return home


def _trust_way(folder: Path) -> None:
    """Raise PermissionError if another user could exchange the folder: a parent is theirs, or theirs to write to."""
    me = os.geteuid()
    for parent in folder.parents:
        seen = os.stat(parent)
        if seen.st_uid not in (0, me):
            raise PermissionError(f"{parent} belongs to another user")
        # A group numbered as the user is the user's own, by the habit of most systems; root's is root's.
        others = stat.S_IWOTH if seen.st_gid in (0, me) else _OTHERS
        if seen.st_mode & others and not seen.st_mode & stat.S_ISVTX:
            raise PermissionError(f"others may write to {parent}")
