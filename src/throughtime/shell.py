"""Commands as they can be pasted into a shell, whatever a user has named things."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def shell_word(word: str | Path) -> str:
    """A word quoted for a shell; one that does not print is spelled in bytes ($'…'), so that it survives the copy."""
    plain = str(word)
    if plain.isprintable():
        return shlex.quote(plain)
    spelled = (chr(byte) if chr(byte) not in "\\'" and 32 <= byte < 127 else f"\\x{byte:02x}" for byte in _bytes(plain))
    return "$'" + "".join(spelled) + "'"


def _bytes(word: str) -> bytes:
    try:
        return os.fsencode(word)
    except UnicodeEncodeError:  # a surrogate that no file name of this system has
        return word.encode("utf-8", "backslashreplace")


def command_line(*words: str) -> str:
    """A command with its words quoted for a shell."""
    return " ".join(map(shell_word, words))
