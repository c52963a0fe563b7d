"""Memory of truncated training, measured by the benchmark's own means in fresh processes."""

from __future__ import annotations

import pytest

from benchmarks import truncated


@pytest.mark.slow
def test_memory_does_not_follow_the_length() -> None:
    memory = [truncated._measure("windows", steps)[0] for steps in (20_000, 200_000)]
    # MiB; the graph of the 180,000 steps between the two would take over 150.
    assert memory[1] - memory[0] < 4, memory
