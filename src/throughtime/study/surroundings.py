"""With what, and on what, something was measured. No torch."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = ("throughtime", "torch", "numpy", "accelerate", "safetensors", "polars")


def versions() -> dict[str, str]:
    """Python's version, and those of the packages that decide the numbers."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def machine(threads: int, device: str) -> str:
    """The machine in words."""
    return f"{platform.system()} {platform.machine()}, {threads} threads, on {device}"
