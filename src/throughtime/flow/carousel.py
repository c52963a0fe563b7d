"""The lectures' two paths of a gated cell, and whether what it keeps is fair.

Dimensions: T steps, B sequences, H units, P parts, R sources, L lags.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, Read, State
from throughtime.errors import FlowError
from throughtime.flow.adjoint import checked
from throughtime.flow.lags import medians
from throughtime.flow.linear.families import farthest, left_by_lag, through
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.sweep import log10, norms_of, sources_of, split
from throughtime.flow.linear.tangent import Tangent
from throughtime.flow.linear.trajectory import Trajectory, follow
from throughtime.flow.paths import CAROUSEL
from throughtime.flow.sighting import Sighting
from throughtime.flow.sources import Sources, affordable, wanted_steps
from throughtime.modules import Recurrent
from throughtime.records import CarouselRecord, Floats

OUTPUT = "output"  # the output gate's port, its share of the input and its map
_HELD = 1 << 21  # numbers in the rows of a stretch of steps


def carousel(
    cell: Cell | Recurrent,
    x: Tensor,
    delta: Tensor,
    *,
    state: State | None = None,
    lengths: Tensor | None = None,
    sources: Sequence[int] | None = None,
    most_lag: int | None = None,
    parameters: Parameters | None = None,
) -> CarouselRecord:
    """The gradient along the carousel alone and along the output gate's loop alone, by lag, and what is kept.

    t0 = δ_t ⊙ o_t ⊙ φ'(s_t) ⊙ Π_{i=k+1..t} f_i, the share of ∂L_t/∂s_k that came round the carousel only; and
    t1 = δ_tᵀ Π_{j=t..k+1} D(φ(s_j) ⊙ o'_j) W_o, the share of ∂L_t/∂h_k that came through the output gate only, with
    its bound ‖δ_t‖ (‖K‖ ‖W_o‖)^(t−k), where ‖K‖ is a sequence's largest |φ(s_j) ⊙ o'_j|. (The lectures end t1 at
    h_{k−1}, so their exponent is t − k + 1.) Fairness: the share of s_k left in s_t going forward, and the share of the
    gradient at s_t left at s_k going backward round the carousel, are both Π f_i; one is made from the step's forward
    derivatives from k up to t, the other from its backward ones from t down to k. Shares are means over units.

    None of this is written for one cell: the step is differentiated through its ports "carousel" and "output", so it
    serves a cell of somebody's own with such ports. For o_t ⊙ φ'(s_t) stands ∂y_t/∂s_t: where the output gate
    peeps at s_t, that way out is in it, too. Medians over sources t and sequences; `delta`, `sources` and
    `most_lag` as in `tt.flow.paths`. Costs two rows with the weights for each source, sequence and step.
    Raises FlowError if the cell has no port "carousel", and as `tt.flow.paths` does.

    Source: lectures, how LSTMs avoid vanishing gradients; Hochreiter and Schmidhuber 1997, section 3.2.

    >>> import torch, throughtime as tt
    >>> cell = tt.cells.make("lstm", 3, 4, forget_gate=False)
    >>> record = tt.flow.carousel(cell, torch.randn(9, 2, 3), torch.ones(9, 2, 4))
    >>> bool((abs(record.kept_forward) < 1e-6).all())  # f = 1: all of it is left
    True
    """
    began = time.perf_counter()
    along = follow(cell, x, state, lengths=lengths, parameters=parameters)
    why = _undefined(along.cell)
    if why is not None:
        raise FlowError(f"{why} Give a cell that has one, or follow another port by tt.flow.only.")
    given = checked(along, delta)
    wanted = wanted_steps(along, given, sources, most_lag)
    return _measured(linearise(along), given, wanted, most_lag, began)[0]


def carousel_of(seen: Sighting) -> tuple[CarouselRecord | None, tuple[str, ...]]:
    """The same for a sighting, of so few sources and sequences that it takes less than a second; what was limited."""
    began = time.perf_counter()
    why = _undefined(seen.along.cell)
    if why is not None:
        return None, (f"The lectures' two paths are not defined here: {why}",)
    chosen = affordable(seen, 4, "The carousel was followed")
    if not isinstance(chosen, Sources):
        return None, (chosen,)
    some = chosen.seen
    record, said = _measured(some.tangent, some.delta, chosen.wanted, chosen.most_lag, began)
    return record, (*chosen.said, *said)


def _undefined(cell: Cell) -> str | None:
    if CAROUSEL in cell.reads:
        return None
    return f'"{cell.title}" has no port "{CAROUSEL}"; its ports are {", ".join(cell.reads)}.'


def _measured(
    tangent: Tangent, delta: Tensor, wanted: Tensor, most_lag: int | None, began: float
) -> tuple[CarouselRecord, tuple[str, ...]]:
    starts, seeds = sources_of(delta, wanted)
    longest = int(starts.max()) if most_lag is None else min(most_lag, int(starts.max()))
    steps = slice(farthest(starts, longest), int(starts.max()) + 1)  # all that any of it can meet
    lags = torch.arange(longest + 1, device=delta.device).view(-1, 1, 1)
    there = starts >= lags  # (L, R, B): a step so far behind a source
    said: list[str] = []

    def middle(values: Tensor) -> Floats:
        return medians(torch.where(there, values, torch.nan).flatten(1).cpu().numpy())

    looped = OUTPUT in tangent.cell.reads
    families = [through(0, [CAROUSEL]), *([through(1, [OUTPUT])] if looped else [])]
    left = left_by_lag(tangent, families, starts, seeds, longest)
    from_first = (starts - steps.start).clamp(min=0)
    left[0, 0] = _at_node(tangent, delta, steps)[from_first, torch.arange(starts.shape[1], device=starts.device)]
    step = _loop_bound(tangent, delta, steps) if looped else None
    if looped and step is None:
        said.append(f'The port "{OUTPUT}" is not that of a gate σ(U x + W h + b), so its loop has no bound here.')
    factors = _factors(tangent, steps)
    if factors is None:
        said.append(f'The port "{CAROUSEL}" mixes units, so there is no share of a unit that is kept.')
    record = CarouselRecord(
        lags=np.arange(longest + 1),
        t0=middle(left[0]),
        t1=middle(left[1]) if looped else None,
        t1_bound=None if step is None else middle(torch.where(lags == 0, 0.0, lags * step)),
        kept_forward=None if factors is None else middle(_forward(factors[0], from_first, longest)),
        kept_backward=None if factors is None else middle(_backward(factors[1], from_first, longest)),
        pairs=there.flatten(1).sum(1).cpu().numpy(),
        dtype=str(delta.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - began,
    )
    return record, tuple(said)


def _at_node(tangent: Tangent, delta: Tensor, steps: slice) -> Tensor:
    """log10 of the norm of ∂⁺L_t/∂s_t to that of δ_t at these steps, (n, B): what step t made of s_t counts for it.

    At lag 0 this is t0. Further back the carousel's port counts it by itself: through it s_{t-1} moves all of z_t.
    """
    scaled, _ = split(delta[:, steps], (0, -1))
    rows = tangent.node(scaled, steps)[tangent.parts.index(tangent.cell.reads[CAROUSEL])]
    there = rows.any(-1).unsqueeze(0)
    return log10(norms_of(rows.unsqueeze(0), there[0])[0]) - log10(torch.linalg.vector_norm(scaled, dim=(0, -1)))


def _loop_bound(tangent: Tangent, delta: Tensor, steps: slice) -> Tensor | None:
    """log10 (‖K‖ ‖W_o‖) of each sequence over these steps, (B,); None if the output port's Jacobian is not D(K) W_o.

    K = ∂h/∂a of the output gate's pre-activation a = u + W_o h, which is what its share u of the input meets too.
    """
    cell, along = tangent.cell, tangent.along
    if OUTPUT not in cell.inputs or OUTPUT not in (cell.recurrent or ()):
        return None
    weight = getattr(cell.weights(along.parameters), OUTPUT).weight.detach()
    asked = delta.flatten(1).any(1)
    asked[tangent.parts.index(cell.reads[OUTPUT])] = True  # a row on the loop lies in the part that its port reads
    largest = delta.new_zeros(along.B)
    for at, probe in _stretches(tangent, steps):
        squares = torch.zeros_like(probe)
        for p in asked.nonzero()[:, 0].tolist():
            rows = probe.new_zeros(tangent.P, *probe.shape)
            rows[p] = probe
            met = tangent.pull_inputs(rows, at)[OUTPUT]
            if met.shape != probe.shape or not _same(tangent.pull_ports(rows, at)[OUTPUT], met @ weight):
                return None
            squares += (met / probe).square()
        slopes = squares.sqrt().amax(-1).masked_fill(~along.running()[at], 0)
        largest = torch.maximum(largest, slopes.amax(0))
    return log10(largest * torch.linalg.matrix_norm(weight, 2))


def _factors(tangent: Tangent, steps: slice) -> tuple[Tensor, Tensor] | None:
    """What each unit of the carousel is multiplied by at these steps, (n, B, H), going forward and going backward.

    None if the carousel is no such multiplication: if it carries a number from one unit to another.
    """
    part = tangent.cell.reads[CAROUSEL]
    carried = tangent.parts.index(part)
    ahead, back = [], []
    for at, probe in _stretches(tangent, steps):
        rows = probe.new_zeros(tangent.P, *probe.shape)
        rows[carried] = probe
        pulled = tangent.pull_ports(rows, at)[CAROUSEL]
        rows[carried] = 1
        alone = tangent.pull_ports(rows, at)[CAROUSEL]
        if not _same(pulled, probe * alone):
            return None
        ahead.append(_onward(tangent.along, at, part))
        back.append(alone)
    return torch.cat(ahead), torch.cat(back)


def _forward(factors: Tensor, starts: Tensor, longest: int) -> Tensor:
    """log10 of the share of s_k left in s_t, (L, R, B), the factors gathered from the first step on.

    `starts` count from the first of the factors. Rubbish where there is no step so far back.
    """
    nothing = factors == 0
    zeros = nothing.cumsum(0)
    sums = factors.double().abs().masked_fill(nothing, 1).log().cumsum(0)
    b = torch.arange(starts.shape[1], device=starts.device)
    found = []
    for lag in range(longest + 1):
        t = starts.clamp(min=lag)
        left = sums[t, b] - sums[t - lag, b]
        found.append(_mean(left.masked_fill(zeros[t, b] > zeros[t - lag, b], -torch.inf)))
    return torch.stack(found)


def _backward(factors: Tensor, starts: Tensor, longest: int) -> Tensor:
    """log10 of the share of a gradient at s_t left at s_k, (L, R, B), the factors gathered from t back.

    `starts` count from the first of the factors. Rubbish where there is no step so far back.
    """
    logs = factors.double().abs().log()
    b = torch.arange(starts.shape[1], device=starts.device)
    left = logs.new_zeros(*starts.shape, logs.shape[-1])
    found = [_mean(left)]
    for lag in range(1, longest + 1):
        left += logs[starts.clamp(min=lag) - lag + 1, b]
        found.append(_mean(left))
    return torch.stack(found)


def _mean(logs: Tensor) -> Tensor:
    """log10 of the mean over units, from natural logarithms (..., H)."""
    return (logs.logsumexp(-1) - math.log(logs.shape[-1])) / math.log(10.0)


def _onward(along: Trajectory, at: slice, part: str) -> Tensor:
    """∂s_t/∂s_{t-1} through the carousel's port times a column of ones, (n, B, H): the step differentiated forward.

    As the derivative, with respect to w, of its backward derivative wᵀJ; torch's forward mode first loads for seconds.
    """
    cell = along.cell
    before, u = along.before(at.start, at.stop), along.share(at.start, at.stop)
    leaf = before[part].clone().requires_grad_()
    read: Mapping[str, Tensor] = {port: before[its] for port, its in cell.reads.items()}
    with torch.enable_grad():
        new, _ = cell.step(u, Read(**{**read, CAROUSEL: leaf}), cell.weights(along.parameters))
        w = torch.ones_like(leaf, requires_grad=True)
        found = torch.zeros_like(leaf)
        if new[part].requires_grad:
            (back,) = torch.autograd.grad(new[part], leaf, w, create_graph=True, materialize_grads=True)
            if back.requires_grad:
                (found,) = torch.autograd.grad(back, w, torch.ones_like(leaf), materialize_grads=True)
    return found.detach().view(at.stop - at.start, along.B, cell.hidden_size)


def _stretches(tangent: Tangent, steps: slice) -> Iterator[tuple[slice, Tensor]]:
    """These steps in stretches, each with a row (n, B, H) that no sum of other units' shares fits by chance."""
    along, H = tangent.along, tangent.H
    size = max(1, _HELD // (tangent.P * along.B * H))
    golden = (math.sqrt(5.0) - 1) / 2
    probe = 1 + torch.arange(1, H + 1, dtype=torch.float64, device=along.x.device).mul(golden).frac()
    for start in range(steps.start, steps.stop, size):
        at = slice(start, min(start + size, steps.stop))
        yield at, probe.to(along.x.dtype).expand(at.stop - at.start, along.B, H)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two ways gave the same numbers, but for rounding."""
    return bool(
        (a - b).abs().amax() <= torch.finfo(a.dtype).eps ** 0.75 * torch.maximum(a.abs().amax(), b.abs().amax())
    )
