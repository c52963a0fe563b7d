"""The loss reads a direction where it has seen one step of many, or one sequence of the batch alone."""

from __future__ import annotations

from collections.abc import Iterator

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.torch_lines import module
from throughtime.records import Finding


def wrong_end(case: Case) -> Iterator[Finding]:
    """A bidirectional net that is read at its last step; a net that is read at its first; a batch taken for time."""
    flow = case.flow
    if flow is None or flow.use is None or not case.strange:
        return
    of = module(flow.place) if flow.place is not None else case.cell
    for name in flow.use.wrong_end:
        reverse = flow.place is not None and name.partition(" ")[0] != flow.layer.partition(" ")[0]
        reverse = reverse or (flow.place is not None and flow.place.direction == 1)
        which = "the reverse direction" if reverse else "the layer"
        yield Finding(
            rule="wrong_end",
            severity="serious",
            cell=case.cell,
            title=f"{name}: the loss reads {which} at the wrong end, where its output has seen one step of {flow.T}.",
            evidence=(
                "Of all its outputs the one that it makes first is the only one with a gradient"
                + (
                    "; a reverse direction begins at the last step, which is what out[:, -1] takes." if reverse else "."
                ),
            ),
            advice="Read each direction where it has seen the whole sequence: its final state, h_n."
            if reverse
            else "Read the last step of each sequence, or the final state, h_n.",
            command=f"_, state = {of}(x)\nh_n = state[0] if isinstance(state, tuple) else state\n"
            + ("read = torch.cat([h_n[-2], h_n[-1]], dim=-1)" if reverse else "read = h_n[-1]"),
            check="The record of that direction then has a horizon.",
        )
    depended, measured = flow.use.answers
    if depended == 1 < measured and flow.use.batch > 1 and not flow.use.wrong_end:
        yield Finding(
            rule="wrong_end",
            severity="serious",
            cell=case.cell,
            title=f"{case.subject}: the loss depends on one of the {measured} sequences that were measured; the others "
            "teach nothing.",
            evidence=(f"The layer read {flow.use.batch} sequences of up to {flow.T} steps.",),
            advice="If these numbers are the other way round, the layer takes the batch for time: build it with "
            "batch_first=True, or hand it steps first. Else look at what is taken of its output: out[-1] and "
            "out[:, -1] are not the same.",
            command="",
            check="The loss then depends on every sequence.",
        )
