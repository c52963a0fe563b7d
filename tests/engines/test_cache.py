"""What is loaded from the cache and what never is: damage, other people's files and folders, no room, no home.

The oracle is a library that gives a wrong answer, put where the right one belongs: whoever hears it has loaded what
he should not have.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engines.alone import SOURCE, Counting, counting, run
from throughtime.engines.cpu import cache, compiler, library
from throughtime.errors import EngineError, EngineWarning

pytestmark = pytest.mark.compiler

RIGHT, WRONG = 7, 666
ASK = f"print(answer({RIGHT}))"
ROOT_RUNS = os.geteuid() == 0
NOBODY = 65534
BARRED = NOBODY if ROOT_RUNS else os.geteuid()  # a user whom rights bind


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A library that gives the wrong answer."""
    folder = tmp_path_factory.mktemp("wrong")
    return compiler.compile_library(SOURCE % WRONG, "wrong", folder).read_bytes()


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THROUGHTIME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_loaded", {})
    monkeypatch.setattr(library, "_noticed", False)
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    made = counting(tmp_path, compiler.compiler() or "")
    monkeypatch.setenv("CXX", str(made.path))
    return made


@pytest.fixture
def entry(kernels: Path, counted: Counting) -> Path:
    """The right library's file, made by another process: nothing of it is loaded in this one."""
    assert run(ASK).said == str(RIGHT)
    [made] = kernels.glob("*.so")
    return made


def key_of(entry: Path) -> str:
    return entry.stem.rpartition("-")[2]


def plant(entry: Path, content: bytes, key: str | None = None) -> None:
    """Put a library in the entry's place, with all that makes it a sound one of the key."""
    (made := entry.with_name("planted")).write_bytes(content)
    cache.keep(made, entry, key or key_of(entry))
    made.unlink()


# -- files


def half(path: Path, wrong: bytes) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def last_byte(path: Path, wrong: bytes) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path, wrong: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def appended(path: Path, wrong: bytes) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def of_another_key(path: Path, wrong: bytes) -> None:
    plant(path, wrong, key="0" * 64)


def bare_trailer(path: Path, wrong: bytes) -> None:
    plant(path, b"")


def linked(path: Path, wrong: bytes) -> None:
    plant(elsewhere := path.with_name("elsewhere"), wrong, key_of(path))
    path.unlink()
    path.symlink_to(elsewhere)


def pipe(path: Path, wrong: bytes) -> None:
    path.unlink()
    os.mkfifo(path)


def mode(rights: int) -> Callable[[Path, bytes], None]:
    def change(path: Path, wrong: bytes) -> None:
        plant(path, wrong)
        path.chmod(rights)

    return change


def somebody_elses(path: Path, wrong: bytes) -> None:
    plant(path, wrong)
    os.chown(path, NOBODY, NOBODY)


SPOILED = {
    "empty": lambda path, wrong: path.write_bytes(b""),
    "half": half,
    "last byte missing": last_byte,
    "a bit flipped": flipped,
    "a byte appended": appended,
    "another library": lambda path, wrong: path.write_bytes(wrong),
    "of another key": of_another_key,
    "no library": bare_trailer,
    "no library of any kind": lambda path, wrong: path.write_bytes(b"#!/bin/sh\nexit 1\n" * 100),
    "a link": linked,
    "a pipe": pipe,
    "the group may write": mode(0o620),
    "all may write": mode(0o602),
} | ({"somebody else's": somebody_elses} if ROOT_RUNS else {})


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_file_is_built_again_and_never_loaded(what: str, entry: Path, counted: Counting, wrong: bytes):
    SPOILED[what](entry, wrong)
    before = sorted(entry.parent.glob("elsewhere"))
    ended = run(ASK)
    assert (ended.said, ended.stderr) == (str(RIGHT), "")
    assert counted.compiles == 2
    assert run(ASK).said == str(RIGHT)
    assert counted.compiles == 2
    assert entry.stat(follow_symlinks=False).st_mode & 0o7777 == 0o600
    assert cache.sound(entry, key_of(entry))
    assert sorted(entry.parent.glob("elsewhere")) == before  # what a link leads to is left alone


def test_what_is_planted_here_would_be_loaded_if_it_were_ours(entry: Path, counted: Counting, wrong: bytes):
    """The tests above and below have teeth: with the right owner and rights the wrong library does answer."""
    plant(entry, wrong)
    assert run(ASK).said == str(WRONG)
    assert counted.compiles == 1


