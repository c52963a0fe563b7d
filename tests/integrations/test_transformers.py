"""A real, tiny training with the Hugging Face Trainer: what arrives where it reports to, and nothing else changes."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer, TrainingArguments

from tests.integrations import task
from throughtime.errors import FlowWarning, InputError
from throughtime.integrations.transformers import FlowCallback

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*no accelerator is found")


def trained(folder, *, model=None, every=None, **options) -> tuple[Trainer, FlowCallback | None]:
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=task.B,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
        **{"report_to": "none"} | options,
    )
    trainer = Trainer(model=task.made() if model is None else model, args=arguments, train_dataset=task.data())
    callback = None
    if every is not None:
        callback = FlowCallback(trainer, every=every)
        trainer.add_callback(callback)
    trainer.train()
    return trainer, callback


def losses(trainer: Trainer) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def test_every_measured_step_is_in_the_log(tmp_path) -> None:
    trainer, callback = trained(tmp_path, every=4)
    assert [record.update for record in callback.flow.history] == [0, 4, 8]
    logged = [entry for entry in trainer.state.log_history if "flow/lstm/gradient_at_start" in entry]
    assert [entry["step"] for entry in logged] == [1, 5, 9]  # the trainer counts a step when it is done
    expected = [float(record.adjoint[0]) for record in callback.flow.history]
    assert [entry["flow/lstm/gradient_at_start"] for entry in logged] == expected
    assert [step for step, _ in losses(trainer)] == list(range(1, 13))


def test_it_goes_where_the_trainer_reports_to(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    _, callback = trained(tmp_path, every=4, report_to="tensorboard")
    found = task.written(tmp_path)
    start = found["train/flow/lstm/gradient_at_start"]
    assert [step for step, _ in start] == [1, 5, 9]
    expected = [record.adjoint[0] for record in callback.flow.history]
    assert [value for _, value in start] == pytest.approx(expected, rel=1e-6)


def test_the_training_is_bitwise_the_same(tmp_path) -> None:
    plain, _ = trained(tmp_path / "plain")
    watched, _ = trained(tmp_path / "watched", every=1)
    assert losses(watched) == losses(plain)
    for name, value in watched.model.state_dict().items():
        assert torch.equal(value, plain.model.state_dict()[name]), name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in watched.model.modules())


def test_with_accumulated_gradients_each_backward_pass_is_a_step(tmp_path) -> None:
    trainer, callback = trained(tmp_path, every=3, gradient_accumulation_steps=2)
    assert [record.update for record in callback.flow.history] == [0, 3, 6, 9]
    logged = [entry for entry in trainer.state.log_history if "flow/lstm/horizon" in entry]
    assert [entry["step"] for entry in logged] == [1, 2, 4, 5]


def test_a_model_without_a_recurrent_layer_is_trained_with_a_warning(tmp_path) -> None:
    with pytest.warns(FlowWarning, match="nothing to watch in Flat"):
        trained(tmp_path, model=task.Flat(), every=1)


def test_other_processes_measure_nothing() -> None:
    callback = FlowCallback(None, every=1)
    callback.on_train_begin(None, SimpleNamespace(is_world_process_zero=False), None, model=task.made())
    callback.on_step_end(None, None, SimpleNamespace(should_log=True))
    callback.on_train_end(None, None, None)
    assert callback.flow is None


def test_without_transformers_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "throughtime.integrations.transformers")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r'pip install "throughtime\[transformers\]"'):
        import throughtime.integrations.transformers  # noqa: F401
