"""The gradient by layer of a feed-forward chain.

Dimensions: N layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from throughtime.records.arrays import Floats


@dataclass(frozen=True, eq=False)
class DepthRecord:
    """How the gradient travelled back through a feed-forward chain (MEASURES 16); log10, from the input on."""

    layers: tuple[str, ...]  # (N,) their names
    gradient: Floats  # (N,) log10 ‖∂L/∂a_l‖ over the batch, a_l what layer l puts out
    weights: Floats  # (N,) log10 ‖∂L/∂W_l‖; NaN: the layer has none
    gain: Floats  # (N,) log10 ‖J_N … J_{l+1}‖₂, median over samples
    steps: Floats  # (N,) log10 Π ‖J_j‖₂, median over samples
    bound: Floats  # (N,) log10 Π γ‖W_j‖₂; NaN: not of the form φ(W a + b)
    samples: int
    loss: float
    dtype: str
    seconds: float
