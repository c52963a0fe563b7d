"""A machine without a C++ compiler: everything is right, slower, and one line says so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.tree import ROOT

WITHOUT = """
import warnings
import torch, throughtime as tt
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for name in ("lstm", "gru", "scalar"):
        cell = tt.cells.make(name, 3, 5)
        x = torch.randn(6, 2, 3)
        done, expected = tt.unroll(cell, x), tt.unroll(cell, x, engine="reference")
        torch.testing.assert_close(done.output, expected.output)
        assert done.engine != "cpu", done.engine
        module = tt.GRU(3, 5, reset="before")
        module(x)[0].sum().backward()
        assert module.served == "reference", module.served
print(*(type(w.message).__name__ + ": " + str(w.message) for w in caught), sep=chr(10))
try:
    tt.unroll(cell, x, engine="cpu")
except tt.errors.EngineError as error:
    print(error)
"""


def test_without_a_compiler(tmp_path: Path) -> None:
    """Everything is right, and one line says what to install."""
    environment = {**os.environ, "CXX": str(tmp_path / "none"), "THROUGHTIME_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    notice, refusal = done.stdout.splitlines()
    assert notice.startswith("EngineWarning: ")
    assert "CXX" in notice
    assert notice.endswith(".")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    passed_over = [line.split(":")[1] for line in settings["filterwarnings"] if line.startswith("ignore:")]
    assert any(re.match(line, notice.partition(": ")[2]) for line in passed_over)  # by the tests on such a machine
    assert "cannot serve here" in refusal
    assert not list((tmp_path / "cache").glob("**/*.so"))
