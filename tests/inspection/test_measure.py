"""How a batch reaches somebody's model and its answer becomes a loss, held against numbers taken by hand."""

from __future__ import annotations

import inspect
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import throughtime as tt
from tests.tolerances import IDENTITY, close
from throughtime.errors import InputError
from throughtime.inspection import calling
from throughtime.inspection import folder as kept
from throughtime.inspection.factory import Factory, load, seeded
from throughtime.inspection.measure import Asked, measure
from throughtime.inspection.specimen import SEQUENCES, Specimen, from_arrays, held_out
from throughtime.inspection.witness import witness
from throughtime.records import Measurement

B, T = 4, 6


def specimen(y, *, x=None, lengths=None, counted=None, time_first=False, **more):
    x = torch.zeros(B, T, 2) if x is None else x
    arrays = {"x": x} if lengths is None else {"x": x, "lengths": torch.tensor(lengths)}
    card = tt.data.load("adding", lag=3, samples=20).card
    each_step = y.shape[:2] == ((T, B) if time_first else (B, T))
    return Specimen(arrays, y, card, "made here", T, B, each_step, counted, time_first, **more)


class Takes(nn.Module):
    """Remembers what it was called with."""

    def __init__(self, forward):
        super().__init__()
        self.forward = forward


# -- the batch


def test_held_out_sequences_come_sequences_first_and_spread_by_length(tmp_path):
    words = ["a fine film", "dull", "a long and slow and sad film", "so very good that I wept", "no", "it was a film"]
    rows = "".join(f'"{words[i % 6]}",{"ab"[i % 2]}\n' for i in range(60))
    (tmp_path / "few.csv").write_text("text,label\n" + rows)
    taken, batches = held_out(
        str(tmp_path / "few.csv"), {"text": "text", "minimum_count": 1}, batch=4, seed=0, time_first=False
    )
    data = tt.data.load(tmp_path / "few.csv", text="text", minimum_count=1)
    x, lengths = taken.arrays["x"], taken.arrays["lengths"]
    assert x.shape == (4, lengths.max())
    assert taken.y.shape == (4,)
    assert [int(lengths[-1]), int(lengths[0])] == [data.valid.lengths().min(), data.valid.lengths().max()]
    assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)
    assert all((row[length:] == 0).all() for row, length in zip(x, lengths, strict=True))
    assert len(batches) == 12
    assert sum(len(y) for _, _, y in batches) == len(data.train)
    first, again = next(iter(batches)), next(iter(batches))
    assert not (first[0].shape == again[0].shape and torch.equal(first[0], again[0])), "a new order each time"
    turned, _ = held_out(
        str(tmp_path / "few.csv"), {"text": "text", "minimum_count": 1}, batch=4, seed=0, time_first=True
    )
    assert torch.equal(turned.arrays["x"].T, x)


def test_windows_of_a_stream_are_whole_and_what_does_not_count_is_left_out(tmp_path):
    (tmp_path / "play.txt").write_text("to be or not to be, that is the question. " * 40)
    taken, _ = held_out(str(tmp_path / "play.txt"), {"max_length": 32}, batch=SEQUENCES, seed=0, time_first=False)
    assert set(taken.arrays["lengths"].tolist()) == {32}
    assert torch.equal(taken.y[:, :-1], taken.arrays["x"][:, 1:])
    gaps = {20, 21, 60, 85, 95}
    rows = "".join(f"{'NA' if i in gaps else i % 7},{i % 5}\n" for i in range(200))
    (tmp_path / "two.csv").write_text("a,b\n" + rows)
    reading = {"gaps": "previous", "max_length": 6, "split": (0.4, 0.4, 0.2)}
    series, _ = held_out(str(tmp_path / "two.csv"), reading, batch=SEQUENCES, seed=0, time_first=False)
    assert series.counted is not None
    assert series.counted.shape == series.y.shape[:2] == series.arrays["x"].shape[:2]
    assert 1 <= int((~series.counted).sum()) <= 2, "85 and 95 alone are held out"


