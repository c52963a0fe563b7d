"""What was caught of a recurrent module, run again in float64 step by step: one sighting a layer and direction.

The states are not run anew where they can be seen: those of the last layer are what it put out, so that what is
linearised is where training really was, also where rounding alone would lead a second run elsewhere. Each step is
then checked: from the state before it, the cell's equations must give what the module gave.

Dimensions: T steps of a chain of calls, n sequences, I inputs, H units, L layers, D directions, P parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.engines import ENGINES, Engine, Job, choose
from throughtime.errors import FlowError
from throughtime.flow.adjoint import checked
from throughtime.flow.linear.linked import Linked, linked_inputs
from throughtime.flow.linear.sweep import shift
from throughtime.flow.linear.trajectory import Trajectory
from throughtime.flow.sighting import Sighting, place_of
from throughtime.microscope.calls import OUTPUT, ROUNDINGS, Anatomy, Call, one_of, remarks, started, use_of
from throughtime.microscope.states import run_of
from throughtime.records import Use


@dataclass(frozen=True)
class _Link:
    """What a loop made of the state before one call: d ⊙ z + r, by part (L·D, n, H)."""

    at: Tensor  # (n,) the call's first step in each sequence
    slopes: Mapping[str, Tensor]
    rests: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Chain:
    """Calls that hand their state on, put together in time; (T, n, ...) is 0 past each sequence's end."""

    name: str
    suffix: str  # which call it begins with
    cells: tuple[Cell, ...]
    directions: int
    weights: tuple[Parameters, ...]  # L·D, float64
    x: Tensor  # (T, n, I)
    initial: Mapping[str, Tensor]  # part -> (L·D, n, H)
    output: Tensor  # (T, n, D·H)
    masks: Sequence[Tensor] | None  # L − 1 of (T, n, D·H); None: nothing was dropped
    lengths: Tensor  # (n,)
    turned: Tensor  # (T, n) the step that a reverse direction reads in the place of each
    delta: Tensor  # (T, n, D·H) what came back to the output
    ends: Sequence[tuple[Tensor, Mapping[str, Tensor]]]  # of each call: last steps (n,), part -> (L·D, n, H) gradient
    links: Sequence[_Link]  # what a loop did to the state between two calls; empty: nothing
    rounding: float
    engine: str  # that served the calls
    notes: tuple[str, ...]
    path: str  # the module's in the model
    kind: str  # its class
    run: int
    use: Use  # all but the directions whose wrong end is read

    def turn(self, steps: Tensor) -> Tensor:
        """From natural order to that in which a reverse direction reads, and back."""
        return steps.gather(0, self.turned.unsqueeze(-1).expand_as(steps))

    def side(self, steps: Tensor, direction: int) -> Tensor:
        """What belongs to one direction of (T, n, D·H), in the order in which it reads."""
        its = steps.chunk(self.directions, dim=-1)[direction]
        return self.turn(its) if direction else its

    def together(self, sides: Sequence[Tensor]) -> Tensor:
        """Both directions side by side, in natural order."""
        return torch.cat([self.turn(side) if d else side for d, side in enumerate(sides)], dim=-1)

    def called(self, layer: int, direction: int) -> str:
        """The name of one layer and direction."""
        where = f".l{layer}{'_reverse' * direction}" if len(self.weights) > 1 else ""
        return f"{self.name}{where}{self.suffix}"


@dataclass(frozen=True)
class Origin:
    """Which module a chain of calls is of, and which of its chains."""

    name: str
    path: str  # in the model; empty: it is the model
    kind: str
    run: int = 1
    runs: int = 1


def replay(origin: Origin, anatomy: Anatomy, calls: Sequence[Call], notes: tuple[str, ...] = ()) -> list[Sighting]:
    """One sighting for each layer and direction of a chain of calls, the first layer first.

    δ at a lower layer is what came back through the layers above it. Costs, for each layer and direction, one run of
    the sequences in float64, its linearisation and one sweep of its adjoint (kept in the sighting), for δ below it.
    Raises FlowError if weights changed, states or gradients are not finite, or the equations do not give the output.
    """
    with torch.no_grad():
        chain = _put_together(origin, anatomy, calls, notes)
        alongs = _upward(chain)
    return _downward(chain, alongs)


# -- the calls of a chain as one


