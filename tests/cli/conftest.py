"""The command, run as a person runs it."""

from __future__ import annotations

import sys

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
