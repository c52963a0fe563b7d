"""Layers of recurrences: drop-ins for torch.nn's, and any other cell the same way."""

from throughtime.modules.adopt import from_torch
from throughtime.modules.dropins import GRU, LSTM, RNN
from throughtime.modules.recurrent import Recurrent

__all__ = ["GRU", "LSTM", "RNN", "Recurrent", "from_torch"]
