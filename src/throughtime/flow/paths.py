"""Through which ports the gradient travelled: path families and excursions from the carousel.

Dimensions: T steps, B sequences, H units, P parts, S = P·H the whole state, F families, R sources, L lags.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.errors import FlowError
from throughtime.flow.adjoint import checked
from throughtime.flow.lags import medians
from throughtime.flow.linear.families import Family, leaving, left_by_lag, through, trace
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.sweep import shift, sources_of
from throughtime.flow.linear.tangent import Tangent
from throughtime.flow.linear.trajectory import follow
from throughtime.flow.sighting import Sighting
from throughtime.flow.sources import Sources, affordable, wanted_steps
from throughtime.modules import Recurrent
from throughtime.records import PathRecord

CAROUSEL = "carousel"  # the name of the explicit port in every cell that has one
_MOST = 3  # excursions that are told apart, at most


def only(
    cell: Cell | Recurrent,
    x: Tensor,
    t: int,
    k: int,
    ports: str | Collection[str],
    state: State | None = None,
    *,
    parameters: Parameters | None = None,
) -> Tensor:
    """∂z_t/∂z_k along the paths that take these ports and no others: Π_{j=t..k+1} Σ_{p∈ports} J_j^(p).

    `x` (T, B, I); returns (B, S, S), the identity for t = k. For all ports it is `tt.flow.transport`. Powers of two are
    kept apart on the way; numbers under the dtype's range come out as 0. Costs t − k products of S rows with the
    weights. Raises FlowError for a port that the cell does not have, and as `tt.flow.transport` does.
    """
    asked = (ports,) if isinstance(ports, str) else tuple(ports)
    if not asked:
        raise FlowError("only() takes at least one port; without any there is no path at all.")

    def families(cell: Cell) -> Sequence[Family]:
        return [through(0, [_port(cell, port) for port in asked])]

    return _products(cell, x, t, k, state, parameters, families)[0]


def without(
    cell: Cell | Recurrent,
    x: Tensor,
    t: int,
    k: int,
    port: str,
    state: State | None = None,
    *,
    parameters: Parameters | None = None,
) -> Tensor:
    """∂z_t/∂z_k along the paths that never take this port: Π_{j=t..k+1} (J_j − J_j^(port)).

    Returns, costs and raises as `only`.
    """

    def families(cell: Cell) -> Sequence[Family]:
        closed = _port(cell, port)
        return [through(0, [other for other in cell.reads if other != closed])]

    return _products(cell, x, t, k, state, parameters, families)[0]


def excursions(
    cell: Cell | Recurrent,
    x: Tensor,
    t: int,
    k: int,
    state: State | None = None,
    *,
    carousel: str = CAROUSEL,
    most: int | None = None,
    parameters: Parameters | None = None,
) -> Tensor:
    """∂z_t/∂z_k by how often a path leaves the carousel: the coefficients of q^m in Π_j (J_j^(carousel) + q·Σ_rest J_j^(p)).

    Returns (M + 1, B, S, S): entry m is the sum over the paths that leave the carousel exactly m times, m from 0 to
    `most` (None: t − k, the most there can be, so that they add up to `tt.flow.transport`). Any port can play the
    carousel. Powers of two are kept apart for each m; numbers under the dtype's range come out as 0.
    Costs t − k products of (M + 1)·S rows with the weights, and (M + 1)·B·S² numbers.
    Raises FlowError if the cell has no such port, if `most` is negative, and as `tt.flow.transport` does.
    """  # noqa: E501
    if most is not None and most < 0:
        raise FlowError(f"most is a number of excursions, 0 or more, got {most}.")

    def families(cell: Cell) -> Sequence[Family]:
        return leaving(0, cell.reads, _port(cell, carousel), max(0, t - k) if most is None else most)

    return _products(cell, x, t, k, state, parameters, families)


def paths(
    cell: Cell | Recurrent,
    x: Tensor,
    delta: Tensor,
    *,
    state: State | None = None,
    lengths: Tensor | None = None,
    carousel: str | None = None,
    most: int = _MOST,
    sources: Sequence[int] | None = None,
    most_lag: int | None = None,
    parameters: Parameters | None = None,
) -> PathRecord:
    """What is left of each step's gradient δ_t along families of paths, by lag.

    Along every path; along one port alone, for each; along all but one, for each; and by the number of excursions from
    the carousel, 0 to `most` (the rest is the difference to the whole). As medians over sources t and sequences of
    log10 of the norm to that at t. `delta` is (T, B, H) at the output or (T, B, S) at the whole state; `carousel` is
    the port excursions leave (None: the one of that name, if the cell has it); `sources` (steps t, ascending) and
    `most_lag` (steps) limit what is measured.

    Norms of sums, not sums of norms: paths can cancel each other, so shares need not add up to the whole's.
    Costs, for about 2·ports + `most` + 1 families each, a row with the weights for each source, sequence and step.
    Raises FlowError if there is no gradient at any source, for a port that the cell does not have, and as
    `tt.flow.credit` does.

    >>> import torch, throughtime as tt
    >>> cell, x = tt.cells.make("lstm", 3, 4), torch.randn(9, 2, 3)
    >>> record = tt.flow.paths(cell, x, torch.ones(9, 2, 4))
    >>> record.carousel, record.excursions.shape, sorted(record.only)
    ('carousel', (4, 9), ['candidate', 'carousel', 'forget', 'input', 'output'])
    """
    began = time.perf_counter()
    along = follow(cell, x, state, lengths=lengths, parameters=parameters)
    given = checked(along, delta)
    if most < 0:
        raise FlowError(f"most is a number of excursions, 0 or more, got {most}.")
    left = None if carousel is None and CAROUSEL not in along.cell.reads else _port(along.cell, carousel or CAROUSEL)
    wanted = wanted_steps(along, given, sources, most_lag)
    return _measured(linearise(along), given, wanted, most_lag, _Ask.of(along.cell, left, most), began)


def paths_of(seen: Sighting) -> tuple[PathRecord | None, tuple[str, ...]]:
    """The same for a sighting, of so few sources and sequences that it takes about a second; what was limited."""
    began = time.perf_counter()
    cell = seen.along.cell
    ask = _Ask.of(cell, CAROUSEL if CAROUSEL in cell.reads else None, _MOST)
    chosen = affordable(seen, len(ask.families), "Paths were followed")
    if not isinstance(chosen, Sources):
        return None, (chosen,)
    some = chosen.seen
    return _measured(some.tangent, some.delta, chosen.wanted, chosen.most_lag, ask, began), chosen.said


@dataclass(frozen=True)
class _Ask:
    """The families that a record is made of, and where each is among them."""

    families: tuple[Family, ...]
    ports: tuple[str, ...]
    carousel: str | None
    excursions: slice  # the whole is family 0

    @classmethod
    def of(cls, cell: Cell, carousel: str | None, most: int) -> _Ask:
        ports = tuple(cell.reads)
        found = [through(0, ports)]
        found += [] if carousel is None else leaving(1, ports, carousel, most)
        place = slice(1, len(found))
        for port in ports:
            found.append(through(len(found), [port]))
        for port in ports:
            found.append(through(len(found), [other for other in ports if other != port]))
        return cls(tuple(found), ports, carousel, place)


def _measured(
    tangent: Tangent, delta: Tensor, wanted: Tensor, most_lag: int | None, ask: _Ask, began: float
) -> PathRecord:
    starts, seeds = sources_of(delta, wanted)
    longest = int(starts.max()) if most_lag is None else min(most_lag, int(starts.max()))
    left = left_by_lag(tangent, ask.families, starts, seeds, longest).flatten(2).cpu().numpy()
    by_family = medians(left)
    alone = by_family[ask.excursions.stop :]
    return PathRecord(
        lags=np.arange(longest + 1),
        whole=by_family[0],
        only=dict(zip(ask.ports, alone, strict=False)),
        without=dict(zip(ask.ports, alone[len(ask.ports) :], strict=True)),
        carousel=ask.carousel,
        excursions=None if ask.carousel is None else by_family[ask.excursions],
        pairs=(~np.isnan(left[0])).sum(-1),
        dtype=str(delta.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - began,
    )


def _port(cell: Cell, port: str) -> str:
    if port not in cell.reads:
        raise FlowError(
            f'"{cell.title}" has no port "{port}"; its ports are {", ".join(cell.reads)}. Name one of these.'
        )
    return port


def _products(
    cell: Cell | Recurrent,
    x: Tensor,
    t: int,
    k: int,
    state: State | None,
    parameters: Parameters | None,
    families: Callable[[Cell], Sequence[Family]],
) -> Tensor:
    """The product of Jacobians from k to t along each family: (F, B, S, S)."""
    if not 0 <= k <= t < x.shape[0]:
        raise FlowError(f"paths from k to t need 0 <= k <= t < T, got t={t}, k={k}, T={x.shape[0]}.")
    along = follow(cell, x[: t + 1], state, parameters=parameters)
    asked = families(along.cell)
    tangent = linearise(along)
    seeds = tangent.identity()
    for traced in trace(tangent, asked, torch.full(seeds.shape[1:3], t, device=x.device), seeds, last=k):
        whole = shift(traced.rows, traced.exponents.int().unsqueeze(-1))
    return whole.permute(2, 3, 1, 0, 4).flatten(3)
