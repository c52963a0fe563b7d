"""Where compiled libraries are kept: the user's own cache folder, one file a key, nothing of anybody else's loaded.

Who may attack here is another user of the machine. A library is loaded only if no other user but root can have
written it or can exchange it: the file is ours, the folder is ours, only we may write to either, and no folder on the
way can be exchanged by others. Where the system names open files (Linux), what is loaded is besides the very file
that was looked at, whatever stands in its place by then. Who has our own rights, or root's, does not need a library
to run code as us. The hash is therefore against accidents (full disks, crashes, failing storage), the owner and the
rights against people.

A group that may write counts as others, on every folder of the way. One exception is made, for systems that give
each user a group of the same name and let it write to what the user makes (umask 002): the user's primary group of
the user's own name, with no other member in the user database, on a folder above that has no access list.

No torch here.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
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

_loads = itertools.count(1)


def place() -> Path:
    """The folder `kernels` of the user's cache folder, or of the one named in THROUGHTIME_CACHE; made if absent.

    The rights are the owner's alone. Raises OSError, with a sentence, where it cannot be made, is not to be trusted,
    or no library can be loaded from it.
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
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):  # else each process would compile twice to find out
        raise PermissionError(f"programs may not be run from {folder}")
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


def load(path: Path, key: str) -> ctypes.CDLL | None:
    """The library in the file; None if it is no whole one of that key which only we can have written.

    None too if it does not load, as where another system's C library made it: it is to be made again.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:  # absent, a symbolic link, not to be read
        return None
    try:
        return ctypes.CDLL(_way_to(handle, path)) if _sound(handle, key) else None
    except OSError:
        return None
    finally:
        os.close(handle)


def keep(library: Path, path: Path, key: str) -> ctypes.CDLL:
    """Load a library and put it in its place in the cache, whole or not at all, also if the machine goes down.

    Raises OSError if it does not load, which is not kept then, or if there is no room.
    """
    content = library.read_bytes()
    beside = library.with_name("kept")
    write_through(beside, content + _trailer(key, content))
    os.chmod(beside, 0o600)  # whatever the umask
    loaded = ctypes.CDLL(str(beside))
    os.replace(beside, path)
    with suppress(OSError):  # some network folders cannot; what a crash loses is compiled again
        sync_folder(path.parent)
    return loaded


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


def _sound(handle: int, key: str) -> bool:
    """Whether the open file is a whole library of that key which only we can have written. Raises OSError."""
    seen = os.fstat(handle)
    if not stat.S_ISREG(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & _OTHERS:
        return False
    with open(handle, "rb", closefd=False) as file:
        content = file.read()
    trailer = len(_trailer(key, b""))
    library = content[:-trailer]
    return bool(library) and content[-trailer:] == _trailer(key, library)


def _way_to(handle: int, path: Path) -> str:
    """What the dynamic loader opens: the open file itself where the system names it, else what the path leads to."""
    if not os.path.lexists(f"/proc/self/fd/{handle}"):
        return str(path)
    # Under a name that it has seen before the loader gives the library it loaded then, without a look at the file, and
    # the system gives the same number again. So each load spells the way otherwise: a count, in "./" and "/".
    spelled = f"{next(_loads):b}".replace("1", "./").replace("0", "/")
    return f"/proc/self/fd/{spelled}{handle}"


def _trailer(key: str, library: bytes) -> bytes:
    """What follows the library in its file, and what loaders do not look at: the format, the key, the hash."""
    return b"\n".join([b"", FORMAT, key.encode(), hashlib.sha256(library).hexdigest().encode(), b""])


def _home() -> Path:
    """The cache folder of this package. Raises OSError if there is none."""
    named = os.environ.get("THROUGHTIME_CACHE")
    if named:
        return Path(os.path.expanduser(named))
    # Without HOME the user database may name a folder, but who takes HOME away wants nothing written there.
    # A relative XDG_CACHE_HOME is to be ignored, says the standard.
    if not os.path.isabs(os.environ.get("XDG_CACHE_HOME", "")) and not os.path.isdir(os.environ.get("HOME", "")):
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
        others = seen.st_mode & _OTHERS
        if not others or seen.st_mode & stat.S_ISVTX or (others == stat.S_IWGRP and _ours(parent, seen.st_gid)):
            continue
        raise PermissionError(f"others may write to {parent}")


def _ours(folder: Path, group: int) -> bool:
    """Whether the group's right to write to the folder is ours alone: our private group's, and no access list's.

    The group's name must be ours because a database of many users may not tell who else is in the group.
    """
    if not hasattr(os, "getxattr"):  # macOS: access lists cannot be seen from here
        return False
    import grp  # not on Windows
    import pwd

    try:
        os.getxattr(folder, "system.posix_acl_access")
        return False
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            return False
    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    if user.pw_gid != group or found.gr_name != user.pw_name or not set(found.gr_mem) <= {user.pw_name}:
        return False
    return not any(other.pw_gid == group and other.pw_uid != user.pw_uid for other in pwd.getpwall())
