"""throughtime: recurrent networks whose gradients people can see.

The names below are loaded when first used, so that `throughtime --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "GRU": "throughtime.modules",
    "LSTM": "throughtime.modules",
    "Net": "throughtime.models",
    "RNN": "throughtime.modules",
    "Settings": "throughtime.records",
    "Cell": "throughtime.cells.cell",
    "cells": "throughtime.cells",
    "data": "throughtime.data",
    "diagnose": "throughtime.diagnosis",
    "flow": "throughtime.flow",
    "from_torch": "throughtime.modules",
    "load": "throughtime.study.trained",
    "report": "throughtime.view",
    "train": "throughtime.training",
    "unroll": "throughtime.unrolling",
    "watch": "throughtime.microscope",
}

if TYPE_CHECKING:
    from throughtime import cells, data, flow
    from throughtime.cells.cell import Cell
    from throughtime.diagnosis import diagnose
    from throughtime.microscope import watch
    from throughtime.models import Net
    from throughtime.modules import GRU, LSTM, RNN, from_torch
    from throughtime.records import Settings
    from throughtime.study.trained import load
    from throughtime.training import train
    from throughtime.unrolling import unroll
    from throughtime.view import report

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "Net",
    "Settings",
    "cells",
    "data",
    "diagnose",
    "flow",
    "from_torch",
    "load",
    "report",
    "train",
    "unroll",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'throughtime' has no attribute {name!r}")
    module = import_module(_HOME[name])
    value = module if _HOME[name].endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
