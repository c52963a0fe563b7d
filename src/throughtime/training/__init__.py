"""Training: an iterator of updates, backpropagation through time, clipping, checkpoints."""

from throughtime.training.loop import Training, train

__all__ = ["Training", "train"]