def test_a_folder_in_the_files_place_is_said_and_gone_around(entry: Path):
    entry.unlink()
    entry.mkdir()
    ended = run(ASK)
    assert (ended.said, ended.notices) == (str(RIGHT), 1)


def test_what_killed_compiles_left_is_swept(entry: Path, kernels: Path):
    stem = entry.stem
    own, fresh, old = (kernels / f"{name}.compiling" for name in (f"{stem}.a", "other-key.b", "other-key.c"))
    for folder in (own, fresh, old):
        folder.mkdir()
        (folder / "kernel.s").touch()
    os.utime(old, (1, 1))
    run(ASK)
    assert own.exists()  # nothing is looked for while all is well
    entry.unlink()
    run(ASK)
    assert (own.exists(), fresh.exists(), old.exists()) == (False, True, False)


# -- folders


def folder_mode(rights: int, up: int = 0) -> Callable[[Path], None]:
    def change(kernels: Path) -> None:
        (kernels, *kernels.parents)[up].chmod(rights)

    return change


def folder_linked(kernels: Path) -> None:
    kernels.rename(elsewhere := kernels.with_name("elsewhere"))
    kernels.symlink_to(elsewhere)


def folder_somebody_elses(up: int = 0) -> Callable[[Path], None]:
    return lambda kernels: os.chown((kernels, *kernels.parents)[up], NOBODY, NOBODY)


FOREIGN = {
    "the group may write": (folder_mode(0o770), "others may write to .*kernels"),
    "all may write": (folder_mode(0o707), "others may write to .*kernels"),
    "all may write, sticky": (folder_mode(0o1777), "others may write to .*kernels"),
    "all may write to the folder above": (folder_mode(0o707, 1), "others may write to .*cache"),
    "a link": (folder_linked, "kernels is not a folder"),
} | (
    {
        "somebody else's": (folder_somebody_elses(), "kernels belongs to another user"),
        "in a folder of somebody else's": (folder_somebody_elses(1), "cache belongs to another user"),
    }
    if ROOT_RUNS  # who else cannot give a file away
    else {}
)


@pytest.mark.parametrize("what", FOREIGN)
def test_nothing_is_loaded_from_a_folder_that_others_reach(
    what: str, entry: Path, kernels: Path, counted: Counting, wrong: bytes
):
    spoil, why = FOREIGN[what]
    plant(entry, wrong)
    before = sorted(kernels.iterdir())
    spoil(kernels)
    ended = run(f"print(answer({RIGHT}), answer({RIGHT} + 1))")
    assert ended.said == f"{RIGHT} {RIGHT + 1}"
    assert ended.notices == 1  # for both
    assert re.search(why, ended.stderr)
    assert sorted(kernels.iterdir()) == before
    assert counted.compiles == 3


def test_a_sticky_folder_above_is_no_danger(entry: Path, kernels: Path):
    """As the shared temporary folder is: others may add to it, but not exchange what is ours."""
    kernels.parent.chmod(0o1777)
    ended = run(ASK)
    assert (ended.said, ended.stderr) == (str(RIGHT), "")


def test_nothing_is_made_in_a_folder_that_others_may_write_to(tmp_path: Path, kernels: Path):
    kernels.parent.mkdir()
    kernels.parent.chmod(0o777)
    ended = run(ASK)
    assert (ended.said, ended.notices) == (str(RIGHT), 1)
    assert list(kernels.parent.iterdir()) == []


# -- no place


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that another user reaches too."""
    made = Path(tempfile.mkdtemp()).resolve()
    made.chmod(0o755)
    yield made
    for folder in [made, *(path for path in made.rglob("*") if path.is_dir() and not path.is_symlink())]:
        folder.chmod(0o700)
    shutil.rmtree(made)


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


@pytest.mark.parametrize("home", [None, "", "absent"])
def test_without_a_home_nothing_is_kept(home: str | None, tmp_path: Path):
    named = str(tmp_path / home) if home else home
    ended = run(ASK, THROUGHTIME_CACHE=None, XDG_CACHE_HOME=None, HOME=named)
    assert (ended.said, ended.notices) == (str(RIGHT), 1)
    assert "there is no home folder" in ended.stderr
    assert list(tmp_path.iterdir()) == []


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
