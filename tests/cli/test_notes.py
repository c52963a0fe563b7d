"""What the command says of its engines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = ("train", "adding", "--lag", "6", "--samples", "64", "--hidden", "5", "--dry-run")


def said(*words: str, **surroundings: str) -> str:
    """Of a process of its own, on stderr."""
    command = [sys.executable, "-m", "throughtime", *words]
    environment = {**os.environ, **surroundings}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.compiler
def test_each_kernel_that_is_compiled_is_named_once(tmp_path: Path) -> None:
    cache = {"THROUGHTIME_CACHE": str(tmp_path)}
    notes = [line for line in said(*TRAIN, **cache).splitlines() if line.startswith("note: compiling ")]
    names = [note.split()[2] for note in notes]
    assert "lstm_float" in names
    assert len(names) == len(set(names)) == len(list(tmp_path.glob("kernels/*.so")))
    assert "compil" not in said(*TRAIN, **cache)


@pytest.mark.compiler
def test_quiet_says_nothing_of_it(tmp_path: Path) -> None:
    assert said(*TRAIN, "--quiet", THROUGHTIME_CACHE=str(tmp_path)) == ""
    assert list(tmp_path.glob("kernels/*.so"))


def test_a_machine_without_a_compiler_is_told_so_in_one_line(tmp_path: Path) -> None:
    notes = said(*TRAIN, CXX=str(tmp_path / "none"), THROUGHTIME_CACHE=str(tmp_path))
    assert notes.count('note: with engine="auto" slower engines serve: CXX is set to') == 1
    assert "EngineWarning" not in notes
