"""The command, run as a person runs it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from throughtime import cli


@pytest.fixture
def call(monkeypatch, capfd, tmp_path):
    """Run the command in a fresh folder; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["throughtime", *map(str, words)])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        out, err = capfd.readouterr()
        return status, out, err

    return run


@pytest.fixture
def signs(tmp_path, rng):
    """Sequences of two classes, told apart by their first step."""
    y = np.arange(60) % 2
    x = rng.normal(size=(60, 6, 2)).astype(np.float32)
    x[:, 0, 0] += 4 * y
    np.savez(tmp_path / "signs.npz", x=x, y=y)
    return "signs.npz"
