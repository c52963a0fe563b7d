"""Recurrences, one file each, and the contract they share."""

from throughtime.cells.cell import Cell, Gates, Read, Share, State, Weights, find, known, make
from throughtime.cells.elman import Elman
from throughtime.cells.gru import GRU
from throughtime.cells.lstm import LSTM

__all__ = [
    "GRU",
    "LSTM",
    "Cell",
    "Elman",
    "Gates",
    "Read",
    "Share",
    "State",
    "Weights",
    "find",
    "known",
    "make",
]
