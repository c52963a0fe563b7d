"""Small files of every kind, made where a test wants them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl

GOOD = ("a fine film with a warm heart", "truly great acting and music", "we loved every minute of it")
BAD = ("a dull film with a cold heart", "truly awful acting and noise", "we hated every minute of it")


def reviews(count: int = 60) -> pl.DataFrame:
    """`count` different reviews, half of them of each label."""
    rows = []
    for i in range(count):
        good = i % 2 == 0
        rows.append({"review": f"{(GOOD if good else BAD)[i % 3]} number {i}", "sentiment": "good" if good else "bad"})
    return pl.DataFrame(rows)


def walk(steps: int = 200, seed: int = 0) -> np.ndarray:
    """A random walk, (steps,)."""
    return np.random.default_rng(seed).normal(size=steps).cumsum()


def write(path: Path, content: str | bytes) -> Path:
    """A file of this content, compressed if its name ends in .gz."""
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_table(frame: pl.DataFrame, path: Path) -> Path:
    """A table in the format of the name's ending."""
    match path.name.removesuffix(".gz").rpartition(".")[2]:
        case "csv":
            return write(path, frame.write_csv())
        case "tsv":
            return write(path, frame.write_csv(separator="\t"))
        case "jsonl":
            return write(path, frame.write_ndjson())
        case _:
            frame.write_parquet(path)
            return path
