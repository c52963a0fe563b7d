"""What catches one recurrent module's part in a training step.

A step is everything from the first call of a module to the last gradient that comes back to it, before the next call.
"""

from __future__ import annotations

from typing import Any, Protocol

from throughtime.flow.sighting import Sighting


class Catcher(Protocol):
    """Holds hooks on one module. They look and never change a number; what they keep, they keep for one step."""

    name: str  # the module's, as the model has it; its class's if it is the model
    path: str  # the same, empty if it is the model

    def remember(self, out: Any) -> None:
        """Keep the state that a call put out, in any step, to know it where it comes back without a gradient."""

    def open(self) -> None:
        """Catch the calls and gradients from here on, until `close`."""

    def close(self) -> None:
        """Take every hook off and let go of what was kept."""

    @property
    def answered(self) -> bool:
        """Whether a gradient has come back to a call that was caught."""

    def sightings(self) -> tuple[Sighting, ...]:
        """One for each layer, direction and chain of calls that was caught; float64, weights as they were in the call.

        Raises FlowError with why nothing true can be said: no call, no gradient, a state that is not finite, weights
        that changed between the call and its gradient, an output that the cell's own equations do not give.
        """
