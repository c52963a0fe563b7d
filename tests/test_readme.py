"""What the README and the pages in docs/ show is true: their Python runs, their commands parse, their links lead on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.snippets import arguments, blocks, broken_links, commands, complaint, run
from tests.tree import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, where a cell that is defined is forgotten again."""
    from throughtime.cells import cell

    monkeypatch.setattr(cell, "_KNOWN", dict(cell._KNOWN))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What Lightning says of torch, of a GPU beside, and of a loader as small as that in docs/integrations.md.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:GPU available but not used")
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_runs(page: Path, empty_folder: Path) -> None:
    run(page, empty_folder)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_parse(page: Path) -> None:
    from throughtime.cli import app

    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    wrong = []
    for line, words in commands(page):
        given = arguments(words)
        if given is not None and (reason := complaint(app, given)):
            wrong.append(f"line {line}: {' '.join(words)}: {reason}")
        if words[0] == "make":
            wrong += [f"line {line}: there is no make {name}" for name in set(words[1:]) - targets]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken_links(page, ROOT)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_blocks_say_what_they_are(page: Path) -> None:
    """A block under another name for Python would not be run, and one under none is not known."""
    strange = {f"line {block.line}: {block.language}" for block in blocks(page)} & {
        f"line {block.line}: {name}"
        for block in blocks(page)
        for name in ("", "py", "python3", "bash", "shell", "pycon")
    }
    assert not strange, f"{strange}: use python, console, sh or text"


def test_the_front_page_shows_the_trap(empty_folder: Path) -> None:
    """The first thing to learn here: the gradient that a hook on the outputs shows is not the one through time."""
    shown = [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]
    assert any("retain_grad" in text for text in shown)
    assert run(ROOT / "README.md", empty_folder) >= 1


def test_the_front_page_says_how_to_begin() -> None:
    begun = [" ".join(words) for _, words in commands(ROOT / "README.md")]
    assert "make demo" in begun
    assert "make test" in begun


# -- the reader itself


def page(folder: Path, text: str) -> Path:
    file = folder / "page.md"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_wrong_answer_is_found_with_its_line(tmp_path: Path) -> None:
    wrong = page(tmp_path, "# One\n\n```python\na = 1\n```\n\nThen\n\n```python\na + 1  # -> 3\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md, line 10: says 3, is 2"):
        run(wrong, tmp_path)


def test_answers_may_be_values_or_prints_and_have_gaps(tmp_path: Path) -> None:
    right = page(tmp_path, "```python\nprint('a')  # -> a\n'b'  # -> b\n'b'  # -> 'b'\n1 / 3  # -> 0.33...\n```\n")
    assert run(right, tmp_path) == 4


def test_an_error_in_a_snippet_carries_its_line(tmp_path: Path) -> None:
    broken = page(tmp_path, "text\n\n```python\n\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run(broken, tmp_path)
    assert caught.traceback[-1].lineno + 1 == 5


def test_files_are_put_beside_the_snippets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    snippet = "import pathlib\npathlib.Path('a.csv').read_text().split()  # -> ['x', '1']\n"
    with_file = page(tmp_path, f"```csv file=a.csv\nx\n1\n```\n```python\n{snippet}```\n")
    assert run(with_file, tmp_path) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("throughtime train a.csv  # once", ["train", "a.csv"]),
        (".venv/bin/throughtime demo", ["demo"]),
        ("accelerate launch --num_processes 2 -m throughtime train a.csv", ["train", "a.csv"]),
        ("pip install throughtime", None),
        ("git clone throughtime", None),
    ],
)
def test_the_arguments_of_a_command(tmp_path: Path, line: str, expected: Any) -> None:
    ((_, words),) = commands(page(tmp_path, f"```console\n$ {line}\nits output\n```\n"))
    assert arguments(words) == expected


@pytest.mark.parametrize(
    "words", [["trian", "a.csv"], ["train", "a.csv", "--no-such-option"], ["train", "a.csv", "--seed", "x"]]
)
def test_a_command_that_does_not_parse_is_found(words: list[str]) -> None:
    from throughtime.cli import app

    assert complaint(app, words)


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    text = "# A b\n[1](page.md#a-b) [2](https://example.org/x) [3](gone.md) [4](page.md#c) [5](../out.md)\n"
    assert broken_links(page(tmp_path, text), tmp_path) == ["gone.md", "page.md#c", "../out.md"]
