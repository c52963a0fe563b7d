"""Looks into any torch model while it is trained: finds its recurrent layers, and catches what they did in a step."""

from throughtime.microscope.watcher import Watch, watch

__all__ = ["Watch", "watch"]
