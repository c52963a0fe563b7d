"""Whether a model takes sequences for steps: torch runs it either way, and the numbers would mean nothing.

Dimensions: B sequences, T steps, I values a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from throughtime.errors import InputError
from throughtime.microscope.finding import find


class Axes:
    """The shapes (B, T) that recurrent layers took their inputs to have, by layer."""

    def __init__(self) -> None:
        self.read: dict[str, tuple[int, int]] = {}

    def check(self, size: int, steps: int, *, time_first: bool) -> tuple[str, ...]:
        """Notes on what cannot be told.

        Raises InputError if a layer went over the sequences as if they were steps.
        """
        laid = "(T, B, ...), as --time-first says" if time_first else "(B, T, ...)"
        way = "leave out --time-first" if time_first else "pass --time-first, or build the layer with batch_first=True"
        for name, (sequences, length) in self.read.items():
            if length == size and sequences != size:
                raise InputError(
                    f"{name} took the {size} sequences of the batch for {size} steps: x is laid out {laid}, and this "
                    f"layer reads it the other way round; {way}."
                )
        if size == steps and any(pair == (size, size) for pair in self.read.values()):
            return (
                f"There are as many sequences as steps ({size}), so it could not be checked that no layer takes one "
                f"for the other; x was laid out {laid}. Another --batch makes it sure.",
            )
        return ()


@contextmanager
def axes(model: nn.Module) -> Iterator[Axes]:
    """Look at what the model's recurrent layers are called with."""
    seen = Axes()
    handles = [
        module.register_forward_pre_hook(_reader(seen, name, module), with_kwargs=True)
        for name, module in find(model).watchable
        if hasattr(module, "batch_first")
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _reader(seen: Axes, name: str, layer: nn.Module) -> Any:
    def read(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = args[0] if args else named.get("input", named.get("x"))
        if isinstance(x, Tensor) and x.ndim == 3:  # packed sequences carry their lengths, and cannot be mistaken
            first, second = int(x.shape[0]), int(x.shape[1])
            seen.read[name] = (first, second) if layer.batch_first else (second, first)

    return read
