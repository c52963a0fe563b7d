"""Sequences to learn from: one front door, `load`, for files, for tasks made by rule, and for the hub."""

from throughtime.data.dataset import Batch, Dataset, Split, Stream
from throughtime.data.front import known, load

__all__ = ["Batch", "Dataset", "Split", "Stream", "known", "load"]
