"""Catches what a recurrent layer did in a training step: torch.nn's RNN, LSTM and GRU, and this package's modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from throughtime.cells.cell import State
from throughtime.errors import FlowError
from throughtime.flow.sighting import Sighting
from throughtime.microscope.between import Key, between, key_of, reached
from throughtime.microscope.calls import OUTPUT, Anatomy, Call, Dropped, Pick, Snapshot, alike, chains, rows_of
from throughtime.microscope.hooks import Hook
from throughtime.microscope.replay import Origin, replay
from throughtime.modules.recurrent import Padded

Given = Tensor | PackedSequence | Padded

_TIDY = 64  # calls after which those are forgotten that no gradient can come back to any more
RUNS = 8  # of several runs of steps through one layer so many are measured, the longest
_RECENT = 8  # calls that a state is held against, to find which of them it comes from
_OUTPUT_TAKEN = (
    "the state is made from the output in place of the final state (hand on what the layer returns second, h_n: the "
    "same numbers)"
)


class LayerCatcher:
    """Catches the calls of one module, and the gradients that come back to their outputs and final states.

    `sequences`: at most so many of a batch are kept, evenly spread by length (None: all). A call that starts from the
    final state of the call before, or from what a loop made of it unit by unit (a mask, a cut), is one with it. Calls
    that cannot have a gradient are only counted.

    Costs a copy of the kept sequences and of the weights for each call, and nothing where it is not open.
    """

    def __init__(self, name: str, module: nn.Module, sequences: int | None) -> None:
        self.name = self.path = name
        self._module = module
        self._sequences = sequences
        self._anatomy = Anatomy.of(module)
        self._handles: list[RemovableHandle] = []
        self._previous: dict[str, Tensor] = {}  # the state that the call before this one put out, in any step,
        self._now: dict[str, Tensor] = {}  # and that this one did
        self._forget()

    def remember(self, out: Any) -> None:
        """Keep the state that a call put out, to know it again in a call that is given it without its gradient."""
        self._previous, self._now = (
            self._now,
            {part: tensor.detach() for part, tensor in self._anatomy.state(out[1]).items()},
        )

    def _was_carried(self, start: dict[str, Tensor]) -> bool:
        its = self._previous
        return any(its[part].shape == t.shape and alike(its[part], t) for part, t in start.items() if part in its)

    def _forget(self) -> None:
        self._calls: list[ref[Call]] = []  # a call whose graph is gone without a gradient goes with it,
        self._kept: list[Call] = []  # one that a gradient came back to stays
        self._finals: list[tuple[ref[Call], dict[str, _Final]]] = []  # where the module put them
        self._outputs: list[tuple[ref[Call], Key]] = []  # and its outputs
        self._ahead: _Ahead | None = None  # what the call goes on from
        self._weights: Snapshot | None = None  # of the last call
        self._count = 0  # calls that were caught
        self._idle = 0  # calls that no gradient can come back to
        self._random: Tensor | None = None
        self._trouble: Exception | None = None

    def open(self) -> None:
        """Catch the calls and gradients from here on, until `close`."""
        self.close()
        self._keep_random()  # the call may be under way already, with its hooks chosen
        before, after = Hook(self._safely(self._before)), Hook(self._safely(self._after))
        self._handles = [
            self._module.register_forward_pre_hook(before, with_kwargs=True),
            self._module.register_forward_hook(after, with_kwargs=True),
        ]

    def close(self) -> None:
        """Take every hook off and let go of what was kept."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._forget()

    @property
    def answered(self) -> bool:
        """Whether a gradient has come back to a call that was caught."""
        return bool(self._kept)

    def _alive(self) -> list[Call]:
        return [call for its in self._calls if (call := its()) is not None]

    def sightings(self) -> tuple[Sighting, ...]:
        """See Catcher."""
        if self._trouble is not None:
            raise FlowError(f"{self.name} could not be followed: {self._trouble}") from self._trouble
        if not self._count:
            raise FlowError(f"{self.name} {self._silence()}")
        if not self.answered:
            raise FlowError(
                f"{self.name} was called, but no gradient came back to it: there was no backward pass, or the loss "
                "does not depend on what it put out."
            )
        found: list[Sighting] = []
        answered = [chain for chain in chains(self._alive()) if any(call.answered for call in chain)]
        cuts = [call.cut for chain in answered for call in chain if call.cut]
        if cuts and all(sum(call.pick.T for call in chain) == 1 for chain in answered):
            raise FlowError(
                f"{self.name} is called one step at a time, and between every two calls {cuts[0]}, so that no two "
                "steps are the layer's alone. Write that step as a cell of your own (tt.Cell), whose step can be "
                "watched."
            )
        notes = tuple(
            f"Between two calls {why}: the run of steps ends there, and what lies beyond is not in it."
            for why in dict.fromkeys(cuts)
        )
        if len(answered) > RUNS:
            notes += (f"Of {len(answered)} runs of steps the {RUNS} longest were measured.",)
        longest = sorted(answered, key=lambda chain: (-sum(call.pick.T for call in chain), chain[0].number))[:RUNS]
        for run, chain in enumerate((chain for chain in answered if chain in longest), 1):
            origin = Origin(self.name, self.path, type(self._module).__name__, run, len(answered))
            found += replay(origin, self._anatomy, chain, notes)
        return tuple(found)

    def _silence(self) -> str:
        if self._idle:
            return (
                "was called, but no gradient can come back to it: gradients were off (torch.no_grad), or neither its "
                "weights nor its inputs take one."
            )
        return (
            "was not called while it was watched. If the model was compiled into one graph, its layers' hooks do not "
            "run: watch the model that was not compiled."
        )

    # -- inside the person's step: nothing here may fail it

    def _safely(self, look: Callable[..., Any]) -> Callable[..., Any]:
        def safely(*args: Any) -> Any:
            try:
                return look(*args)
            except Exception as error:
                self._trouble = self._trouble or error
                return None

        return safely

    def _keep_random(self) -> None:
        if self._dropout():
            self._random = torch.get_rng_state()

    def _dropout(self) -> float:
        several = len(self._anatomy.cells) > 1
        return float(self._module.dropout) if several and self._module.training else 0.0  # type: ignore[arg-type]

    def _dropped(self, given: Given, output: Tensor, pick: Pick) -> Dropped | None:
        rate = self._dropout()
        if not rate or self._random is None:
            return None
        if output.device.type != "cpu":
            raise FlowError(
                "what was dropped between its layers cannot be known, as GPUs draw it in memory of their own; watch it "
                "with dropout=0, or on the CPU."
            )
        turned = pick.batch_first and pick.rows is None  # packed data has a row a step and sequence, however it came
        inside = output.unsqueeze(1) if pick.alone else output.transpose(0, 1) if turned else output
        shape, rows = inside.shape, pick.rows
        if isinstance(given, Padded) and given.lengths is not None:
            lengths = given.lengths.detach().cpu()
            if bool((lengths < pick.T).any()):  # they are packed on their way in, longest first
                order = torch.argsort(lengths, descending=True, stable=True)
                sizes = (lengths > torch.arange(int(lengths.max())).unsqueeze(-1)).sum(-1)
                rows = rows_of(sizes, torch.argsort(order)[pick.sequences.cpu()], pick.lengths.cpu())
                shape = torch.Size((int(sizes.sum()), output.shape[-1]))
        return Dropped(rate, self._random, torch.empty(shape, dtype=output.dtype, device="meta"), rows)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        """Find out whether the call goes on from one that was caught; keep the random state."""
        if kwargs is None:
            return None  # torch runs a hook once more that was taken off while this call began; `open` did the rest
        self._ahead = None
        changed = self._follow(args, kwargs) if torch.is_grad_enabled() and self._finals else None
        self._keep_random()
        return changed

    def _follow(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Put an alias in the place of a state that is handed on.

        It tells what comes back from this call to that state from what comes from elsewhere, and changes no number.
        """
        given = args[1] if len(args) > 1 else kwargs.get("hx")
        start = self._anatomy.state(given)
        if not start:
            return None
        self._ahead = self._comes_from(start)
        before = None if self._ahead is None else self._ahead.call
        if before is not None and any(call.after is before for call in self._alive()):
            self._ahead = before = None
        if self._ahead is None or before is None or not self._ahead.aliases:
            return None
        aliases = self._ahead.aliases
        order = self._anatomy.order
        if order is None or isinstance(given, State):
            hx: Any = State(**{**start, **aliases})
        else:
            handed = {**start, **aliases}
            hx = handed[order[0]] if isinstance(given, Tensor) else tuple(handed[part] for part in order)
        return ((args[0], hx, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "hx": hx})

    def _comes_from(self, start: dict[str, Tensor]) -> _Ahead | None:
        """The call that put this state out, and what a loop made of it since."""
        recent = [(call, final) for its, final in self._finals[-_RECENT:] if (call := its()) is not None]
        asks = all(tensor.requires_grad for tensor in start.values())
        for call, final in recent:
            if asks and all(final[part].mark.same(_Mark.of(tensor)) for part, tensor in start.items()):
                return _Ahead(call, {part: tensor.view_as(tensor) for part, tensor in start.items()}, None, "")
        if not any(tensor.requires_grad for tensor in start.values()):
            carried = (call for call, _ in reversed(recent) if call.pick.fits(start) and _carried(call, start))
            before = next(carried, None)
            return None if before is None else _Ahead(before, {}, {}, "")
        keys = {its.key: number for number, (_, final) in enumerate(recent) for its in final.values()}
        newest = max((at for tensor in start.values() if (at := reached(tensor, keys)) is not None), default=None)
        if newest is None:
            outputs = {key: 0 for its, key in self._outputs[-_RECENT:] if its() is not None}
            if any(reached(tensor, outputs) is not None for tensor in start.values()):
                return _Ahead(None, {}, None, _OUTPUT_TAKEN)
            return None
        call, final = recent[newest]
        found = between({part: (its.key, its.shape) for part, its in final.items()}, start)
        if isinstance(found, str):
            return _Ahead(None, {}, None, found)
        aliases = {part: tensor.view_as(tensor) for part, tensor in start.items() if tensor.requires_grad}
        return _Ahead(call, aliases, found.slopes, "")

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Any, Any]) -> None:
        """Keep the call, and wait for its gradients."""
        given: Given = args[0] if args else kwargs["input"]
        output, final = out[0], self._anatomy.state(out[1])
        start = self._anatomy.state(args[1] if len(args) > 1 else kwargs.get("hx"))
        stacked = output.data if isinstance(output, PackedSequence) else output
        asks = stacked.requires_grad or any(part.requires_grad for part in final.values())
        if not torch.is_grad_enabled() or not asks:
            self._idle += 1
            return
        self._count += 1
        with torch.no_grad():
            call = self._caught(given, stacked, start, final)
        self._ahead = None
        if call.number % _TIDY == 0:
            self._tidy()
        self._calls.append(ref(call))
        self._outputs.append((ref(call), key_of(stacked)))
        self._finals.append((ref(call), {part: _Final.of(tensor) for part, tensor in final.items()}))
        self._await(stacked, call, call.came, OUTPUT)
        for part, tensor in final.items():
            self._await(tensor, call, call.came, part)
        if call.after is not None:
            for part, tensor in start.items():
                self._await(tensor, call, call.returned, part)

    def _tidy(self) -> None:
        """Forget calls whose graph is gone, and the hooks that went with it: an evaluation may make many."""
        self._calls = [its for its in self._calls if its() is not None]
        self._outputs = [(its, key) for its, key in self._outputs if its() is not None]
        self._finals = [(its, final) for its, final in self._finals if its() is not None]
        self._handles = [handle for handle in self._handles if handle.hooks_dict_ref() is not None]

    def _caught(self, given: Given, output: Tensor, start: dict[str, Tensor], final: dict[str, Tensor]) -> Call:
        padded = given if isinstance(given, Padded) else None
        if padded is not None and padded.damping is not None:
            raise FlowError(
                "its gradient is clipped at every step on its way back, so that it is not the product of the steps' "
                "derivatives; watch it without damping."
            )
        x = given.x if isinstance(given, Padded) else given
        self._weights = weights = Snapshot.of(self._anatomy.weights(self._module), self._weights)
        before, slopes, ahead = None, None, self._ahead
        if ahead is not None and ahead.call is not None:
            stand = all(_stands_for(start.get(part), alias) for part, alias in ahead.aliases.items())
            if stand and ahead.call.weights.same(weights):
                before, slopes = ahead.call, ahead.slopes
        like = None if before is None else before.pick
        batch_first = padded is None and bool(self._module.batch_first)
        pick = Pick.of(x, self._sequences, batch_first, None if padded is None else padded.lengths, like)
        if slopes is not None:
            slopes = {part: pick.states(slopes[part] if part in slopes else torch.zeros_like(start[part]))
                      for part in start}  # fmt: skip
        begun = any(bool(tensor.any()) for tensor in start.values())
        asks = any(part.requires_grad for part in start.values())
        return Call(
            number=self._count,
            pick=pick,
            x=pick.steps(x.data if isinstance(x, PackedSequence) else x),
            initial={part: pick.states(tensor) for part, tensor in start.items()},
            output=pick.steps(output),
            final={part: pick.states(tensor) for part, tensor in final.items()},
            weights=weights,
            dtype=_computed_in(output),
            engine=self._anatomy.engine(self._module),
            dropped=self._dropped(given, output, pick),
            goes_on=before is None and asks,
            given=begun,
            detached=begun and not asks and (slopes is not None or self._was_carried(start)),
            cut="" if ahead is None else ahead.why_not,
            after=before,
            slopes=slopes,
        )

    def _await(self, tensor: Tensor, call: Call, into: dict[str, Tensor], name: str) -> None:
        """Keep the gradient that goes on from `tensor` into what made it, after anybody's hooks on the tensor."""
        node, place = tensor.grad_fn, tensor.output_nr
        kept = self._kept  # of this time that it is open

        def came(gradients: tuple[Tensor | None, ...]) -> None:
            gradient = gradients[place]
            if gradient is None:
                return
            call.differentiated |= torch.is_grad_enabled()
            with torch.no_grad():
                its = call.pick.steps(gradient) if name == OUTPUT else call.pick.states(gradient)
                into[name] = into[name] + its if name in into else its  # there may be several backward passes
                call.changed = call.changed or not call.weights.stands()
            if not call.answered:
                call.answered = True
                kept.append(call)

        if node is not None:
            self._handles.append(node.register_prehook(Hook(self._safely(came))))


class _Mark(NamedTuple):
    """Where a tensor lies, and what is there: known without keeping it, or the graph that made it, alive."""

    storage: StorageWeakRef
    place: tuple[int, torch.Size, tuple[int, ...], int]  # address, shape, strides, version

    @classmethod
    def of(cls, tensor: Tensor) -> _Mark:
        place = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor._version
        return cls(StorageWeakRef(tensor.untyped_storage()), place)  # type: ignore[no-untyped-call]

    def same(self, other: _Mark) -> bool:
        """Whether the other is the same memory, and it was not let go, nor written to, in between."""
        there = not self.storage.expired()  # type: ignore[no-untyped-call]
        return there and self.storage == other.storage and self.place == other.place


class _Final(NamedTuple):
    """Where a final state lies, and where autograd has it from."""

    mark: _Mark
    key: Key
    shape: torch.Size

    @classmethod
    def of(cls, tensor: Tensor) -> _Final:
        return cls(_Mark.of(tensor), key_of(tensor), tensor.shape)


class _Ahead(NamedTuple):
    """What a call goes on from."""

    call: Call | None  # None: it cannot be followed
    aliases: dict[str, Tensor]  # that were put in the place of the state
    slopes: Mapping[str, Tensor] | None  # of what a loop made of it; None: it is handed on as it is
    why_not: str  # why it cannot be followed


def _carried(call: Call, start: Mapping[str, Tensor]) -> bool:
    """Whether a state without a gradient is what the call put out."""
    return any(alike(call.final[part], call.pick.states(tensor)) for part, tensor in start.items())


def _stands_for(given: Tensor | None, alias: Tensor) -> bool:
    """Whether a call was given this alias, or what other watches put in its place: an alias of it."""
    node = None if given is None else given.grad_fn
    while node is not None and node is not alias.grad_fn and type(node) is type(alias.grad_fn):
        node = node.next_functions[0][0]
    return given is not None and node is alias.grad_fn and _Mark.of(given).same(_Mark.of(alias))


def _computed_in(output: Tensor) -> torch.dtype:
    """The least exact of the dtypes in which a call was computed."""
    kind = output.device.type
    if torch.is_autocast_enabled(kind):
        least = torch.get_autocast_dtype(kind)
        return max(least, output.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return output.dtype
