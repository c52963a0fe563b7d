"""What is kept of one call of a recurrent module: the numbers of some of its sequences, as they were.

Dimensions: T steps, B sequences of the call, n of them kept, I inputs, H units, L layers, D directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from throughtime.cells.cell import Cell, State, make
from throughtime.errors import FlowError
from throughtime.modules import Recurrent
from throughtime.records import Integers, Use

OUTPUT = ""  # stands for what a module put out, where parts of the state are named
ROUNDINGS = 16.0  # how many roundings of its dtype a step may be away from its equations

_MODES = {
    "LSTM": ("lstm", {}),
    "GRU": ("gru", {}),
    "RNN_TANH": ("elman", {"nonlinearity": "tanh"}),
    "RNN_RELU": ("elman", {"nonlinearity": "relu"}),
}


@dataclass(frozen=True)
class Anatomy:
    """What a module is made of."""

    cells: tuple[Cell, ...]  # L, equations and shapes alone
    directions: int  # D
    order: tuple[str, ...] | None  # the parts of the state in the order in which the module takes them; None: a State
    names: tuple[Mapping[str, str], ...]  # L·D, the cell's name of each parameter -> the module's

    @classmethod
    def of(cls, module: nn.Module) -> Anatomy:
        """Raises FlowError for a module that no cell stands for."""
        if isinstance(module, Recurrent):
            cells, order = module.cells, module.torch_state
        elif isinstance(module, nn.RNNBase) and module.proj_size == 0 and module.mode in _MODES:
            name, options = _MODES[module.mode]
            D, H = 1 + module.bidirectional, module.hidden_size
            widths = [module.input_size, *[H * D] * (module.num_layers - 1)]
            cells = tuple(make(name, width, H, bias=module.bias, device="meta", **options) for width in widths)
            order = ("h", "s")[: len(cells[0].parts)]
        else:
            raise FlowError(
                f"{type(module).__name__} is no layer that can be watched: nn.RNN, nn.LSTM and nn.GRU without "
                "projections are, and the recurrent modules of throughtime."
            )
        names = tuple(
            {mine: f"{mine}_l{layer}{'_reverse' * direction}" for mine in cell.shapes()}
            for layer, cell in enumerate(cells)
            for direction in range(1 + bool(module.bidirectional))
        )
        return cls(cells, 1 + bool(module.bidirectional), order, names)

    def state(self, given: Any) -> dict[str, Tensor]:
        """The parts of a state as the module takes and gives it; empty for None."""
        if given is None:
            return {}
        if self.order is None or isinstance(given, State):
            return dict(given)
        tensors = (given,) if isinstance(given, Tensor) else given
        return dict(zip(self.order, tensors, strict=True))

    def weights(self, module: nn.Module) -> tuple[dict[str, Tensor], ...]:
        """The tensors that a call uses, under the cells' names for them, by layer and direction."""
        if isinstance(module, nn.RNNBase):  # what its kernel is given, whatever made it
            there = cast(dict[str, Tensor], dict(zip(module._flat_weights_names, module._flat_weights, strict=True)))
            return tuple({mine: there[name] for mine, name in names.items()} for names in self.names)
        return tuple({mine: getattr(module, name) for mine, name in names.items()} for names in self.names)

    def engine(self, module: nn.Module) -> str:
        """The engine that served the module's last call; "native" stands for torch's own kernels."""
        return (module.served or "auto") if isinstance(module, Recurrent) else "native"


@dataclass(frozen=True)
class Snapshot:
    """Weights as they were in a call, beside the tensors that were used."""

    used: tuple[Mapping[str, Tensor], ...]
    values: tuple[Mapping[str, Tensor], ...]
    marks: tuple[tuple[int, int, int], ...]  # what changes if one of them is written to in the open

    @classmethod
    def of(cls, used: tuple[Mapping[str, Tensor], ...], last: Snapshot | None) -> Snapshot:
        """Taken anew, unless nothing has happened since the last one."""
        marks = tuple((id(w), w.data_ptr(), w._version) for tensors in used for w in tensors.values())
        if last is not None and last.marks == marks:
            return last
        values = tuple({name: w.detach().clone() for name, w in tensors.items()} for tensors in used)
        return cls(used, values, marks)

    def stands(self) -> bool:
        """Whether the tensors that were used still have the values that they had."""
        return all(
            _same(tensors[name], value)
            for tensors, values in zip(self.used, self.values, strict=True)
            for name, value in values.items()
        )

    def same(self, other: Snapshot) -> bool:
        """Whether both have the same values."""
        return self is other or all(
            _same(mine[name], theirs[name])
            for mine, theirs in zip(self.values, other.values, strict=True)
            for name in mine
        )