def test_the_arrays_of_a_file_are_handed_over_as_they_are(tmp_path, rng):
    x, y = 50 + 9 * rng.normal(size=(7, 5, 2)), rng.normal(size=(7, 3))
    lengths = np.array([5, 1, 4, 2, 5, 3, 5], dtype=np.int32)
    np.savez(tmp_path / "a.npz", x=x, mask=np.ones((7, 5), bool), target=y, lengths=lengths)
    taken = from_arrays(tmp_path / "a.npz", batch=100, time_first=False)
    assert taken.arrays.keys() == {"x", "mask", "lengths"}
    assert np.array_equal(taken.arrays["x"].numpy(), x)
    assert taken.arrays["lengths"].dtype == torch.int64
    assert (taken.target, taken.size, taken.steps, taken.each_step) == ("target", 7, 5, False)
    assert (taken.card.inputs, taken.card.outputs, taken.card.kind) == (2, 3, "regression")
    some = from_arrays(tmp_path / "a.npz", batch=3, time_first=False)
    assert sorted(some.arrays["lengths"].tolist()) == [1, 4, 5], "the shortest, the middle, the longest"
    assert some.said == "3 of 7 sequences in a.npz, 1 to 5 of 5 steps"

    np.savez(tmp_path / "b.npz", x=x.swapaxes(0, 1), y=rng.integers(3, size=(5, 7)), lengths=lengths)
    turned = from_arrays(tmp_path / "b.npz", batch=3, time_first=True)
    assert (turned.arrays["x"].shape, turned.y.shape, turned.each_step) == ((5, 3, 2), (5, 3), True)


# -- the call


def names(model, taken):
    call = calling.arrange(Takes(model), taken)
    return {name: tuple(array.shape) for name, array in call.given.items()}, call.notes


LENGTHS = [6, 5, 5, 2]


def test_arrays_go_to_the_parameters_of_their_names():
    taken = specimen(torch.zeros(B), lengths=LENGTHS)
    both = {"x": (B, T, 2), "lengths": (B,)}
    assert names(lambda x, lengths: 0, taken) == (both, ())
    assert names(lambda lengths, x: 0, taken) == (both, ())
    assert names(lambda tokens, seq_len=None: 0, taken)[0] == {"tokens": (B, T, 2), "seq_len": (B,)}
    assert names(lambda *inputs: 0, taken)[0] == {"": (B, T, 2)}
    given, notes = names(lambda x: 0, taken)
    assert given == {"x": (B, T, 2)}
    assert "zeros that sequences are padded with" in notes[0]
    assert names(lambda x: 0, specimen(torch.zeros(B), lengths=[T] * B)) == (given, ()), "nothing is padded"
    assert names(lambda steps, hx=None: 0, taken)[0] == {"steps": (B, T, 2)}


def test_lengths_are_never_taken_for_something_else():
    taken = specimen(torch.zeros(B), lengths=LENGTHS)
    with pytest.raises(InputError, match="asks for mask, and the data have"):
        names(lambda x, mask: 0, taken)


def test_a_decoder_is_handed_the_target_it_asks_for():
    y = torch.zeros(B, T, dtype=torch.int64)
    taken = specimen(y, target="target")
    assert names(lambda source, target: 0, taken)[0] == {"source": (B, T, 2), "target": (B, T)}
    assert names(lambda source: 0, taken)[0] == {"source": (B, T, 2)}
    with pytest.raises(InputError, match="asks for y"):
        names(lambda x, y: 0, specimen(y))


def test_a_wrapped_model_is_asked_inside():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *inputs, **named):
            return self.module(*inputs, **named)

    taken = specimen(torch.zeros(B), lengths=LENGTHS)
    call = calling.arrange(Wrapper(Takes(lambda x, lengths: 0)), taken)
    assert list(call.given) == ["x", "lengths"]


# -- the loss


def judged(output, taken, loss=None):
    found = calling.judge(output.requires_grad_(), taken, loss)
    return float(found.loss.detach()), found.how


def surprise(scores, classes):
    """Mean −log softmax, in numpy."""
    scores = np.asarray(scores, dtype=np.float64).reshape(-1, scores.shape[-1])
    classes = np.asarray(classes).reshape(-1)
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return -float(np.mean([row[c] for row, c in zip(logs, classes, strict=True) if c >= 0]))


def test_classes_are_judged_by_cross_entropy():
    scores = torch.randn(B, 3, dtype=torch.float64)
    y = torch.tensor([0, 2, 1, 2])
    assert judged(scores, specimen(y)) == (pytest.approx(surprise(scores.detach(), y)), "cross-entropy")
    each = torch.randn(B, T, 3, dtype=torch.float64)
    said = torch.randint(3, (B, T))
    said[:, :2] = -100
    wanted = pytest.approx(surprise(each, said))
    assert judged(each, specimen(said))[0] == wanted
    assert judged(each.detach().movedim(-1, 1), specimen(said))[0] == wanted, "classes second, as torch has them"
    assert judged(each.detach().transpose(0, 1), specimen(said.T, time_first=True))[0] == wanted


