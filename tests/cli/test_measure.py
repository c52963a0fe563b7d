"""`throughtime measure` as a stranger meets it: a model in a file of one's own, data, a report; and every mistake."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from tests.tree import ROOT
from throughtime.disk import LOCK

MODELS = '''
import torch
from torch import nn


class Reader(nn.Module):
    def __init__(self, inputs=2, outputs=2, hidden=4):
        super().__init__()
        self.rnn = nn.GRU(inputs, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x, lengths=None):
        return self.head(self.rnn(x)[0][:, -1])


class Masked(Reader):
    def forward(self, x, mask):
        return super().forward(x)


class Apart(Reader):
    """The answer does not come from the recurrent layer."""

    def __init__(self):
        super().__init__()
        self.direct = nn.Linear(2, 2)

    def forward(self, x):
        self.rnn(x)
        return self.direct(x[:, -1])


class TimeFirst(Reader):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(2, 4)


def make():
    return Reader()


def make_for(data):
    return Reader(data.inputs, data.outputs)


def learned(data, batches):
    model = Reader(data.inputs, data.outputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for x, lengths, y in batches:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x, lengths), y).backward()
        optimizer.step()
    return model


def with_loss():
    return Reader(outputs=1), lambda output, y: ((output[:, 0] - y) ** 2).mean()


def raises():
    return [][1]


def ends():
    raise SystemExit("usage: train.py DATA")


def asks(data, batches, more):
    return Reader()


def nothing():
    Reader()


def no_recurrence():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))


def masked():
    return Masked()


def too_wide():
    return Reader(inputs=7)


def apart():
    return Apart()


def no_gradient():
    return Reader(), lambda output, y: output.detach().sum()


def per_sample():
    return Reader(), lambda output, y: nn.functional.cross_entropy(output, y, reduction="none")


def stretched():
    return Reader(outputs=1), lambda output, y: nn.functional.mse_loss(output, y.float())


def too_few_classes():
    return Reader(outputs=3).requires_grad_(True), None


def one_number():
    return Reader(outputs=1)


def broken():
    model = Reader()
    with torch.no_grad():
        model.rnn.weight_ih_l0[0] = float("nan")
    return model


def transposed():
    return TimeFirst()


def no_loss():
    return Reader(), 3


class Ending(Reader):
    def forward(self, x):
        raise SystemExit("that was all")


def ends_later():
    return Ending()


def in_the_loss():
    return Reader(), lambda output, y: exit()


def a_loss_class():
    return Reader(), nn.CrossEntropyLoss


def a_pair():
    return Reader(), lambda output, y: (nn.functional.cross_entropy(output, y), output)


def moves():
    import os

    os.chdir("/")
    return Reader()


def interrupted():
    raise KeyboardInterrupt


def too_late(data):
    raise AssertionError("nothing was to be run")


standing = Reader()
'''


@pytest.fixture
def here(tmp_path, rng):
    """A folder with a stranger's files."""
    (tmp_path / "model.py").write_text(MODELS)
    (tmp_path / "wrong.py").write_text("import torch\n\ndef make(:\n    pass\n")
    (tmp_path / "script.py").write_text("import os\n\nWEIGHTS = open(os.path.join('gone', 'weights.pt'))\n")
    (tmp_path / "notes.txt").write_text("make")
    y = np.arange(40) % 2
    x = rng.normal(size=(40, 6, 2)).astype(np.float32)
    np.savez(tmp_path / "batch.npz", x=x, y=y, lengths=np.full(40, 6))
    np.savez(tmp_path / "four.npz", x=x, y=np.arange(40) % 4)
    np.savez(tmp_path / "steps.npz", x=x, y=rng.normal(size=(40, 5, 3)))
    np.savez(tmp_path / "unlike.npz", x=x, y=y[:30])
    np.savez(tmp_path / "square.npz", x=x[:6], y=y[:6])
    np.savez(tmp_path / "long.npz", x=x, y=y, lengths=np.full(40, 7))
    np.savez(tmp_path / "untold.npz", x=x)
    np.savez(tmp_path / "words.npz", x=x, y=np.array(["a", "b"] * 20))
    return tmp_path


