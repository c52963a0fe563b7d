"""Who serves, with a compiler on the machine and without; and every engine, as a test is repeated for each."""

from __future__ import annotations

import pytest

from throughtime.engines.cpu.compiler import compiler

CPU = pytest.param("cpu", marks=pytest.mark.compiler)
ENGINES = ("reference", "native", CPU)


def first(otherwise: str) -> str:
    """Who serves what compiled kernels can: they themselves, or `otherwise` where there is no compiler."""
    return otherwise if compiler() is None else "cpu"
