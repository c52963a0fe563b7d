"""The first sentence about a stranger's model names its fault, or says that there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from tests.microscope.faults import FAULTS, Fault
from throughtime.errors import FlowError


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_first_sentence_names_the_fault(fault: Fault) -> None:
    """Of a watch; and no good news stands beside a fault."""
    torch.manual_seed(3)
    model = fault.layer()
    with tt.watch(model, lag=fault.lag) as flow:
        fault.loss(model).backward()
    findings = tt.diagnose(flow)
    first = findings[0].title
    if flow.records:
        assert first == tt.diagnose(flow.record)[0].title
        assert first == tt.diagnose(flow.records)[0].title
    for word in fault.names:
        assert word in first, [finding.title for finding in findings]
    for word in fault.not_named:
        assert word not in first
    titles = [finding.title for finding in findings]
    assert len(set(titles)) == len(titles), "nothing is said twice"
    assert not any("puts out NaN" in title for title in titles) or "what it put out is finite" not in str(titles)
    faulty = any(finding.severity in ("serious", "warning") for finding in findings)
    assert faulty != first.startswith("No fault")
    assert not (faulty and any(finding.severity == "good" for finding in findings))
    assert not any("throughtime train" in finding.command + finding.advice for finding in findings)


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
def test_a_state_taken_from_the_output_is_no_all_clear(kind: type[nn.RNNBase]) -> None:
    layer, state = kind(3, 8, batch_first=True), None
    with tt.watch(layer) as flow:
        for x in torch.randn(24, 6, 1, 3):
            output, _ = layer(x, state)
            state = output.transpose(0, 1)
        output.square().sum().backward()
    title = tt.diagnose(flow)[0].title
    assert title.startswith("Nothing was measured")
    assert "hand on what the layer returns second, h_n" in title


def test_a_record_that_is_asked_for_after_nan_names_the_nan() -> None:
    layer, x = nn.GRU(3, 8, batch_first=True), torch.randn(6, 24, 3)
    x[0, 7] = torch.nan
    with tt.watch(layer) as flow:
        layer(x)[0][:, -1].square().sum().backward()
    with pytest.raises(FlowError, match="NaN or infinity at step 7 of sequence 0"):
        _ = flow.record


def test_a_gradient_that_is_nought_everywhere_is_no_all_clear() -> None:
    layer = nn.GRU(3, 8, batch_first=True)
    with tt.watch(layer) as flow:
        (0 * layer(torch.randn(6, 24, 3))[0][:, -1].sum()).backward()
    assert tt.diagnose(flow)[0].title.startswith("Nothing was measured")
