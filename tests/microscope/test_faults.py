"""The first sentence about a stranger's model names its fault, or says that there is none."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from tests.microscope.faults import FAULTS, Fault


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
