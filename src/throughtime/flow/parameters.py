"""The gradient of the weights, split by lag: dL/dθ = Σ_τ Σ_t δ_t P(t, t−τ) ∂⁺z_{t−τ}/∂θ.

No gradient of a single pair (t, k) is ever made. The rows δ_t P(t, t−τ) of one lag are carried together (`abreast`),
and one backward pass of the cell's step, run over all steps as one batch, adds up what they say of every parameter.

What lags over τ give together needs no sum, in which the small would drown in the large: the rows of all sources
t > k + τ at step k add up to a_{k+τ+1} P(k+τ+1, k), so it is the term of lag τ + 1 with the adjoint a in δ's place.

Where each sequence has one source, as with one answer a sequence, nothing is carried at all: the row of lag τ is the
adjoint a_{t−τ}. Then the lags are gone through from the far end, and their sum is the rest.

Dimensions: T steps, B sequences, H units, P parts, L lags.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.errors import FlowError
from throughtime.flow.adjoint import Adjoint, checked, gather
from throughtime.flow.linear.abreast import abreast
from throughtime.flow.linear.immediate import Immediate, Term
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.sweep import log10, shift, split
from throughtime.flow.linear.tangent import Tangent
from throughtime.flow.linear.trajectory import Trajectory, follow
from throughtime.flow.sighting import Sighting, fewer
from throughtime.modules import Recurrent
from throughtime.records import Floats, ParameterCredit

_WORK = 2e10  # multiplications of one sighting: a second or two on two cores, in float64
_DENSE = 64  # lags up to here are all measured


def parameter_credit(
    cell: Cell | Recurrent,
    x: Tensor,
    delta: Tensor,
    *,
    state: State | None = None,
    lengths: Tensor | None = None,
    most_lag: int | None = None,
    parameters: Parameters | None = None,
) -> ParameterCredit:
    """How much of dL/dθ each lag gave, for every parameter θ of a cell; the initial state is none.

    `x` (T, B, I); `delta` is δ_t, the direct gradient: (T, B, H) at the output, or (T, B, S) at the whole state. The
    terms of all lags add up to `θ.grad` (`parameter_terms` gives the terms themselves), but their norms need not: terms
    can point against each other. `log10_rest` at τ is what a truncation that lets every step look back τ steps, and
    not more, leaves out, as a share of ‖dL/dθ‖. `most_lag` limits the lags; what lies beyond them is in the rest.

    Returns logarithms; −inf is a true zero, NaN is "not defined" (a share of nothing) or lost under the dtype's range.
    Costs, at each lag, two products of (T − τ)·B rows with the recurrent weights and two backward passes of as many
    steps, and holds the graph of the step for all T·B. Where no sequence has more than one step with an output
    gradient, T·B steps in all, forward and back.
    Raises FlowError if shapes or steps do not fit, if delta is not finite or not zero past a sequence's end, and as
    `tt.flow.jacobians` does.

    Source: Pascanu, Mikolov, Bengio 2013, section 2, for the sum over k; gathered by lag as in truncated
    backpropagation, Williams and Peng 1990.

    >>> import torch, throughtime as tt
    >>> cell, delta = tt.cells.make("elman", 3, 4), torch.zeros(7, 2, 4)
    >>> delta[-1] = 1.0  # a loss of the last step alone
    >>> record = tt.flow.parameter_credit(cell, torch.randn(7, 2, 3), delta)
    >>> sorted(record.log10_terms), record.lags.tolist(), float(record.log10_rest["weight_hh"][-1])
    (['bias_hh', 'bias_ih', 'weight_hh', 'weight_ih'], [0, 1, 2, 3, 4, 5, 6], -inf)
    """
    began = time.perf_counter()
    along, last = _followed(cell, x, state, lengths, parameters, most_lag)
    tangent, given = linearise(along), checked(along, delta)
    return parameter_credit_along(tangent, given, gather(tangent, given), range(last + 1), began)


def parameter_terms(
    cell: Cell | Recurrent,
    x: Tensor,
    delta: Tensor,
    *,
    state: State | None = None,
    lengths: Tensor | None = None,
    most_lag: int | None = None,
    parameters: Parameters | None = None,
) -> Iterator[dict[str, Tensor]]:
    """The terms of dL/dθ themselves, for lag 0, 1, …: each a dict from parameter to a tensor of its shape.

    One lag is held at a time. As `parameter_credit` in all else; a term under the range of the dtype comes out as 0.
    """
    along, last = _followed(cell, x, state, lengths, parameters, most_lag)
    tangent, given = linearise(along), checked(along, delta)
    return _values(tangent, given, last)


def _followed(
    cell: Cell | Recurrent,
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    parameters: Parameters | None,
    most_lag: int | None,
) -> tuple[Trajectory, int]:
    if most_lag is not None and most_lag < 0:
        raise FlowError(f"most_lag is a number of steps, 0 or more, got {most_lag}.")
    along = follow(cell, x, state, lengths=lengths, parameters=parameters)
    return along, along.T - 1 if most_lag is None else min(most_lag, along.T - 1)


def _values(tangent: Tangent, delta: Tensor, last: int) -> Iterator[dict[str, Tensor]]:
    found = _terms(tangent, Immediate(tangent.along), delta, no_powers(delta), range(last + 1))
    for _ in range(last + 1):
        term = next(found, None)
        if term is None:
            yield {name: torch.zeros_like(value) for name, value in tangent.along.parameters.items()}
        else:
            power = torch.tensor(term.exponent)
            yield {name: shift(value, power) for name, value in term.values.items()}


def parameter_credit_along(
    tangent: Tangent, delta: Tensor, through_time: Adjoint, lags: Sequence[int], began: float | None = None
) -> ParameterCredit:
    """The same for a trajectory that is linearised already, with its adjoint, at these lags: ascending from 0."""
    began = time.perf_counter() if began is None else began
    along, step = tangent.along, Immediate(tangent.along)
    sources = _one_each(delta)
    if sources is None:
        terms, over = _carried(tangent, step, delta, through_time, lags)
    else:
        terms, over = _from_the_far_end(step, sources, through_time, lags)
    rest = over.log10()
    whole = {name: float(values[0]) for name, values in rest.items()}
    with np.errstate(invalid="ignore"):  # of nothing there is no share: −inf less −inf is NaN
        shares = {name: values[1:] - values[0] for name, values in rest.items()}
    return ParameterCredit(
        cell=along.cell.title,
        lags=np.asarray(lags),
        log10_terms=terms.log10(),
        log10_rest=shares,
        log10_whole=whole,
        sequences=along.B,
        dtype=str(delta.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - began,
    )


def _one_each(delta: Tensor) -> Tensor | None:
    """The one step of each sequence that has an output gradient, (B,), the first if none has; None if one has more."""
    there = delta.any(-1).any(0)
    return there.int().argmax(0) if int(there.sum(0).max()) <= 1 else None


def _carried(
    tangent: Tangent, step: Immediate, delta: Tensor, through_time: Adjoint, lags: Sequence[int]
) -> tuple[_Norms, _Norms]:
    """The terms, and what lags from 0 on and over each τ give together, (L,) and (L + 1,)."""
    terms, over = _Norms(step.names, len(lags)), _Norms(step.names, len(lags) + 1)
    for place, term in enumerate(_terms(tangent, step, delta, no_powers(delta), lags)):
        terms.note(place, term)
    further = [0, *(lag + 1 for lag in lags)]
    for place, term in enumerate(_terms(tangent, step, through_time.rows, through_time.exponents, further)):
        over.note(place, term)
    return terms, over


def _from_the_far_end(
    step: Immediate, sources: Tensor, through_time: Adjoint, lags: Sequence[int]
) -> tuple[_Norms, _Norms]:
    """The same where sequence b has no other source than `sources[b]`."""
    terms, over = _Norms(step.names, len(lags)), _Norms(step.names, len(lags) + 1)

    def of(some: range) -> Term:
        k = sources - torch.tensor(some, dtype=torch.long, device=sources.device).unsqueeze(1)
        place, b = (k >= 0).nonzero(as_tuple=True)
        k = k[place, b]
        return step.picked(k, b, through_time.rows[:, k, b], through_time.exponents[k, b])

    total, following = step.nothing(), int(sources.max()) + 1
    for place in reversed(range(len(lags))):
        total = total.plus(of(range(lags[place] + 1, following)))
        over.note(place + 1, total)
        term = of(range(lags[place], lags[place] + 1))
        terms.note(place, term)
        total, following = total.plus(term), lags[place]
    over.note(0, total)
    return terms, over


def _terms(tangent: Tangent, step: Immediate, seeds: Tensor, exponents: Tensor, lags: Sequence[int]) -> Iterator[Term]:
    """The term of each of these lags, ascending, as far as any row is left."""
    wanted = iter(lags)
    following = next(wanted, None)
    for here in abreast(tangent, seeds, exponents, most_lag=lags[-1]):
        if here.lag == following:
            yield step.times(here)
            following = next(wanted, None)


def no_powers(delta: Tensor) -> Tensor:
    """The exponents of rows (P, T, B, H) that stand as they are, (T, B)."""
    return torch.zeros(delta.shape[1:3], dtype=torch.float64, device=delta.device)


class _Norms:
    """2-norms by parameter and place, as logarithms."""

    def __init__(self, names: Sequence[str], count: int) -> None:
        self._log10 = {name: np.full(count, -np.inf) for name in names}
        self._faint = {name: np.zeros(count, bool) for name in names}

    def note(self, place: int, term: Term) -> None:
        """Keep the norms of one term."""
        for name, value in term.values.items():
            if value.numel():
                scaled, exponent = split(value.flatten(), (0,))
                norm = torch.linalg.vector_norm(scaled)
                self._log10[name][place] = float(log10(norm, exponent + term.exponent))
                # Against rows that are near 1: half way down to the smallest number, in powers.
                least = np.log2(torch.finfo(value.dtype).tiny) / 2
                self._faint[name][place] = bool(norm) and float(exponent) < least

    def log10(self) -> dict[str, Floats]:
        """−inf where nothing was noted but nought; NaN where it sank under the dtype's range, faint at a lag before."""
        sank = {name: np.logical_or.accumulate(faint) for name, faint in self._faint.items()}
        return {n: np.where(np.isneginf(values) & sank[n], np.nan, values) for n, values in self._log10.items()}