def _put_together(origin: Origin, anatomy: Anatomy, calls: Sequence[Call], notes: tuple[str, ...]) -> _Chain:
    name = origin.name
    if any(call.changed for call in calls):
        raise FlowError(
            f"the weights of {name} changed between its call and the gradient's return, so that gradient belongs to no "
            "one set of weights; update them after the backward pass."
        )
    if any(call.differentiated for call in calls):
        raise FlowError(
            f"a backward pass through {name} was differentiated itself (create_graph), so gradient enters inside its "
            "steps, where it cannot be seen; watch a step without that."
        )
    first, H, D = calls[0], anatomy.cells[0].hidden_size, anatomy.directions
    n = len(first.pick.sequences)
    lengths = torch.stack([call.pick.lengths for call in calls])
    starts = lengths.cumsum(0) - lengths
    zeros = first.output.new_zeros(len(anatomy.names), n, H)
    masks = [None if c.dropped is None else c.dropped.masks(c.pick, len(anatomy.cells) - 1) for c in calls]
    joined = _Joined(lengths, starts)
    dropped = [
        joined.steps(
            [torch.ones_like(call.output) if its is None else its[k] for call, its in zip(calls, masks, strict=True)]
        )
        for k in range(len(anatomy.cells) - 1)
    ]
    ends = []
    for number, call in enumerate(calls):
        given = {part: call.came[part] for part in call.final if part in call.came}
        if number + 1 < len(calls):  # less what came back through the call after it
            after = calls[number + 1]
            for part, back in after.returned.items():
                slope = None if after.slopes is None else after.slopes[part]
                given[part] = _less(given.get(part, zeros), back, slope, call.dtype)
        ends.append((starts[number] + lengths[number] - 1, given))
    return _Chain(
        name=name,
        suffix=f" (call {first.number})" if origin.run > 1 else "",
        cells=anatomy.cells,
        directions=D,
        weights=tuple({k: w.double() for k, w in its.items()} for its in first.weights.values),
        x=joined.steps([call.x for call in calls]),
        initial={part: first.initial.get(part, zeros) for part in anatomy.cells[0].parts},
        output=joined.steps([call.output for call in calls]),
        masks=dropped if any(its is not None for its in masks) else None,
        lengths=lengths.sum(0),
        turned=joined.turned(),
        delta=joined.steps([call.came.get(OUTPUT, torch.zeros_like(call.output)) for call in calls]),
        ends=ends,
        links=[
            _Link(
                starts[number],
                call.slopes,
                {part: its - call.slopes[part] * calls[number - 1].final[part] for part, its in call.initial.items()},
            )
            for number, call in enumerate(calls)
            if call.slopes is not None
        ],
        rounding=max(torch.finfo(call.dtype).eps for call in calls),
        engine=first.engine,
        notes=(*_notes(calls), *one_of(origin.runs), *notes),
        path=origin.path,
        kind=origin.kind,
        run=origin.run,
        use=use_of(
            joined.steps([call.x for call in calls]),
            lengths.sum(0),
            first.pick.B,
            started(first.given, first.detached, first.goes_on),
            [int(starts[number].min()) for number, call in enumerate(calls) if number and call.detached],
        ),
    )


