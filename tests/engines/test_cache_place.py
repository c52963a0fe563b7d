"""Where libraries are kept, and what happens where they cannot be: groups, no rights, no room, no locks, no home."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.engines.alone import SOURCE, Counting, counting, run
from throughtime.engines.cpu import cache, compiler, library
from throughtime.errors import EngineError, EngineWarning

pytestmark = pytest.mark.compiler

RIGHT = 7
ASK = f"print(answer({RIGHT}))"
ROOT_RUNS = os.geteuid() == 0
NOBODY = 65534
BARRED = NOBODY if ROOT_RUNS else os.geteuid()  # a user whom rights bind


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that another user reaches too."""
    made = Path(tempfile.mkdtemp()).resolve()
    made.chmod(0o755)
    yield made
    for folder in [made, *(path for path in made.rglob("*") if path.is_dir() and not path.is_symlink())]:
        folder.chmod(0o700)
    shutil.rmtree(made)


# -- groups


@pytest.mark.skipif(not ROOT_RUNS, reason="who is not root cannot give a file to another group")
def test_a_group_numbered_as_the_user_may_have_members(open_place: Path):
    """Only what the user database says of a group counts, and it knows none of this number."""
    user = 61234
    (home := open_place / "home").mkdir()
    os.chown(home, user, user)
    home.chmod(0o775)
    ended = run(ASK, user, THROUGHTIME_CACHE=home / "cache")
    assert (ended.said, ended.notices) == (str(RIGHT), 1)
    assert "others may write to" in ended.stderr
    assert list(home.iterdir()) == []


def account(name: str, user: int, group: int) -> SimpleNamespace:
    return SimpleNamespace(pw_name=name, pw_uid=user, pw_gid=group)


def group_of(name: str, *members: str) -> SimpleNamespace:
    return SimpleNamespace(gr_name=name, gr_mem=list(members))


# The group, the user's primary one (by its distance from that), other accounts, and whether the group is ours.
GROUPS = {
    "ours alone": (group_of("ann"), 0, [], True),
    "ours, said twice": (group_of("ann", "ann"), 0, [account("bob", 1, 1)], True),
    "with a member": (group_of("ann", "bob"), 0, [], False),
    "somebody else's primary one": (group_of("ann"), 0, [account("bob", 1, os.getegid())], False),
    "of many, who are not told": (group_of("users"), 0, [], False),
    "not our primary one": (group_of("ann"), 1, [], False),
    "in no database": (None, 0, [], False),
}


def home_of_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: SimpleNamespace | None, primary: int, others: list
) -> Path:
    """A home that its group may write to, under a user database of its own."""
    import grp
    import pwd

    def found(number: int) -> SimpleNamespace:
        if group is None:
            raise KeyError(number)
        return group

    me = account("ann", os.geteuid(), os.getegid() + primary)
    monkeypatch.setattr(grp, "getgrgid", found)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: me)
    monkeypatch.setattr(pwd, "getpwall", lambda: [me, *others])
    (home := tmp_path / "home").mkdir()
    os.chown(home, -1, os.getegid())
    home.chmod(0o775)
    monkeypatch.setenv("THROUGHTIME_CACHE", str(home / "cache"))
    return home


needs_access_lists = pytest.mark.skipif(not hasattr(os, "getxattr"), reason="access lists cannot be seen here")


@needs_access_lists
@pytest.mark.parametrize("which", GROUPS)
def test_of_groups_only_our_private_one_may_write_above(which: str, tmp_path: Path, monkeypatch):
    group, primary, others, ours = GROUPS[which]
    home = home_of_group(tmp_path, monkeypatch, group, primary, others)
    if ours:
        assert cache.place() == home / "cache" / "kernels"
        home.chmod(0o777)
    with pytest.raises(PermissionError, match=r"others may write to .*home"):
        cache.place()


