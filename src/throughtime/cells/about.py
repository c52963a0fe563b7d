"""What a cell is, in words and names: for a listing, without a tensor in it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from throughtime.cells.cell import find
from throughtime.cells.options import Option, options_of


@dataclass(frozen=True)
class About:
    """A known cell, as `throughtime cells` lists it; parts, ports and gates are those of its default options."""

    name: str
    summary: str  # the first line of its docstring: its equations
    options: tuple[Option, ...]
    parts: tuple[str, ...]  # of the state; the last is the output
    ports: Mapping[str, str]  # port -> the part it reads
    gates: tuple[str, ...]
    also: Mapping[str, str]  # other words for gates and parts
    source: str  # paper and lectures
    text: str  # the whole docstring


def about(name: str) -> About:
    """Describe a known cell, by inspection of its class.

    Raises CellError for a name that is not known.
    """
    cls = find(name)
    text = inspect.getdoc(cls) or ""
    source = next((block for block in text.split("\n\n") if block.startswith("Source: ")), "")
    cell = cls(1, 1, device="meta")
    x = torch.empty(1, 1, device="meta")
    _, gates = cell.advance(cell.share(x), cell.zero_state(1, x), cell.weights())
    return About(
        name=name,
        summary=text.split("\n", 1)[0],
        options=options_of(cls),
        parts=cell.parts,
        ports=dict(cell.reads),
        gates=tuple(gates),
        also=dict(cls.also),
        source=" ".join(source.removeprefix("Source: ").split()),
        text=text,
    )
