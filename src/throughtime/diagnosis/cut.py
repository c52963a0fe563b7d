"""The state is detached: nothing before a window is taught."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.wording import steps
from throughtime.records import Finding


def cut(case: Case) -> Iterator[Finding]:
    """A state that is handed on without its gradient, within a step of training or from one to the next."""
    flow = case.flow
    if flow is None or flow.use is None or not case.strange:
        return
    cuts = [int(at) for at in flow.use.cuts]
    carried = flow.use.start == "detached"
    if not cuts and not carried:
        return
    bounds = [0, *cuts, flow.T]
    window = int(np.diff(bounds).max())
    lag = flow.lag if flow.lag is not None else case.data.lag if case.data is not None else None
    severity: Literal["serious", "warning", "note"] = "note"
    if window == 1 or (lag is not None and window <= lag):
        severity = "serious"
    elif cuts:
        severity = "warning"
    need = "" if lag is None or window > lag else f"; the lag that is needed is {lag}"
    where = "starts from a detached state" if not cuts else "detaches its state before every step" if window == 1 else (
        f"detaches its state {len(cuts)} times in {steps(flow.T)}"
    )  # fmt: skip
    yield Finding(
        rule="cut",
        severity=severity,
        cell=case.cell,
        title=f"{case.subject}: {where}: nothing before this window of {steps(window)} is taught{need}.",
        evidence=(
            (
                f"The state was handed on without its gradient before step {', '.join(map(str, cuts[:8]))}"
                + (" and more." if len(cuts) > 8 else "."),
            )
            if cuts
            else ("The state that it was given is what an earlier call put out, without its gradient.",)
        ),
        advice="Hand the state on as it is, or detach it less often: a window has to be longer than the lag."
        if severity == "serious"
        else "This is truncated backpropagation; let the window be longer than the longest lag that matters.",
        command="",
        check="If the score does not rise with a longer window, nothing further back was worth learning.",
    )