def files(path):
    """What is kept under a folder; the lock of whoever wrote there stays beside it."""
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file() and p.name != LOCK)


def test_a_model_of_ones_own(call, here):
    status, out, err = call("measure", "model.py:make", "--data", "batch.npz")
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].split() == [
        "layer",
        "cell",
        "steps",
        "horizon",
        "half-life",
        "decay",
        "gradient",
        "at",
        "start",
        "at",
        "end",
    ]
    assert lines[1].split()[:3] == ["rnn", "gru", "6"]
    assert "loss: 0." in out
    assert "cross-entropy" in out
    assert "data: 32 of 40 sequences in batch.npz, 6 steps each" in out
    assert lines[-1] == "report: runs/measure-model/report.html"
    assert "running model.py: the code in it runs with your rights" in err
    written = files(here / "runs")
    assert written == ["measure-model/flows/000-rnn.npz", "measure-model/measurement.json", "measure-model/report.html"]
    page = (here / "runs/measure-model/report.html").read_text()
    assert "Reader of model.py" in page
    assert "throughtime measure model.py:make --data batch.npz" in page


def test_a_report_is_drawn_again_without_torch_or_the_model(call, here):
    call("measure", "model.py:make", "--data", "batch.npz", "--out", "a")
    first = (here / "a/report.html").read_bytes()
    (here / "a/report.html").unlink()
    (here / "model.py").unlink()
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['throughtime', 'report', 'a']\n"
        "from throughtime.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "a/report.html"), done.stderr
    assert (here / "a/report.html").read_bytes() == first


def test_the_same_seed_gives_the_same_numbers(call, here):
    def lines(*words):
        return [line for line in call("measure", *words)[1].splitlines() if not line.startswith("report")]

    words = ("model.py:make", "--data", "batch.npz")
    assert lines(*words, "--seed", 3) == lines(*words, "--seed", 3) != lines(*words, "--seed", 4)


def test_data_that_can_be_trained_on(call, here):
    words = ("--data", "adding", "--lag", 5, "--samples", 40, "--batch", 3)
    outs = []
    for factory in ("make_for", "learned"):
        status, out, err = call("measure", f"model.py:{factory}", *words)
        assert status == 0, err
        assert "data: 3 of 4 held-out sequences of adding, 5 numbers each" in out
        outs.append(out)
    assert "mean squared error" in outs[0]
    assert outs[0].splitlines()[1] != outs[1].splitlines()[1], "the second was trained before"


def test_one_layer_alone_and_the_other_derivative(call, here):
    (here / "two.py").write_text(
        "from torch import nn\nclass Two(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.below = nn.LSTM(2, 3, batch_first=True, bidirectional=True)\n"
        "        self.above = nn.LSTM(6, 2, batch_first=True)\n"
        "    def forward(self, x):\n        return self.above(self.below(x)[0])[0][:, -1]\n"
    )
    words = ("measure", "two.py:Two", "--data", "batch.npz")
    status, out, err = call(*words, "--layer", "below", "--derivative", "node", "--out", "a")
    assert status == 0, err
    assert re.findall(r"^(\S+) +lstm", out, re.M) == ["below.l0", "below.l0_reverse"]
    status, out, err = call(*words, "--layer", "beneath", "--out", "b")
    assert status == 2
    assert "there are below.l0, below.l0_reverse, above" in err
    assert not (here / "b").exists()


def test_an_existing_folder_is_kept_or_replaced_when_asked(call, here):
    words = ("measure", "model.py:make", "--data", "batch.npz", "--out", "a")
    call(*words)
    before = files(here / "a")
    status, _, err = call(*words)
    assert (status, err.count("\n")) == (2, 1)
    assert "exists already" in err
    assert files(here / "a") == before
    assert call(*words, "--overwrite")[0] == 0
    (here / "mine").mkdir()
    (here / "mine" / "thesis.tex").write_text("mine")
    status, _, err = call(*words[:-1], "mine", "--overwrite")
    assert status == 2
    assert files(here / "mine") == ["thesis.tex"]


def test_ctrl_c_is_told_and_leaves_nothing(call, here):
    before = files(here)
    status, out, err = call("measure", "model.py:interrupted", "--data", "batch.npz")
    assert (status, out, err.splitlines()[-1]) == (130, "", "throughtime: interrupted; nothing was kept.")
    assert files(here) == before


