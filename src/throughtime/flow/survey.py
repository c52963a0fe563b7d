"""Every measure of one sighting, gathered into one record.

Dimensions: T steps, B sequences, H units, S the whole state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from throughtime.flow.adjoint import Adjoint
from throughtime.flow.bounds import bounds_along, spread_lags
from throughtime.flow.carousel import carousel_of
from throughtime.flow.credit import Derivative, credit_along
from throughtime.flow.gates import gates_along, saturation_along
from throughtime.flow.glance import glance
from throughtime.flow.lags import lag_profile, medians
from throughtime.flow.linear.spectral import step_gains
from throughtime.flow.linear.sweep import log10
from throughtime.flow.lyapunov import lyapunov_of
from throughtime.flow.memory import memory_of
from throughtime.flow.parameters import parameters_of
from throughtime.flow.paths import paths_of
from throughtime.flow.sighting import Sighting, fewer
from throughtime.flow.singular import singular_of
from throughtime.records import BoundRecord, CreditRecord, Example, Floats, FlowRecord, Use

_WORK = 4e9  # multiplications for the credit, and as many for the bounds: about a second together on two cores
_NUMBERS = 1 << 24  # norms of all pairs of a step and a source: 128 MiB in float64
_MAP = 1024  # steps up to which the map of all pairs is kept
_STRETCHED = 4  # sequences whose singular values are taken, at most
_GLANCE = 3  # sources of a quick survey, at most


Extent = Literal["quick", "usual", "whole"]
_Measure = Callable[[Sighting], tuple[object | None, tuple[str, ...]]]
_FURTHER: Mapping[str, _Measure] = {
    "parameters": parameters_of,
    "paths": paths_of,
    "carousel": carousel_of,
    "memory": memory_of,
    "singular": singular_of,
    "lyapunov": lyapunov_of,
}


@dataclass(frozen=True)
class _Limits:
    """What is taken of a sighting, so that it stays short."""

    sources: tuple[int, ...] | None  # steps t whose credit is taken; None: all
    lags: tuple[int, ...]  # of the bounds
    sequences: int  # of the bounds
    stretched: int  # of the step gains


def survey(
    seen: Sighting,
    *,
    moment: Literal["before", "during", "after"],
    update: int,
    derivative: Derivative = "boundary",
    extent: Extent = "whole",
    examples: tuple[Example, ...] = (),
) -> FlowRecord:
    """How the gradient travelled back through one layer.

    `extent`: "quick" is what can be left on while training: the gradient by step, by port and by lag from a few
    sources, gates and saturation; "usual" adds the map of all pairs, bounds and step gains; "whole" adds path
    families, the weights' gradient by lag, memory and spectra, about a second each.

    Medians over sequences are of those that still run at a step; of δ and the map of all pairs, of those that have a
    direct gradient at t (−inf where none has). What was limited to stay quick is said in `left_out`.
    """
    began = time.perf_counter()
    quick = extent == "quick"
    limits = _limits(seen, quick)
    along, tangent = seen.along, seen.tangent
    if quick:
        through_time, credit = glance(tangent, seen.delta, derivative, limits.sources)
    else:
        through_time = seen.adjoint
        credit = credit_along(tangent, seen.delta, through_time, derivative, limits.sources)
    gains, bound = _stretching(seen, limits) if not quick else (np.full(along.T, np.nan), None)
    further, limited = _further(seen) if extent == "whole" else ({}, ())
    return FlowRecord(
        cell=along.cell.title,
        layer=seen.name,
        moment=moment,
        update=update,
        engine=along.run.engine,
        dtype=str(along.x.dtype).removeprefix("torch."),
        parts=tangent.parts,
        T=along.T,
        B=along.B,
        H=tangent.H,
        derivative=derivative,
        loss=seen.loss,
        direct=_where_any(credit.log10_direct),
        adjoint=medians(credit.log10_adjoint),
        lags=credit.lags,
        part_lags={
            part: lag_profile(pairs, credit.sources, log10_start=_starts(credit))
            for part, pairs in credit.log10_parts.items()
        },
        blame=_blame(credit, along.T) if not quick and along.T <= _MAP else None,
        bounds=bound,
        ports=_carried(seen, through_time),
        step_gain=gains,
        gates=gates_along(along),
        saturation=saturation_along(along),
        examples=examples,
        left_out=(*_left_out(seen, limits, quick), *limited),
        seconds=time.perf_counter() - began,
        place=seen.place,
        before=seen.before,
        use=None if seen.use is None else _used(seen, seen.use, credit),
        **further,
    )


def _used(seen: Sighting, use: Use, credit: CreditRecord) -> Use:
    """How each sequence was read, and how far back its own last gradient reaches."""
    there = seen.delta.any(-1).any(0).cpu().numpy()  # (T, B)
    steps = np.arange(seen.along.T) if credit.sources is None else credit.sources
    starts = _starts(credit)
    reached = np.full(seen.along.B, -1)
    for b in range(seen.along.B):
        rows = np.flatnonzero(np.isfinite(starts[:, b]))
        if rows.size:
            row = rows[-1]
            left = credit.log10_pairs[row, : steps[row] + 1, b][::-1] - starts[row, b]
            reached[b] = np.flatnonzero(left >= -2.0)[-1]
    last = np.where(there.any(0), seen.along.T - 1 - there[::-1].argmax(0), -1)
    return replace(
        use,
        lengths=seen.along.lengths.cpu().numpy(),
        sources=there.sum(0),
        last=last,
        horizons=reached,
        answers=(int(there.any(0).sum()), seen.along.B),
    )


def _further(seen: Sighting) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The measures that take a while, by the record's field; and what was limited in them."""
    found, said = dict[str, Any](), list[str]()
    for field, measure in _FURTHER.items():
        found[field], limits = measure(seen)
        said += limits
    return found, tuple(dict.fromkeys(said))


