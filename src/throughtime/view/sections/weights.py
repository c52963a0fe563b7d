"""Which lags taught the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from throughtime.records import Floats, FlowRecord, ParameterCredit
from throughtime.view import words
from throughtime.view.figures import DASHES, Axis, Lines, Rule, Series
from throughtime.view.markup import Html, Node, joined, tag, text
from throughtime.view.page import Section, cell, figure, figures
from throughtime.view.subject import Strand, Subject

QUESTION = "Which lags taught the weights?"
SHARES = (0.1, 0.01)  # a look back that leaves out less than these is spoken of
RULES = tuple(Rule("y", math.log10(share), words.percent(share)) for share in SHARES)
FLOOR = -6.0  # smaller shares do not change what is learned; the tables have the numbers


_Of = Callable[[ParameterCredit, str], Floats]


@dataclass(frozen=True)
class _Taught:
    """One strand's split of dL/dθ, and the same of the untrained net."""

    strand: Strand
    flow: FlowRecord
    now: ParameterCredit
    before: ParameterCredit | None

    @property
    def lead(self) -> str:
        """The parameter that stands for the cell."""
        return self.now.lead


def section(subject: Subject) -> Section | None:
    """The terms of dL/dW by lag, and what a window leaves out; None if no record has them."""
    taught = [found for strand in subject.strands if (found := _found(strand)) is not None]
    if not taught:
        return None
    drawn = [each for each in taught if math.isfinite(each.now.log10_whole[each.lead])]
    body: list[Node] = []
    if drawn:
        dashed = " Dashed: the untrained net." if any(each.before for each in drawn) else ""
        keeps, against = (
            "A window that looks back τ steps keeps the lags up to τ.",
            "Terms can point against each other.",
        )
        body = [
            figure("fig-left-out", _left_out(drawn), keeps + dashed),
            figure("fig-terms", _terms(drawn), against + dashed),
            tag("h3", "What a window leaves out of each parameter's gradient"),
            figures(*(figure(f"fig-left-out-{i}", _by_parameter(each)) for i, each in enumerate(drawn))),
        ]
    return Section("weights", "Which lags taught", QUESTION, _headline(taught, drawn), tuple(body))


def _found(strand: Strand) -> _Taught | None:
    """The last measurement of a strand that split the weights' gradient."""
    flow = next((flow for flow in reversed(strand.flows) if flow.parameters and flow.parameters.log10_rest), None)
    if flow is None or flow.parameters is None:
        return None
    before = strand.before if flow.moment != "before" else None
    return _Taught(strand, flow, flow.parameters, before.parameters if before else None)


def _headline(taught: Sequence[_Taught], drawn: Sequence[_Taught]) -> Node:
    rest = joined(
        (text("{} in {}", _nothing(each), _cell(each)) for each in taught if each not in drawn), between="; ", last="; "
    )
    if not drawn:
        return text("The gradient of the weights {}.", rest)
    parts = joined((text("{} in {}", _says(each), _cell(each)) for each in drawn), between="; ", last="; ")
    leads = {each.lead for each in drawn}
    of = tag("code", leads.pop()) if len(leads) == 1 else "the weights"
    start = text("To leave out less than 1% of the gradient of {}, a window has to look back {}", of, parts)
    return text("{}{}.", start, text("; the gradient {}", rest) if rest else None)


def _cell(each: _Taught) -> Html:
    return cell(each.strand.label, each.strand.colour)


def _nothing(each: _Taught) -> str:
    return "is exactly 0" if each.now.log10_whole[each.lead] == -math.inf else "was not measured"


def _says(each: _Taught) -> str:
    """So many steps, or what is known where no window was measured that would do."""
    credit = each.now
    enough, most = credit.look_back(each.lead, SHARES[1]), credit.look_back(each.lead, SHARES[0])
    if enough is None:
        left = float(credit.log10_rest[each.lead][-1])
        return f"over {words.some(int(credit.lags[-1]), 'step')} (so many leave out {words.percent(10.0**left)})"
    tenth = f" ({words.count(most)} for 10%)" if most is not None and most != enough else ""
    return f"{words.some(enough, 'step')}{tenth}"


