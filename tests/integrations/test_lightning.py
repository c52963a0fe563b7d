"""A real, tiny training with Lightning: what arrives in its logger, and that nothing else changes."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from tests.integrations import task
from throughtime.errors import FlowWarning, InputError
from throughtime.integrations.lightning import FlowCallback

# What Lightning says of torch, of a GPU beside, and of loaders as small as these.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '[a-z]+_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]


class Lit(pl.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.losses: list[float] = []

    def training_step(self, batch, _):
        loss = self.model(**batch)["loss"]
        self.losses.append(loss.item())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.model(**batch)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(tmp_path, *callbacks, epochs: int = 1, module: nn.Module | None = None) -> Lit:
    lit = Lit(task.made() if module is None else module)
    loader = torch.utils.data.DataLoader(task.data(), batch_size=task.B)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=[TensorBoardLogger(tmp_path, version=name) for name in ("one", "two")],
        callbacks=list(callbacks),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    torch.manual_seed(2)
    trainer.fit(lit, loader, loader)
    return lit


def test_every_measured_step_is_in_every_logger(tmp_path) -> None:
    callback = FlowCallback(every=4)
    fit(tmp_path, callback, epochs=2)
    assert [record.update for record in callback.flow.history] == [0, 4, 8]
    assert callback.flow.record.layer == "model.lstm"
    for version in ("one", "two"):
        found = task.written(tmp_path / "lightning_logs" / version)
        losses = [step for step, _ in found["loss"]]
        assert losses == list(range(12))
        start = found["flow/model.lstm/gradient_at_start"]
        assert [step for step, _ in start] == [0, 4, 8]  # where the loss of that very step stands
        expected = [record.adjoint[0] for record in callback.flow.history]
        assert [value for _, value in start] == pytest.approx(expected, rel=1e-6)
        assert "flow/model.lstm/horizon" in found


def test_the_training_is_bitwise_the_same(tmp_path) -> None:
    plain = fit(tmp_path / "plain")
    watched = fit(tmp_path / "watched", FlowCallback(every=1))
    assert watched.losses == plain.losses
    for name, value in watched.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in watched.model.modules())


def test_a_module_without_a_recurrent_layer_is_trained_with_a_warning(tmp_path) -> None:
    with pytest.warns(FlowWarning, match="nothing to watch in Lit"):
        fit(tmp_path, FlowCallback(), module=task.Flat())


def test_an_error_in_the_training_leaves_no_hook(tmp_path) -> None:
    class Breaks(pl.Callback):
        def on_before_zero_grad(self, *_):
            raise KeyError("something of the person's own")

    model = task.made()
    with pytest.raises(KeyError):
        fit(tmp_path, FlowCallback(), Breaks(), module=model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_other_processes_measure_nothing() -> None:
    callback = FlowCallback()
    callback.on_train_start(SimpleNamespace(is_global_zero=False), Lit(task.made()))
    callback.on_train_batch_end(SimpleNamespace(), None, None, None, 0)
    callback.on_train_end(SimpleNamespace(), None)
    assert callback.flow is None


def test_what_could_not_be_watched_is_said_at_the_end(tmp_path) -> None:
    model = task.made()
    model.second = nn.LSTM(3, 5, proj_size=2)
    with pytest.warns(UserWarning, match=r"model\.second .* has a projection"):
        fit(tmp_path, FlowCallback(), module=model)


def test_without_lightning_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "throughtime.integrations.lightning")
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(InputError, match=r'pip install "throughtime\[lightning\]"'):
        import throughtime.integrations.lightning  # noqa: F401
