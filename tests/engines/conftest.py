"""What tests of compiled libraries stand on: a cache of their own, and a compiler whose calls are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.alone import Counting, counting
from throughtime.engines.cpu import compiler, library


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and a process that has loaded nothing yet."""
    monkeypatch.setenv("THROUGHTIME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "_loaded", {})
    monkeypatch.setattr(library, "_noticed", False)
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    """The machine's compiler; how often it was called can be read."""
    made = counting(tmp_path, compiler.compiler() or "")
    monkeypatch.setenv("CXX", str(made.path))
    return made
