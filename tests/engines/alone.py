"""Processes with the compiler and its cache and nothing else of the package: without torch many start at once."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.tree import ROOT

SOURCE = 'extern "C" __attribute__((visibility("default"))) int answer() { return %d; }\n'

# Everything is imported before the user changes: another user may not be able to read where Python lies.
_BEGIN = f"""
import filelock, grp, os, platformdirs.unix, pwd, sys, threading, types, warnings
for name in ("throughtime", "throughtime.engines", "throughtime.engines.cpu"):
    sys.modules[name] = package = types.ModuleType(name)
    package.__path__ = [os.path.join({str(ROOT / "src")!r}, *name.split("."))]
from throughtime.engines.cpu import cache, compiler, library
assert "torch" not in sys.modules
user = int(sys.argv[1])
if user != os.geteuid():
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
def answer(number, name="kernel"):
    return library.load({SOURCE!r} % number, name).answer()
"""


def start(task: str, user: int | None = None, **environment: object) -> subprocess.Popen[str]:
    """Begin a process that runs the task; None takes a variable out of its environment."""
    surroundings = {**os.environ, **{name: str(value) for name, value in environment.items() if value is not None}}
    for name, value in environment.items():
        if value is None:
            surroundings.pop(name, None)
    whom = os.geteuid() if user is None else user
    command = [sys.executable, "-W", "always", "-c", _BEGIN + task, str(whom)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=surroundings, stdout=pipe, stderr=pipe, text=True, cwd="/")


@dataclass(frozen=True)
class Ended:
    said: str  # standard output
    notices: int  # how many warnings of the engines
    stderr: str


def end(process: subprocess.Popen[str]) -> Ended:
    """Wait for it; it must have ended well."""
    said, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return Ended(said.strip(), stderr.count("EngineWarning: "), stderr)


def run(task: str, user: int | None = None, **environment: object) -> Ended:
    """Run the task in a process of its own."""
    return end(start(task, user, **environment))


@dataclass(frozen=True)
class Counting:
    """A compiler that writes down how often it was called, and may misbehave before."""

    path: Path
    log: Path

    @property
    def compiles(self) -> int:
        return len(self.log.read_text().splitlines())

    @property
    def processes(self) -> list[int]:
        return [int(line) for line in self.log.read_text().splitlines()]


def counting(folder: Path, real: str, before: str = "") -> Counting:
    """A counting compiler in the folder, which runs some shell lines before it becomes the real one."""
    made = Counting(folder / "counting-c++", folder / "compiles")
    made.log.touch()
    made.log.chmod(0o666)
    made.path.write_text(f'#!/bin/sh\necho $$ >> "{made.log}"\n{before}\nexec {real} "$@"\n')
    made.path.chmod(0o755)
    return made
