"""The machine's C++ compiler: which one, with what flags, and one call of it. No torch here."""

from __future__ import annotations

import errno
import functools
import logging
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from throughtime.disk import write_through
from throughtime.errors import EngineError

TIMEOUT = 120.0  # seconds; a kernel takes about one, a machine with every core busy many

# Nothing here changes what a NaN, an infinity or a denormal is: errno and the processor's exception flags are the
# only things given up, and nobody reads those.
FLAGS: tuple[str, ...] = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread")
FLAGS += ("-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden")

_READ = 1 << 16  # bytes of the compiler's words
_LINES, _LETTERS = 8, 2000  # of them, in an error
_NO_SUCH_PROCESSOR = re.compile(r"march|mcpu|native|instruction")
_NO_ROOM = re.compile(r"No space left|quota exceeded")
_HOW = (
    "install one (on Debian: apt install g++; on macOS: xcode-select --install) or name one in the environment "
    "variable CXX"
)

_log = logging.getLogger("throughtime.compiling")


class NoCompiler(EngineError):  # noqa: N818 (a state of the machine, not a mistake)
    """There is no C++ compiler on this machine; says what to install."""


def compiler() -> str | None:
    """The command that would be used: CXX if it is set, else c++, g++ or clang++; None if there is none."""
    command = _command()
    return shlex.join(command) if command else None


def why_not() -> str | None:
    """Why nothing can be compiled here, in one sentence; None if a compiler is there."""
    if _command():
        return None
    if os.name != "posix":
        return "kernels are compiled on Linux and macOS only."
    if os.environ.get("CXX") is not None:
        return f'CXX is set to "{_plain(os.environ["CXX"])}", which is no C++ compiler: unset it, or {_HOW}.'
    return f"there is no C++ compiler: {_HOW}."


def identity() -> str:
    """What a library depends on besides its source: compiler, flags and processor, as text.

    Looks at files only; a compiler that was exchanged shows by its size or time.
    Raises NoCompiler.
    """
    words = [*_found(), *FLAGS, *_NATIVE]
    return "\n".join([*(_seen(word) for word in words), _processor()])


def compile_library(source: str, name: str, folder: Path) -> Path:
    """Compile C++ into a shared library in the folder, which is the compiler's own for its temporary files too.

    Costs about a second for a kernel. Raises NoCompiler; EngineError with the compiler's words if it refuses, is
    killed, or takes longer than TIMEOUT; OSError if there is no room in the folder.
    """
    command = _found()
    written, library = folder / f"{name}.cpp", folder / f"{name}.so"
    written.write_text(source, encoding="utf-8")
    written.chmod(0o600)  # whatever the umask
    code, words, started = 0, "", time.perf_counter()
    called = _plain(command[0])
    _log.info("compiling %s with %s", name, called, extra={"begun": True})
    # An old compiler, or an assembler older than it, may not know this processor: the plain one is always known.
    for native in (_NATIVE, ()):
        code, words = _call([*command, *FLAGS, *native, written.name, "-o", library.name], folder)
        if code == 0 and library.is_file() and library.stat().st_size:
            _log.info("compiled %s in %.1f s", name, time.perf_counter() - started)
            return library
        if code < 0:
            raise EngineError(
                f"the compiler {called} was killed by {_signal(-code)} while it compiled {name}; "
                'was there too little memory? Run again, or use engine="reference".'
            )
        if not _NO_SUCH_PROCESSOR.search(words):
            break
    if _NO_ROOM.search(words):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    write_through(folder / "room", bytes(1 << 20))  # a full disk may have swallowed the words as well
    said = "\n".join(words.splitlines()[:_LINES])[:_LETTERS].rstrip()
    said = f"it said:\n{said}\n" if said else "it said nothing. "
    raise EngineError(
        f"the compiler {called} could not compile {name} (status {code}); {said}"
        'Name another one in the environment variable CXX, or use engine="reference".'
    )


def _call(command: list[str], folder: Path) -> tuple[int, str]:
    """Run the compiler in the folder; its status (negative: the signal that killed it) and its first words."""
    # English words, whose meaning is looked at; its temporary files where nobody else can reach, and where they are
    # swept up if it is killed.
    surroundings = {**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)}
    called = _plain(command[0])
    # Words go to a file: a pipe would be held open by children of a compiler that was killed.
    with open(folder / "words", "w+b") as words:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=surroundings,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                umask=0o077,
                start_new_session=True,
            )
        except OSError as error:
            raise EngineError(f"the compiler {called} does not start ({error.strerror}): {_HOW}.") from error
        try:
            code = process.wait(TIMEOUT)
        except BaseException as error:  # an interrupt too: the compiler's own children end with it
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise EngineError(
                    f"the compiler {called} took longer than {TIMEOUT:.0f} s and was stopped; run again when the "
                    'machine is less busy, or use engine="reference".'
                ) from None
            raise
        words.seek(0)
        return code, _plain(words.read(_READ).decode(errors="replace"))


def _plain(text: str) -> str:
    """Text that can be shown: what would steer a terminal, and what is no text, becomes a question mark in a box."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def _found() -> tuple[str, ...]:
    command = _command()
    if command is None:
        raise NoCompiler(why_not())
    return command


def _command() -> tuple[str, ...] | None:
    return _resolve(os.environ.get("CXX"), os.environ.get("PATH"))


@functools.lru_cache(maxsize=16)
def _resolve(named: str | None, path: str | None) -> tuple[str, ...] | None:
    """The command's words, the first one an absolute path. Both arguments are the environment's."""
    if os.name != "posix":
        return None
    if named is None:
        candidates = [["c++"], ["g++"], ["clang++"]]
    else:
        try:
            candidates = [shlex.split(named)]  # "ccache g++" is a common one
        except ValueError:  # a quotation mark without its other
            return None
    for words in candidates:
        place = shutil.which(words[0], path=path) if words else None
        if place:
            return (os.path.abspath(place), *words[1:])
    return None


def _seen(word: str) -> str:
    """A word of the command, and if it names a program, which one that is today."""
    place = None if word.startswith("-") else shutil.which(word)
    if place is None:
        return word
    place = os.path.realpath(place)
    status = os.stat(place)
    return f"{word} {place} {status.st_size} {status.st_mtime_ns}"


def _native() -> tuple[str, ...]:
    """The flag for this very processor, which compilers for ARM and POWER spell differently."""
    machine = platform.machine().lower()
    return ("-mcpu=native",) if machine.startswith(("arm", "aarch64", "ppc")) else ("-march=native",)


_NATIVE = _native()

# Of /proc/cpuinfo, what decides which instructions there are and how they are best ordered; the rest changes all the
# time (clock) or from core to core.
_TRAITS = {"vendor_id", "cpu family", "model", "model name", "stepping", "flags", "features", "cpu", "isa"}
_TRAITS |= {"cpu implementer", "cpu architecture", "cpu variant", "cpu part", "cpu revision"}


@functools.cache
def _processor() -> str:
    """Which processor this is: a home folder may be shared by machines, or moved to another."""
    lines: set[str] = set()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.strip() and lines:
                    break  # the first core is enough
                if line.partition(":")[0].strip().lower() in _TRAITS:
                    lines.add(line.strip())
    except OSError:
        pass
    if lines:
        return "\n".join([platform.machine(), *sorted(lines)])
    system = os.uname()  # macOS names the family of the processor in the kernel's version
    return f"{system.machine} {system.version}"