def _less(came: Tensor, back: Tensor, slope: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What came to a state, less what came through the next call: zero where nothing else did, to the last bit."""
    through = back if slope is None else (back.to(dtype) * slope.to(dtype)).double()
    rest = came - through
    if slope is None:
        return rest
    return torch.where(rest.abs() <= 2 * torch.finfo(dtype).eps * came.abs(), 0.0, rest)


@dataclass(frozen=True)
class _Joined:
    """Where the steps of several calls come to lie in one trajectory."""

    lengths: Tensor  # (calls, n)
    starts: Tensor  # (calls, n)

    @property
    def T(self) -> int:
        return int(self.lengths.sum(0).max())

    def steps(self, pieces: Sequence[Tensor]) -> Tensor:
        """(T_i, n, ...) of each call as (T, n, ...)."""
        if len(pieces) == 1:
            return pieces[0][: self.T]
        whole = pieces[0].new_zeros(self.T, *pieces[0].shape[1:])
        for piece, lengths, starts in zip(pieces, self.lengths, self.starts, strict=True):
            t, b = (torch.arange(len(piece), device=piece.device).unsqueeze(1) < lengths).nonzero(as_tuple=True)
            whole[starts[b] + t, b] = piece[t, b]
        return whole

    def turned(self) -> Tensor:
        """Each call's steps the other way round, within its length; past the end, steps stay: (T, n)."""
        at = torch.arange(self.T, device=self.lengths.device).unsqueeze(1)
        where = at.expand(-1, self.lengths.shape[1]).clone()
        for lengths, starts in zip(self.lengths, self.starts, strict=True):
            inside = (at >= starts) & (at < starts + lengths)
            where = torch.where(inside, 2 * starts + lengths - 1 - at, where)
        return where


def _notes(calls: Sequence[Call]) -> tuple[str, ...]:
    said = []
    first = calls[0]
    kept = len(first.pick.sequences)
    if kept < first.pick.B:
        said.append(f"{kept} of the {first.pick.B} sequences of the batch were measured, evenly spread by length.")
    if len(calls) > 1:
        said.append(f"{len(calls)} calls that hand their state on are one run of steps here.")
    return (*said, *remarks("layer", first.goes_on, first.dtype))


# -- up through the layers: what ran


def _upward(chain: _Chain) -> list[list[Trajectory]]:
    """The trajectory of each layer and direction."""
    found: list[list[Trajectory]] = []
    x = chain.x
    for layer, plain in enumerate(chain.cells):
        last = layer + 1 == len(chain.cells)
        its: list[Trajectory] = []
        for direction in range(chain.directions):
            place = layer * chain.directions + direction
            weights = chain.weights[place]
            initial = State(**{part: chain.initial[part][place] for part in plain.parts})
            given = chain.turn(x) if direction else x
            output = chain.side(chain.output, direction) if last else None
            _check_finite(chain, layer, direction, given, initial, output)
            cell, given = _linked(chain, plain, given, place)
            if output is None:
                job = Job(cell, weights, given, initial, chain.lengths, inside=False)
                output = _engine(job, chain.engine).run(job).output
                _check_finite(chain, layer, direction, given, initial, output)
            along, off = run_of(cell, weights, given, initial, chain.lengths, output, chain.rounding)
            if last:
                _check_equations(chain, layer, direction, along, off)
            its.append(along)
        found.append(its)
        if not last:
            running = its[0].running().unsqueeze(-1)
            x = torch.where(running, chain.together([along.run.output for along in its]), 0.0)
            x = x if chain.masks is None else x * chain.masks[layer]
    return found


def _linked(chain: _Chain, cell: Cell, x: Tensor, place: int) -> tuple[Cell, Tensor]:
    """The cell and its inputs, together with what a loop does to its state between two calls."""
    if not chain.links:
        return cell, x
    every = torch.arange(x.shape[1], device=x.device)
    slopes = {part: x.new_ones(*x.shape[:2], cell.hidden_size) for part in cell.parts}
    rests = {part: x.new_zeros(*x.shape[:2], cell.hidden_size) for part in cell.parts}
    for link in chain.links:
        for part in cell.parts:
            slopes[part][link.at, every] = link.slopes[part][place]
            rests[part][link.at, every] = link.rests[part][place]
    return Linked(cell), linked_inputs(x, cell.parts, slopes, rests)


def _engine(job: Job, served: str) -> Engine:
    """The one that served, if it can again: in a chaotic net rounding alone would lead another one elsewhere."""
    if isinstance(job.cell, Linked):
        served = "reference"
    again = (engine for engine in ENGINES if engine.name == served and engine.why_not(job) is None)
    return next(again, None) or choose(job)


def _check_finite(chain: _Chain, layer: int, direction: int, x: Tensor, initial: State, output: Tensor | None) -> None:
    where = chain.called(layer, direction)
    for name, tensor in initial.items():
        if not bool(torch.isfinite(tensor).all()):
            raise FlowError(f'the initial state "{name}" of {where} is not finite; look at where it comes from.')
    for name, steps in (("input", x), ("state", output)):
        if steps is not None and not bool(torch.isfinite(steps).all()):
            step = int((~torch.isfinite(steps)).flatten(1).any(1).nonzero()[0])
            raise FlowError(
                f"the {name} of {where} is not finite at step {step} of those it reads, so no gradient through it is "
                "defined; look at the weights and the input, or stop at the first loss that is not finite."
            )


def _check_equations(chain: _Chain, layer: int, direction: int, along: Trajectory, off: Tensor) -> None:
    """Raise FlowError if the steps are further from the output than the rounding of its dtype explains."""
    allowed = ROUNDINGS * chain.rounding
    if float(off.max()) <= allowed:
        return
    slack = allowed * _size(along)
    if chain.masks is not None or len(chain.cells) > 1:
        slack = slack * 4  # its input was rounded on the way up, too
    if bool((off > slack).any()):
        step = int((off > slack).flatten(1).any(1).nonzero()[0])
        below = (
            " Or the layers below it, which cannot be seen, go another way when they are run again, as rounding alone "
            "is enough for in a chaotic net; then watch it in float64."
        )
        raise FlowError(
            f"{chain.called(layer, direction)} does more than its equations: at step {step} it put out something else "
            f"than they give, by {float(off.max()):.1e}. A hook, a parametrisation or a method of its own changes it, "
            "or an operation in place changed its input; no number here would be its own."
            + (below if layer and chain.rounding > torch.finfo(torch.float64).eps else "")
        )


def _size(along: Trajectory) -> Tensor:
    """How large the terms of a step's sums are, (T, n, H): what their rounding goes by."""
    cell, run = along.cell, along.run
    sizes = {name: value.abs() for name, value in along.parameters.items()}
    shares = cell.share(along.x.abs(), sizes)
    W = cell.weights(sizes)
    total = torch.stack([share.broadcast_to(run.output.shape) for share in shares.values()]).amax(0)
    read = torch.stack([state.abs() for state in run.states.values()]).amax(0)
    read = torch.cat([torch.stack([part.abs() for part in run.initial.values()]).amax(0).unsqueeze(0), read[:-1]])
    maps = [getattr(W, block)(read) for block in W]
    return 1.0 + total + read + (torch.stack(maps).amax(0) if maps else 0.0)


# -- down again: what came back


def _downward(chain: _Chain, alongs: Sequence[Sequence[Trajectory]]) -> list[Sighting]:
    found: list[Sighting] = []
    delta = chain.delta
    chain = replace(chain, use=replace(chain.use, wrong_end=_wrong_ends(chain)))
    for layer in reversed(range(len(chain.cells))):
        seen = [_seen(chain, layer, d, along, delta) for d, along in enumerate(alongs[layer])]
        found[:0] = seen
        if layer:
            back = [_to_input(one) for one in seen]
            delta = back[0] if len(back) == 1 else back[0] + chain.turn(back[1])
            delta = delta if chain.masks is None else delta * chain.masks[layer - 1]
    return found


def _wrong_ends(chain: _Chain) -> tuple[str, ...]:
    """Directions of the last layer of whose outputs the loss reads the first that they make, and no other."""
    if int(chain.lengths.max()) < 2:
        return ()
    layer, every = len(chain.cells) - 1, torch.arange(len(chain.lengths), device=chain.lengths.device)
    found = []
    for direction in range(chain.directions):
        read = chain.side(chain.delta, direction).any(-1)
        for ends, gradients in chain.ends:
            for gradient in gradients.values():
                read[ends, every] |= gradient[layer * chain.directions + direction].any(-1)
        if bool(read[0].any()) and not bool(read[1:].any()):
            found.append(chain.called(layer, direction))
    return tuple(found)


def _seen(chain: _Chain, layer: int, direction: int, along: Trajectory, delta: Tensor) -> Sighting:
    """δ of one layer and direction: at its outputs, and at its final states at the last step of each call."""
    cell, place = along.cell, layer * chain.directions + direction
    by_part = {part: torch.zeros_like(along.run.output) for part in cell.parts}
    by_part[cell.parts[-1]] = chain.side(delta, direction).clone()
    every = torch.arange(along.B, device=along.x.device)
    for ends, gradients in chain.ends:
        for part, gradient in gradients.items():
            by_part[part][ends, every] += gradient[place]
    whole = torch.cat([by_part[part] for part in cell.parts], dim=-1)
    notes = list(chain.notes)
    if direction:
        notes.append("This direction reads each sequence from its end; its steps are counted as it reads them.")
    try:
        given = checked(along, whole.masked_fill(~along.running().unsqueeze(-1), 0.0))
    except FlowError as error:
        raise FlowError(f"{chain.called(layer, direction)}: {error}") from None
    suffix = f"_l{layer}{'_reverse' * direction}"
    of = place_of(chain.cells[layer], chain.path, chain.kind, layer, direction, suffix, run=chain.run)
    return Sighting(chain.called(layer, direction), along, given, float("nan"), tuple(notes), of, chain.use)


def _to_input(seen: Sighting) -> Tensor:
    """dL/dx at every step, (T, n, I), in the order in which the direction reads."""
    along, through_time = seen.along, seen.adjoint
    with torch.no_grad():
        rows = shift(through_time.rows, through_time.exponents.int().unsqueeze(-1))
        pulled = seen.tangent.pull_inputs(rows, slice(0, along.T))
    with torch.enable_grad():
        x = along.x.detach().requires_grad_()
        shares = along.cell.share(x, along.parameters)
        made = [name for name in shares if shares[name].requires_grad]
        (back,) = torch.autograd.grad([shares[name] for name in made], x, [pulled[name] for name in made])
    return back[..., : along.cell.inner.input_size] if isinstance(along.cell, Linked) else back
