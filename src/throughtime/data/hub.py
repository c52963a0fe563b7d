"""Tables from the hub, fetched by the library `datasets`; the only source that needs a network, and only if named."""

from __future__ import annotations

import hashlib
from typing import Any

import polars as pl

from throughtime.data.tables import Table, listed
from throughtime.errors import InputError

PREFIX = "hub:"


def read(source: str) -> Table:
    """The table of `hub:NAME` or `hub:NAME:CONFIGURATION`: its training split, or its only one.

    Raises InputError if `datasets` is not installed or the table cannot be fetched.
    """
    name, _, configuration = source.removeprefix(PREFIX).partition(":")
    if not name:
        raise InputError("hub: needs the name of a dataset behind it, such as hub:stanfordnlp/imdb.")
    try:
        import datasets
    except ImportError:
        raise InputError(
            f'{source}: the hub needs the library datasets; install it with: pip install "throughtime[hub]".'
        ) from None
    try:
        splits = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # the library raises errors of many families: network, names, formats
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{source}: cannot be fetched ({reason}); check the name and the network.") from error
    chosen = "train" if "train" in splits else next(iter(splits))
    others = [other for other in splits if other != chosen]
    notes = (f'split "{chosen}" of the hub\'s dataset' + (f"; left out: {listed(others)}" if others else ""),)
    frame = _named(splits[chosen])
    if not frame.height:
        raise InputError(f'{source}: its split "{chosen}" has no row; choose another dataset.')
    digest = hashlib.sha256(frame.write_ndjson().encode()).hexdigest()
    return Table(source, frame, 1, digest, notes)


def _named(split: Any) -> pl.DataFrame:
    """The rows, with the names of classes in place of their numbers."""
    frame: pl.DataFrame = split.to_polars()
    for column, feature in split.features.items():
        names = getattr(feature, "names", None)
        if isinstance(names, list) and frame[column].dtype.is_integer():
            labels = [names[code] if code is not None and 0 <= code < len(names) else None for code in frame[column]]
            frame = frame.with_columns(pl.Series(column, labels, dtype=pl.String))
    return frame