def test_a_file_that_goes_to_another_folder_takes_nothing_with_it(call, here):
    assert call("measure", "model.py:moves", "--data", "batch.npz", "--out", "a")[0] == 0
    assert (here / "a" / "report.html").is_file()


def test_a_trained_study_is_measured_again(call, here):
    small = ("--epochs", 1, "--hidden", 4, "--batch-size", 8, "--quiet")
    assert call("compare", "batch.npz", "--cells", "rnn,lstm", "--out", "a", *small)[0] == 0
    status, out, err = call("measure", "a", "--out", "b")
    assert status == 0, err
    assert re.findall(r"^([^\s:]+) +(elman|lstm) +\d", out, re.M) == [("rnn", "elman"), ("lstm", "lstm")]
    status, out, err = call("measure", "a/lstm", "--out", "c")
    assert status == 0, err
    assert re.findall(r"^([^\s:]+) +(elman|lstm) +\d", out, re.M) == [("lstm", "lstm")]
    status, _, err = call("measure", "a", "--data", "batch.npz")
    assert (status, "leave out --data" in err) == (2, True)


BATCH = ["--data", "batch.npz"]
BAD = {
    "no data": (["model.py:make"], "give --data"),
    "no such file": (["gone.py:make", *BATCH], "gone.py: cannot be read"),
    "no file at all": (["gone", *BATCH], "gone: is no folder"),
    "no Python": (["notes.txt:make", *BATCH], "notes.txt:make: is no folder, and not FILE.py:FUNCTION"),
    "a file that is wrong": (["wrong.py:make", *BATCH], "wrong.py, line 3: this is not Python"),
    "a file that raises": (["script.py:make", *BATCH], "script.py, line 3, when it was run: FileNotFoundError"),
    "no function named": (["model.py", *BATCH], "model.py:make (there are make, make_for"),
    "no such function": (["model.py:mak", *BATCH], 'has no function "mak"; there are make, make_for'),
    "a factory that raises": (["model.py:raises", *BATCH], "line 62, when raises was called: IndexError: list index"),
    "a factory that ends": (["model.py:ends", *BATCH], "SystemExit: usage: train.py DATA"),
    "a factory that asks too much": (["model.py:asks", *BATCH], "asks for data, batches, more"),
    "batches that are not there": (["model.py:learned", *BATCH], "asks for data, batches"),
    "no model": (["model.py:nothing", *BATCH], "nothing returned nothing"),
    "no loss": (["model.py:no_loss", *BATCH], "the loss that no_loss returned is a int"),
    "no recurrent layer": (["model.py:no_recurrence", *BATCH], "looked for nn.RNN, nn.LSTM, nn.GRU"),
    "an argument there is no data for": (["model.py:masked", *BATCH], "asks for mask, and the data have"),
    "data of another width": (["model.py:too_wide", *BATCH], "forward(x, lengths) was given x float32 (32, 6, 2)"),
    "a loss that hears nothing of it": (["model.py:apart", *BATCH], "no gradient"),
    "a loss without a gradient": (["model.py:no_gradient", *BATCH], "the loss has no gradient"),
    "a loss for each sequence": (["model.py:per_sample", *BATCH], "has to be a single number"),
    "a loss that stretches": (
        ["model.py:stretched", *BATCH],
        "the loss was given float32 (32, 1) and the targets int64 (32,)",
    ),
    "classes there is no output for": (["model.py:make", "--data", "four.npz"], "classes up to 3"),
    "one number for four classes": (["model.py:one_number", "--data", "four.npz"], "answers with float32 (32, 1)"),
    "targets of another shape": (["model.py:make", "--data", "steps.npz"], "no loss is known that compares these"),
    "targets of other sequences": (["model.py:make", "--data", "unlike.npz"], "y is (30,)"),
    "no targets": (["model.py:make", "--data", "untold.npz"], "save the target as y"),
    "targets that are words": (["model.py:make", "--data", "words.npz"], "y holds <U1"),
    "no such data": (["model.py:make", "--data", "gone.csv"], "gone.csv"),
    "no such batch": (["model.py:make", "--data", "gone.npz"], "gone.npz: no such file"),
    "reading that does not fit": (["model.py:make", *BATCH, "--samples", "3"], "--samples"),
    "states that are not numbers": (["model.py:broken", *BATCH], "rnn"),
    "sequences for steps": (["model.py:transposed", *BATCH], "pass --time-first"),
    "steps for sequences": (
        ["model.py:make", *BATCH, "--time-first"],
        "holds 6 sequences; with --time-first x is (T, B, ...)",
    ),
    "no such layer": (["model.py:make", *BATCH, "--layer", "lstm"], '--layer "lstm"'),
    "no such device": (["model.py:make", *BATCH, "--device", "abacus"], "'abacus' cannot be used"),
    "an empty batch": (["model.py:make", *BATCH, "--batch", "0"], "--batch"),
    "a model in the place of a function": (["model.py:standing", *BATCH], "standing is a model that stands already"),
    "a model that ends": (["model.py:ends_later", *BATCH], "SystemExit: that was all"),
    "a loss that ends": (["model.py:in_the_loss", *BATCH], "SystemExit"),
    "a loss that is not built": (["model.py:a_loss_class", *BATCH], "the class CrossEntropyLoss, not an object of it"),
    "a loss of two things": (["model.py:a_pair", *BATCH], "a tuple, and has to be a single number; return that"),
    "lengths beyond the steps": (["model.py:make", "--data", "long.npz"], "from 1 to the 6 steps of x"),
    "as many sequences as steps": (["model.py:transposed", "--data", "square.npz"], "pass --time-first"),
    "a file in the folder's place": (["model.py:make", *BATCH, "--out", "notes.txt"], "so it is not replaced"),
    "a folder of something else": (["."], "is not the folder of a study"),
    "an unwritable place": (["model.py:too_late", *BATCH, "--out", "notes.txt/a"], "notes.txt is no folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_ends_with_status_2_one_clear_line_and_nothing_written(call, here, name):
    words, told = BAD[name]
    before = files(here)
    status, out, err = call("measure", *words)
    progress, last = err.splitlines()[:-1], err.splitlines()[-1]
    assert (status, out) == (2, ""), err
    assert last.startswith("throughtime: ")
    assert told in last
    assert all(line.endswith(" …") for line in progress), err
    assert files(here) == before


# -- the three models of examples/, as a stranger would run them

EXAMPLES = {"sentiment": ["gru"], "forecaster": ["lstm.l0", "lstm.l1"], "seq2seq": ["encoder", "decoder"]}


def layers(out):
    return re.findall(r"^(\S+) +(?:gru|lstm) ", out, re.M)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_on_a_little_data(call, here, rng, name):
    rows = [f"{np.sin(i / 3):.4f},{rng.random():.4f}\n" for i in range(300)]
    (here / "wave.csv").write_text("a,b\n" + "".join(rows))
    (here / "play.txt").write_text("to be, or not to be, that is the question. " * 30)
    data = {
        "sentiment": ["order", "--lag", 10, "--samples", 64],
        "forecaster": ["wave.csv", "--max-length", 10, "--split", 0.4, 0.3, 0.3],
        "seq2seq": ["play.txt", "--max-length", 12],
    }
    status, out, err = call("measure", f"{ROOT}/examples/{name}.py:make", "--batch", 5, "--data", *data[name])
    assert status == 0, err
    assert layers(out) == EXAMPLES[name]


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("sentiment", "reviews/imdb_labelled.txt", ["--batch", 8]),
        ("forecaster", "series/monthly-sunspots.csv", ["--max-length", 24]),
        ("seq2seq", "text/tinyshakespeare.txt.gz", ["--max-length", 16, "--batch", 6]),
    ],
)
def test_the_examples_on_real_data(call, real_data, name, source, words):
    status, out, err = call("measure", f"{ROOT}/examples/{name}.py:make", "--data", real_data / source, *words)
    assert status == 0, err
    assert layers(out) == EXAMPLES[name]


def test_the_examples_are_plain_torch():
    for name in EXAMPLES:
        text = (ROOT / "examples" / f"{name}.py").read_text()
        assert "import throughtime" not in text
        assert f"throughtime measure examples/{name}.py:make" in text
