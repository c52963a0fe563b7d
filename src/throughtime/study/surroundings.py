"""With what, and on what, something was measured."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch

PACKAGES = ("throughtime", "torch", "numpy", "accelerate", "safetensors", "polars")


def versions() -> dict[str, str]:
    """Python's version, and those of the packages that decide the numbers."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def machine(device: torch.device) -> str:
    """The machine in words, with what a model runs on there."""
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else f"the {device.type.upper()}"
    threads = torch.get_num_threads()
    return f"{platform.system()} {platform.machine()}, {threads} thread{'s' if threads > 1 else ''}, on {named}"


def memory() -> int | None:
    """The machine's memory in bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
