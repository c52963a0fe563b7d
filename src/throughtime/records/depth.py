"""The gradient by layer of a feed-forward chain.

Dimensions: N layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from throughtime.records.arrays import Count, Duration, Floats


@dataclass(frozen=True, eq=False)
class DepthRecord:
    """How the gradient travelled back through a feed-forward chain; log10, from the input on.

    Everywhere −inf is a true zero and NaN is "not measured". The last layer's gain, steps and bound are 0: the
    gradient has not passed a layer yet.
    """

    layers: Annotated[tuple[str, ...], "N"]  # (N,) their names
    gradient: Annotated[Floats, "N"]  # (N,) log10 ‖∂L/∂a_l‖ over the batch, a_l what layer l puts out
    weights: Annotated[Floats, "N"]  # (N,) log10 ‖∂L/∂W_l‖; NaN: the layer has none
    gain: Annotated[Floats, "N"]  # (N,) log10 ‖J_N … J_{l+1}‖₂, median over samples
    steps: Annotated[Floats, "N"]  # (N,) log10 Π_{j>l} ‖J_j‖₂, median over samples
    bound: Annotated[Floats, "N"]  # (N,) log10 Π_{j>l} γ‖W_j‖₂; NaN: one of them is not of the form φ(W a + b)
    samples: Count  # behind the medians; 0: no Jacobian was measured
    loss: float
    dtype: str
    seconds: Duration
    chain: str = "chain"  # its name
    left_out: tuple[str, ...] = ()  # what was not measured, and why; sentences

    @property
    def kept(self) -> float:
        """log10 ‖∂L/∂a_1‖ − log10 ‖∂L/∂a_N‖: what is left of the gradient at the first layer."""
        return float(self.gradient[0] - self.gradient[-1])