def alike(put_out: Tensor, given: Tensor) -> bool:
    """Whether one state was made from the other by nothing but setting some of it to something else (a reset)."""
    same = (put_out == given) & (given != 0)
    return bool(same.any()) and int(same.sum()) >= 0.25 * int((given != 0).sum())


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether they have the same values; NaN is itself, as what is said of it is not that it changed."""
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())


@dataclass(frozen=True)
class Pick:
    """Which sequences of a call are kept, and where their numbers lie in what the module takes and gives."""

    sequences: Tensor  # (n,) in the order of the batch, ascending
    lengths: Tensor  # (n,) steps
    T: int  # of the longest sequence in the call
    B: int
    rows: Tensor | None  # (T, n) where each step lies in packed data; None: not packed
    batch_first: bool
    alone: bool  # one sequence, without a dimension for the batch

    def steps(self, given: Tensor) -> Tensor:
        """Inputs, outputs or gradients at them, as (T, n, ...) in float64; 0 past each length."""
        given = given.detach()
        if self.rows is not None:
            there = given.index_select(0, self.rows.flatten()).view(*self.rows.shape, -1).double()
        else:
            given = given.unsqueeze(1) if self.alone else given.transpose(0, 1) if self.batch_first else given
            there = given.index_select(1, self.sequences).double()
        if bool((self.lengths == self.T).all()):
            return there
        running = torch.arange(self.T, device=there.device).unsqueeze(1) < self.lengths
        return torch.where(running.unsqueeze(-1), there, 0.0)

    def fits(self, start: Mapping[str, Tensor]) -> bool:
        """Whether these states, (L·D, B, H), are of as many sequences."""
        return all(len(t.shape) == 2 if self.alone else t.shape[1] == self.B for t in start.values())

    def states(self, given: Tensor) -> Tensor:
        """A part of the first or final state, or a gradient at it, as (L·D, n, H) in float64."""
        given = given.detach()
        return (given.unsqueeze(1) if self.alone else given).index_select(1, self.sequences).double()

    @classmethod
    def of(
        cls, x: Tensor | PackedSequence, most: int | None, batch_first: bool, lengths: Tensor | None, like: Pick | None
    ) -> Pick:
        """At most so many, evenly spread by length, or the same as in `like`; `lengths` (B,) if x is padded."""
        device = x.data.device
        rows: Tensor | None = None
        if isinstance(x, PackedSequence):
            T, B = len(x.batch_sizes), int(x.batch_sizes[0])
            lengths = (x.batch_sizes.unsqueeze(-1) > torch.arange(B)).sum(0)  # longest first, as they lie there
            lengths = lengths if x.unsorted_indices is None else lengths[x.unsorted_indices.cpu()]
        else:
            T, B = (len(x), 1) if x.ndim == 2 else (x.shape[1], x.shape[0]) if batch_first else x.shape[:2]
            lengths = torch.full((B,), T) if lengths is None else lengths.detach().cpu()
        chosen = _spread(lengths, most) if like is None else like.sequences.cpu()
        if isinstance(x, PackedSequence):
            places = chosen if x.unsorted_indices is None else x.unsorted_indices.cpu()[chosen]
            rows = rows_of(x.batch_sizes, places, lengths[chosen]).to(device)
        alone = x.data.ndim == 2 and not isinstance(x, PackedSequence)
        return cls(chosen.to(device), lengths[chosen].to(device), T, B, rows, batch_first, alone)


def rows_of(batch_sizes: Tensor, places: Tensor, lengths: Tensor) -> Tensor:
    """Where each step (T, n) of the sequences that are packed at these places (n,) lies; 0 past its length."""
    starts = (batch_sizes.cumsum(0) - batch_sizes).unsqueeze(1)
    running = torch.arange(len(batch_sizes)).unsqueeze(1) < lengths
    return torch.where(running, starts + places, 0)


def _spread(lengths: Tensor, most: int | None) -> Tensor:
    """At most so many sequences that have a step, evenly spread by length, in the order of the batch."""
    there = lengths.nonzero()[:, 0]
    if most is None or len(there) <= most:
        return there
    by_length = there[torch.argsort(lengths[there], stable=True)]
    places = torch.linspace(0, len(there) - 1, most).round().long() if most > 1 else torch.tensor([len(there) // 2])
    return by_length[places].sort().values


@dataclass(frozen=True)
class Dropped:
    """What torch dropped between the layers of one call."""

    rate: float
    random: Tensor  # torch's random state before the call
    like: Tensor  # the shape and dtype of what one layer hands to the next; on "meta"
    rows: Tensor | None  # as in Pick, of what one layer hands to the next

    def masks(self, pick: Pick, count: int) -> list[Tensor]:
        """The masks of so many layers, drawn again: (T, n, D·H) each, in float64; torch's random state stays."""
        ones = torch.ones_like(self.like, device="cpu")
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(self.random)
            drawn = [F.dropout(ones, self.rate) for _ in range(count)]
        plain = replace(pick, rows=self.rows, batch_first=False, alone=False)  # inside the module time comes first
        return [plain.steps(mask) for mask in drawn]


