"""A cell together with what a loop does to its state before each step, so that both are one step to every measure.

Dimensions: T steps, n sequences, I inputs, H units, P parts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from throughtime.cells.cell import Cell, Gates, Parameters, Read, Share, State, Weights

_SLOPE, _REST = "slope_before_", "rest_before_"


class Linked(Cell):
    """The step of another cell from a state z̃ = d ⊙ z + r: a mask, a reset, a copy, a cut.

    d and r, of every part and unit, come behind the inputs in x (I + 2·P·H values a step) and take no gradient there.
    """

    inner: Cell

    def __init__(self, inner: Cell) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.input_size = inner.input_size + 2 * inner.state_size
        self.hidden_size, self.bias = inner.hidden_size, inner.bias
        self.parts, self.reads, self.inputs = inner.parts, inner.reads, inner.inputs
        self.recurrent, self.unbiased, self.clock = inner.recurrent, inner.unbiased, inner.clock
        self.steepest, self.options = inner.steepest, inner.options

    @property
    def title(self) -> str:
        """The inner cell's."""
        return self.inner.title

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The inner cell's."""
        return self.inner.shapes()

    def extra(self) -> dict[str, tuple[int, ...]]:
        """The inner cell's."""
        return self.inner.extra()

    def values(self) -> dict[str, Tensor]:
        """The inner cell's."""
        return self.inner.values()

    def share(self, x: Tensor, parameters: Parameters | None = None) -> Share:
        """The inner cell's share of the inputs, and d and r by part."""
        I, H = self.inner.input_size, self.hidden_size  # noqa: E741
        inner = self.inner.share(x[..., :I], parameters)
        links = torch.split(x[..., I:].detach(), H, dim=-1)
        names = [f"{kind}{part}" for kind in (_SLOPE, _REST) for part in self.parts]
        return Share(**inner, **dict(zip(names, links, strict=True)))

    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        """The inner cell's step, from what the loop made of the state."""
        return self.inner.step(self.inner_share(u), self._given(u, read), W)

    def slopes(self, u: Share, read: Read, W: Weights) -> Tensor | None:
        """The inner cell's."""
        return self.inner.slopes(self.inner_share(u), self._given(u, read), W)

    def matrix(self, u: Share, W: Weights) -> Tensor | None:
        """What multiplies h before the loop changed it."""
        inner = self.inner.matrix(self.inner_share(u), W)
        return None if inner is None else inner * u[_SLOPE + self.parts[-1]].unsqueeze(-2)

    def squares(self, parameters: Parameters) -> tuple[Tensor, ...]:
        """The inner cell's."""
        return self.inner.squares(parameters)

    def _given(self, u: Share, read: Read) -> Read:
        return Read(**{port: u[_SLOPE + part] * read[port] + u[_REST + part] for port, part in self.reads.items()})

    def inner_share(self, u: Share) -> Share:
        """What belongs to the inner cell."""
        return Share(**{name: its for name, its in u.items() if not name.startswith((_SLOPE, _REST))})


def linked_inputs(
    x: Tensor, parts: tuple[str, ...], slopes: Mapping[str, Tensor], rests: Mapping[str, Tensor]
) -> Tensor:
    """X (T, n, I) with d and r (T, n, H) of each part behind it, as `Linked` reads them."""
    return torch.cat([x, *(slopes[part] for part in parts), *(rests[part] for part in parts)], dim=-1)
