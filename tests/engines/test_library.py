"""Compiling and loading: once a key, whatever is killed, and a clear error where it cannot be."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.engines.alone import SOURCE, Counting, counting, end, run, start
from throughtime.engines.cpu import compiler, library
from throughtime.errors import EngineError, EngineWarning

REAL = compiler.compiler() or ""
needs_compiler = pytest.mark.compiler
pytestmark = pytest.mark.usefixtures("kernels")


def misbehaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str) -> Counting:
    made = counting(tmp_path, REAL, before)
    monkeypatch.setenv("CXX", str(made.path))
    return made


def eventually(what, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# -- what is loaded


@needs_compiler
def test_a_library_is_compiled_once_and_kept(counted: Counting, kernels: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "throughtime")
    first = library.load(SOURCE % 41, "my cell/7")
    assert first.answer() == 41
    assert library.load(SOURCE % 41) is first
    assert [re.sub(r"[0-9.]+ s", "N s", record.message) for record in caplog.records] == [
        f"compiling my_cell_7 with {counted.path}",
        "compiled my_cell_7 in N s",
    ]
    for _ in range(2):  # the next processes find it
        assert run("print(answer(41, 'my cell/7'))").said == "41"
    assert counted.compiles == 1
    assert sorted(re.sub("[0-9a-f]{64}", "KEY", file.name) for file in kernels.iterdir()) == [
        "my_cell_7-KEY.lock",
        "my_cell_7-KEY.so",
    ]


@needs_compiler
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_has_rights_whatever_the_umask(umask: int, kernels: Path):
    said = run(f"os.umask({umask}); print(answer(1))").said
    assert said == "1"
    assert kernels.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in kernels.iterdir()} == {0o600}


@needs_compiler
def test_the_next_process_is_fast(capsys: pytest.CaptureFixture[str]):
    library.load(SOURCE % 2)
    task = "import time; t = time.perf_counter(); answer(2); print(1e3 * (time.perf_counter() - t))"
    milliseconds = float(run(task).said)
    with capsys.disabled():
        print(f" [found in the cache in {milliseconds:.1f} ms]", end="")


@needs_compiler
def test_another_source_compiler_flag_or_processor_is_another_key(
    counted: Counting, kernels: Path, monkeypatch: pytest.MonkeyPatch
):
    def again(number: int = 3) -> int:
        library._loaded.clear()
        assert library.load(SOURCE % number).answer() == number
        return counted.compiles

    assert (again(), again()) == (1, 1)
    assert again(4) == 2
    os.utime(counted.path, ns=(1, 1))  # exchanged, say by an upgrade
    assert again() == 3
    monkeypatch.setenv("CXX", f"{counted.path} -DNEW")
    assert again() == 4
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "_processor", lambda: "another one")
        assert again() == 5
    assert again() == 5
    assert len(list(kernels.glob("*.so"))) == 5


@needs_compiler
def test_nan_and_infinity_stay_what_they_are():
    """The flags promise arithmetic as it is written; whoever adds -ffast-math breaks this."""
    made = library.load("""
        #include <cmath>
        #define SEEN extern "C" __attribute__((visibility("default")))
        SEEN int is_nan(double x) { return std::isnan(x); }
        SEEN double none(double x) { return x * 0.0; }
        SEEN double itself(double x) { return x - x; }
        SEEN double small(double x) { return (x + 1e16) - 1e16; }
        SEEN double largest(double x, double y) { return x > y ? x : y; }
    """)
    for name in ("none", "itself", "small", "largest"):
        getattr(made, name).restype = ctypes.c_double
    number = ctypes.c_double
    assert made.is_nan(number(math.nan)) == 1
    assert made.is_nan(number(math.inf)) == 0
    assert math.isnan(made.none(number(math.inf)))
    assert math.isnan(made.itself(number(math.inf)))
    assert made.small(number(0.5)) == (0.5 + 1e16) - 1e16
    assert math.isnan(made.largest(number(1.0), number(math.nan)))


# -- many at once


@needs_compiler
def test_thirty_two_processes_at_once_compile_each_key_once(counted: Counting, kernels: Path, tmp_path: Path):
    gate = tmp_path / "gate"
    task = f"import time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.002)\nprint(answer(%d))"
    started = [start(task % (i % 4)) for i in range(32)]
    gate.touch()
    ended = [end(process) for process in started]
    assert [int(process.said) for process in ended] == [i % 4 for i in range(32)]
    assert [process.stderr for process in ended] == [""] * 32
    assert counted.compiles == 4
    assert sorted(file.suffix for file in kernels.iterdir()) == [".lock"] * 4 + [".so"] * 4


@needs_compiler
def test_and_nine_times_more(tmp_path: Path):
    """By fork, from a process that has loaded nothing, which costs less than starting Python 288 times."""
    rounds = []
    for turn in range(9):
        (folder := tmp_path / str(turn)).mkdir()
        rounds.append((folder, counting(folder, REAL)))
    task = f"""