def test_truth_is_judged_by_binary_cross_entropy():
    scores, y = torch.randn(B, 1, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    share = 1 / (1 + np.exp(-scores[:, 0].numpy()))
    wanted = -np.mean(np.where(y.numpy() == 1, np.log(share), np.log(1 - share)))
    assert judged(scores, specimen(y)) == (pytest.approx(wanted), "binary cross-entropy (with logits)")
    assert judged(scores.detach()[:, 0], specimen(y.bool()))[0] == pytest.approx(wanted)


def test_numbers_are_judged_by_squares_where_they_count():
    output, y = torch.randn(B, T, 2, dtype=torch.float64), torch.randn(B, T, 2, dtype=torch.float64)
    counted = torch.rand(B, T) > 0.5
    squares = (output - y).numpy() ** 2
    assert judged(output, specimen(y))[0] == pytest.approx(squares.mean())
    assert judged(output, specimen(y, counted=counted))[0] == pytest.approx(squares[counted.numpy()].mean())
    turned = specimen(y.transpose(0, 1), counted=counted, time_first=True)
    assert judged(output.detach().transpose(0, 1), turned)[0] == pytest.approx(squares[counted.numpy()].mean())
    once = torch.randn(B, dtype=torch.float64)
    assert judged(once.unsqueeze(1), specimen(torch.zeros(B, dtype=torch.float64)))[0] == pytest.approx(
        float((once**2).mean())
    )


def test_an_answer_for_each_sequence_is_held_against_the_last_step():
    y = torch.randn(B, T, 2, dtype=torch.float64)
    output = torch.randn(B, 2, dtype=torch.float64)
    held = output.clone()
    last = y[torch.arange(B), torch.tensor(LENGTHS) - 1]
    value, how = judged(output, specimen(y, lengths=LENGTHS))
    assert value == pytest.approx(float(((held - last) ** 2).mean()))
    assert "the answer to each sequence's last step" in how
    own, how = judged(output.detach(), specimen(y, lengths=LENGTHS), lambda output, y: (output - y).abs().sum())
    assert own == pytest.approx(float((held - last).abs().sum()))
    assert how.startswith("the factory's own loss")
    classes = torch.randint(3, (B, T))
    scores = torch.randn(B, 3, dtype=torch.float64)
    assert judged(scores, specimen(classes))[0] == pytest.approx(surprise(scores.detach(), classes[:, -1]))


def test_of_several_things_the_first_is_judged():
    scores, y = torch.randn(B, 3, requires_grad=True), torch.tensor([0, 2, 1, 2])
    found = calling.judge((scores, torch.zeros(1)), specimen(y), None)
    assert "of the first thing that forward returns" in found.how
    with pytest.raises(InputError, match=r"returns a dict.*\(model, loss\)"):
        calling.judge({"scores": scores}, specimen(y), None)


def test_of_a_dict_the_logits_are_judged():
    """As Hugging Face models return them; a ModelOutput is a dict, too."""
    scores, y = torch.randn(B, 3, requires_grad=True), torch.tensor([0, 2, 1, 2])
    found = calling.judge({"loss": None, "logits": scores}, specimen(y), None)
    assert found.loss.item() == pytest.approx(nn.functional.cross_entropy(scores, y).item())
    assert '"logits"' in found.how


def test_torchs_own_losses_are_called_as_they_ask():
    scores, said = torch.randn(B, T, 3, dtype=torch.float64), torch.randint(3, (B, T))
    for loss in (nn.CrossEntropyLoss(), nn.functional.cross_entropy):
        assert judged(scores.clone(), specimen(said), loss)[0] == pytest.approx(surprise(scores, said))
    one, y = torch.randn(B, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    share = 1 / (1 + np.exp(-one.numpy()))
    wanted = pytest.approx(-np.mean(np.where(y.numpy() == 1, np.log(share), np.log(1 - share))))
    assert judged(one.clone(), specimen(y), nn.BCEWithLogitsLoss())[0] == wanted
    found = calling.judge((one.requires_grad_(), None), specimen(y), nn.BCEWithLogitsLoss())
    assert float(found.loss.detach()) == wanted
    given = []
    calling.judge((one, None), specimen(y), lambda output, y: given.append((output, y)) or one.sum())
    assert given[0][0][0] is one
    assert given[0][1].dtype == torch.int64, "somebody's own function gets what forward returned"


def test_targets_that_were_filled_in_are_left_out_or_told():
    y, output = torch.randn(B, T, 2, dtype=torch.float64), torch.randn(B, 2, dtype=torch.float64)
    counted = torch.ones(B, T, dtype=torch.bool)
    counted[1, -1] = counted[2, 0] = False
    squares = ((output - y[:, -1]) ** 2)[[0, 2, 3]].mean()
    assert judged(output, specimen(y, counted=counted))[0] == pytest.approx(float(squares))
    _, how = judged(torch.zeros(B, T, 2, dtype=torch.float64), specimen(y, counted=counted), nn.MSELoss())
    assert how == "the factory's own loss, MSELoss; 2 of the targets were filled in and count too"


# -- the axes


def read(layer, x, size, steps, *, time_first=False):
    model = nn.ModuleDict({"layer": layer})
    with witness(model) as seen:
        model["layer"](x)
    return seen.check(size, steps, time_first=time_first)


def test_a_layer_that_takes_sequences_for_steps_is_found():
    first, later = nn.GRU(2, 3, batch_first=True), nn.GRU(2, 3)
    x = torch.zeros(5, 9, 2)
    assert read(first, x, 5, 9) == ()
    assert read(later, x, 9, 5, time_first=True) == ()
    with pytest.raises(InputError, match=r"layer took the 5 sequences of the batch for 5 steps.*pass --time-first"):
        read(later, x, 5, 9)
    with pytest.raises(InputError, match=r"leave out --time-first"):
        read(first, x, 9, 5, time_first=True)
    assert read(first, x[:, :5], 5, 9) == (), "half of the steps, by chance as many as sequences"
    assert "as many sequences as steps" in read(later, x[:, :5], 5, 5)[0]


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_first_place_where_a_number_is_lost_is_named(batch_first):
    x = torch.zeros(5, 9, 2)
    x[3, 4, 1] = x[1, 6, 0] = float("nan")
    layer = nn.GRU(2, 3, batch_first=batch_first)
    model = nn.ModuleDict({"below": layer, "above": nn.GRU(3, 3, batch_first=batch_first)})
    with witness(model) as seen:
        model["above"](model["below"](x if batch_first else x.transpose(0, 1))[0])
    assert seen.lost == (
        "below puts out NaN or infinity, first at step 4, in sequence 3; its input was no number there already."
    )
    steps = torch.zeros(9, 5, 2)
    steps[7, 2, 1] = float("inf")
    cell = nn.ModuleDict({"cell": nn.RNNCell(2, 3, nonlinearity="relu")})
    h = torch.zeros(5, 3)
    with witness(cell) as seen:
        for x in steps:
            h = cell["cell"](x, h)
    assert seen.lost.startswith("cell puts out NaN or infinity at step 7, sequence 2")
    with torch.no_grad():
        cell["cell"].bias_ih[0] = float("inf")
    with witness(cell) as seen:
        cell["cell"](steps[0])
    assert seen.lost == (
        "cell puts out NaN or infinity at step 0, sequence 0; its input is finite, so look at its weights."
    )


# -- the factory


def test_a_factory_is_given_what_it_asks_for(tmp_path):
    model, got = nn.GRU(1, 1), []

    def plain():
        got.append(())

    def card(data):
        got.append((data,))

    def card_if_there(data=None):
        got.append((data,))

    def other(hidden=3):
        got.append((hidden,))

    def both(data, batches, more=7):
        got.append((data, batches, more))

    for function in (plain, card, card_if_there, other, both):

        def make(*offered, function=function):
            function(*offered)
            return model

        make.__signature__ = inspect.signature(function)
        assert Factory(tmp_path, "make", make).make("card", "batches").model is model
    assert got == [(), ("card",), ("card",), (3,), ("card", "batches", 7)]
    assert isinstance(Factory(tmp_path, "make", lambda: (model, nn.MSELoss())).make().loss, nn.MSELoss)


def test_a_file_is_run_as_from_its_own_folder_and_leaves_nothing(tmp_path):
    (tmp_path / "parts.py").write_text("from torch import nn\nclass Layer(nn.GRU):\n    pass\n")
    (tmp_path / "whole.py").write_text("def make():\n    from parts import Layer\n    return Layer(1, 1)\n")
    (tmp_path / "deep.py").write_text("import helper\n\ndef make():\n    return helper.fails()\n")
    (tmp_path / "helper.py").write_text("def fails():\n    raise KeyError('weights')\n")
    assert type(load(tmp_path / "whole.py", "make").make().model).__name__ == "Layer"
    with pytest.raises(InputError, match=r"helper\.py, line 2, when make was called: KeyError: 'weights'"):
        load(tmp_path / "deep.py", "make").make()
    assert not (tmp_path / "__pycache__" / "whole.cpython-311.pyc").exists()


def test_seeding_is_for_their_code_alone():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()

    def drawn():
        with seeded(5):
            return random.random(), np.random.random(), float(torch.rand(()))

    assert drawn() == drawn()
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


# -- the whole


OWN = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.rnn = nn.RNN(2, 3, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])

def make():
    return Own().double()
"""


@pytest.fixture
def whole(tmp_path, rng) -> tuple[Measurement, Path]:
    (tmp_path / "own.py").write_text(OWN)
    np.savez(tmp_path / "a.npz", x=rng.normal(size=(5, 7, 2)), y=rng.normal(size=5))
    return measure(tmp_path / "own.py", "make", Asked(str(tmp_path / "a.npz"), {})), tmp_path


def test_what_is_measured_is_the_gradient_of_the_loss(whole):
    """dL/dh_k by autograd, one leaf a step, in a loop written here."""
    measurement, folder = whole
    with np.load(folder / "a.npz") as file:
        x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"])
    namespace: dict = {}
    exec(OWN, namespace)
    model = namespace["make"]()
    W, U = model.rnn.weight_hh_l0, model.rnn.weight_ih_l0
    b = model.rnn.bias_ih_l0 + model.rnn.bias_hh_l0
    h, states = torch.zeros(5, 3, dtype=torch.float64), []
    for t in range(7):
        h = torch.tanh(x[:, t] @ U.T + h @ W.T + b)
        h.retain_grad()
        states.append(h)
    loss = ((model.head(h)[:, 0] - y) ** 2).mean()
    loss.backward()
    norms = torch.stack([h.grad.norm(dim=1).log10() for h in states]).numpy()
    (flow,) = measurement.flows
    close(torch.from_numpy(flow.adjoint), torch.from_numpy(np.median(norms, axis=1)), IDENTITY)
    assert measurement.loss == f"{float(loss.detach()):.6g}, mean squared error"
    assert (flow.layer, flow.T, flow.B) == ("rnn", 7, 5)
    assert flow.loss == pytest.approx(float(loss.detach()), rel=1e-12)


def test_a_measurement_says_how_it_was_taken(whole):
    measurement, _ = whole
    assert measurement.title == "Own of own.py"
    assert "Own of 25 parameters, in training mode" in measurement.model
    assert measurement.data == "the 5 sequences in a.npz, 7 steps each in x"
    assert any("Dropout is on" in note and "(drop)" in note for note in measurement.notes)
    assert measurement.versions["torch"] == torch.__version__
    assert "CPU" in measurement.machine


def test_a_measurement_is_kept_whole_and_read_back(whole, monkeypatch):
    measurement, folder = whole
    kept.keep(measurement, folder / "m")
    again = kept.read_records(folder / "m")
    assert isinstance(again, Measurement)
    assert replace(again, flows=(), card=None) == replace(measurement, flows=(), card=None)
    assert np.array_equal(again.flows[0].adjoint, measurement.flows[0].adjoint)
    assert math.isnan(again.card.baseline)
    with pytest.raises(InputError, match="exists already"):
        kept.keep(measurement, folder / "m")

    def fails(*_, **__):
        raise InputError("the disk is full")

    monkeypatch.setattr(kept, "report", fails)
    before = (folder / "m" / "report.html").read_bytes()
    for place in ("n", "m"):
        with pytest.raises(InputError, match="the disk is full"):
            kept.keep(measurement, folder / place, overwrite=True)
    assert not (folder / "n").exists()
    assert (folder / "m" / "report.html").read_bytes() == before
    assert not list(folder.glob(".*"))


def test_a_damaged_measurement_says_so(whole):
    measurement, folder = whole
    kept.keep(measurement, folder / "m")
    facts = folder / "m" / "measurement.json"
    for text, told in (
        ("{", "cannot be read"),
        (json.dumps([1]), "cannot be read"),
        ("null", "cannot be read \\(the record: expected object, got null\\)"),
    ):
        facts.write_text(text)
        with pytest.raises(InputError, match=told):
            kept.read_records(folder / "m")
    facts.unlink()
    with pytest.raises(InputError, match="study"):
        kept.read_records(folder / "m")


def test_each_layer_is_judged_for_itself_and_no_command_of_ours_is_advised(whole):
    measurement, _ = whole
    (flow,) = measurement.flows
    two = replace(measurement, flows=(flow, replace(flow, layer="above")))
    findings = tt.diagnose(two)
    assert {finding.cell for finding in findings} == {"rnn", "above"}
    assert not any("throughtime" in finding.command for finding in findings)
    assert all("training" not in finding.title for finding in findings)
