"""Whether a model takes sequences for steps, and where it first puts out what is no number.

Torch runs it either way, and what is measured would mean nothing.

Dimensions: B sequences, T steps, I values a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime.errors import InputError
from throughtime.microscope.finding import find


class Witness:
    """What recurrent layers took their inputs to be, and where the first number was lost."""

    def __init__(self) -> None:
        self.read: dict[str, tuple[int, int]] = {}  # layer -> (B, T)
        self.lost = ""  # the first place, in words; empty: every output is finite
        self._calls: dict[str, int] = {}

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

    def note_lost(self, name: str, x: Any, output: Any, batch_first: bool) -> None:
        """Note where an output is not finite, if it is the first that is not."""
        call = self._calls[name] = self._calls.get(name, -1) + 1
        data = output.data if isinstance(output, PackedSequence) else output
        if self.lost or not isinstance(data, Tensor) or bool(torch.isfinite(data).all()):
            return
        place = "" if output is not data else _place(~torch.isfinite(data), call, batch_first)
        fed = x.data if isinstance(x, PackedSequence) else x
        already = isinstance(fed, Tensor) and not bool(torch.isfinite(fed).all())
        why = "its input was no number there already" if already else "its input is finite, so look at its weights"
        self.lost = f"{name} puts out NaN or infinity{place}; {why}."


def _place(lost: Tensor, call: int, batch_first: bool) -> str:
    """The earliest step, and its first sequence."""
    lost = lost.any(-1)
    if lost.ndim != 2:  # a cell, called step by step
        return f" at step {call}, sequence {int(lost.nonzero()[0, 0])}" if lost.ndim == 1 else ""
    step, sequence = (lost.T if batch_first else lost).nonzero()[0].tolist()
    return f", first at step {step}, in sequence {sequence}"


@contextmanager
def witness(model: nn.Module) -> Iterator[Witness]:
    """Look at what the model's recurrent layers are called with, and what they put out."""
    seen = Witness()
    handles = [
        module.register_forward_hook(_reader(seen, name), with_kwargs=True) for name, module in find(model).watchable
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _reader(seen: Witness, name: str) -> Any:
    def read(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        x = args[0] if args else named.get("input", named.get("x"))
        first = getattr(layer, "batch_first", False)
        if hasattr(layer, "batch_first") and isinstance(x, Tensor) and x.ndim == 3:  # packed ones carry their lengths
            one, other = int(x.shape[0]), int(x.shape[1])
            seen.read[name] = (one, other) if first else (other, one)
        seen.note_lost(name, x, output[0] if type(output) is tuple else output, first)

    return read
