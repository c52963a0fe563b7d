"""Clipping: one class for each way to keep a step from being thrown far off.

Each is called with the parameters after the backward pass, changes their `.grad` in place, and answers with the
global 2-norm before it did, whether it changed anything, and the threshold in force. Gradients that are not finite
are reported by that norm and left for the caller to refuse.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from throughtime.errors import TrainingError
from throughtime.records import Settings


class Clipped(NamedTuple):
    """What a clipping saw and did."""

    norm: float  # global 2-norm of the gradient before
    clipped: bool  # whether anything was changed
    threshold: float | None  # in force; None: none


class Clipping(Protocol):
    """A way to clip."""

    def __call__(self, parameters: Sequence[Tensor]) -> Clipped:
        """Clip the gradients of `parameters` in place."""
        ...


class NoClipping:
    """Measures only. With a threshold, it stands for one that acts while backpropagating (`Recurrent.run`'s damping).

    What acts inside the backward pass is not seen from here, so `clipped` is always False.
    """

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = threshold

    def __call__(self, parameters: Sequence[Tensor]) -> Clipped:
        """Measure the norm."""
        return Clipped(float(_norm(_gradients(parameters))), False, self.threshold)


class ByNorm:
    """If the global norm exceeds k, the gradient is scaled to norm k: "its magnitude becomes k, its direction stays".

    Source: Pascanu, Mikolov, Bengio 2013, algorithm 1.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, parameters: Sequence[Tensor]) -> Clipped:
        """Clip by the global norm."""
        gradients = _gradients(parameters)
        norm = float(_norm(gradients))
        over = norm > self.threshold
        if over:
            torch._foreach_mul_(gradients, self.threshold / norm)
        return Clipped(norm, over, self.threshold)


class EachParameter:
    """Each parameter's gradient, for itself, is scaled to norm k if its norm exceeds k; directions within it stay."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, parameters: Sequence[Tensor]) -> Clipped:
        """Clip by each parameter's norm."""
        gradients = _gradients(parameters)
        norms = torch._foreach_norm(gradients)
        scales = (self.threshold / torch.stack(norms)).clamp(max=1.0)
        torch._foreach_mul_(gradients, list(scales.unbind()))
        return Clipped(float(torch.stack(norms).norm()), bool((scales < 1).any()), self.threshold)


class ByValue:
    """Each number of the gradient is limited to ±k; this turns the direction.

    Source: Mikolov, "Statistical language models based on neural networks", 2012.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, parameters: Sequence[Tensor]) -> Clipped:
        """Clip by value."""
        gradients = _gradients(parameters)
        norm = float(_norm(gradients))
        largest = float(torch.stack(torch._foreach_norm(gradients, torch.inf)).max())
        over = largest > self.threshold
        if over:
            torch._foreach_clamp_max_(gradients, self.threshold)
            torch._foreach_clamp_min_(gradients, -self.threshold)
        return Clipped(norm, over, self.threshold)


class Always:
    """The gradient is scaled to norm k every time, small ones up as well; only a gradient of exactly 0 stays."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, parameters: Sequence[Tensor]) -> Clipped:
        """Normalise."""
        gradients = _gradients(parameters)
        norm = float(_norm(gradients))
        if norm > 0:
            torch._foreach_mul_(gradients, self.threshold / norm)
        return Clipped(norm, norm > 0, self.threshold)


class ByPercentile:
    """AutoClip: the threshold is a percentile of all norms seen so far, this one included.

    Source: Seetharaman, Wichern, Pardo, Le Roux, "AutoClip: adaptive gradient clipping for source separation
    networks", 2020, algorithm 1.
    """

    def __init__(self, percentile: float, norms: Sequence[float] = ()) -> None:
        self.percentile = percentile
        self.norms = sorted(norms)  # ascending; with these it goes on where it was

    def __call__(self, parameters: Sequence[Tensor]) -> Clipped:
        """Take the norm into account, then clip by the percentile."""
        gradients = _gradients(parameters)
        norm = float(_norm(gradients))
        if norm - norm != 0:  # not finite: it would spoil the percentile for good
            return Clipped(norm, False, None)
        insort(self.norms, norm)
        threshold = self._threshold()
        over = norm > threshold
        if over:
            torch._foreach_mul_(gradients, threshold / norm)
        return Clipped(norm, over, threshold)

    def _threshold(self) -> float:
        """The percentile, interpolated between the two norms beside it."""
        place = (len(self.norms) - 1) * self.percentile / 100
        low = int(place)
        high = min(low + 1, len(self.norms) - 1)
        return self.norms[low] + (self.norms[high] - self.norms[low]) * (place - low)


_WAYS: dict[str, type[ByNorm] | type[EachParameter] | type[ByValue] | type[Always] | type[ByPercentile]] = {
    "norm": ByNorm,
    "parameter": EachParameter,
    "value": ByValue,
    "always": Always,
    "percentile": ByPercentile,
}


def clipping(settings: Settings) -> Clipping:
    """The clipping that settings ask for.

    Raises TrainingError for a way that is not known or a threshold that is none.
    """
    if settings.clip is None:
        return NoClipping()
    if not 0 < settings.clip < float("inf") or (settings.clip_by == "percentile" and settings.clip > 100):
        wanted = "a percentile, over 0 and at most 100" if settings.clip_by == "percentile" else "a norm over 0"
        raise TrainingError(f"clip={settings.clip} cannot be: with clip_by={settings.clip_by!r} it is {wanted}.")
    if settings.clip_by == "backward":
        return NoClipping(settings.clip)
    if settings.clip_by not in _WAYS:
        raise TrainingError(f"clip_by={settings.clip_by!r} is not known; there is {', '.join(_WAYS)}, backward.")
    return _WAYS[settings.clip_by](settings.clip)


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _norm(gradients: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm
