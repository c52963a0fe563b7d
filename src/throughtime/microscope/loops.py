"""What was caught of a cell in a loop, put together in time: one sighting for each chain of calls.

The states are those that the cell put out, so that what is linearised is where training really was. Each step is
checked on its own: from the state before it, the equations must give the state that came out, and from the gradient
after it the gradient that came back.

Dimensions: T steps of a chain of calls, n sequences, I inputs, H units, P parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, Read, State
from throughtime.engines import Unrolled
from throughtime.errors import FlowError
from throughtime.flow.adjoint import checked
from throughtime.flow.linear.linked import Linked, linked_inputs
from throughtime.flow.linear.trajectory import Trajectory
from throughtime.flow.sighting import Sighting
from throughtime.microscope.calls import ROUNDINGS, Snapshot, remarks, started, use_of
from throughtime.records import Place

_BACK = 4096.0  # how many roundings of its dtype a step back may be away from the equations' derivative,
_AT_MOST = 0.5  # but not more than this, of the gradients before and after it
_OWN, _NEXT, _ANOTHERS = range(3)  # who read a state: the step that made it, the one after it, a call of another chain
_FAINT = 100.0  # roundings: a difference that is smaller has two digits at most


@dataclass(frozen=True)
class Came:
    """What one backward pass brought to one part of a state, (n, H)."""

    whole: Tensor
    shares: Sequence[tuple[int, Tensor]]  # of it, as it came: through the call of that number, which read the state


@dataclass(eq=False)
class Step:
    """One call of a cell, numbers of the kept sequences as they were; and the gradients that came back to it."""

    number: int  # of the calls that were caught, from 1
    x: Tensor  # (n, I)
    given: Mapping[str, Tensor]  # part -> (n, H), of the first of a chain, and where a loop changed it; empty: zeros
    out: Mapping[str, Tensor]
    B: int
    rows: Tensor | None  # (n,) which sequences were kept; None: all
    weights: Snapshot
    dtype: torch.dtype  # in which it was computed
    before: Step | None  # the call whose state it goes on from
    cut: str  # why there is none although its state was made from one; empty: it was not
    goes_on: bool  # whether a gradient goes on from its initial state
    keys: Mapping[str, tuple[int, int, int]]  # part -> where autograd has it from
    shape: torch.Size  # of what it puts out
    slopes: Mapping[str, Tensor] | None = (
        None  # part -> (n, H), of its state in what `before` put out; None: it is that
    )
    begun: bool = False  # whether it starts from a state that is not zero
    detached: bool = False  # whether that is what an earlier call put out, without its gradient
    at: int = 0  # its step in its chain
    fed: bool = False  # whether its input was made from an earlier output
    aliased: bool = False  # whether a part is the very tensor of another, or of the state before
    through: dict[str, tuple[Step, str, Tensor | None]] = field(default_factory=dict)
    # part that is the state it was given, as a loop had changed it -> whose that was, its part, and the slope of that
    changed: bool = False  # its weights were, before the gradient came
    differentiated: bool = False  # whether a backward pass was, that came here
    waiting: dict[str, list[tuple[int, int, Tensor]]] = field(default_factory=dict)  # backward pass, call, share
    came: dict[str, list[Came]] = field(default_factory=dict)  # part -> one for each backward pass

    def part_of(self, key: tuple[int, int, int]) -> str:
        """The part that was put out under this key."""
        return next(part for part, its in self.keys.items() if its == key)


def joined(answered: Iterable[Step]) -> list[list[Step]]:
    """The calls that a gradient came back to and those before them, chain by chain, in the order of their first.

    Of several calls that go on from the same one the first belongs to its chain; the others begin chains of their own.
    """
    steps: dict[int, Step] = {}
    for step in answered:
        at: Step | None = step
        while at is not None and at.number not in steps:
            steps[at.number] = at
            at = at.before
    chains: dict[Step, list[Step]] = {}
    ends: dict[Step, list[Step]] = {}
    for _, step in sorted(steps.items()):
        chain = None if step.before is None else ends.pop(step.before, None)
        if chain is None:
            chain = chains.setdefault(step, [])
            step.cut = step.cut or ("a state is handed to two calls" if step.before is not None else "")
        chain.append(step)
        ends[step] = chain
    return list(chains.values())


def sighting(
    name: str, cell: Cell, chain: Sequence[Step], notes: tuple[str, ...], place: Place | None = None
) -> Sighting:
    """A chain of calls as one run, with δ.

    Raises FlowError if weights changed, if a state or gradient is not finite, or if a step is not what the cell's
    equations make of it, forward or back.
    """
    _check_weights(name, chain)
    with torch.no_grad():
        along, off = _along(name, cell, chain)
        _check_equations(name, along, off, chain)
        delta, back = _told_apart(along, chain)
        reached = delta + back  # the boundary's: without what a step reads of its own new state
    if not bool(torch.isfinite(delta).all()):
        step = int((~torch.isfinite(delta)).any(0).flatten(1).any(1).nonzero()[-1])
        raise FlowError(
            f"the gradient that came back to {name} is not finite at step {step}; look at the loss, or at the loss "
            "scale if there is one."
        )
    rounding = max(torch.finfo(step.dtype).eps for step in chain)
    said = notes + _notes(chain) + _faint(delta, reached, rounding)
    first = chain[0]
    start = started(first.begun, first.detached, first.goes_on)
    x = torch.stack([step.x for step in chain])
    use = use_of(x, along.lengths, first.B, start, [t for t, step in enumerate(chain) if t and step.detached])
    read = delta.any(-1).any(0)  # (T, n)
    if along.T > 1 and bool(read[0].any()) and not bool(read[1:].any()):
        use = replace(use, wrong_end=(name,))
    seen = Sighting(name, along, checked(along, delta.movedim(0, -2).flatten(-2)), float("nan"), said, place, use)
    if along.T > 1 and not any(step.aliased for step in chain):
        _check_way_back(seen, reached, rounding, any(step.differentiated for step in chain))
    return seen


def _told_apart(along: Trajectory, chain: Sequence[Step]) -> tuple[Tensor, Tensor]:
    """What reached each part directly, and through the next step; (P, T, n, H) each, in float64."""
    parts, members = along.cell.parts, {step.number for step in chain}

    def whose(step: Step, reader: int) -> int:
        return _OWN if reader == step.number else _NEXT if reader in members else _ANOTHERS

    # what a loop scaled was rounded in another order than here
    scaled = any(step.slopes is not None for step in chain)
    slack = 8 * max(torch.finfo(step.dtype).eps for step in chain) if scaled else 0.0
    direct = along.x.new_zeros(len(parts), along.T, along.B, along.cell.hidden_size)
    back = torch.zeros_like(direct)
    for p, part in enumerate(parts):
        alike: dict[tuple[int, ...], list[tuple[int, Came]]] = {}  # by whose the shares were
        for t, step in enumerate(chain):
            for came in step.came.get(part, ()):
                alike.setdefault(tuple(whose(step, reader) for reader, _ in came.shares), []).append((t, came))
        for kind, its in alike.items():
            at = torch.tensor([t for t, _ in its], device=direct.device)
            shares = [torch.stack([came.shares[i][1] for _, came in its]) for i in range(len(kind))]
            inside = [share for its_, share in zip(kind, shares, strict=True) if its_ != _ANOTHERS]
            direct[p].index_add_(0, at, _outside(torch.stack([came.whole for _, came in its]), inside, slack))
            for its_, share in zip(kind, shares, strict=True):
                if its_ == _NEXT:
                    back[p].index_add_(0, at, share.double())
    return direct, back


def _outside(whole: Tensor, shares: Sequence[Tensor], slack: float) -> Tensor:
    """The rest, in float64: exactly zero where the shares, added up as autograd does it, are the whole.

    `slack`: up to which part of the shares a difference is their rounding.
    """
    if not shares:
        return whole.double()
    total = shares[0]
    for share in shares[1:]:
        total = total + share
    exact = torch.stack([share.double() for share in shares]).sum(0)
    rest = whole.double() - exact
    rounded = rest.abs() <= slack * torch.stack([share.double().abs() for share in shares]).sum(0)
    return torch.where((whole == total) | (rounded if slack else whole == total), 0.0, rest)


def _check_weights(name: str, chain: Sequence[Step]) -> None:
    for part, value in chain[0].weights.values[0].items():
        if not bool(torch.isfinite(value).all()):
            raise FlowError(
                f"{part} of {name} is not finite, so neither are its states; stop at the first loss that is not."
            )
    if any(step.changed or not step.weights.same(chain[0].weights) for step in chain):
        raise FlowError(
            f"the weights of {name} changed between its calls and the gradient's return, so that gradient belongs to "
            "no one set of weights; update them after the backward pass."
        )


def _along(name: str, cell: Cell, chain: Sequence[Step]) -> tuple[Trajectory, Mapping[str, Tensor]]:
    """The run, and by part how far its steps are from the cell's equations, (T, n, H)."""
    T, first = len(chain), chain[0]
    given = first.given if first.before is None else first.before.out
    x = torch.stack([step.x for step in chain]).double()
    states = {part: torch.stack([step.out[part] for step in chain]).double() for part in cell.parts}
    n, H = states[cell.parts[-1]].shape[1:]
    initial = State(
        **{part: given[part].double() if given else x.new_zeros(n, H) for part in cell.parts},
    )
    for what, tensors in (("input", {"x": x}), ("initial state", initial), ("state", states)):
        for part, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                which = "" if what == "input" else f' "{part}"'
                off = (~torch.isfinite(tensor)).flatten(1).any(1).nonzero()
                at = "" if what == "initial state" else f" at step {int(off[0])}"
                raise FlowError(
                    f"the {what}{which} of {name} is not finite{at}, so no gradient through it is defined; look at the "
                    "weights and the input, or stop at the first loss that is not finite."
                )
    parameters: Parameters = {part: value.double() for part, value in first.weights.values[0].items()}
    cell, x = _linked(cell, chain, x, states)
    old = {part: torch.cat([initial[part].unsqueeze(0), states[part][:-1]]).flatten(0, 1) for part in cell.parts}
    read = Read(**{port: old[part] for port, part in cell.reads.items()})
    new, gates = cell.step(cell.share(x.flatten(0, 1), parameters), read, cell.weights(parameters))
    opened = {gate: value.view(T, n, -1) for gate, value in gates.items()}
    final = State(**{part: states[part][-1] for part in cell.parts})
    run = Unrolled(cell, states, opened, final, "reference", initial)
    rounding = max(torch.finfo(step.dtype).eps for step in chain)
    along = Trajectory(cell, parameters, x, run, torch.full((n,), T, device=x.device), rounding)
    return along, {part: (new[part].view(T, n, H) - states[part]).abs() for part in cell.parts}