def _limits(seen: Sighting, quick: bool) -> _Limits:
    along, tangent = seen.along, seen.tangent
    T, B, S = along.T, along.B, tangent.P * tangent.H
    row = max(1, len(along.cell.squares(along.parameters))) * tangent.H**2  # multiplications for one row and step
    sources = torch.nonzero(seen.delta.any(-1).any(-1).any(0))[:, 0].tolist()
    rows = int(seen.delta.any(-1).any(0).sum(0).max())  # the most sources of any one sequence
    affordable = max(1, min(int(_WORK / (row * B * max(1, T / 2))), _NUMBERS // (T * B)))
    affordable = min(affordable, _GLANCE) if quick else affordable
    chosen: tuple[int, ...] | None = None
    if rows > affordable:
        # The last one is among them, the first is not: from there no gradient goes back.
        places = np.linspace(len(sources) - 1, 0, affordable + 1)[:-1]
        chosen = tuple(sources[i] for i in np.unique(places.round().astype(int)))
    longest = int(along.lengths.max()) - 1
    each = row * S  # for one sequence and step
    reach = int(min(longest, max(1.0, _WORK / each)))
    sequences = int(min(B, _STRETCHED, max(1.0, _WORK / (each * max(1, reach)))))
    return _Limits(chosen, tuple(spread_lags(reach)), sequences, min(B, _STRETCHED))


def _stretching(seen: Sighting, limits: _Limits) -> tuple[Floats, BoundRecord]:
    """The step gains of the longest sequences, and the bounds of fewer."""
    longest_first = seen.along.lengths.argsort(descending=True, stable=True).tolist()
    some = fewer(seen, longest_first[: limits.stretched])
    gains = step_gains(some.tangent)
    medians_of_gains = medians(torch.where(some.along.running(), gains, torch.nan).cpu().numpy())
    less = fewer(some, range(limits.sequences))
    return medians_of_gains, bounds_along(less.tangent, limits.lags, gains[:, : limits.sequences])


def _carried(seen: Sighting, through_time: Adjoint) -> dict[str, Floats]:
    """log10 ‖a_kᵀ J_k^(p)‖ / ‖a_k‖ by port, medians over sequences; NaN where a_k is zero."""
    rows = through_time.rows
    whole = log10(torch.linalg.vector_norm(rows, dim=(0, -1)))
    there = seen.along.running() & torch.isfinite(whole)
    pulled = seen.tangent.pull_ports(rows, slice(0, seen.along.T))
    return {
        port: medians(torch.where(there, log10(torch.linalg.vector_norm(g, dim=-1)) - whole, torch.nan).cpu().numpy())
        for port, g in pulled.items()
    }


def _where_any(values: Floats) -> Floats:
    """Medians of what is not zero; −inf where all that was measured is."""
    found = medians(np.where(np.isneginf(values), np.nan, values))
    return np.where(np.isnan(found) & np.isneginf(values).any(-1), -np.inf, found)


def _starts(credit: CreditRecord) -> Floats:
    """log10 C(t, t), (N, B)."""
    N, T, _ = credit.log10_pairs.shape
    steps = np.arange(T) if credit.sources is None else credit.sources
    return np.asarray(credit.log10_pairs[np.arange(N), steps])


def _blame(credit: CreditRecord, T: int) -> Floats:
    starts = _starts(credit)
    counted = np.where(np.isneginf(starts)[:, None], np.nan, credit.log10_pairs)
    found = medians(counted)
    found[np.isnan(found) & np.isneginf(credit.log10_pairs).any(-1)] = -np.inf
    steps = np.arange(T) if credit.sources is None else credit.sources
    whole = np.where(np.arange(T) > np.arange(T)[:, None], -np.inf, np.nan)
    whole[steps] = found
    return whole


def _left_out(seen: Sighting, limits: _Limits, quick: bool) -> tuple[str, ...]:
    along = seen.along
    said = list(seen.notes)
    if limits.sources is not None:
        said.append(
            f"Credit was taken from {len(limits.sources)} of the steps that have an output gradient, evenly spread."
        )
    if quick:
        said.append("This was a quick look: the map of all pairs, bounds, paths, weights and spectra were left out.")
        return tuple(said)
    if along.T > _MAP:
        said.append(f"The map of all pairs of steps was not kept: {along.T} steps are more than {_MAP}.")
    if limits.lags[-1] < int(along.lengths.max()) - 1:
        said.append(f"Bounds were followed {limits.lags[-1]} steps back, not to the start.")
    if limits.sequences < along.B:
        said.append(f"Bounds were measured on {limits.sequences} of {along.B} sequences, the longest.")
    if limits.stretched < along.B:
        said.append(
            f"The largest stretch of every step was measured on the {limits.stretched} longest of {along.B} sequences."
        )
    if seen.along.cell.steepest is None:
        said.append(
            "The bounds from slopes and weights hold for cells of the form φ(W h + …) alone; this one has others."
        )
    return tuple(said)
