"""Reads and runs the examples in Markdown files.

The conventions, all there are:

- Blocks marked `python` run in order, in one namespace a file, in an empty folder.
- `expression  # -> text` at the end of a statement: the value, as `str` or `repr` shows it, or what the statement
  prints, is that text; `...` stands for anything.
- A block marked `csv file=reviews.csv` (any language, any name) is a file in that folder.
- In blocks marked `console`, lines that start with `$ ` are commands; in blocks marked `sh`, all lines are. The
  arguments of `throughtime` are parsed, nothing is run; targets of `make` are looked up.
"""

from __future__ import annotations

import ast
import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import typer

FENCE = re.compile(r"^```(\S*)[ \t]*(.*?)[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
ANSWER = re.compile(r"#\s*->\s*(.*\S)\s*$")
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a Markdown file."""

    language: str
    file: str | None
    text: str
    line: int  # of the file, of the block's first line of text


def blocks(markdown: Path) -> list[Block]:
    text = markdown.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        named = re.search(r"\bfile=(\S+)", match[2])
        line = text.count("\n", 0, match.start(3)) + 1
        found.append(Block(match[1], named[1] if named else None, match[3], line))
    return found


def run(markdown: Path, folder: Path) -> int:
    """Run the file's Python in `folder`, which is the current one; returns how many answers were compared."""
    namespace: dict[str, object] = {"__name__": markdown.stem}
    compared = 0
    for block in blocks(markdown):
        if block.file is not None:
            (folder / block.file).write_text(block.text, encoding="utf-8")
        if block.language == "python":
            compared += _run(block, markdown.name, namespace)
    return compared


def _run(block: Block, name: str, namespace: dict[str, object]) -> int:
    tree = ast.parse(block.text)
    lines = block.text.splitlines()
    compared = 0
    for statement in tree.body:
        answer = ANSWER.search(lines[(statement.end_lineno or 0) - 1][statement.end_col_offset or 0 :])
        place = f"{name}, line {block.line + (statement.end_lineno or 0) - 1}"
        ast.increment_lineno(statement, block.line - 1)
        shown = _execute(statement, name, namespace)
        if answer:
            compared += 1
            assert any(_fits(text, answer[1]) for text in shown), f"{place}: says {answer[1]}, is {shown[-1]}"
    return compared


def _execute(statement: ast.stmt, name: str, namespace: dict[str, object]) -> tuple[str, ...]:
    """Run one statement; the ways in which its result may be written."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        if isinstance(statement, ast.Expr):
            value = eval(compile(ast.Expression(statement.value), name, "eval"), namespace)
        else:
            exec(compile(ast.Module([statement], []), name, "exec"), namespace)
            value = None
    return (str(value), repr(value)) if value is not None else (printed.getvalue().strip(),)


def _fits(text: str, pattern: str) -> bool:
    return re.fullmatch(".*".join(re.escape(piece) for piece in pattern.split("...")), text) is not None


def commands(markdown: Path) -> Iterator[tuple[int, list[str]]]:
    """The commands of a file: line, words."""
    for block in blocks(markdown):
        if block.language not in ("console", "sh"):
            continue
        lines = re.sub(r"\\\n\s*", " ", block.text).splitlines()
        for offset, line in enumerate(lines):
            if block.language == "console" and not line.startswith("$ "):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield block.line + offset, words


def arguments(words: list[str]) -> list[str] | None:
    """What follows `throughtime` in a command, or None if the command is another."""
    launched = [i for i, word in enumerate(words) if Path(word).name == "throughtime"]
    direct = words[0] in ("accelerate", "python") or Path(words[0]).name == "throughtime"
    return words[launched[0] + 1 :] if launched and direct else None


def complaint(app: typer.Typer, words: list[str]) -> str | None:
    """What the command line has against these arguments, as a person would see it; no verb is run."""
    if not words:
        return None
    command = typer.main.get_command(app)
    for verb in command.commands.values():  # of a tree that was built for this call alone
        verb.callback = lambda **_: None
    shown = io.StringIO()
    try:
        with redirect_stdout(shown), redirect_stderr(shown):
            command.main(args=words, prog_name="throughtime")
    except SystemExit as end:
        return shown.getvalue() if end.code else None
    return None


def broken_links(markdown: Path, root: Path) -> list[str]:
    """Relative links of the file that lead nowhere, or out of `root`."""
    prose = FENCE.sub("", markdown.read_text(encoding="utf-8"))
    broken = []
    for link in LINK.findall(prose):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (markdown.parent / path).resolve() if path else markdown
        leads = target.exists() and target.is_relative_to(root)
        if not leads or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def anchors(markdown: Path) -> set[str]:
    """The anchors that headings get: lower case, punctuation dropped, spaces as hyphens."""
    prose = FENCE.sub("", markdown.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in HEADING.findall(prose)}
