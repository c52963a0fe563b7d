"""A trained net taken from its folder: its predictions against torch.nn's layers fed by hand from the raw file."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
import torch

import throughtime as tt
from tests.tolerances import IDENTITY as AGREES
from throughtime.errors import InputError
from throughtime.study import run as study
from throughtime.study.folder import Folder
from throughtime.study.plan import parse_cells


@pytest.fixture(autouse=True)
def looks(quick_looks):
    """Measuring is not what is tested here."""


def trained(source, path, cells="lstm", reading=None, **shape):
    """A study on a source, run to its end; returns its folder."""
    origin, dataset = study.prepare(
        str(source), parse_cells(cells), reading or {}, {"hidden": 5} | shape, {"epochs": 2, "batch_size": 2},
        seed=3, device="cpu", trackers=(), command="throughtime train",
    )  # fmt: skip
    folder = Folder(path)
    with folder.begin(origin):
        list(study.run(origin, dataset, folder))
    return path


def by_torch(net):
    """The net's recurrent layer as torch.nn's own."""
    ours = net.recurrent
    layer = torch.nn.LSTM(ours.input_size, ours.hidden_size)
    layer.load_state_dict(ours.state_dict())
    return layer


REVIEWS = [("a good film", "good"), ("bad, bad film", "bad"), ("it was good", "good"), ("so bad it was", "bad")] * 12


@pytest.fixture
def reviews(tmp_path):
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("text", "label"), *[(f"{text} {i % 7}", label) for i, (text, label) in enumerate(REVIEWS)]]
        )
    return path


def test_texts_are_read_with_the_vocabulary_of_training(reviews, tmp_path):
    net = tt.load(trained(reviews, tmp_path / "out"))
    other = tmp_path / "other.csv"
    other.write_text('id,text\n7,"Good film, unheard"\n8,\n9,"bad film"\n')
    found = net.predict(other)
    assert found.frame["row"].to_list() == [2, 3, 4]
    vocabulary = {word: token for token, word in enumerate(net.prepared.vocabulary)}
    assert {"good", "film", "bad"} <= set(vocabulary)
    lstm = by_torch(net.net)
    for row, text in ((0, ["good", "film", "unheard"]), (2, ["bad", "film"])):
        tokens = torch.tensor([vocabulary.get(word, vocabulary["<unknown>"]) for word in text])
        with torch.no_grad():
            last = lstm(net.net.embedding(tokens).unsqueeze(1))[0][-1, 0]
            probabilities = net.net.head(last).softmax(-1)
        shown = found.frame.row(row, named=True)
        assert [shown["probability_bad"], shown["probability_good"]] == pytest.approx(
            probabilities.tolist(), rel=AGREES[torch.float32]
        )
        assert shown["prediction"] == ("bad", "good")[int(probabilities.argmax())]
    assert found.frame.row(1) == (3, None, None, None)
    notes = " ".join(found.notes)
    assert "1 of 5 words (20.0%) are not among" in notes
    assert "1 rows hold no word, so they get no prediction: row 3" in notes
    assert found.score is None


def test_answers_that_stand_in_the_file_are_scored(reviews, tmp_path):
    net = tt.load(trained(reviews, tmp_path / "out"))
    found = net.predict(reviews)
    right = [said == label for said, (_, label) in zip(found.frame["prediction"], REVIEWS, strict=True)]
    assert found.score == sum(right) / len(right)
    assert found.answers == len(REVIEWS)


def test_a_task_by_name_is_its_test_split(tmp_path):
    path = trained("digits", tmp_path / "out")
    run = Folder(path).read_study().runs[0]
    found = tt.load(path).predict("digits")
    assert found.frame.height == 180
    assert found.score == pytest.approx(run.test.score)
    with pytest.raises(InputError, match='"adding" is not what this net was trained on'):
        tt.load(path).predict("adding")


@pytest.fixture
def waves(tmp_path):
    """Two columns of numbers by month, newest first."""
    t = np.arange(120)
    rows = [(f"{2010 + m // 12}-{m % 12 + 1:02d}", 100 + 10 * np.sin(m / 3), 5 - np.cos(m / 3)) for m in t.tolist()]
    path = tmp_path / "waves.csv"
    path.write_text("month,a,b\n" + "".join(f"{month},{a:.4f},{b:.4f}\n" for month, a, b in reversed(rows)))
    return path, np.array([[float(f"{a:.4f}"), float(f"{b:.4f}")] for _, a, b in rows])


def test_a_forecast_goes_on_from_the_last_row_in_the_datas_own_units(waves, tmp_path):
    path, values = waves
    net = tt.load(trained(path, tmp_path / "out"))
    found = net.predict(path, steps=3)
    assert found.frame["month"].to_list() == ["2020-01", "2020-02", "2020-03"]
    train = values[: 120 - 12 - 12]
    mean, deviation = train.mean(0), train.std(0)
    lstm, series = by_torch(net.net), (values - mean) / deviation
    for step in range(3):
        with torch.no_grad():
            x = torch.from_numpy(series.astype(np.float32)).unsqueeze(1)
            answer = net.net.head(lstm(x)[0][-1, 0]).double().numpy()
        series = np.concatenate([series, [answer]])
        expected = answer * deviation + mean
        shown = found.frame.row(step, named=True)
        assert [shown["prediction_a"], shown["prediction_b"]] == pytest.approx(
            expected.tolist(), rel=AGREES[torch.float32]
        )


def test_a_forecast_of_one_target_cannot_go_on_without_the_other_columns(waves, tmp_path):
    path, _ = waves
    net = tt.load(trained(path, tmp_path / "out", reading={"target": "a"}))
    assert net.predict(path).frame.columns == ["month", "prediction"]
    with pytest.raises(InputError, match="reads b too, which nobody knows ahead"):
        net.predict(path, steps=2)


def test_each_series_gets_its_own_forecast(tmp_path):
    path = tmp_path / "shops.csv"
    days = [f"2024-01-{day:02d}" for day in range(1, 32)]
    path.write_text(
        "day,shop,sold\n"
        + "".join(f"{day},{shop},{i + 10 * (shop == 'n')}\n" for i, day in enumerate(days) for shop in "ns")
    )
    net = tt.load(trained(path, tmp_path / "out", reading={"series": "shop"}))
    found = net.predict(path, steps=2).frame
    assert found["shop"].to_list() == ["n", "n", "s", "s"]
    assert found["day"].to_list() == ["2024-02-01", "2024-02-02"] * 2


def test_text_is_written_on_from_the_prompt(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcde fghij " * 60)
    net = tt.load(trained(path, tmp_path / "out"))
    written = net.predict(prompt="abz", steps=6, temperature=0)
    vocabulary = net.prepared.vocabulary
    tokens = [vocabulary.index("a"), vocabulary.index("b"), 1]
    lstm = by_torch(net.net)
    for _ in range(6):
        with torch.no_grad():
            scores = net.net.head(lstm(net.net.embedding(torch.tensor(tokens)).unsqueeze(1))[0][-1, 0])
        tokens.append(2 + int(scores[2:].argmax()))
    assert written.text == "abz" + "".join(vocabulary[token] for token in tokens[3:])
    assert "characters that the net does not know, read as one unknown: 'z'" in written.notes
    drawn = [net.predict(prompt="abc", steps=20, seed=seed).text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_arrays_are_scaled_as_in_training(tmp_path, rng):
    x, y = rng.normal(3, 2, size=(60, 6, 2)).astype(np.float32), rng.normal(50, 9, size=60)
    source = tmp_path / "values.npz"
    np.savez(source, x=x, y=y)
    path = trained(source, tmp_path / "out")
    net = tt.load(path)
    rows = Folder(path).read_origin().prepared
    scaled = torch.from_numpy(((x - np.array(rows.mean)) / np.array(rows.deviation)).astype(np.float32))
    with torch.no_grad():
        last = by_torch(net.net)(scaled.transpose(0, 1))[0][-1]
        answer = net.net.head(last).double().numpy()[:, 0] * rows.answer_deviation[0] + rows.answer_mean[0]
    assert net.predict(source).frame["prediction"].to_list() == pytest.approx(
        answer.tolist(), rel=AGREES[torch.float32]
    )
    assert net.predict(torch.from_numpy(x)).frame.equals(net.predict(source).frame)
    assert abs(rows.answer_mean[0] - 50) < 5
    longer = net.predict(np.zeros((2, 9, 2)))
    assert "sequences of 9 to 9 steps, where those of the training data had 6 to 6" in longer.notes[0]
    with pytest.raises(InputError, match=re.escape("x is (4, 6, 3), and this net reads (N, T, 2)")):
        net.predict(np.zeros((4, 6, 3)))
    with pytest.raises(InputError, match="x is not a number"):
        net.predict(np.full((4, 6, 2), np.nan))


def test_of_several_cells_the_best_on_validation_is_taken(reviews, tmp_path):
    path = trained(reviews, tmp_path / "out", "rnn,lstm,gru:reset=before")
    runs = Folder(path).read_study().runs
    best = max(runs, key=lambda run: max(seen.score for seen in run.evaluations if seen.split == "valid"))
    assert tt.load(path).label == best.label
    assert tt.load(path, cell="gru:reset=before").label == "gru:reset=before"
    assert tt.load(path, cell="gru").label == "gru:reset=before"
    assert tt.load(path / "lstm").label == "lstm"
    with pytest.raises(InputError, match="they are rnn, lstm, gru:reset=before"):
        tt.load(path, cell="elmo")


def test_a_study_of_before_reads_its_source_again(reviews, tmp_path):
    path = trained(reviews, tmp_path / "out")
    found = tt.load(path).predict(reviews).frame
    text = (path / "study.json").read_text()
    (path / "study.json").write_text(re.sub(r'"prepared": \{.*?\}', '"prepared": null', text, flags=re.DOTALL))
    assert Folder(path).read_origin().prepared is None
    assert tt.load(path).predict(reviews).frame.equals(found)


def test_what_a_net_cannot_read_is_one_sentence(reviews, waves, tmp_path):
    words, numbers = tt.load(trained(reviews, tmp_path / "w")), tt.load(trained(waves[0], tmp_path / "n"))
    bad = tmp_path / "bad.csv"
    bad.write_text("month,a,b\n2020-01,1,2\n2020-02,x,2\n2020-03,,2\n")
    cases = [
        (lambda: words.predict(waves[0]), 'no column "text"'),
        (lambda: words.predict(tmp_path / "none.csv"), "no such file"),
        (lambda: words.predict(), "there is nothing to predict for"),
        (lambda: words.predict(reviews, steps=2), "--steps fits forecasts"),
        (lambda: words.predict(reviews, prompt="x"), "--prompt fits"),
        (lambda: words.predict(np.zeros((1, 2, 2))), "this net reads texts"),
        (lambda: numbers.predict(reviews), 'no column "a", "b", which the net reads'),
        (lambda: numbers.predict(bad), 'bad.csv, row 3: "a" says "x", which is no number'),
        (lambda: numbers.predict(waves[0], steps=0), "--steps 0 is too few"),
    ]
    for attempt, says in cases:
        with pytest.raises(InputError, match=re.escape(says)):
            attempt()
    weights = tmp_path / "w" / "lstm" / "best.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(InputError, match="these weights cannot be used"):
        tt.load(tmp_path / "w")
    weights.unlink()
    (tmp_path / "w" / "lstm" / "last.safetensors").unlink()
    with pytest.raises(InputError, match="holds no trained weights yet"):
        tt.load(tmp_path / "w")


def test_a_series_a_row_is_read_again_with_its_labels_or_without(tmp_path):
    rows = [[float((k + 1) * t % 7) + t / 4 for t in range(10)] for k in range(40)]
    source = tmp_path / "S_TRAIN.tsv"
    source.write_text("\n".join("\t".join(map(str, [k % 2, *row])) for k, row in enumerate(rows)))
    net = tt.load(trained(source, tmp_path / "out"))
    labelled = net.predict(source)
    assert labelled.frame["row"].to_list() == list(range(1, 41))
    bare = tmp_path / "bare.tsv"
    bare.write_text("\n".join("\t".join(map(str, row)) for row in rows))
    same = net.predict(bare)
    assert same.frame.equals(labelled.frame)
    assert (labelled.answers, same.answers) == (40, 0)
    lstm = by_torch(net.net)
    x = (torch.tensor(rows[3], dtype=torch.float64) - net.prepared.mean[0]) / net.prepared.deviation[0]
    with torch.no_grad():
        probabilities = net.net.head(lstm(x.float().view(10, 1, 1))[0][-1, 0]).softmax(-1)
    assert list(same.frame.row(3))[2:] == pytest.approx(probabilities.tolist(), rel=AGREES[torch.float32])
    bare.write_text("\n".join("\t".join(map(str, row[:-1])) for row in rows))
    with pytest.raises(InputError, match=r'there is no column .*"column 11"'):
        net.predict(bare)


def test_series_of_the_archives_are_read_again(tmp_path):
    lines = [",".join(str((k + 1) * t % 7) for t in range(4 + k % 3)) for k in range(40)]
    source, bare = tmp_path / "s.ts", tmp_path / "bare.ts"
    source.write_text("@classLabel true a b\n@data\n" + "\n".join(f"{e}:{'ab'[k % 2]}" for k, e in enumerate(lines)))
    bare.write_text("@classLabel false\n@data\n" + "\n".join(lines))
    net = tt.load(trained(source, tmp_path / "out"))
    found = net.predict(source)
    assert found.answers == 40
    assert found.frame.equals(net.predict(bare).frame)


def test_names_are_read_again_by_character(tmp_path):
    source = tmp_path / "names.csv"
    names = [f"{['Anna', 'Otto', 'Ilse', 'Karl'][k % 4]}{'xyz'[k % 3]}" for k in range(48)]
    source.write_text("name,kind\n" + "\n".join(f"{name},{'ab'[k % 2]}" for k, name in enumerate(names)))
    net = tt.load(trained(source, tmp_path / "out", reading={"text": "name", "label": "kind"}))
    other = tmp_path / "other.csv"
    other.write_text("name\nOtto\nÉtto\n")
    found = net.predict(other)
    assert "1 of 8 characters (12.5%) are not among" in " ".join(found.notes)
    number = {character: token for token, character in enumerate(net.prepared.vocabulary)}
    lstm = by_torch(net.net)
    with torch.no_grad():
        last = lstm(net.net.embedding(torch.tensor([number[c] for c in "Otto"])).unsqueeze(1))[0][-1, 0]
        probabilities = net.net.head(last).softmax(-1)
    assert list(found.frame.row(0))[2:] == pytest.approx(probabilities.tolist(), rel=AGREES[torch.float32])


def test_labels_at_each_step_are_predicted_at_each_step(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 5, 2))
    np.savez(tmp_path / "a.npz", x=x, y=(x[..., 0] > 0).astype(int))
    found = tt.load(trained(tmp_path / "a.npz", tmp_path / "out")).predict(tmp_path / "a.npz")
    assert found.frame.height == 200
    assert set(found.frame["prediction"]) <= {"0", "1"}
