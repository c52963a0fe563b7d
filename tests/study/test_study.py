"""A study from end to end, on a file small enough to be quick."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import throughtime as tt
from throughtime import history
from throughtime.errors import InputError
from throughtime.study import run as study
from throughtime.study.folder import Folder, fresh
from throughtime.study.plan import Choice, parse_cells


@pytest.fixture
def source(tmp_path, rng):
    """Thirty sequences of two classes, told apart by the first step."""
    y = np.arange(60) % 2
    x = rng.normal(size=(60, 6, 2)).astype(np.float32)
    x[:, 0, 0] += 4 * y
    np.savez(tmp_path / "signs.npz", x=x, y=y)
    return str(tmp_path / "signs.npz")


def prepared(source, cells="rnn,lstm", **settings):
    usual = {"epochs": 2, "batch_size": 8}
    return study.prepare(
        source, parse_cells(cells), {}, {"hidden": 5}, usual | settings,
        seed=3, device="cpu", trackers=(), command="throughtime compare signs.npz",
    )  # fmt: skip


def begun(path, source, **settings):
    origin, dataset = prepared(source, **settings)
    folder = Folder(path)
    folder.begin(origin).close()
    return origin, dataset, folder


def test_a_study_leaves_everything_a_report_needs(source, tmp_path):
    origin, dataset, folder = begun(tmp_path / "out", source)
    events = list(study.run(origin, dataset, folder))
    assert [type(e).__name__ for e in events if isinstance(e, study.Started | study.Ended)] == ["Started", "Ended"] * 2
    whole = folder.read_study()
    assert [run.label for run in whole.runs] == ["rnn", "lstm"]
    for run in whole.runs:
        assert len(run.updates) == 12
        assert run.test is not None
        assert [run.flows[0].moment, run.flows[-1].moment] == ["before", "after"]
        assert {flow.moment for flow in run.flows} == {"before", "during", "after"}
        assert run.last_flow("after").examples
        assert run.stopped == "all 2 epochs are done."
    assert folder.read_origin() == origin


def test_looking_changes_nothing_in_training(source, tmp_path, monkeypatch):
    def weights(path):
        origin, dataset, folder = begun(path, source, cells="lstm")
        list(study.run(origin, dataset, folder))
        return load_file(path / "lstm" / "last.safetensors"), history.read(path / "lstm" / "events.jsonl").updates

    seen, updates = weights(tmp_path / "seen")
    monkeypatch.setattr("throughtime.study.eyes.SHARES", ())
    unseen, others = weights(tmp_path / "unseen")
    assert all(torch.equal(seen[name], unseen[name]) for name in seen)
    assert [u.loss for u in updates] == [u.loss for u in others]


def test_an_interrupted_study_goes_on_and_ends_as_if_it_had_not_been(source, tmp_path):
    origin, dataset, folder = begun(tmp_path / "whole", source)
    list(study.run(origin, dataset, folder))
    origin, dataset, cut = begun(tmp_path / "cut", source)
    seen = 0

    def stop():
        nonlocal seen
        seen += 1
        return seen == 5

    assert isinstance(list(study.run(origin, dataset, cut, stop=stop))[-1], study.Interrupted)
    partial = cut.read_study()
    assert [len(run.updates) for run in partial.runs] == [5]
    assert "not ended" in partial.runs[0].stopped
    again = list(study.run(*study.reopen(cut), cut))
    assert next(e for e in again if isinstance(e, study.Started)).done == 5
    for label in ("rnn", "lstm"):
        one, other = (load_file(f.path / label / "last.safetensors") for f in (folder, cut))
        assert all(torch.equal(one[name], other[name]) for name in one)
    losses = [[u.loss for run in f.read_study().runs for u in run.updates] for f in (folder, cut)]
    assert losses[0] == losses[1]
    assert list(study.run(*study.reopen(cut), cut)) == [], "what has ended is not run again"


def test_a_source_that_changed_is_not_gone_on_with(source, tmp_path, rng):
    _, _, folder = begun(tmp_path / "out", source)
    np.savez(source, x=rng.normal(size=(60, 6, 2)), y=np.arange(60) % 2)
    with pytest.raises(InputError, match="is not what it was"):
        study.reopen(folder)


def test_a_rehearsal_takes_two_batches(source, tmp_path):
    origin, dataset = study.shortened(*prepared(source, cells="gru"))
    folder = Folder(tmp_path / "out")
    folder.begin(origin).close()
    events = list(study.run(origin, dataset, folder))
    assert next(e for e in events if isinstance(e, study.Started)).updates == 2


def test_nothing_is_overwritten_unasked(source, tmp_path):
    origin, _ = prepared(source)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("…")
    with pytest.raises(InputError, match="exists already"):
        Folder(tmp_path / "mine").begin(origin)
    with pytest.raises(InputError, match="not the folder of a study"):
        Folder(tmp_path / "mine").begin(origin, overwrite=True)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="exists already"):
        Folder(tmp_path / "file").begin(origin)


def test_a_damaged_folder_is_told_in_a_sentence(source, tmp_path):
    with pytest.raises(InputError, match=r"study\.json: no such file"):
        Folder(tmp_path).read_study()
    _, _, folder = begun(tmp_path / "out", source)
    with pytest.raises(InputError, match="no run has begun"):
        folder.read_study()
    (tmp_path / "out" / "study.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        folder.read_study()


def test_fresh_folders_are_numbered(tmp_path):
    names = []
    for _ in range(3):
        folder = fresh("my file.csv", tmp_path)
        folder.mkdir()
        names.append(folder.name)
    assert names == ["my-file", "my-file-2", "my-file-3"]
    assert fresh("数据.csv", tmp_path).name == "数据"
    assert fresh("a b/..\n.csv", tmp_path).name == "a-b"
    assert fresh("...", tmp_path).name == "study"


def test_a_label_cannot_lead_out_of_the_folder(tmp_path):
    for label in ("..", ".", "../up", "/etc", "a/../../b"):
        run = Folder(tmp_path / "out").run(Choice(label, "lstm"))
        assert run.parent == tmp_path / "out"
        assert run.name not in ("", ".", "..")


def test_advice_can_be_typed_as_it_stands(source, tmp_path):
    origin, _, folder = begun(tmp_path / "a b;c", source)
    with pytest.raises(InputError, match=r"--resume '.*a b;c', or"):
        folder.begin(origin)


def test_a_rehearsal_of_a_stream_takes_two_batches(tmp_path):
    (tmp_path / "long.txt").write_text("abcdefghij " * 20_000)
    for window in ({}, {"window": 8}):
        origin, dataset = study.prepare(
            str(tmp_path / "long.txt"), parse_cells("rnn"), {}, {"hidden": 2}, {"batch_size": 4, **window},
            seed=0, device="cpu", trackers=(), command="",
        )  # fmt: skip
        origin, dataset = study.shortened(origin, dataset)
        training = tt.train(tt.Net.build(dataset.card, "elman", hidden=2), dataset, origin.plan.trials[0].settings)
        longest = int(dataset.train.lengths().max())
        assert training.total == (2 * longest / 8 if window else 2)
