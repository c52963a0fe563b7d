"""Whether clipping is a safety net, or sets the length of every step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from throughtime.diagnosis.case import Case
from throughtime.diagnosis.thresholds import JUDGED, NEARLY_ALWAYS, NEW_THRESHOLD
from throughtime.diagnosis.wording import command, percent
from throughtime.records import Finding


def clipping(case: Case) -> Iterator[Finding]:
    """Clipping at a fixed threshold that acts on nearly every update, or on none.

    "always" acts always and "percentile" on a fixed share, both by what they are, and
    an update does not tell at how many steps "backward" acted, so these are not judged.
    """
    run = case.run
    if run is None or not case.leads or run.settings.clip is None or len(run.updates) < JUDGED:
        return
    if run.settings.clip_by in ("always", "percentile", "backward"):
        return
    norms = np.array([update.grad_norm for update in run.updates])
    norms = norms[np.isfinite(norms)]
    if not norms.size:
        return
    threshold, share = run.settings.clip, run.clipped_share
    evidence = (
        f"{percent(share)} of {len(run.updates)} updates were clipped, by {run.settings.clip_by} at {threshold:g}.",
        f"Gradient norms before clipping: {np.median(norms):.3g} in the median, {norms.max():.3g} at most.",
    )
    if share > NEARLY_ALWAYS:
        higher = f"{np.percentile(norms, NEW_THRESHOLD):.2g}"
        # norms are over all parameters: they say nothing about a threshold for single values or states
        measured = run.settings.clip_by == "norm" and float(higher) > threshold
        value = higher if measured else f"{10 * threshold:g}"
        yield Finding(
            rule="clipping",
            severity="note" if case.learned else "warning",
            cell=case.cell,
            title=f"{case.cell}: clipping acts on {percent(share)} of updates, so it limits the step size and is no "
            "safety net.",
            evidence=evidence,
            advice="Raise the threshold to where one update in ten is clipped, and let the rate set the step."
            if measured
            else "Raise the threshold tenfold, and let the rate set the step.",
            command=command(case, clip=value),
            check="If the loss then jumps or is no longer a number, the low threshold was needed: lower the rate.",
        )
    elif share == 0:
        yield Finding(
            rule="clipping",
            severity="note",
            cell=case.cell,
            title=f"{case.cell}: clipping never acted; the safety net was not used.",
            evidence=evidence,
            advice="Leave it: it costs next to nothing and guards against the one update that would undo the rest.",
            command="",
            check="The same run without clipping (--clip 0) ends with the same weights.",
        )