@dataclass
class Call:
    """One call of a module, and the gradients that came back to it; numbers of the kept sequences, in float64."""

    number: int  # of the calls in a step, from 1
    pick: Pick
    x: Tensor  # (T, n, I)
    initial: dict[str, Tensor]  # part -> (L·D, n, H); empty: zeros
    output: Tensor  # (T, n, D·H)
    final: dict[str, Tensor]  # part -> (L·D, n, H)
    weights: Snapshot
    dtype: torch.dtype  # in which it was computed: autocast's, if that was on
    engine: str  # that served it
    dropped: Dropped | None  # None: nothing was, between its layers
    goes_on: bool  # whether a gradient goes on from its initial state, to something that is not caught here
    cut: str = ""  # why it cannot be followed to the call whose state it starts from; empty: it can, or there is none
    given: bool = False  # whether it starts from a state that is not zero
    detached: bool = False  # whether that is the final state of an earlier call, without its gradient
    after: Call | None = None  # the call whose final state it goes on from
    slopes: Mapping[str, Tensor] | None = None  # part -> (L·D, n, H), of its initial state in that; None: it is that
    came: dict[str, Tensor] = field(default_factory=dict)  # OUTPUT, or a part of the final state -> gradient
    returned: dict[str, Tensor] = field(default_factory=dict)  # part -> what went back from here to `after`
    answered: bool = False
    changed: bool = False  # its weights were, before the gradient came
    differentiated: bool = False  # whether a backward pass was, that came here


def trailing(x: Tensor, lengths: Tensor) -> Integers:
    """How many steps at the end of each sequence (T, n, I) read one and the same input; 0 where the last is another."""
    T = len(x)
    at = torch.arange(T, device=x.device).unsqueeze(1)
    last = x.gather(0, (lengths - 1).clamp(min=0).view(1, -1, 1).expand(1, -1, x.shape[-1]))
    other = ((x != last).any(-1) & (at < lengths)).int() * (at + 1)  # one more than the last step with another input
    run = lengths - other.amax(0)
    return np.asarray(torch.where(run > 1, run, 0).cpu().numpy())


def use_of(
    x: Tensor,
    lengths: Tensor,
    batch: int,
    start: Literal["zeros", "state", "detached", "followed"],
    cuts: Sequence[int],
    wrong_end: tuple[str, ...] = (),
) -> Use:
    """How a run of steps was read; what is told of each sequence's gradient is added when that is measured."""
    none = np.zeros(x.shape[1], dtype=np.int64)
    steps = np.asarray(lengths.cpu().numpy())
    return Use(start, np.array(cuts, dtype=np.int64), steps, none, none, none, trailing(x, lengths), batch, wrong_end)


def started(begun: bool, detached: bool, goes_on: bool) -> Literal["zeros", "state", "detached", "followed"]:
    """What a run of steps starts from."""
    return "detached" if detached else "followed" if goes_on else "state" if begun else "zeros"


def chains(calls: Sequence[Call]) -> list[list[Call]]:
    """Calls that hand their state on, together; in the order of their first."""
    found: dict[int, list[Call]] = {}
    for call in calls:
        if call.after is None:
            found[call.number] = [call]
        else:
            its = next(chain for chain in found.values() if chain[-1] is call.after)
            its.append(call)
    return list(found.values())


def remarks(what: str, goes_on: bool, dtype: torch.dtype) -> tuple[str, ...]:
    """Sentences on what is not measured: the way on from the initial state, and the rounding of half precision."""
    said = []
    if goes_on:
        said.append("What reaches the initial state goes on from there; it was not followed further.")
    if dtype in (torch.bfloat16, torch.float16):
        said.append(
            f"The {what} computed in {str(dtype).removeprefix('torch.')}; measured are its equations in float64, at "
            "the states that it put out."
        )
    return tuple(said)


def one_of(runs: int) -> tuple[str, ...]:
    """What is said of one run of steps where a step of training has several through the same weights."""
    if runs == 1:
        return ()
    return (f"This is one of {runs} runs of steps through these weights; of their gradient it is that run's share.",)
