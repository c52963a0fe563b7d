"""`python -m benchmarks [NAME ...] [--write]`: run the comparisons and print one table.

Each file of this folder with a function `rows()` is a comparison. With --write the table also goes to
benchmarks/RESULTS.md, with the machine and the versions it was made on.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.table import Row

HERE = Path(__file__).parent
HEADINGS = ("comparison", "size", "ours", "peer", "peer's name", "ratio", "spread, limit")
NOT_COMPARISONS = {"__main__", "families", "scan", "table"}


def known() -> list[str]:
    """The comparisons there are, by file name."""
    return sorted(module.name for module in iter_modules([str(HERE)]) if module.name not in NOT_COMPARISONS)


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, in the order of HEADINGS."""
    ours, peer = (f"{value:.3g} {row.unit}" for value in (row.ours, row.peer))
    return (row.comparison, row.size, ours, peer, row.peer_name, f"{row.ratio:.2f}", row.note)


def machine() -> str:
    """What the numbers were made on, in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = (line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name"))
        model = next(named, f": {model}").partition(":")[2].strip()
    names = ["throughtime", "torch", "numpy", *(["jax"] if find_spec("jax") else [])]
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {versions}"


def markdown(rows: Sequence[Row], made: str) -> str:
    """The table as a Markdown page."""
    lines = ["# Speed and memory beside peers", "", f"{made}: {machine()}.", ""]
    lines += [
        "Both sides of a row were measured in turns in one run; the ratio is ours over the peer's, so under 1 is less "
        "time or memory than the peer takes. `make bench` prints this table for your machine.",
        "",
    ]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Comparisons to run (default: all).")] = None,
    write: Annotated[bool, typer.Option("--write", help="Also write benchmarks/RESULTS.md.")] = False,
) -> None:
    """Measure throughtime beside its peers and print one table."""
    there = known()
    unknown = set(names or ()) - set(there)
    if unknown:
        typer.echo(f"no comparison is named {', '.join(sorted(unknown))}; there is {', '.join(there)}", err=True)
        sys.exit(2)
    progress = Console(stderr=True)
    rows: list[Row] = []
    for name in names or there:
        start = time.perf_counter()
        found = import_module(f"benchmarks.{name}").rows()
        progress.print(f"{name}: measured in {time.perf_counter() - start:.0f} s", highlight=False)
        rows += found
    table = Table(*HEADINGS, caption=machine(), caption_justify="left")
    for row in rows:
        table.add_row(*cells(row))
    screen = Console()
    Console(width=None if screen.is_terminal else 160).print(table)
    if write:
        (HERE / "RESULTS.md").write_text(markdown(rows, time.strftime("%Y-%m-%d")), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
