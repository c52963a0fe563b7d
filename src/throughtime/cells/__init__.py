"""Recurrences, one file each, and the contract they share.

Every module of this folder is imported here, so a cell is known by its file being there.
"""

from importlib import import_module
from pkgutil import iter_modules

from throughtime.cells.about import About, about
from throughtime.cells.cell import Cell, Gates, Read, Share, State, Weights, find, known, make
from throughtime.cells.elman import Elman
from throughtime.cells.gru import GRU
from throughtime.cells.initialise import initialise
from throughtime.cells.lstm import LSTM
from throughtime.cells.options import Option

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "GRU",
    "LSTM",
    "About",
    "Cell",
    "Elman",
    "Gates",
    "Option",
    "Read",
    "Share",
    "State",
    "Weights",
    "about",
    "find",
    "initialise",
    "known",
    "make",
]
