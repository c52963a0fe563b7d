"""accelerate's trackers, a real one: the three lines of docs/integrations.md in a loop of a person's own."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

import throughtime as tt
from tests.integrations import task


def trained(folder, *, watched: bool) -> tuple[list[float], dict[str, list[tuple[int, float]]], list[float]]:
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=folder)
    accelerator.init_trackers("run")
    model = task.made()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = torch.utils.data.DataLoader(task.data(), batch_size=task.B)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    torch.manual_seed(2)
    losses, starts = [], []

    def step(batch) -> None:
        loss = model(**batch)["loss"]
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    if watched:
        with tt.watch(model, every=2) as flow:
            for number, batch in enumerate(loader):
                step(batch)
                accelerator.log(flow.scalars(), step=number)
        starts = [float(record.adjoint[0]) for record in flow.history]
    else:
        for batch in loader:
            step(batch)
    accelerator.end_training()
    return losses, task.written(folder), starts


def test_three_lines_bring_it_to_a_tracker_and_change_nothing(tmp_path) -> None:
    plain, nothing, _ = trained(tmp_path / "plain", watched=False)
    losses, found, starts = trained(tmp_path / "watched", watched=True)
    assert nothing == {}
    assert losses == plain
    start = found["flow/lstm/gradient_at_start"]
    assert [step for step, _ in start] == list(range(6))  # between two measurements the last one stands
    assert [value for _, value in start] == pytest.approx([each for each in starts for _ in (0, 1)], rel=1e-6)
    assert {"flow/lstm/horizon", "flow/lstm/gate_forget"} <= found.keys()
