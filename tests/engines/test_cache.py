"""What is loaded from the cache and what never is: damage, other people's files and folders.

The oracle is a library that gives a wrong answer, put where the right one belongs: whoever hears it has loaded what
he should not have.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
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


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A library that gives the wrong answer."""
    folder = tmp_path_factory.mktemp("wrong")
    return compiler.compile_library(SOURCE % WRONG, "wrong", folder).read_bytes()


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
    (made := entry.with_name("planted")).write_bytes(content + cache._trailer(key or key_of(entry), content))
    made.chmod(0o600)
    made.replace(entry)


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
    "sound, but nothing to load": lambda path, wrong: plant(path, b"garbage"),
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
    assert (made := cache.load(entry, key_of(entry))) is not None
    assert made.answer() == RIGHT
    assert sorted(entry.parent.glob("elsewhere")) == before  # what a link leads to is left alone


def test_what_is_planted_here_would_be_loaded_if_it_were_ours(entry: Path, counted: Counting, wrong: bytes):
    """The tests above and below have teeth: with the right owner and rights the wrong library does answer."""
    plant(entry, wrong)
    assert run(ASK).said == str(WRONG)
    assert counted.compiles == 1


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="the system does not name open files")
def test_what_is_loaded_is_the_file_that_was_looked_at(entry: Path, wrong: bytes, monkeypatch: pytest.MonkeyPatch):
    """Also if another stands in its place between the look and the loading."""
    load = ctypes.CDLL

    def exchanged(path: str) -> ctypes.CDLL:
        plant(entry, wrong)
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", exchanged)
    assert library.load(SOURCE % RIGHT).answer() == RIGHT
    library._loaded.clear()
    assert library.load(SOURCE % RIGHT).answer() == WRONG  # it does stand there


def test_libraries_that_are_loaded_one_after_the_other_are_different_ones(kernels: Path, counted: Counting):
    """Their files are opened under the same number, and the dynamic loader knows libraries by name."""
    assert run("print(*map(answer, range(70, 80)))").said == " ".join(map(str, range(70, 80)))
    assert [library.load(SOURCE % number).answer() for number in range(70, 80)] == list(range(70, 80))
    assert counted.compiles == 10


def test_what_does_not_load_is_not_kept(tmp_path: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch):
    garbage = f'''if [ ! -e "{tmp_path}/mended" ]; then
  for word; do [ "$last" = -o ] && echo garbage > "$word"; last=$word; done; exit 0
fi'''
    made = counting(tmp_path, compiler.compiler() or "", garbage)
    monkeypatch.setenv("CXX", str(made.path))
    with pytest.warns(EngineWarning, match="not kept"), pytest.raises(EngineError, match="another compiler in CXX"):
        library.load(SOURCE % 26)
    assert {file.suffix for file in kernels.iterdir()} == {".lock"}
    (tmp_path / "mended").touch()
    assert library.load(SOURCE % 26).answer() == 26
    assert {file.suffix for file in kernels.iterdir()} == {".lock", ".so"}


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
