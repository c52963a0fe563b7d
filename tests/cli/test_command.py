"""The command as a person meets it: what it prints where, how it ends, and what it says to bad input."""

import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

VERBS = ("demo", "compare", "train", "measure", "report", "cells")


SMALL = ("--epochs", 1, "--hidden", 4, "--batch-size", 8)


def files(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_help_shows_an_example_for_each_verb(call):
    status, out, _ = call("--help")
    assert status == 0
    assert all(verb in out for verb in VERBS)
    for verb in VERBS:
        status, out, _ = call(verb, "--help")
        assert status == 0
        assert f"throughtime {verb}" in " ".join(out.split()).split("Example:")[1]


def test_compare_prints_a_table_on_stdout_and_progress_on_stderr(call, signs, tmp_path):
    status, out, err = call("compare", signs, "--cells", "rnn,gru:reset=before", "--out", "here", *SMALL)
    assert status == 0
    assert re.search(r"^rnn .*%", out, re.M)
    assert "gru:reset=before" in out
    assert out.rstrip().endswith("report: here/report.html")
    assert "rnn: 6 updates" in err
    assert (tmp_path / "here" / "report.html").stat().st_size < 1_000_000
    assert {p.name for p in tmp_path.iterdir()} == {"signs.npz", "here"}, "nothing outside the run's folder"


def test_quiet_leaves_the_result_alone(call, signs):
    status, out, err = call("train", signs, "--quiet", *SMALL)
    assert (status, err) == (0, "")
    assert out.rstrip().endswith("report: runs/signs/report.html")


def test_a_report_is_drawn_again_from_records_alone(call, signs, tmp_path):
    call("train", signs, "--out", "a", *SMALL)
    first = (tmp_path / "a" / "report.html").read_bytes()
    for weights in (tmp_path / "a").rglob("*.safetensors"):
        weights.unlink()
    (tmp_path / "a" / "report.html").unlink()
    (tmp_path / signs).unlink()
    status, out, _ = call("report", "a")
    assert (status, out.strip()) == (0, "a/report.html")
    assert (tmp_path / "a" / "report.html").read_bytes() == first
    (tmp_path / "mine.html").write_text("mine")
    assert call("report", "a", "--out", "mine.html")[0] == 2
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_the_report_needs_no_torch(call, signs, tmp_path):
    call("train", signs, "--out", "a", *SMALL)
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['throughtime', 'report', 'a']\n"
        "from throughtime.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "a/report.html"), done.stderr


def test_a_rehearsal_keeps_nothing(call, signs, tmp_path):
    status, out, _ = call("train", signs, "--dry-run", *SMALL)
    assert status == 0
    assert "nothing was kept" in out
    assert files(tmp_path) == [signs]


def test_an_existing_folder_is_kept_or_replaced_when_asked(call, signs, tmp_path):
    call("train", signs, "--out", "a", *SMALL)
    before = files(tmp_path / "a")
    status, _, err = call("train", signs, "--out", "a", *SMALL)
    assert status == 2
    assert "exists already" in err
    assert files(tmp_path / "a") == before
    assert call("train", signs, "--out", "a", "--overwrite", "--cell", "gru", *SMALL)[0] == 0
    assert "gru/run.json" in files(tmp_path / "a")
    assert "lstm/run.json" not in files(tmp_path / "a")


def test_no_folder_named_means_a_fresh_one(call, signs, tmp_path):
    for name in ("signs", "signs-2"):
        assert call("train", signs, *SMALL)[1].rstrip().endswith(f"runs/{name}/report.html")


def test_truncated_and_clipped(call, signs):
    words = ("--window", 4, "--stride", 2, "--clip", 0, "--readout", "last")
    assert call("train", signs, *words, *SMALL)[0] == 0
    assert call("train", signs, "--clip-by", "percentile", "--clip", 10, *SMALL)[0] == 0


def test_every_way_of_reading_is_an_option(call, tmp_path):
    rows = "".join(f"{i % 7},{i % 5},{i % 3}\n" for i in range(90))
    (tmp_path / "three.csv").write_text("a,b,c\n" + rows)
    words = ("--target", "a", "--target", "c", "--split", 0.5, 0.25, 0.25, "--no-standardise", "--max-length", 8)
    status, _, err = call("train", "three.csv", "--out", "a", *words, "--epochs", 1, "--hidden", 4, "--batch-size", 2)
    assert status == 0, err
    assert 'predicts the next row\'s "a", "c"' in err
    assert "standardised" not in err
    assert call("train", "--resume", "a")[0] == 0, "the plan comes back as it was typed"


def test_an_error_is_one_line_whatever_a_file_holds(call, tmp_path):
    (tmp_path / "odd.csv").write_text('text,"la\nbel\x1b[31m"\n"a good film",x\n"a bad film",x\n"a dull film",x\n')
    status, _, err = call("train", "odd.csv")
    assert status == 2
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err


BAD = {
    "no source": (["compare"], "no source was named"),
    "absent file": (["train", "nowhere.csv"], "nowhere.csv"),
    "a misspelt task": (["train", "digitz"], "digitz"),
    "unknown cell": (["train", "signs.npz", "--cell", "lstmm"], 'no cell is named "lstmm"'),
    "unknown option of a cell": (["train", "signs.npz", "--cell", "gru:peephole=true"], "peephole"),
    "a cell twice": (["compare", "signs.npz", "--cells", "gru,gru"], "twice"),
    "no such option": (["train", "signs.npz", "--epoch", "3"], "--epoch"),
    "a value out of range": (["train", "signs.npz", "--epochs", "0"], "--epochs"),
    "a seed that is too large": (["train", "signs.npz", "--seed", str(2**64)], "--seed"),
    "a name too long for a file": (["train", "a" * 300], "is no file"),
    "shares that are none": (["train", "signs.npz", "--split", "1", "0", "0"], "three positive shares"),
    "a batch larger than the data": (["train", "signs.npz", "--batch-size", "1000"], "1000"),
    "an option that does not fit": (["train", "signs.npz", "--lag", "3"], "--lag"),
    "resume nothing": (["train", "--resume", "nothing"], "study.json"),
    "resume with a setting": (["train", "--resume", "x", "--epochs", "3"], "--resume"),
    "report of nothing": (["report", "nothing"], "study.json"),
    "an engine that is not": (["train", "signs.npz", "--engine", "warp"], "warp"),
    "an engine that cannot": (["train", "signs.npz", "--cell", "lstm:peephole=true", "--engine", "native"], "native"),
    "a device that is not": (["train", "signs.npz", "--device", "abacus"], "abacus"),
    "forget bias and chrono": (["train", "signs.npz", "--forget-bias", "1", "--chrono", "9"], "chrono"),
    "a stride without a window": (["train", "signs.npz", "--stride", "2"], "stride"),
    "a net beyond all memory": (["train", "signs.npz", "--hidden", "99999999999"], "take fewer"),
    "a task beyond all memory": (["train", "adding", "--lag", "1000000000000"], "fewer"),
    "no gate to bias": (
        ["train", "signs.npz", "--cell", "rnn", "--forget-bias", "5"],
        "--forget-bias",
    ),
    "no such verb": (["foretell"], "foretell"),
    "an unwritable place": (["train", "signs.npz", "--out", "signs.npz/runs"], "signs.npz/runs"),
    "a tracker that is not": (["train", "signs.npz", "--tracker", "abacus"], "abacus"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_use_ends_with_status_2_one_clear_message_and_nothing_written(call, signs, tmp_path, name):
    words, told = BAD[name]
    status, out, err = call(*words)
    assert status == 2, (out, err)
    assert out == ""
    assert told in " ".join(err.replace("│", " ").split()), err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1 + err.count("note: ")
    assert files(tmp_path) == [signs]


def test_a_run_that_diverges_says_so_and_keeps_what_it_has(call, tmp_path, rng):
    np.savez(tmp_path / "huge.npz", x=rng.normal(size=(60, 6, 2)).astype(np.float32), y=np.arange(60) % 2)
    words = ("train", "huge.npz", "--cell", "rnn:nonlinearity=relu", "--rate", "1e38", "--clip", "0", "--out", "a")
    status, out, err = call(*words, *SMALL)
    assert status == 2
    assert "a/report.html" in out, "what there is, is shown"
    last = err.strip().splitlines()[-1]
    assert last.startswith("throughtime: rnn:nonlinearity=relu: update")
    assert "rate" in last
    assert "a/rnn-nonlinearity=relu/events.jsonl" in ["a/" + f for f in files(tmp_path / "a")]
    status, _, err = call("train", "--resume", "a")
    assert (status, err.strip().splitlines()[-1]) == (2, last), "a run that failed stays failed"


def test_going_on_takes_nothing_beside_the_plan(call, signs):
    call("train", signs, "--out", "a", *SMALL)
    for beside in ([signs], ["--seed", 1], ["--device", "cpu"], ["--cell", "gru"], ["--epochs", 9]):
        status, out, err = call("train", *beside, "--resume", "a")
        assert (status, out) == (2, "")
        assert "--resume goes on with the plan in its folder" in err
    for verb in ("train", "compare", "demo"):
        assert call(verb, "--resume", "a", "--quiet")[0] == 0


def test_a_long_name_never_costs_a_number(call, signs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    cell = "lstm:peephole=true:forget_gate=false:squash=identity:output_gate=false"
    status, out, _ = call("compare", signs, "--cells", f"gru,{cell}", "--quiet", *SMALL)
    assert status == 0
    rows = out.split("the obvious guess")[0].splitlines()
    assert rows[0].split() == [
        "cell",
        "test",
        "accuracy",
        "horizon",
        "half-life",
        "decay",
        "clipped",
        "updates",
        "seconds",
    ]
    assert "…" not in out
    assert "".join(row.split()[0] for row in rows[2:]) == cell
    assert max(map(len, rows)) <= 80


def test_the_cells_are_listed_by_every_name_they_go_by(call):
    assert "elman, rnn" in call("cells")[1]


def test_ctrl_c_saves_and_the_study_goes_on(signs, tmp_path):
    command = [sys.executable, "-c", "from throughtime.cli import main; main()"]
    words = ["train", signs, "--out", "a", "--epochs", "4000", "--hidden", "4", "--batch-size", "8"]
    running = subprocess.Popen(
        [*command, *words], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    history = tmp_path / "a" / "lstm" / "events.jsonl"
    patience = time.monotonic() + 60
    while not (history.exists() and history.stat().st_size) and time.monotonic() < patience:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert out == ""
    assert "throughtime train --resume a" in err
    assert (tmp_path / "a" / "lstm" / "checkpoints" / "latest").exists()
    done = subprocess.run(
        [*command, "report", "a"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, "what there is can be looked at"