@needs_access_lists
def test_an_access_list_shows_in_the_groups_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever it lets write, what is seen of it is a group that may."""
    home = home_of_group(tmp_path, monkeypatch, group_of("ann"), 0, [])
    nobody_in_particular = 0xFFFFFFFF
    entries = [(1, 7, nobody_in_particular), (2, 7, NOBODY)]  # the owner, and somebody else by number
    entries += [(tag, rights, nobody_in_particular) for tag, rights in ((4, 0), (16, 7), (32, 0))]
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(home, "system.posix_acl_access", packed)
    except OSError:
        pytest.skip("this file system has no access lists")
    assert home.stat().st_mode & 0o777 == 0o770
    with pytest.raises(PermissionError, match=r"others may write to .*home"):
        cache.place()


# -- no place


def test_a_read_only_folder_is_said_once_and_gone_around(open_place: Path):
    (home := open_place / "cache").mkdir(mode=0o500)
    os.chown(home, BARRED, -1)
    ended = run("print(answer(1), answer(2))", BARRED, THROUGHTIME_CACHE=home)
    assert (ended.said, ended.notices) == ("1 2", 1)
    assert "Permission denied" in ended.stderr
    assert list(home.iterdir()) == []


def test_a_read_only_folder_still_serves_what_it_holds(open_place: Path):
    os.chown(open_place, BARRED, -1)
    made = counting(open_place, compiler.compiler() or "")
    where = {"THROUGHTIME_CACHE": open_place / "cache", "CXX": made.path}
    assert run(ASK, BARRED, **where).said == str(RIGHT)
    kernels = open_place / "cache" / "kernels"
    [lock] = kernels.glob("*.lock")
    lock.unlink()  # what is there needs none, nor a place for one
    kernels.chmod(0o500)
    ended = run(ASK, BARRED, **where)
    assert (ended.said, ended.stderr, made.compiles) == (str(RIGHT), "", 1)
    ended = run("print(answer(8))", BARRED, **where)
    assert (ended.said, ended.notices) == ("8", 1)


def test_rights_are_the_owners_also_under_a_umask_that_takes_all(open_place: Path):
    os.chown(open_place, BARRED, -1)
    ended = run(f"os.umask(0o777); {ASK}", BARRED, THROUGHTIME_CACHE=open_place / "a" / "b")
    assert (ended.said, ended.stderr) == (str(RIGHT), "")
    for folder in ("a", "a/b", "a/b/kernels"):
        assert (open_place / folder).stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in (open_place / "a/b/kernels").iterdir()} == {0o600}


def test_a_folder_that_cannot_be_made_is_gone_around(tmp_path: Path):
    (tmp_path / "file").touch()
    ended = run(ASK, THROUGHTIME_CACHE=tmp_path / "file" / "cache")
    assert (ended.said, ended.notices) == (str(RIGHT), 1)
    assert "Not a directory" in ended.stderr


def test_a_disk_that_is_full_when_the_library_is_written(kernels: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache, "write_through", full)
    with pytest.warns(EngineWarning, match=f"No space left on device: '{kernels}'"):
        assert library.load(SOURCE % 20).answer() == 20
    assert library.load(SOURCE % 21).answer() == 21  # a second warning would be an error
    assert {file.suffix for file in kernels.iterdir()} == {".lock"}


def test_a_disk_that_is_full_when_the_compiler_writes(tmp_path: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch):
    words = "case $(pwd) in *cache*) echo 'fatal error: x.s: No space left on device' >&2; exit 1;; esac"
    monkeypatch.setenv("CXX", str(counting(tmp_path, compiler.compiler() or "", words).path))
    with pytest.warns(EngineWarning, match="No space left on device"):
        assert library.load(SOURCE % 22).answer() == 22
    assert {file.suffix for file in kernels.iterdir()} == {".lock"}


def test_a_disk_so_full_that_even_the_compilers_words_are_lost(
    tmp_path: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(
        "CXX", str(counting(tmp_path, compiler.compiler() or "", "case $(pwd) in *cache*) exit 1;; esac").path)
    )

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(compiler, "write_through", full)
    with pytest.warns(EngineWarning, match="No space left on device"):
        assert library.load(SOURCE % 25).answer() == 25


def test_no_room_anywhere_is_an_error(tmp_path: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch):
    words = "echo 'fatal error: x.s: No space left on device' >&2; exit 1"
    monkeypatch.setenv("CXX", str(counting(tmp_path, compiler.compiler() or "", words).path))
    with pytest.warns(EngineWarning), pytest.raises(EngineError, match="THROUGHTIME_CACHE"):
        library.load(SOURCE % 23)


def test_a_folder_that_programs_may_not_be_run_from_is_gone_around(kernels: Path, monkeypatch: pytest.MonkeyPatch):
    def from_outside(path: str) -> ctypes.CDLL:
        if str(kernels) in path:
            raise OSError(f"{path}: failed to map segment from shared object")
        return ctypes.PyDLL(path)

    monkeypatch.setattr(library.ctypes, "CDLL", from_outside)
    with pytest.warns(EngineWarning, match="failed to map"):
        assert library.load(SOURCE % 24).answer() == 24


def test_a_folder_that_programs_may_not_be_run_from_costs_no_second_compile(
    kernels: Path, counted: Counting, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "ST_NOEXEC", 8, raising=False)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=8))
    with pytest.warns(EngineWarning, match="programs may not be run from"):
        assert library.load(SOURCE % 27).answer() == 27
    assert counted.compiles == 1


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_said_once_and_at_once(code: int, kernels: Path, monkeypatch):
    def none(handle: int, what: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none)
    before = time.monotonic()
    with pytest.warns(EngineWarning, match=re.escape(os.strerror(code))) as said:
        assert library.load(SOURCE % 28).answer() == 28
    assert len(said) == 1
    assert time.monotonic() - before < library.WAIT / 5
    assert not list(kernels.glob("*.so"))


@pytest.mark.parametrize("home", [None, "", "absent"])
def test_without_a_home_nothing_is_kept(home: str | None, tmp_path: Path):
    named = str(tmp_path / home) if home else home
    ended = run(ASK, THROUGHTIME_CACHE=None, XDG_CACHE_HOME=None, HOME=named)
    assert (ended.said, ended.notices) == (str(RIGHT), 1)
    assert "there is no home folder" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_cache_folder_that_is_not_absolute_is_none(tmp_path: Path):
    """It does not stand for the home folder that is not there, and none is looked for in the user database."""
    ended = run(ASK, THROUGHTIME_CACHE=None, XDG_CACHE_HOME="relative", HOME=tmp_path / "absent")
    assert (ended.said, ended.notices) == (str(RIGHT), 1)
    assert "there is no home folder" in ended.stderr


def test_a_named_folder_may_begin_with_the_home(tmp_path: Path):
    ended = run(ASK, THROUGHTIME_CACHE="~/own", HOME=tmp_path)
    assert (ended.said, ended.stderr) == (str(RIGHT), "")
    assert len(list((tmp_path / "own" / "kernels").glob("*.so"))) == 1


def test_the_users_cache_folder_is_used(tmp_path: Path):
    (home := tmp_path / "home").mkdir()
    ended = run(ASK, THROUGHTIME_CACHE="", XDG_CACHE_HOME=None, HOME=home)
    assert (ended.said, ended.stderr) == (str(RIGHT), "")
    [made] = home.rglob("*.so")
    assert made.parent.parts[-2:] == ("throughtime", "kernels")
    ended = run(ASK, THROUGHTIME_CACHE=None, XDG_CACHE_HOME=tmp_path / "xdg", HOME=None)
    assert (ended.said, ended.stderr) == (str(RIGHT), "")
    assert len(list((tmp_path / "xdg" / "throughtime" / "kernels").glob("*.so"))) == 1


def test_what_is_compiled_for_one_process_leaves_nothing(tmp_path: Path):
    (temporary := tmp_path / "temporary").mkdir()
    (tmp_path / "file").touch()
    ended = run("print(answer(1), answer(2), answer(1))", THROUGHTIME_CACHE=tmp_path / "file", TMPDIR=temporary)
    assert (ended.said, ended.notices) == ("1 2 1", 1)
    assert list(temporary.iterdir()) == []


def test_a_temporary_folder_that_others_reach_is_not_used_either(tmp_path: Path):
    (temporary := tmp_path / "temporary").mkdir()
    temporary.chmod(0o777)
    (tmp_path / "file").touch()
    task = "try: answer(1)\nexcept Exception as error: print(type(error).__name__, error)"
    ended = run(task, THROUGHTIME_CACHE=tmp_path / "file", TMPDIR=temporary)
    assert ended.said.startswith("EngineError kernel can neither be kept nor loaded here (others may write to")
