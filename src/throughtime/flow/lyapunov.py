"""Whether the state forgets or explodes by itself: Lyapunov exponents of the whole state.

Dimensions: T steps, B sequences, S the whole state, k exponents, M stretches.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.errors import FlowError
from throughtime.flow.linear.flag import Flag, Steps, in_double, rows
from throughtime.flow.linear.trajectory import Trajectory, excerpt, follow
from throughtime.flow.neighbours import growth_of_neighbours
from throughtime.flow.sighting import Sighting
from throughtime.modules import Recurrent
from throughtime.records import Floats, LyapunovRecord

_STRETCHES = 8  # of each sequence, for the error
_SETTLED = 500  # steps left out at the start, at most, where nothing else is asked
_SHORTEST = 16  # steps of a sequence that say anything at all
_WORK = 3e10  # multiplications of `lyapunov_of`: about a second on two cores
_MANY = 8  # sequences of `lyapunov_of`, at most
_LONG = 4096  # steps of `lyapunov_of`, at most


def lyapunov(
    cell: Cell | Recurrent,
    x: Tensor,
    k: int | None = None,
    *,
    state: State | None = None,
    transient: int | None = None,
    spacing: int | None = None,
    lengths: Tensor | None = None,
    parameters: Parameters | None = None,
) -> Tensor:
    """The k largest Lyapunov exponents along inputs x (T, B, I), all S if k is None: (k,) float64, nats per step.

    Exponent i is the mean growth of ln |volume| that the i-th direction adds, of the whole state (all parts: of an
    LSTM's h alone nothing can be seen of what its cell state keeps). Means over the sequences' steps after the first
    `transient` (None: a quarter of the longest sequence, 500 at most); largest first. −inf: a direction that some step
    maps to exactly nothing; NaN: fainter than float64 can tell from that. For a net that runs by itself, x is zeros.

    Computed in float64 whatever the cell's dtype. Between two factorings lie at most `spacing` steps (None: as many as
    columns need to lean together so far that 1e-10 of the faintest is lost); the result does not depend on it.
    Costs about 2·S²·k multiplications a step and sequence.
    Raises FlowError if there are not 1..S exponents to find, if no step is left after `transient`, and as
    `tt.flow.jacobians` does.

    Source: Benettin et al. 1980; for recurrent nets, Engelken, Wolf, Abbott 2023.

    >>> import torch, throughtime as tt
    >>> cell = tt.cells.make("elman", 1, 3, nonlinearity="identity", bias=False)
    >>> cell.weight_hh.data = 0.5 * torch.eye(3)  # every direction halves
    >>> tt.flow.lyapunov(cell, torch.zeros(40, 1, 1)).exp()
    tensor([0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """
    along = in_double(follow(cell, x, state, lengths=lengths, parameters=parameters))
    grown = _grow(along, k, _transient(along, transient), spacing, stretches=1)
    return torch.as_tensor(_means(grown)[0])


def spectrum(
    cell: Cell | Recurrent,
    x: Tensor,
    k: int | None = None,
    *,
    state: State | None = None,
    transient: int | None = None,
    spacing: int | None = None,
    lengths: Tensor | None = None,
    parameters: Parameters | None = None,
) -> LyapunovRecord:
    """`lyapunov` with what is needed to trust it.

    `error` is the standard error from up to 8 stretches of each sequence, taken as independent; NaN where there is one
    alone. `check` is the largest exponent found again from two neighbouring trajectories, without any derivative.
    Costs as much as `lyapunov` and two more runs of the cell; raises FlowError as it does.
    """
    began = time.perf_counter()
    return _record(follow(cell, x, state, lengths=lengths, parameters=parameters), k, transient, spacing, began)


def lyapunov_of(seen: Sighting) -> tuple[LyapunovRecord | None, tuple[str, ...]]:
    """`spectrum` of as many sequences, exponents and steps as take about a second; what was limited, in sentences."""
    began = time.perf_counter()
    along = seen.along
    T, S = int(along.lengths.max()), along.cell.state_size
    if T < _SHORTEST:
        return None, (f"Lyapunov exponents were not estimated: {T} steps are too few to average over.",)
    steps = min(T, _LONG)
    each = 3.0 * S**2 * steps  # for one exponent of one sequence
    count = int(max(1, min(along.B, _MANY, _WORK // (each * S))))
    k = int(max(1, min(S, _WORK // (each * count))))
    which = torch.argsort(along.lengths, descending=True, stable=True)[:count].sort().values.tolist()
    notes = []
    if count < along.B:
        notes.append(f"Lyapunov exponents were taken along {count} of {along.B} sequences, the longest.")
    if k < S:
        notes.append(f"Of {S} Lyapunov exponents the {k} largest were taken.")
    if steps < T:
        notes.append(f"Lyapunov exponents were taken along the first {steps} of {T} steps.")
    return _record(excerpt(along, which, stop=steps, dtype=torch.float64), k, None, None, began), tuple(notes)


def _record(
    along: Trajectory, k: int | None, transient: int | None, spacing: int | None, began: float
) -> LyapunovRecord:
    along = in_double(along)
    settled = _transient(along, transient)
    grown = _grow(along, k, settled, spacing, _STRETCHES)
    exponents, error = _means(grown)
    return LyapunovRecord(
        cell=along.cell.title,
        exponents=exponents,
        error=error,
        check=growth_of_neighbours(along, settled),
        transient=settled,
        spacing=grown.spacing,
        steps=int(along.lengths.max()) - settled,
        sequences=int((along.lengths > settled).sum()),
        dtype="float64",
        seconds=time.perf_counter() - began,
    )


@dataclass(frozen=True)
class _Grown:
    """Σ ln of how much each direction grew, by stretch after the transient."""

    logs: Tensor  # (M, B, k); −inf lost, NaN too faint to tell
    steps: Tensor  # (M, B) of each sequence in each stretch
    spacing: int


def _transient(along: Trajectory, asked: int | None) -> int:
    longest = int(along.lengths.max())
    if asked is None:
        return min(longest // 4, _SETTLED)
    if not 0 <= asked < longest:
        raise FlowError(f"transient leaves out steps at the start, 0..{longest - 1} of {longest}, got {asked}.")
    return asked


def _grow(along: Trajectory, k: int | None, transient: int, spacing: int | None, stretches: int) -> _Grown:
    S, longest = along.cell.state_size, int(along.lengths.max())
    if k is not None and not 1 <= k <= S:
        raise FlowError(f"this state has exponents 1..{S}; k is how many of them to find, got {k}.")
    if spacing is not None and spacing < 1:
        raise FlowError(f"spacing is a number of steps, 1 or more, got {spacing}.")
    k = S if k is None else k
    used = longest - transient
    cuts = [transient + used * i // stretches for i in range(stretches + 1)]
    ends = sorted({*cuts, *(n for n in along.lengths.tolist() if n > transient)} - {0})
    flag = Flag(_start(along, k))
    found: list[Tensor] = []
    logs = flag.columns.new_zeros(along.B, k)
    for factored in flag.carry(Steps(along), range(longest), ends, spacing):
        if factored.order is not None:
            found = [_reordered(each, factored.order) for each in found]
            logs = _reordered(logs, factored.order)
        width = factored.T.shape[1]
        logs[:, :width] += factored.T.diagonal(dim1=-2, dim2=-1).abs().log().nan_to_num(neginf=0.0)
        if factored.done in ends:
            found.append(logs)
            logs = torch.zeros_like(logs)
    gone = torch.where(flag.unsure, torch.nan, -torch.inf)
    starts, stops = torch.tensor([0, *ends[:-1]]), torch.tensor(ends)
    kept = slice(0 if transient == 0 else 1, None)  # the first stretch is the transient
    running = starts.unsqueeze(1) < along.lengths.cpu()
    steps = (stops - starts).unsqueeze(1) * running
    logs = torch.where(flag.alive, torch.stack(found), gone).cpu()
    return _Grown(logs[kept], steps[kept], flag.widest)


def _reordered(logs: Tensor, order: Tensor) -> Tensor:
    """(B, k) with the first columns in a new order (B, m)."""
    m = order.shape[1]
    return torch.cat([rows(logs[:, :m], order), logs[:, m:]], dim=1)


def _start(along: Trajectory, k: int) -> Tensor:
    """All unit columns; or k orthonormal ones that have something of every direction."""
    S, x = along.cell.state_size, along.x
    if k == S:
        return torch.eye(S, dtype=x.dtype, device=x.device).repeat(along.B, 1, 1)
    generator = torch.Generator().manual_seed(0)  # its own: measuring does not touch the caller's random numbers
    columns, _ = torch.linalg.qr(torch.randn(S, k, generator=generator, dtype=x.dtype))
    return torch.stack([columns.to(x.device)] * along.B)


def _means(grown: _Grown) -> tuple[Floats, Floats]:
    """Exponents, largest first, and their standard errors from the spread over stretches and sequences."""
    n = grown.steps.unsqueeze(-1)
    count = int((grown.steps > 0).sum())
    total = torch.where(n > 0, grown.logs, 0.0).sum((0, 1))
    means = total / n.sum()
    each = torch.where(n > 0, grown.logs / n, means)
    spread = (n / n.sum() * (each - means)).square().sum((0, 1))
    error = (spread * count / (count - 1)).sqrt() if count > 1 else torch.full_like(means, torch.nan)
    error = torch.where(torch.isfinite(means), error, torch.nan)
    order = torch.argsort(means.nan_to_num(torch.finfo(means.dtype).min), descending=True, stable=True)
    return np.asarray(means[order].numpy()), np.asarray(error[order].numpy())