def parameters_of(seen: Sighting) -> tuple[ParameterCredit | None, tuple[str, ...]]:
    """`parameter_credit` of a sighting in about a second or two, and what was limited for it."""
    along = seen.along
    if not along.parameters:
        return None, ("This cell has no parameters, so there is no gradient of weights to split by lag.",)
    said: list[str] = []
    alone = _one_each(seen.delta) is not None
    each = _work(along, along.T, alone)
    if each > _WORK:
        longest, steps = int(along.lengths.argmax()), along.T
        while steps > 1 and _work(along, steps, alone) > _WORK:
            steps = steps * 9 // 10
        seen = fewer(seen, [longest], steps)
        said.append(
            f"The gradient of the weights was split by lag on the last {steps} steps of one of {along.B} sequences "
            "alone: shares are of the gradient of these steps."
        )
    elif each * along.B > _WORK:
        count = int(_WORK / each)
        seen = fewer(seen, range(count))
        said.append(f"The gradient of the weights was split by lag on {count} of {along.B} sequences.")
    lags = _spread(seen.along.T - 1)
    if len(lags) < seen.along.T:
        said.append(
            f"Of lags over {_DENSE}, the gradient of the weights was taken at {len(lags) - _DENSE - 1}, spread."
        )
    record = parameter_credit_along(seen.tangent, seen.delta, seen.adjoint, lags)
    return record, tuple(said)


def _spread(longest: int) -> list[int]:
    """Every lag up to `_DENSE`, then about eight for each doubling, up to `longest`."""
    if longest <= _DENSE:
        return list(range(longest + 1))
    far = np.geomspace(_DENSE, longest, 1 + int(np.ceil(8 * np.log2(longest / _DENSE)))).round().astype(int)
    return [*range(_DENSE), *np.unique(far).tolist()]


def _work(along: Trajectory, steps: int, alone: bool) -> float:
    """Multiplications for one sequence of so many steps: two pulls at each lag, two backward passes at those taken.

    With one source, nothing is pulled, and each step is passed through once, forward and back.
    """
    pull = len(along.cell.squares(along.parameters)) * along.cell.hidden_size**2
    back = sum(value.numel() for value in along.parameters.values())
    if alone:
        return float(3 * back * steps)
    rows = steps - np.arange(steps)
    return float(2 * (pull * rows.sum() + back * rows[_spread(steps - 1)].sum()))
