"""What is advised for a model of somebody's own: by what a layer is, not by how it is called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.cells.cell import Gates, Read, Share, State, Weights
from throughtime.records import Finding, FlowRecord
from throughtime.view.subject import subject


class Keeper(tt.Cell):
    """A cell whose memory gate has a name of its own."""

    parts = ("h",)
    reads = {"carousel": "h", "candidate": "h"}  # noqa: RUF012
    inputs = ("keep", "candidate")
    recurrent = ("candidate",)
    clock = {"keep": 1}  # noqa: RUF012

    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        k, c = torch.sigmoid(u.keep), torch.tanh(u.candidate + W.candidate(read.candidate))
        return State(h=k * read.carousel + (1 - k) * c), Gates(keep=k, candidate=c)


class Named(nn.Module):
    """A stranger's model whose attribute is called as ours are."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.recurrent = nn.ModuleList([layer])

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent[0](x)[0][-1]


def vanishing(model: nn.Module, T: int = 60) -> tuple[FlowRecord, Finding]:
    with tt.watch(model) as flow:
        model(torch.randn(T, 4, 3)).square().sum().backward()
    found = [finding for finding in tt.diagnose(flow.record) if finding.rule == "vanishing"]
    assert len(found) == 1
    return flow.record, found[0]


def test_a_memory_gate_is_known_by_its_clock_and_not_by_its_name() -> None:
    cell = Keeper(3, 4)

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for step in x:
                state = self.cell(step, state)
            return state["h"]

    _, finding = vanishing(Loop())
    assert finding.advice.startswith("Open the gate that keeps memory")
    assert "lstm" not in finding.advice + finding.command
    assert "model.cell.bias_ih[0:4].copy_(keep)  # the keep gate's rows" in finding.command


def test_a_model_that_calls_its_layer_recurrent_is_still_somebody_elses() -> None:
    record, finding = vanishing(Named(nn.RNN(3, 4)))
    assert record.layer == "recurrent.0"
    assert finding.title.startswith("recurrent.0: here")
    assert finding.command == 'model.set_submodule("recurrent.0", torch.nn.GRU(...))  # the same sizes as RNN'
    assert "throughtime" not in finding.command + finding.advice
    assert subject(record).found


@pytest.mark.parametrize(("kind", "gate"), [(nn.LSTM, "forget"), (nn.GRU, "update")])
def test_the_lines_to_paste_open_the_gate_that_they_name(kind: type[nn.RNNBase], gate: str) -> None:
    torch.manual_seed(0)
    model = Named(kind(3, 4))
    before, finding = vanishing(model)
    exec(finding.command, {"torch": torch, "model": model})  # what a person would do
    with tt.watch(model) as flow:
        model(torch.randn(60, 4, 3)).square().sum().backward()
    after = flow.record
    assert after.gates[gate].mean.mean() > before.gates[gate].mean.mean() + 0.2
    assert before.horizon is not None
    assert after.horizon is not None
    assert after.horizon > 2 * before.horizon
    titles = [finding.title for finding in tt.diagnose(flow) if finding.severity in ("serious", "warning")]
    assert titles == []


def test_a_run_of_one_step_is_never_good() -> None:
    layer = nn.LSTM(3, 4)
    with tt.watch(layer) as flow:
        layer(torch.randn(1, 2, 3))[0].sum().backward()
    findings = tt.diagnose(flow)
    assert all(finding.severity != "good" for finding in findings)
    assert "a run has one step" in findings[0].title


def test_decay_tells_forget_gates_apart_where_the_half_life_is_one() -> None:
    found = []
    for bias in (0.0, 2.0, 4.0):
        torch.manual_seed(0)
        layer = nn.LSTM(3, 4)
        with torch.no_grad():
            layer.bias_ih_l0[4:8].fill_(bias)
        with tt.watch(layer) as flow:
            layer(torch.randn(80, 4, 3))[0][-1].square().sum().backward()
        assert flow.record.half_life == 1
        assert flow.record.decay is not None
        found.append(flow.record.decay)
    assert found[0] < found[1] < found[2]
    assert found[2] > 10
