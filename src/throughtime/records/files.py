"""Records to JSON and npz and back."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import typing
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from throughtime.disk import write_whole
from throughtime.errors import InputError
from throughtime.records.decoding import decode

FORMAT = 1  # raised when a field changes its meaning
# What reading and decoding a damaged file may raise; RuntimeError: zip members that are encrypted, or nested too deep.
DAMAGE = (
    *(EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)

_Record = TypeVar("_Record")


def encode(value: Any, arrays: dict[str, NDArray[Any]], path: str = "") -> Any:
    """A record as plain JSON values; its arrays go to `arrays` under their path."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value)]
        return {name: encode(getattr(value, name), arrays, f"{path}/{name}") for name in names}
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {"$array": path}
    if isinstance(value, Mapping):
        return {str(key): encode(inner, arrays, f"{path}/{key}") for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [encode(inner, arrays, f"{path}/{i}") for i, inner in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    return value


@dataclasses.dataclass(frozen=True)
class _Whole:
    """What stands under "record" in a file that `write` wrote."""

    format: int
    kind: str
    record: Mapping[str, Any]


def write(record: Any, path: Path) -> None:
    """Write a record to one `.npz` file: its arrays, and the rest as JSON under "record"; whole or not at all.

    Raises InputError if it cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    text = json.dumps({"format": FORMAT, "kind": type(record).__name__, "record": encode(record, arrays)})
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, record=np.frombuffer(text.encode(), np.uint8), **arrays)
    write_whole(path, content.getvalue())


def read(kind: type[_Record], path: Path) -> _Record:
    """Read a record that `write` wrote.

    Raises InputError if the file is absent, damaged, or holds something else.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = dict(file)
        whole = msgspec.json.decode(bytes(arrays.pop("record")), type=_Whole)
        if whole.kind != kind.__name__ or whole.format > FORMAT:
            raise InputError(
                f"{path}: holds a {whole.kind} of format {whole.format}, not a {kind.__name__} of format "
                f"{FORMAT} or older; read it with the version of throughtime that wrote it."
            )
        return typing.cast(_Record, decode(kind, whole.record, arrays))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; is this the folder of a run?") from None
    except DAMAGE as error:
        raise InputError(f"{path}: this record is damaged ({error}); measure again, or restore the file.") from error


def write_json(record: Any, path: Path) -> None:
    """Write a record without arrays as JSON, whole or not at all.

    Raises InputError if it cannot be written.
    """
    write_whole(path, json.dumps(encode(record, {}), indent=1, ensure_ascii=False).encode())


def read_json(kind: type[_Record], path: Path, *, absent: str, again: str) -> _Record:
    """Read a record that `write_json` wrote; `absent` and `again` say what to do if it is not there, or damaged.

    Raises InputError if the file is absent, damaged, or holds something else.
    """
    try:
        return typing.cast(_Record, decode(kind, msgspec.json.decode(path.read_bytes()), {}))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {absent}") from None
    except DAMAGE as error:
        raise InputError(f"{path}: cannot be read ({error}); restore the file, or {again}.") from error
