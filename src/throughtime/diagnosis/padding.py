"""The net reads padding before it answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.thresholds import PADDED
from throughtime.diagnosis.wording import steps
from throughtime.records import Finding


def padding(case: Case) -> Iterator[Finding]:
    """An answer at the end of sequences whose last steps read one and the same input."""
    flow = case.flow
    if flow is None or flow.use is None or not case.strange or flow.place is None or flow.place.direction:
        return
    use = flow.use
    at_the_end = (use.last == use.lengths - 1) & (use.sources == 1)
    read = np.where(at_the_end, use.padded, 0)
    some = read >= PADDED
    if not some.any() or flow.place.layer or (read == use.lengths).all():
        return
    most = int(read.max())
    yield Finding(
        rule="padding",
        severity="serious" if most * 4 >= flow.T else "warning",
        cell=case.cell,
        title=f"{case.subject}: it reads up to {steps(most)} of padding before the loss looks at it.",
        evidence=(
            f"In {int(some.sum())} of {len(read)} sequences the last steps read one and the same input, "
            f"{int(np.median(read[some]))} of them in the middle, and the loss depends on the step after these alone.",
        ),
        advice="Let each sequence end where it ends: pack it, and read h_n.",
        command="packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)",
        check="If these steps are data (a series that is flat at its end), this is no fault.",
    )