def _linked(cell: Cell, chain: Sequence[Step], x: Tensor, states: Mapping[str, Tensor]) -> tuple[Cell, Tensor]:
    """The cell and its inputs, together with what the loop does to its state between two calls."""
    changed = [t for t, step in enumerate(chain) if t and step.slopes is not None]
    if not changed:
        return cell, x
    slopes = {part: torch.ones_like(its) for part, its in states.items()}
    rests = {part: torch.zeros_like(its) for part, its in states.items()}
    for t in changed:
        of = chain[t].slopes or {}
        for part, its in states.items():
            slopes[part][t] = of[part].double()
            rests[part][t] = chain[t].given[part].double() - slopes[part][t] * its[t - 1]
    return Linked(cell), linked_inputs(x, cell.parts, slopes, rests)


def _check_equations(name: str, along: Trajectory, off: Mapping[str, Tensor], chain: Sequence[Step]) -> None:
    """Raise FlowError if the steps are further from the equations than the rounding of their dtype explains."""
    allowed = ROUNDINGS * max(torch.finfo(step.dtype).eps for step in chain)
    if all(float(by.max()) <= allowed for by in off.values()):
        return
    slack = allowed * _size(along)
    for part, by in off.items():
        if bool((by > slack).any()):
            step = int((by > slack).flatten(1).any(1).nonzero()[0])
            raise FlowError(
                f'{name} does more than its equations: at step {step} its state "{part}" is something else than they '
                f"give, by {float(by.max()):.1e}. A hook or a method of its own changes it, or the state was changed "
                "where autograd does not see it (.data, or in place under torch.no_grad); no number here would be its "
                "own."
            )


