"""Bytes from a file, decompressed, checked and told by their digest; every failure says which file and where."""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import zipfile
import zlib
from dataclasses import dataclass
from os.path import isdir
from pathlib import Path

from throughtime.errors import InputError

STANDARD_INPUT = "-"


@dataclass(frozen=True, eq=False)
class File:
    """A file as read."""

    name: str  # without its folder, as it is shown
    ending: str  # the last ending, lower case, ".gz" apart: ".csv"
    data: bytes  # decompressed

    @property
    def digest(self) -> str:
        """SHA-256 of the decompressed bytes, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    def text(self) -> str:
        """The file as UTF-8 text, without a byte-order mark.

        Raises InputError naming the first byte and row that are not UTF-8.
        """
        try:
            return self.data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            if self.data[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise InputError(f"{self.name}: this looks like UTF-16, not UTF-8; save it as UTF-8.") from None
            # The error counts from behind a byte-order mark, if there is one.
            at = error.start + (3 if self.data.startswith(b"\xef\xbb\xbf") else 0)
            row = self.data.count(b"\n", 0, at) + 1
            raise InputError(
                f"{self.name}, row {row}: byte {at} (0x{self.data[at]:02x}) is not UTF-8; save the file as UTF-8, "
                "for example with: iconv -f latin1 -t utf-8."
            ) from None


def read(path: Path) -> File:
    """Read a whole file, decompressing `.gz` and a `.zip` that holds one file; "-" is standard input, a `.csv`.

    Raises InputError if it is absent, a folder, empty, damaged, or may not be read.
    """
    if str(path) == STANDARD_INPUT:
        return _standard_input()
    if isdir(path):
        raise InputError(f"{path}: this is a folder; name one file in it.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check its permissions.") from error
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] == ".gz":
        endings.pop()
        data = _decompressed(data, path)
    if endings and endings[-1] == ".zip":
        inside, data = _unzipped(data, path)
        endings = [ending.lower() for ending in Path(inside).suffixes]
    if not data:
        raise InputError(f"{path.name}: the file is empty; give one with data in it.")
    return File(path.name, endings[-1] if endings else "", data)


def _standard_input() -> File:
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError('"-" reads a table from standard input, and none is piped in; type: throughtime ... - < FILE.')
    data = sys.stdin.buffer.read()
    if not data:
        raise InputError("standard input: it is empty; if it was read before, save it as a file and name that.")
    return File("standard input", ".csv", data)


def _decompressed(data: bytes, path: Path) -> bytes:
    if not data:
        raise InputError(f"{path.name}: the file is empty; give one with data in it.")
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path.name}: this gzip file is damaged ({error}); fetch it again.") from error


def _unzipped(data: bytes, path: Path) -> tuple[str, bytes]:
    """The name and the bytes of the one file in an archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            held = [
                each for each in archive.infolist() if not each.is_dir() and not each.filename.startswith("__MACOSX/")
            ]
            if len(held) != 1:
                raise InputError(f"{path.name}: the archive holds {len(held)} files; unpack it and name one of them.")
            return held[0].filename, archive.read(held[0])
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
        raise InputError(f"{path.name}: this zip file cannot be read ({error}); unpack or fetch it again.") from error