for folder in {[str(folder) for folder, _ in rounds]!r}:
    os.environ["THROUGHTIME_CACHE"], os.environ["CXX"] = folder + "/cache", folder + "/counting-c++"
    hear, gate = os.pipe()
    children = []
    for i in range(32):
        if (child := os.fork()) == 0:
            status = 1
            try:
                os.close(gate)
                os.read(hear, 1)  # until the other end is closed
                status = int(answer(i % 4) != i % 4)
            finally:
                os._exit(status)
        children.append(child)
    os.close(gate)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
    os.close(hear)
"""
    ended = run(task)
    assert (ended.said.split(), ended.stderr) == (["0"] * 32 * 9, "")
    for folder, counted in rounds:
        assert counted.compiles == 4
        files = sorted(file.suffix for file in (folder / "cache" / "kernels").iterdir())
        assert files == [".lock"] * 4 + [".so"] * 4


@needs_compiler
def test_threads_share_one_library(counted: Counting):
    gate = threading.Barrier(8)

    def one(number: int) -> ctypes.CDLL:
        gate.wait()
        return library.load(SOURCE % number)

    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(one, [5, 6] * 4))
    assert [made.answer() for made in loaded] == [5, 6] * 4
    assert len({id(made) for made in loaded}) == 2
    assert counted.compiles == 2


@needs_compiler
def test_after_a_fork_the_child_loads_more():
    """Also if another thread was loading while the process forked: its lock must not stay closed in the child."""
    task = """