def _size(along: Trajectory) -> Tensor:
    """How large the terms of a step's sums are, (T, n, 1): what their rounding goes by."""
    cell, T, n = along.cell, along.T, along.B
    sizes = {name: value.abs() for name, value in along.parameters.items()}
    shares = cell.share(along.x.abs().flatten(0, 1), sizes).values()
    states = along.before(0, T).map(torch.abs)
    W = cell.weights(sizes)
    maps = [getattr(W, block)(state) for block in W for state in states.values()]
    largest = [terms.abs().reshape(T, n, -1).amax(-1, keepdim=True) for terms in (*shares, *states.values(), *maps)]
    return 1.0 + torch.stack(largest).sum(0)


def _check_way_back(seen: Sighting, reached: Tensor, rounding: float, differentiated: bool) -> None:
    """Raise FlowError if what came back through a step is not what its derivative makes of what reached it.

    Somebody may clip the gradient on its way, or replace it by a hook; then it is no sum over where it came from.
    """
    with torch.no_grad():
        pulled = seen.tangent.pull(reached[:, 1:].contiguous(), slice(1, seen.along.T))
        back = (reached - seen.delta)[:, :-1]
        off, *sizes = (torch.linalg.vector_norm(rows, dim=(0, -1)) for rows in (pulled - back, pulled, reached[:, 1:]))
    wrong = off > min(_AT_MOST, _BACK * rounding) * (sizes[0] + sizes[1])
    if bool(wrong.any()):
        step = int(wrong.any(1).nonzero()[-1]) + 1
        why = "Is it clipped or replaced by a hook, or too small for its dtype?"
        if differentiated:
            why = "A backward pass was differentiated itself (create_graph), so gradient enters inside the steps, too."
        raise FlowError(
            f"the gradient of {seen.name} is changed on its way back through step {step}: what came out is not what "
            f"the step's derivative makes of what reached it. {why} It is no sum over where it came from then."
        )


def _faint(delta: Tensor, reached: Tensor, rounding: float) -> tuple[str, ...]:
    """A word on steps whose δ is the small difference of two large numbers."""
    outside, whole = (torch.linalg.vector_norm(rows, dim=(0, -1)) for rows in (delta, reached))
    faint = int(((outside > 0) & (outside < _FAINT * rounding * whole)).any(1).sum())
    if not faint:
        return ()
    return (
        f"At {faint} of {delta.shape[1]} steps what reached the state directly is so small beside what came through "
        "the next step that the rounding of its dtype leaves few digits of it.",
    )


def _notes(chain: Sequence[Step]) -> tuple[str, ...]:
    said = []
    first = chain[0]
    if first.rows is not None:
        said.append(f"{len(first.rows)} of the {first.B} sequences of the batch were measured, evenly spread.")
    if any(step.fed for step in chain):
        said.append(
            "Inputs of later steps were made from earlier outputs; what comes back that way counts as reaching those "
            "outputs directly, not as coming through the steps between."
        )
    return (*said, *remarks("cell", first.goes_on or first.before is not None, first.dtype))
