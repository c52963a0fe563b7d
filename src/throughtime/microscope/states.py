"""The inside of a layer whose output is known: its other states and its gates, all steps at once where that can be.

Dimensions: T steps of a chain of calls, n sequences, I inputs, H units.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Linear, Parameters, Share, State, Weights
from throughtime.engines import Unrolled
from throughtime.flow.linear.trajectory import Trajectory

_SAME = 1e-13  # two ways to the same float64


def run_of(
    cell: Cell, parameters: Parameters, x: Tensor, initial: State, lengths: Tensor, output: Tensor, rounding: float
) -> tuple[Trajectory, Tensor]:
    """The run of a cell whose output is known, and how far its steps are from that output, (T, n, H).

    All steps go at once, from the output and the other parts of the state before each. Where such a part is
    f_t ⊙ itself + g_t with f and g known from the output, as an LSTM's cell state is, it takes one product a step;
    whether that was so is seen when all steps are there. Else the steps go one by one first.
    """
    last = cell.parts[-1]
    output = _held(output, lengths)
    seen = _Seen(torch.cat([initial[last].unsqueeze(0), output[:-1]]), cell.weights(parameters), parameters)
    u = cell.share(x, parameters)
    others = _summed(cell, u, seen, initial) if len(cell.parts) > 1 else {}
    made, gates = _step(cell, u, seen, _before(others, initial))
    if not all(bool(((made[p] - its).abs() <= _SAME * (1 + its.abs())).all()) for p, its in others.items()):
        others = _step_by_step(cell, u, seen, initial)
        made, gates = _step(cell, u, seen, _before(others, initial))
    states = {part: _held(its, lengths) for part, its in others.items()} | {last: output}
    final = State(**{part: states[part][-1] for part in cell.parts})
    run = Unrolled(cell, states, gates, final, "reference", initial, lengths)
    along = Trajectory(cell, parameters, x, run, lengths, rounding)
    return along, (made[last] - output).abs().masked_fill_(~along.running().unsqueeze(-1), 0.0)


def _held(steps: Tensor, lengths: Tensor) -> Tensor:
    """Past each length, as it was at the last step."""
    if bool((lengths == len(steps)).all()):
        return steps
    at = torch.arange(len(steps), device=steps.device).unsqueeze(1)
    return steps.gather(0, torch.minimum(at, lengths - 1).unsqueeze(-1).expand_as(steps))


def _before(states: Mapping[str, Tensor], initial: State) -> dict[str, Tensor]:
    return {part: torch.cat([initial[part].unsqueeze(0), its[:-1]]) for part, its in states.items()}


def _step(cell: Cell, u: Share, seen: _Seen, before: Mapping[str, Tensor]) -> tuple[State, dict[str, Tensor]]:
    """All steps side by side, from the parts before them that are not the output; (T, n, H) each."""
    parts = {part: its.flatten(0, 1) for part, its in before.items()} | {cell.parts[-1]: seen.all}
    new, gates = cell.advance(u.map(lambda share: share.flatten(0, 1)), State(**parts), seen.weights)
    return new.map(seen.by_step), {name: seen.by_step(value) for name, value in gates.items()}


def _summed(cell: Cell, u: Share, seen: _Seen, initial: State) -> dict[str, Tensor]:
    """The parts of the state that are not the output, as if they were f_t ⊙ themselves + g_t: (T, n, H) each."""
    leaves = {part: seen.by_step(torch.zeros_like(seen.all)).requires_grad_() for part in cell.parts[:-1]}
    with torch.enable_grad():
        at_zero, _ = _step(cell, u, seen, leaves)
    found: dict[str, Tensor] = {}
    for part, leaf in leaves.items():
        slope, rest = _slope(at_zero[part], leaf), at_zero[part].detach()
        found[part] = its = torch.empty_like(rest)
        before = initial[part]
        for f, g, here in zip(slope.unbind(0), rest.unbind(0), its.unbind(0), strict=True):
            before = torch.addcmul(g, f, before, out=here)
    return found


def _slope(made: Tensor, leaf: Tensor) -> Tensor:
    """∂made/∂leaf of what keeps the units apart."""
    if not made.requires_grad:
        return torch.zeros_like(leaf)
    ones = torch.ones_like(made)
    (found,) = torch.autograd.grad(made, leaf, ones, retain_graph=True, allow_unused=True, materialize_grads=True)
    return found


def _step_by_step(cell: Cell, u: Share, seen: _Seen, initial: State) -> dict[str, Tensor]:
    shares = {name: share.unbind(0) for name, share in u.items()}
    found: dict[str, list[Tensor]] = {part: [] for part in cell.parts[:-1]}
    state = initial
    for t in range(seen.T):
        seen.at(t)
        before = State(**{**state, cell.parts[-1]: seen.now})
        state, _ = cell.advance(Share(**{name: its[t] for name, its in shares.items()}), before, seen.weights)
        for part, its in found.items():
            its.append(state[part])
    seen.at(-1)
    return {part: torch.stack(its) for part, its in found.items()}


class _Seen:
    """The output part before each step, known for all of them, and what recurrent maps make of it, made once."""

    def __init__(self, before: Tensor, weights: Weights, parameters: Parameters) -> None:
        self.all = before.flatten(0, 1)  # (T·n, H)
        self._steps = before.unbind(0)
        self.T = len(before)
        self.at(-1)
        self.weights = Weights({block: _Known.of(getattr(weights, block), self) for block in weights}, parameters)

    def at(self, t: int) -> None:
        """Let the maps be asked about one step from now on; −1: about all."""
        self.now, self.t = self.all if t < 0 else self._steps[t], t

    def by_step(self, values: Tensor) -> Tensor:
        """(T·n, ...) as (T, n, ...)."""
        return values.view(self.T, -1, *values.shape[1:])


class _Known(Linear):
    """A recurrent map that makes what it makes of the output part once, for all steps."""

    _seen: _Seen
    _made: list[Tensor]  # of all steps side by side, and then of each

    @classmethod
    def of(cls, linear: Linear, seen: _Seen) -> _Known:
        known = cls(*linear)
        known._seen, known._made = seen, []
        return known

    def __call__(self, v: Tensor) -> Tensor:
        seen = self._seen
        if v is not seen.now:
            return super().__call__(v)
        if not self._made:
            whole = super().__call__(seen.all)
            self._made += [whole, *seen.by_step(whole).unbind(0)]
        return self._made[seen.t + 1]
