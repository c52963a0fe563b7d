"""Numbers as a person reads them, and commands as a person types them."""

from __future__ import annotations

import math
import shlex

from throughtime.diagnosis.case import Case
from throughtime.records import FlowRecord

_EITHER = {"--chrono": "--forget-bias", "--forget-bias": "--chrono"}  # both set the same biases
_OTHER_PLACE = ("--out", "--resume", "--cells", "--cell")  # of the command that was typed: not to be repeated


def steps(count: int) -> str:
    """`1 step`, `12 steps`."""
    return f"{count} step" if count == 1 else f"{count} steps"


def factor(log10: float) -> str:
    """A positive number from its logarithm: `0.25`, `10^-37.2`, `0` for a true zero."""
    if math.isnan(log10):
        return "not measured"
    if log10 == -math.inf:
        return "0"
    if log10 == math.inf:
        return "infinite"
    return f"{10.0**log10:.3g}" if abs(log10) < 4 else f"10^{log10:.1f}"


def percent(share: float) -> str:
    """`12%`, `0.3%`."""
    return f"{100 * share:.0f}%" if share == 0 or share >= 0.0995 else f"{100 * share:.2g}%"


def fading(flow: FlowRecord) -> str:
    """How fast the gradient fades behind the first step back, in a sentence; empty if that is not known.

    The half-life alone is 1 for nearly every LSTM: the first step back pays once for the output gate.
    """
    if flow.decay is None:
        return ""
    first = flow.lags.median[flow.lags.lags == 1]
    left = f"The first step back leaves {factor(float(first[0]))} of it; " if first.size else ""
    return f"{left}{'from there' if left else 'From there'} it halves every {flow.decay:.3g} steps."


def command(case: Case, cell: str | None = None, **options: object) -> str:
    """The command that trains this cell again with something changed: `rate=0.001` becomes `--rate 0.001`."""
    if case.strange:
        return ""
    changed = {f"--{name.replace('_', '-')}": str(value) for name, value in options.items()}
    words = _as_typed(case.command, changed) or ["throughtime", "train", _source(case)]
    words += ["--cell", cell or case.cell]
    for name, value in changed.items():
        words += [name, value]
    return shlex.join(words).replace("'SOURCE'", "SOURCE")


def _as_typed(typed: str, changed: dict[str, str]) -> list[str]:
    """The words of `throughtime compare …` as a `train`, less what is said anew; empty if it was something else."""
    dropped = {*_OTHER_PLACE, *changed, *(_EITHER[name] for name in changed if name in _EITHER)}
    try:
        words = shlex.split(typed)
    except ValueError:
        return []
    if len(words) < 3 or words[1] not in ("compare", "train") or any(word.startswith("--resume") for word in words):
        return []
    kept, skip = ["throughtime", "train"], False
    for word in words[2:]:
        name, equals, _ = word.partition("=")
        if skip:
            skip = False
        elif name in dropped:
            skip = not equals
        else:
            kept.append(word)
    return kept


def _source(case: Case) -> str:
    return case.data.name if case.data is not None and case.data.name else "SOURCE"
