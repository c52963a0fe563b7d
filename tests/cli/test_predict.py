"""`throughtime predict` as a person meets it: a table on stdout or in a file, what to know on stderr."""

import csv
import io
import sys

import pytest

from throughtime.cli import terminal

SMALL = ("--epochs", 1, "--hidden", 4, "--batch-size", 8, "--measure", "none", "--quiet")


def test_predictions_go_to_stdout_and_notes_to_stderr(call, signs):
    assert call("train", signs, "--out", "a", *SMALL)[0] == 0
    status, out, err = call("predict", "a", signs)
    assert status == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["row", "prediction", "probability_0", "probability_1"]
    assert [row["row"] for row in rows] == [str(at) for at in range(60)]
    assert all(float(row["probability_0"]) + float(row["probability_1"]) == pytest.approx(1, abs=1e-5) for row in rows)
    assert "note: predicted by lstm, trained on signs.npz" in err
    assert "of the 60 answers in signs.npz were predicted (rows that were trained on count too)" in err


def test_a_file_is_written_whole_or_not_at_all(call, signs, tmp_path):
    call("train", signs, "--out", "a", *SMALL)
    status, out, err = call("predict", "a", signs, "--out", "p.csv")
    assert (status, out) == (0, "")
    assert "60 rows: p.csv" in err
    first = (tmp_path / "p.csv").read_bytes()
    status, out, err = call("predict", "a", signs, "--out", "p.csv")
    assert (status, out) == (2, "")
    assert "p.csv exists already; choose another --out, or replace it with --overwrite." in err
    assert call("predict", "a", signs, "--out", "p.csv", "--overwrite")[0] == 0
    assert (tmp_path / "p.csv").read_bytes() == first
    status, _, err = call("predict", "a", signs, "--out", "none/p.csv")
    assert status == 2
    assert "none/p.csv" in err
    assert not list(tmp_path.glob("*.writing")), "nothing is left half-written"


BAD = {
    "no folder": (("nowhere", "x.csv"), "nowhere"),
    "no file": (("a", "x.npz"), "x.npz: no such file"),
    "nothing to read": (("a",), "there is nothing to predict for"),
    "steps of what has none": (("a", "signs.npz", "--steps", 3), "--steps fits forecasts"),
    "no such cell": (("a", "signs.npz", "--cell", "gru"), '--cell "gru" names none of its cells; they are lstm'),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_predicted_is_one_line(call, signs, case):
    call("train", signs, "--out", "a", *SMALL)
    arguments, says = BAD[case]
    status, out, err = call("predict", *arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_a_pipe_gets_what_was_predicted_as_it_is_and_a_terminal_no_escapes(capfdbinary, monkeypatch):
    content = "row,prediction\n1,\x1b[31mroté 😀\n"
    terminal.data(content)
    assert capfdbinary.readouterr().out == content.encode()
    monkeypatch.setattr("sys.stdout", io.StringIO())
    terminal.data(content)
    assert sys.stdout.getvalue() == "row,prediction\n1,\\x1b[31mroté 😀\n"
