"""Words that users and files chose, on a terminal, in a pipe, in a command to copy and in a page."""

import io
import json
import re
import sys

import numpy as np
import pytest

from throughtime.cli import terminal
from throughtime.view.figures import Axis, Bars, block
from throughtime.view.markup import fit, tag

NAMED = "a\x1b[31m[/b] [bold]x\x07 \udcff"


def written(monkeypatch, encoding):
    """Standard output and error in an encoding, from now on."""
    raw = io.BytesIO(), io.BytesIO()
    for name, buffer in zip(("stdout", "stderr"), raw, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding=encoding, write_through=True))
    return raw


def test_a_line_shows_what_would_steer_a_terminal(monkeypatch):
    latin = written(monkeypatch, "latin-1")
    terminal.settle()
    terminal.say(NAMED)
    terminal.say("≥ 2", error=True)
    assert latin[0].getvalue() == rb"a\x1b[31m[/b] [bold]x\x07 \udcff" + b"\n"
    assert latin[1].getvalue() == rb"\u2265 2" + b"\n"


def test_a_console_reads_no_markup_and_passes_no_escapes(monkeypatch):
    from rich.table import Table

    latin = written(monkeypatch, "latin-1")
    terminal.settle()
    monkeypatch.setenv("COLUMNS", "100")
    table = Table(box=None, pad_edge=False)
    table.add_column("layer")
    table.add_row(NAMED)
    console = terminal.console()
    console.print(table)
    console.print(NAMED, soft_wrap=True)
    console.print("≥ 2 数", soft_wrap=True)
    lines = latin[0].getvalue().splitlines()
    assert lines[1].rstrip() == lines[2] == rb"a\x1b[31m[/b] [bold]x\x07 \udcff"
    assert lines[3] == rb"\u2265 2 \u6570"


def test_joiners_are_part_of_the_spelling():
    assert terminal.visible("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645\n\u202e") == "می\u200cخواهم \\u202e"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("words", [["--help"], ["cells"], ["cells", "lstm"], ["train", "--help"], ["cells", "数\x1b"]])
def test_every_encoding_gets_an_answer(words, encoding, monkeypatch):
    from throughtime import cli

    raw = written(monkeypatch, encoding)
    monkeypatch.setattr(sys, "argv", ["throughtime", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == (2 if "\x1b" in words[-1] else 0)
    told = raw[0].getvalue() + raw[1].getvalue()
    assert told
    assert b"\x1b" not in told


def test_a_study_whose_names_are_hostile_ends_with_its_report(call, tmp_path, rng):
    np.savez(tmp_path / "signs.npz", x=rng.normal(size=(40, 5, 2)).astype(np.float32), y=np.arange(40) % 2)
    place = tmp_path / "out [bold]x[/b] \x1b[31m"
    status, out, err = call("train", str(tmp_path / "signs.npz"), "--out", str(place), "--epochs", "1", "--hidden", "2")
    assert status == 0, err
    assert "[bold]x[/b] \\x1b[31m" in out
    assert "\x1b" not in out + err
    assert (place / "report.html").is_file()


def test_pages_and_pictures_hold_no_character_that_xml_lacks():
    assert fit("a\0\x1b\uffff\udcff\t\n") == "a\ufffd\ufffd\ufffd\ufffd\t\n"
    assert tag("p", "\x1b<", title="\0") == '<p title="\ufffd">\ufffd&lt;</p>'


def test_a_figure_s_data_holds_no_character_that_xml_lacks():
    name = 'a\0\x1b\b\uffff\udcff"\\u001b'
    bars = Bars(title=name, note="", file="f", axis=Axis(label="a"), bars=())
    assert json.loads(block(bars))["title"] == 'a\ufffd\ufffd\ufffd\ufffd\ufffd"\\u001b'
    assert not re.search(r"[\0-\x08\x0b-\x1f\ud800-\udfff\uffff]", block(bars))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--layers", "100000"], "100,000 layers cannot be built"),
        (["--hidden", "3000000"], "3,000,000 units in 1 layers need at least"),
        (["--lag", "1000000000"], "steps in a sample are more than can be made here"),
        (["--samples", "1000000000"], "1,000,000,000 samples are more than can be made here"),
    ],
)
def test_a_size_that_cannot_be_is_one_sentence_at_once(call, tmp_path, words, says):
    status, out, err = call("train", "adding", *words, "--out", "o")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert not (tmp_path / "o").exists()


def test_an_empty_list_of_cells_is_not_the_usual_three(call):
    status, _, err = call("compare", "adding", "--cells", "")
    assert (status, "no cell was named" in err) == (2, True)


def test_a_verb_that_is_nearly_one_is_asked_about_without_a_stop_after_the_question(call):
    status, _, err = call("trian", "adding")
    assert (status, "'train'? See `throughtime --help`.\n" in err) == (2, True)
