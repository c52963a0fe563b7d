"""Training as a whole: against a loop by hand, and what happens when something is wrong."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.tolerances import close
from tests.training import toys
from throughtime import history
from throughtime.data.dataset import Dataset
from throughtime.errors import TrainingError
from throughtime.models import Net
from throughtime.records import Settings
from throughtime.training import evaluation, machine, train
from throughtime.training.machine import Machine
from throughtime.training.order import Order
from throughtime.training.schedule import rate

SMALL = Settings(epochs=3, batch_size=8, rate=1e-2)


def test_it_is_the_loop_one_would_write_by_hand() -> None:
    data = toys.classes(20, (3, 8))
    settings = Settings(epochs=3, batch_size=6, rate=1e-2, weight_decay=0.1, clip=0.3, warmup=0.2)
    ours, hand = (Net.build(data.card, hidden=5, seed=1).double() for _ in range(2))
    updates = list(train(ours, data, settings, seed=4, device="cpu"))
    decayed = [p for p in hand.parameters() if p.ndim > 1]
    free = [p for p in hand.parameters() if p.ndim == 1]
    adam = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}], lr=1.0)
    order, at = Order(data.train.lengths(), 6, 4), 0
    for epoch in range(3):
        for indices in order.epoch(epoch):
            batch = data.train.batch(indices.tolist())
            for group in adam.param_groups:
                group["lr"] = 1e-2 * ((at + 1) / 3 if at < 3 else 0.5 * (1 + math.cos(math.pi * (at - 3) / 9)))
            adam.zero_grad()
            loss = nn.functional.cross_entropy(hand(batch)[0], batch.y)
            loss.backward()
            norm = float(torch.cat([p.grad.flatten() for p in hand.parameters()]).norm())
            for p in hand.parameters():
                p.grad *= min(1.0, 0.3 / norm)
            adam.step()
            seen = updates[at]
            assert (seen.loss, seen.grad_norm) == (
                pytest.approx(loss.item(), rel=1e-10),
                pytest.approx(norm, rel=1e-10),
            )
            assert (seen.update, seen.epoch, seen.clipped, seen.threshold) == (at + 1, epoch, norm > 0.3, 0.3)
            at += 1
    assert at == len(updates)
    for mine, theirs in zip(ours.parameters(), hand.parameters(), strict=True):
        assert float((mine - theirs).abs().max().detach()) < 1e-10


def test_it_learns_and_keeps_the_best(tmp_path: Path) -> None:
    data = toys.classes(60, (3, 8), held_out=60)
    net = Net.build(data.card, "gru", hidden=12)
    training = train(net, data, Settings(epochs=40, batch_size=10, rate=2e-2), folder=tmp_path, device="cpu")
    updates = list(training)
    assert len(updates) == training.total == training.done == 240
    assert training.stopped == "all 40 epochs are done."
    assert len(training.evaluations) == 40
    assert training.best.score == max(seen.score for seen in training.evaluations) > 0.9
    assert [seen for seen in training.evaluations if seen.best][-1] == training.best
    last = {name: weight.clone() for name, weight in net.state_dict().items()}
    training.restore_best()
    seen = training.evaluate("valid")
    assert (seen.loss, seen.score) == (training.best.loss, training.best.score)
    for name, weights in (("best", net.state_dict()), ("last", last)):
        stored = load_file(tmp_path / f"{name}.safetensors")
        assert all(torch.equal(stored[key], weights[key]) for key in weights)
    past = history.read(tmp_path / "events.jsonl")
    assert past.updates == tuple(updates)
    assert past.evaluations == training.evaluations
    assert training.seconds == pytest.approx(sum(update.seconds for update in updates))


def test_each_sample_is_seen_once_an_epoch() -> None:
    data = toys.classes(23)
    for _ in train(Net.build(data.card, hidden=3), data, replace(SMALL, epochs=4, evaluate_every=1000), device="cpu"):
        pass
    assert Counter(data.train.asked) == dict.fromkeys(range(23), 4)


def test_patience_ends_it_early() -> None:
    data = toys.classes(20)
    training = train(
        Net.build(data.card, hidden=3), data, replace(SMALL, epochs=50, rate=1e-9, patience=3), device="cpu"
    )
    for _ in training:
        pass
    assert training.stopped == "no better on validation for 3 evaluations."
    assert len(training.evaluations) < 50
    assert not any(seen.best for seen in training.evaluations[-3:])


def test_others_draw_what_they_would_have_drawn_and_nothing_is_printed_or_left_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    data = toys.classes(20, tokens=True)
    torch.manual_seed(5)
    wanted = torch.rand(4)
    torch.manual_seed(5)
    list(train(Net.build(data.card, hidden=3, dropout=0.5), data, SMALL, folder=tmp_path / "run"))
    assert torch.equal(torch.rand(4), wanted)
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "here").iterdir()) == []
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        ".training.lock", "best.safetensors", "checkpoints", "events.jsonl", "last.safetensors",
    ]  # fmt: skip


# -- numbers that are not finite


def spoilt(value: float) -> Dataset:
    data = toys.classes(20)
    data.train.xs[13][2, 0] = value
    return data


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_input_that_is_not_finite_is_named_before_it_reaches_the_weights(value: float, tmp_path: Path) -> None:
    data = spoilt(value)
    net = Net.build(data.card, "elman", hidden=3, options={"nonlinearity": "relu"})
    training = train(net, data, SMALL, folder=tmp_path, device="cpu")
    with pytest.raises(TrainingError, match=r"update \d: .*gradient's norm.*input of sample 13 .* is not finite"):
        for _ in training:
            pass
    assert all(torch.isfinite(p).all() for p in net.parameters())
    stored = load_file(tmp_path / "last.safetensors")
    assert all(torch.equal(stored[name], weight) for name, weight in net.state_dict().items())
    with pytest.raises(StopIteration):
        next(training)
    train(net, data, SMALL, folder=tmp_path, resume=True, device="cpu").close()  # nobody holds the folder


def exploding(clip: float | None, **more: object) -> str:
    data = toys.steps(20, (60, 60))
    net = Net.build(data.card, "elman", hidden=4, options={"nonlinearity": "identity"}, readout="every")
    with torch.no_grad():
        net.recurrent.parameters_of(0)["weight_hh"].mul_(1e3)
    with pytest.raises(TrainingError) as caught:
        list(train(net, data, replace(SMALL, clip=clip, **more), device="cpu"))
    assert all(torch.isfinite(p).all() for p in net.parameters())
    return str(caught.value)


def test_a_loss_that_overflows_names_the_likely_cure() -> None:
    assert "clip=1.0" in exploding(None)
    assert "rate=0.0033" in exploding(1.0)


def test_a_gradient_that_overflows_on_its_way_back_names_the_likely_cure() -> None:
    data = toys.classes(20, (40, 40))
    net = Net.build(data.card, "elman", hidden=3, options={"nonlinearity": "tanh"})
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name != "recurrent.weight_hh_l0":
                p.mul_(1e-6)
        net.recurrent.parameters_of(0)["weight_hh"].copy_(torch.eye(3))
        net.head.weight.fill_(3e38)
        net.head.weight[1:] = -3e38
    with pytest.raises(TrainingError, match=r'clip_by="backward"|rate='):
        list(train(net, data, SMALL, device="cpu"))


def test_a_step_so_large_that_weights_overflow_is_not_kept(tmp_path: Path) -> None:
    data = toys.classes(20)
    net = Net.build(data.card, hidden=3)
    settings = replace(SMALL, rate=3e38, warmup=0.0, weight_decay=2.0, evaluate_every=1)
    with pytest.raises(TrainingError, match=r"no longer finite|norm"):
        list(train(net, data, settings, folder=tmp_path, device="cpu"))
    for file in tmp_path.rglob("*.safetensors"):
        assert all(torch.isfinite(t).all() for t in load_file(file).values() if t.is_floating_point())


# -- what cannot be


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 21}, "larger than the data: toy has 20 samples"),
        ({"rate": math.nan}, "rate=nan"),
        ({"warmup": 2.0}, "warmup=2"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"stride": 3}, "needs a window"),
        ({"window": 2, "stride": 3}, "stride=3 is more than window=2"),
        ({"patience": 0}, "patience=0"),
        ({"schedule": "linear"}, "schedule='linear' is not known; there is constant, cosine"),
        ({"precision": "fp16"}, "needs a GPU"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, object], words: str, tmp_path: Path) -> None:
    data = toys.classes(20)
    with pytest.raises(TrainingError, match=words):
        train(Net.build(data.card, hidden=3), data, replace(SMALL, **change), folder=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_a_stream_is_refused() -> None:
    data = toys.series(30)
    with pytest.raises(TrainingError, match="it has 29 steps"):
        train(Net.build(data.card, hidden=3), data, Settings(batch_size=30, window=4), device="cpu")
    with pytest.raises(TrainingError, match="has 2 samples"):
        train(Net.build(data.card, hidden=3), data, Settings(batch_size=3), device="cpu")


def test_trackers_need_a_folder_and_to_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toys.classes(20)
    net = Net.build(data.card, hidden=3)
    with pytest.raises(TrainingError, match="comet_ml is not known or not installed"):
        train(net, data, SMALL, folder=tmp_path / "run", trackers=("comet_ml",))
    monkeypatch.setattr(machine, "get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(TrainingError, match="give folder="):
        train(net, data, SMALL, trackers=("tensorboard",))


def test_asking_too_early_or_too_late_is_refused(tmp_path: Path) -> None:
    data = toys.classes(20)
    training = train(Net.build(data.card, hidden=3), data, SMALL, device="cpu")
    next(training)
    with pytest.raises(TrainingError, match="has not ended"):
        training.restore_best()
    with pytest.raises(TrainingError, match="no folder"):
        training.save()
    training = train(Net.build(data.card, hidden=3), data, SMALL, folder=tmp_path, device="cpu")
    next(training)
    training.close()
    with pytest.raises(TrainingError, match="was closed"):
        training.save()


# -- precision, streams, evaluation


def test_precision_may_change_from_one_training_to_the_next() -> None:
    data = toys.classes(20, (3, 8))
    losses = {}
    for precision in ("no", "bf16", "no"):
        net = Net.build(data.card, hidden=8, seed=2)
        updates = list(train(net, data, replace(SMALL, precision=precision), device="cpu"))
        losses.setdefault(precision, []).append([update.loss for update in updates])
        assert all(p.dtype == torch.float32 for p in net.parameters())
    assert losses["no"][0] == losses["no"][1] != losses["bf16"][0]
    assert losses["bf16"][0] == pytest.approx(losses["no"][0], rel=0.05)


@pytest.mark.parametrize("window", [None, 8])
def test_streams_are_learned_whole_or_in_lanes(window: int | None) -> None:
    data = toys.series(400, noise=0.01)
    net = Net.build(data.card, "gru", hidden=12)
    settings = Settings(epochs=12 if window is None else 30, batch_size=4, rate=2e-2, window=window)
    training = train(net, data, settings, device="cpu")
    assert len(list(training)) == training.total
    assert training.best.score < 0.02


@pytest.mark.parametrize(
    ("data", "model"),
    [
        (toys.classes(5, (1, 40), held_out=17), {}),
        (toys.classes(5, (1, 40), held_out=17), {"readout": "mean"}),
        (toys.classes(5, (1, 40), held_out=17), {"bidirectional": True}),
        (toys.steps(17, (1, 40), counted=True), {"readout": "every"}),
    ],
)
def test_evaluation_in_stretches_is_evaluation_at_once(
    data: Dataset, model: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net.build(data.card, hidden=3, **model).double()
    here = Machine("cpu", "no", (), None)
    batch = data.valid.batch(range(17))
    prediction = net(batch)[0].detach()
    wanted = (net.loss(prediction, batch).item(), net.score(prediction, batch))
    for numbers in (10**6, 60, 3):
        monkeypatch.setattr(evaluation, "NUMBERS", numbers)
        loss, score = evaluation.assess(net, data.valid, 5, here)
        assert (loss, score) == (pytest.approx(wanted[0], rel=1e-12), pytest.approx(wanted[1], rel=1e-12))
    assert net.training


def test_the_rate_warms_up_and_falls_as_half_a_cosine() -> None:
    settings = Settings(rate=0.4, warmup=0.1)
    rates = torch.tensor([rate(settings, step, 100) for step in range(100)], dtype=torch.float64)
    close(rates[:10], torch.linspace(0.04, 0.4, 10, dtype=torch.float64))
    close(rates[10:], 0.2 * (1 + torch.cos(math.pi * torch.arange(90, dtype=torch.float64) / 90)))
    constant = replace(settings, schedule="constant")
    assert [rate(constant, step, 100) for step in (9, 50, 99)] == [0.4] * 3
    assert rate(replace(settings, warmup=0.0), 0, 100) == rate(replace(settings, warmup=1.0), 99, 100) == 0.4