def _left_out(taught: Sequence[_Taught]) -> Lines:
    return Lines(
        title="What a window that looks back τ steps leaves out of the recurrent weights' gradient",
        note=_note(taught, "‖terms of lags over τ together‖ / ‖dL/dW‖"),
        file="left-out-by-window",
        x=Axis("looks back τ, steps"),
        y=_axis("share of dL/dW left out", [each.now.log10_rest[each.lead] for each in taught]),
        series=_series(taught, lambda credit, name: credit.log10_rest[name]),
        rules=RULES,
        height=380,
    )


def _terms(taught: Sequence[_Taught]) -> Lines:
    return Lines(
        title="What each lag adds to the recurrent weights' gradient",
        note=_note(taught, "‖Σ_t δ_t P(t, t−τ) ∂⁺z/∂W‖ / ‖dL/dW‖"),
        file="weights-by-lag",
        x=Axis("lag τ, steps back"),
        y=_axis("size beside dL/dW", [_shares(each.now, each.lead) for each in taught]),
        series=_series(taught, _shares),
        rules=RULES,
        height=380,
    )


def _by_parameter(each: _Taught) -> Lines:
    """What a window leaves out of every parameter; those that agree to the last digit share a line."""
    together: dict[bytes, list[str]] = {}
    for name, rest in each.now.log10_rest.items():
        together.setdefault(np.asarray(rest).tobytes(), []).append(name)
    tones = (each.strand.colour, "ink", "muted")
    series = tuple(
        Series(", ".join(names), tones[n % 3], each.now.lags, each.now.log10_rest[names[0]], dash=DASHES[n // 3 % 3])
        for n, names in enumerate(together.values())
    )
    return Lines(
        title=f"{each.strand.label}, by parameter",
        note=_note([each], "‖terms of lags over τ together‖ / ‖dL/dθ‖"),
        file=f"left-out-by-parameter-{each.strand.label}",
        x=Axis("looks back τ, steps"),
        y=_axis("share of dL/dθ left out", list(each.now.log10_rest.values())),
        series=series,
        rules=RULES,
        height=300,
    )


def _series(taught: Sequence[_Taught], of: _Of) -> tuple[Series, ...]:
    now = [
        Series(each.strand.label, each.strand.colour, each.now.lags, of(each.now, each.lead), weight=2.5)
        for each in taught
    ]
    before = [
        Series(
            f"{each.strand.label}, untrained", each.strand.colour, each.before.lags, of(each.before, each.lead),
            dash="dashed", weight=1.25,
        )
        for each in taught
        if each.before is not None and each.lead in each.before.log10_rest
    ]  # fmt: skip
    return (*now, *before)


def _shares(credit: ParameterCredit, name: str) -> Floats:
    """log10 of each lag's term over the whole; NaN where the whole is nothing."""
    with np.errstate(invalid="ignore"):
        return np.asarray(credit.log10_terms[name] - credit.log10_whole[name])


def _axis(label: str, values: Sequence[Floats]) -> Axis:
    """Down to what was seen, at least to 0.1% and not under the floor."""
    seen = np.concatenate([each[np.isfinite(each)] for each in values] or [np.zeros(0)])
    low = max(FLOOR, math.floor(float(seen.min(initial=0.0))))
    high = math.ceil(float(seen.max(initial=0.0)))
    return Axis(label, "log10", min(-3.0, float(low)), float(high) + 0.5)


def _note(taught: Sequence[_Taught], what: str) -> str:
    """What is drawn, and from how much of what was looked at."""
    sequences = dict.fromkeys(words.some(each.now.sequences, "sequence") for each in taught)
    dtypes = dict.fromkeys(each.now.dtype for each in taught)
    layers = dict.fromkeys(each.flow.layer for each in taught)
    return (
        f"Derivative with respect to the weights, {what}: 2-norms, dimensionless. Computed in {', '.join(dtypes)} on "
        f"{', '.join(sequences)}, layer {', '.join(layers)}."
    )
