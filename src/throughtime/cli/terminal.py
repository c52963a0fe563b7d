"""The one way of the command's words to a terminal or a pipe: what users and files named steers nothing there.

Names of folders, files, columns, labels and layers are plain text: no markup is read in them, characters that steer
a terminal are shown as escapes, and what the stream's encoding lacks is escaped as well instead of a traceback.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_JOINERS = "\u200c\u200d"  # invisible, and part of the spelling of many languages and of emoji


def settle() -> None:
    """Have both streams escape what their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def visible(text: str) -> str:
    """A text on one line: breaks are spaces, other characters that do not print are shown as escapes."""
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()


def say(text: object, *, error: bool = False) -> None:
    """Write one line on standard output, or on standard error."""
    stream = sys.stderr if error else sys.stdout  # as it is now: a live line in the terminal takes it over
    stream.write(f"{visible(str(text))}\n")


def data(content: str) -> None:
    """Write a file's content on standard output: as it is into a pipe or a file, and plainly on a terminal."""
    if sys.stdout.isatty() or not hasattr(sys.stdout, "buffer"):
        sys.stdout.write(_lines(content))
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(content.encode("utf-8", "backslashreplace"))
    sys.stdout.flush()


def console(*, error: bool = False) -> Console:
    """A console of rich that shows every text as it is: without markup, highlights, or what steers a terminal."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **how: Any) -> Text:
            return super().render_str(_lines(text), **how)  # before it is laid out, so that widths fit

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for part in super().render(renderable, options):  # what came as a Text
                yield part if part.control else Segment(_lines(part.text), part.style)

    return Plain(stderr=error, markup=False, highlight=False, emoji=False)


def _lines(text: str) -> str:
    return "\n".join(map(visible, text.split("\n")))
