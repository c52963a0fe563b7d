"""Catches a cell that a person's own loop calls step by step."""

from __future__ import annotations

from torch import nn

from throughtime.errors import FlowError
from throughtime.flow.sighting import Sighting


class CellCatcher:
    """See Catcher."""

    def __init__(self, name: str, module: nn.Module, sequences: int | None) -> None:
        self.name = name

    def open(self) -> None:
        """Catch."""

    def close(self) -> None:
        """Let go."""

    @property
    def answered(self) -> bool:
        """Whether a gradient has come back to a call that was caught."""
        return False

    def sightings(self) -> tuple[Sighting, ...]:
        """None yet."""
        raise FlowError(f"{self.name} is a cell in a loop, which cannot be watched yet.")