answer(1)
library._lock.acquire()  # as another thread would hold it
if (child := os.fork()) == 0:
    os._exit(0 if (answer(1), answer(2)) == (1, 2) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(task).said == "0"


@needs_compiler
def test_a_fork_while_another_thread_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The child gets a copy of the thread's lock in the cache and none of the thread."""
    slow = misbehaving(tmp_path, monkeypatch, "sleep 0.5")
    task = f"""
import time
thread = threading.Thread(target=answer, args=(1,))
thread.start()
while not open({str(slow.log)!r}).read(): time.sleep(0.002)
if (child := os.fork()) == 0:
    os._exit(answer(1) != 1)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), answer(1))
"""
    assert run(task).said == "0 1"
    assert slow.compiles == 1


# -- killed


@needs_compiler
def test_a_killed_compiler_is_named_and_the_next_one_works(
    tmp_path: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch
):
    misbehaving(tmp_path, monkeypatch, "touch begun; kill -KILL $$")
    with pytest.raises(EngineError, match=r"compiler .*counting-c\+\+ was killed by SIGKILL while it compiled cell"):
        library.load(SOURCE % 8, "cell")
    assert [file.suffix for file in kernels.iterdir()] == [".lock"]
    monkeypatch.delenv("CXX")
    assert library.load(SOURCE % 8, "cell").answer() == 8


@needs_compiler
def test_a_process_killed_while_it_compiles_blocks_nobody(tmp_path: Path, kernels: Path, monkeypatch):
    slow = misbehaving(tmp_path, monkeypatch, f'[ -e "{tmp_path}/fast" ] || sleep 60')
    doomed = start("answer(9)")
    eventually(lambda: slow.compiles == 1)
    waiting = start("print(answer(9))")  # for the lock
    time.sleep(0.3)
    (tmp_path / "fast").touch()
    doomed.kill()
    doomed.communicate()
    os.killpg(slow.processes[0], signal.SIGKILL)  # what it left running, which could do no harm
    before = time.monotonic()
    assert end(waiting).said == "9"
    assert time.monotonic() - before < 30
    assert sorted(file.suffix for file in kernels.iterdir()) == [".lock", ".so"]


@needs_compiler
def test_a_compiler_that_hangs_is_stopped_with_its_children(tmp_path: Path, kernels: Path, monkeypatch):
    monkeypatch.setattr(compiler, "TIMEOUT", 0.5)
    hanging = misbehaving(tmp_path, monkeypatch, f'sleep 60 & echo $! >> "{tmp_path}/compiles"; wait')
    with pytest.raises(EngineError, match=r"took longer than .* s and was stopped"):
        library.load(SOURCE % 10)
    eventually(lambda: not any(runs(process) for process in hanging.processes))
    assert len(hanging.processes) == 2
    assert [file.suffix for file in kernels.iterdir()] == [".lock"]


@needs_compiler
def test_a_lock_that_is_never_given_back_is_not_waited_for_forever(kernels: Path, monkeypatch):
    monkeypatch.setattr(library, "WAIT", 0.3)
    assert run("answer(11)").said == ""
    [entry] = kernels.glob("*.so")
    entry.unlink()
    holds = start(
        f"import time; l = filelock.FileLock({str(entry.with_suffix('.lock'))!r}).acquire(); "
        f"open({str(kernels / 'held')!r}, 'w').close(); time.sleep(60)"
    )
    try:
        eventually((kernels / "held").exists)
        with pytest.warns(EngineWarning, match="another process has been compiling"):
            assert library.load(SOURCE % 11).answer() == 11
    finally:
        holds.kill()
        holds.communicate()


# -- refused


@pytest.mark.parametrize("named", ["", "no-such-compiler", "a 'quotation"])
def test_no_compiler_says_what_to_install(named: str, kernels: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", named)
    assert library.compiler() is None
    with pytest.raises(library.NoCompiler, match="apt install g"):
        library.load(SOURCE % 12)
    reason = library.why_not()
    assert reason is not None
    assert f'CXX is set to "{named}"' in reason
    assert reason.endswith(".")
    assert not kernels.exists()


def test_nothing_on_the_path_is_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert library.compiler() is None
    assert "xcode-select --install" in (library.why_not() or "")
    with pytest.raises(EngineError, match="there is no C"):
        library.load(SOURCE % 13)


def test_the_first_compiler_on_the_path_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("clang++", "g++", "c++"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        compiler._resolve.cache_clear()
        assert library.compiler() == str(tmp_path / name)
        assert library.why_not() is None


@needs_compiler
def test_a_source_that_does_not_compile_gives_the_compilers_words(kernels: Path):
    with pytest.raises(EngineError, match=r"could not compile cell \(status 1\)(.|\n)*error.*expected"):
        library.load("int f( {", "cell")
    assert [file.suffix for file in kernels.iterdir()] == [".lock"]


def test_a_compiler_that_does_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "c++").write_text("no program\n")
    (tmp_path / "c++").chmod(0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    with pytest.raises(EngineError, match="does not start"):
        library.load(SOURCE % 14)


@needs_compiler
def test_a_compiler_that_makes_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    misbehaving(tmp_path, monkeypatch, "exit 0")
    with pytest.raises(EngineError, match=r'it said nothing\. Name another one .*engine="reference"\.$'):
        library.load(SOURCE % 15)


@needs_compiler
def test_a_compiler_in_a_folder_whose_name_is_no_text(tmp_path: Path, counted: Counting, monkeypatch):
    """Names of files are bytes; these are no UTF-8."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/p\xff"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has names of text only")
    (folder / "c++").symlink_to(counted.path)
    monkeypatch.setenv("CXX", f"{folder / 'c++'} -DX{os.fsdecode(bytes([255]))}")
    assert library.load(SOURCE % 17).answer() == 17
    assert run("print(answer(17))").said == "17"
    assert counted.compiles == 1


@needs_compiler
@pytest.mark.parametrize("lines", [1, 100_000])
def test_of_a_compilers_words_some_are_shown_and_none_that_steer_a_terminal(
    lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = f"""{{
  printf 'error: \\033[2J\\000\\177\\302\\233 caf\\303\\251\\n'
  i=0; while [ $i -lt 20 ]; do printf '%05000d' 0; [ {lines} = 1 ] || echo; i=$((i + 1)); done
}} >&2; exit 1"""
    misbehaving(tmp_path, monkeypatch, words)
    with pytest.raises(EngineError) as caught:
        library.load(SOURCE % 18)
    said = str(caught.value)
    assert "error: \N{REPLACEMENT CHARACTER}[2J" in said
    assert "café" in said
    assert all(letter.isprintable() or letter == "\n" for letter in said)
    assert 2000 < len(said) < 2500
    assert said.endswith('or use engine="reference".')


@needs_compiler
def test_of_a_compilers_words_no_more_is_read_than_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither are they all kept in memory."""
    misbehaving(tmp_path, monkeypatch, "head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1")
    (folder := tmp_path / "folder").mkdir()
    code, words = compiler._call([os.environ["CXX"]], folder)
    assert (code, words) == (1, "x" * 2**16)


@needs_compiler
def test_a_compiler_that_does_not_know_the_processor_is_asked_for_a_plain_one(tmp_path: Path, monkeypatch):
    old = misbehaving(tmp_path, monkeypatch, 'case "$*" in *=native*) echo "bad value for -march=" >&2; exit 1;; esac')
    assert library.load(SOURCE % 16).answer() == 16
    assert old.compiles == 2
    assert run("print(answer(16))").said == "16"
    assert old.compiles == 2


@needs_compiler
def test_a_source_that_fails_is_not_compiled_twice(counted: Counting):
    with pytest.raises(EngineError, match="could not compile"):
        library.load("#error no")
    assert counted.compiles == 1
