"""Catches a cell that a person's own loop calls step by step: torch.nn's cells and this package's.

Nothing is put into the graph, so that sums keep their order and every number stays as it was. What comes back to a
state is heard by a hook on the state; what of it comes through the next step, by hooks on the operations of that step
that read it. The rest is δ. Calls are told to belong together by autograd's own edges: a state that was changed in
between, in place too, has another.

Dimensions: B sequences of a call, n of them kept, I inputs, H units.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from weakref import WeakValueDictionary, ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from throughtime.cells.cell import Cell, make
from throughtime.errors import FlowError
from throughtime.flow.sighting import Sighting, place_of
from throughtime.microscope.between import Key, between, key_of, reached
from throughtime.microscope.calls import Snapshot, alike, one_of
from throughtime.microscope.hooks import Hook
from throughtime.microscope.loops import Came, Step, joined, sighting

_FAR = 200  # operations that are gone back through, to find where a state or an input comes from
_AT_THE_START = 8  # calls of a chain whose inputs are traced; later ones come as these do
_LARGE = 2000  # operations of one step, at most
_CHAINS = 8  # that are measured, at most: the longest
_RECENT = 8  # calls that a state is held against, to find which of them it comes from


class _Way(NamedTuple):
    """How a state came from an earlier call."""

    before: Step | None  # None: from none, or it cannot be followed
    slopes: Mapping[str, Tensor] | None = (
        None  # part -> (B, H), of what the loop made of it; None: it is the very state
    )
    why_not: str = ""


class _Reading(NamedTuple):
    """Which state an operation reads."""

    step: Step
    part: str
    slope: Tensor | None  # of what is read, in what was put out; None: it is that


def _carried(step: Step, state: Mapping[str, Tensor]) -> bool:
    """Whether a state without a gradient is what the call put out."""
    return any(alike(step.out[part], _some(tensor, step.rows)) for part, tensor in state.items())


class CellCatcher:
    """Catches the calls of one cell, and what comes back to the states that it puts out.

    A call that is given the very state that an earlier one put out goes on from it; so does one that is given what a
    loop made of that unit by unit (a mask, a reset, a cut). `sequences`: at most so many of a
    batch are kept, evenly spread (None: all). A step whose graph is gone without a gradient is forgotten with it.

    Costs a copy of the kept sequences for each call and of the weights once, and a walk through the operations of the
    step; nothing where it is not open.
    """

    def __init__(self, name: str, module: nn.Module, sequences: int | None) -> None:
        self.name = self.path = name
        self._module = module
        self._sequences = sequences
        self._cell, self._order = _anatomy(module)
        self._handle: RemovableHandle | None = None
        self._previous: dict[str, Tensor] = {}  # the state that the call before this one put out, in any step,
        self._now: dict[str, Tensor] = {}  # and that this one did
        self._forget()

    def remember(self, out: Any) -> None:
        """Keep the state that a call put out, to know it again in a call that is given it without its gradient."""
        self._previous, self._now = self._now, {part: tensor.detach() for part, tensor in self._parts(out).items()}

    def _forget(self) -> None:
        self._count = self._idle = 0  # calls that were caught; that no gradient can come back to
        self._makers: WeakValueDictionary[Key, Step] = WeakValueDictionary()  # output -> the last call that put it out
        self._owners: WeakValueDictionary[Key, Step] = WeakValueDictionary()  # and the first
        self._recent: deque[ref[Step]] = deque(maxlen=_RECENT)  # the last calls; one whose graph is gone goes with it
        self._answered: dict[int, Step] = {}  # number -> call
        self._weights: Snapshot | None = None
        self._compared: set[tuple[int, int]] = set()  # backward passes and snapshots
        self._trouble: Exception | None = None

    def open(self) -> None:
        """Catch the calls and gradients from here on, until `close`."""
        self.close()
        self._handle = self._module.register_forward_hook(Hook(self._safely(self._after)), with_kwargs=True)

    def close(self) -> None:
        """Take the hook off and let go of what was kept; those in a graph stay there and find nobody."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None
        self._forget()

    @property
    def answered(self) -> bool:
        """Whether a gradient has come back to a call that was caught."""
        return bool(self._answered)

    def sightings(self) -> tuple[Sighting, ...]:
        """See Catcher; the chains of calls in the order of their first, all but the first named by their number."""
        if self._trouble is not None:
            raise FlowError(f"{self.name} could not be followed: {self._trouble}") from self._trouble
        if not self._answered:
            raise FlowError(f"{self.name} {self._silence()}")
        chains = joined(self._answered.values())
        cut = [step.cut for chain in chains for step in chain if step.cut]
        if cut and all(len(chain) == 1 for chain in chains):
            raise FlowError(
                f"{self.name} cannot be watched in this loop: between every two calls {cut[0]}, so that no two steps "
                "are the cell's alone. Leave that to a cell of your own (tt.Cell), whose step can be watched."
            )
        longest = sorted(chains, key=lambda chain: (-len(chain), chain[0].number))[:_CHAINS]
        notes = [f"Between two calls {why}: the run of steps ends there, and what lies beyond is not in it."
                 for why in dict.fromkeys(cut)]  # fmt: skip
        notes += one_of(len(chains))
        if len(chains) > _CHAINS:
            notes.append(f"Of {len(chains)} runs of steps the {_CHAINS} longest were measured.")
        kind = type(self._module).__name__
        return tuple(
            sighting(
                self.name + (f" (chain {number})" if number > 1 else ""),
                self._cell,
                chain,
                tuple(notes),
                place_of(self._cell, self.path, kind, run=run),
            )
            for run, (number, chain) in enumerate(
                ((number, chain) for number, chain in enumerate(chains, 1) if chain in longest), 1
            )
        )

    def _silence(self) -> str:
        if self._count:
            return (
                "was called, but no gradient came back to it: there was no backward pass, or the loss does not depend "
                "on what it put out."
            )
        if self._idle:
            return (
                "was called, but no gradient can come back to it: gradients were off (torch.no_grad), or neither its "
                "weights nor its inputs take one."
            )
        return (
            "was not called while it was watched. If the model was compiled into one graph, its hooks do not run: "
            "watch the model that was not compiled."
        )

    # -- inside the person's step: nothing here may fail it

    def _safely(self, look: Callable[..., None]) -> Callable[..., None]:
        def safely(*args: Any) -> None:
            try:
                look(*args)
            except Exception as error:
                self._trouble = self._trouble or error

        return safely

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Keep a call, and wait for its gradients."""
        if self._handle is None or torch._C._current_graph_task_id() != -1:
            return  # closed by a hook before this one, or a checkpoint's second run
        x, given = _arguments(args, kwargs)
        new, state = self._parts(out), self._parts(given)
        if not torch.is_grad_enabled() or not any(part.requires_grad for part in new.values()):
            self._idle += 1
            return
        self._count += 1
        with torch.no_grad():
            self._keep(x, state, new)

    def _parts(self, state: Any) -> dict[str, Tensor]:
        if state is None:
            return {}
        if isinstance(state, Mapping):
            return dict(state)
        return dict(zip(self._order, (state,) if isinstance(state, Tensor) else state, strict=True))

    def _keep(self, x: Tensor, state: dict[str, Tensor], new: dict[str, Tensor]) -> None:
        B = 1 if x.ndim == 1 else len(x)
        keys = {part: key_of(tensor) for part, tensor in new.items()}
        way = self._goes_on(state, B)
        before = way.before
        rows = self._rows(B, x.device) if before is None else before.rows
        self._weights = Snapshot.of(
            ({name: getattr(self._module, name) for name in self._cell.shapes()},), self._weights
        )
        asks = any(part.requires_grad for part in state.values())
        begun = any(bool(tensor.any()) for tensor in state.values())
        linked = before is None or way.slopes is not None
        step = Step(
            number=self._count,
            x=_some(x, rows),
            given={part: _some(tensor, rows) for part, tensor in state.items()} if linked else {},
            out={part: _some(tensor, rows) for part, tensor in new.items()},
            B=B,
            rows=rows,
            weights=self._weights,
            dtype=_computed_in(next(iter(new.values()))),
            before=before,
            cut=way.why_not,
            goes_on=before is None and asks,
            keys=keys,
            shape=next(iter(new.values())).shape,
            slopes=None if way.slopes is None else {part: _some(its, rows) for part, its in way.slopes.items()},
            begun=begun,
            detached=begun and not asks and (before is not None or self._was_carried(state)),
        )
        if before is not None:
            step.at, step.fed = before.at + 1, before.fed
        if not step.fed and step.at <= _AT_THE_START:
            step.fed = self._origin(x) is not None
        self._recent.append(ref(step))
        self._await(x, state, new, step, way.slopes)

    def _was_carried(self, state: Mapping[str, Tensor]) -> bool:
        its = self._previous
        return any(its[part].shape == t.shape and alike(its[part], t) for part, t in state.items() if part in its)

    def _goes_on(self, state: dict[str, Tensor], B: int) -> _Way:
        """The call that put this state out, and what the loop made of it since; or why that cannot be followed."""
        if not state:
            return _Way(None)
        exact = next((step for part in state.values() if (step := self._makers.get(key_of(part)))), None)
        if exact is not None and all(exact.keys[part] == key_of(state[part]) for part in exact.keys):
            return _Way(exact)
        recent = [step for its in self._recent if (step := its()) is not None]
        if not any(part.requires_grad for part in state.values()):
            same = (step for step in reversed(recent) if step.B == B and _carried(step, state))
            before = next(same, None)
            if before is None:
                return _Way(None)
            return _Way(before, {part: torch.zeros_like(tensor) for part, tensor in state.items()})
        keys = {key: number for number, step in enumerate(recent) for key in step.keys.values()}
        newest = max((at for part in state.values() if (at := reached(part, keys)) is not None), default=None)
        origin = recent[newest] if newest is not None else self._far_origin(state)
        if origin is None:
            return _Way(None)
        if B < origin.B:
            return _Way(None, why_not=f"the batch shrinks from {origin.B} to {B} sequences")
        found = between({part: (key, origin.shape) for part, key in origin.keys.items()}, state)
        return _Way(None, why_not=found) if isinstance(found, str) else _Way(origin, found.slopes)

    def _far_origin(self, state: Mapping[str, Tensor]) -> Step | None:
        return next((step for part in state.values() if (step := self._origin(part))), None)

    def _origin(self, tensor: Tensor) -> Step | None:
        """A call whose output this was made from, if there is one not far back."""
        step = self._makers.get(key_of(tensor))
        if step is not None or tensor.grad_fn is None:
            return step
        ahead, visited = deque([tensor.grad_fn]), {tensor.grad_fn}
        while ahead and len(visited) < _FAR:
            for node, place in ahead.popleft().next_functions:
                if node is None or node in visited:
                    continue
                step = self._makers.get((threading.get_ident(), node._sequence_nr(), place))
                if step is not None:
                    return step
                visited.add(node)
                ahead.append(node)
        return None

    def _rows(self, B: int, device: torch.device) -> Tensor | None:
        """Which sequences are kept; None: all."""
        most = self._sequences
        if most is None or most >= B:
            return None
        rows = torch.linspace(0, B - 1, most).round().long() if most > 1 else torch.tensor([B // 2])
        return rows.to(device)

    # -- what comes back

    def _await(
        self,
        x: Tensor,
        state: dict[str, Tensor],
        new: dict[str, Tensor],
        step: Step,
        slopes: Mapping[str, Tensor] | None,
    ) -> None:
        """Put hooks on the states that are new, and on the operations that read them, or the state before."""
        read: dict[tuple[Node, int], _Reading] = {}
        if step.before is not None:
            for part, given in state.items():
                reading = self._reading(step.before, part, given, None if slopes is None else slopes[part])
                if reading is not None and given.grad_fn is not None:
                    read[given.grad_fn, given.output_nr] = reading
            if (x.grad_fn, x.output_nr) in read:
                raise FlowError(
                    "its input is the very tensor of its state, so what comes back by the two ways cannot be told "
                    "apart; hand it x.clone()."
                )
        stop = {tensor.grad_fn for tensor in (x, *state.values()) if tensor.grad_fn is not None}
        own: dict[tuple[Node, int], _Reading] = {}
        for part, tensor in new.items():
            key = step.keys[part]
            if tensor.grad_fn is None or tensor.grad_fn in stop:
                step.aliased = True  # a part that was handed on as it is
                through = None if tensor.grad_fn is None else read.get((tensor.grad_fn, tensor.output_nr))
                if through is not None and key not in self._owners:
                    step.through[part] = through
            elif key not in self._owners:
                self._owners[key] = step
                own[tensor.grad_fn, tensor.output_nr] = _Reading(step, part, None)
                arrival = Hook(self._safely(self._arrival(step, part)))
                tensor.register_hook(arrival)  # type: ignore[no-untyped-call]
            self._makers[key] = step
        step.aliased |= len(own) < len(new)
        self._listen([node for node, _ in own], stop, read | own, step.number)

    def _reading(self, before: Step, part: str, given: Tensor, slope: Tensor | None) -> _Reading | None:
        """Which call's state a part that is given was made from, through calls that handed it on as it is."""
        key = key_of(given) if slope is None else before.keys[part]
        owner = self._owners.get(key)
        if owner is not None:
            return _Reading(owner, owner.part_of(key), slope)
        if part not in before.through:
            return None
        step, of, earlier = before.through[part]
        return _Reading(step, of, earlier if slope is None else slope if earlier is None else slope * earlier)

    def _listen(
        self,
        ahead: list[Node],
        stop: set[Node],
        read: dict[tuple[Node, int], _Reading],
        reader: int,
    ) -> None:
        """Hear what each operation of a step gives to the states that it reads, old and new."""
        visited = set(ahead)
        ahead = list(visited)
        while ahead:
            node = ahead.pop()
            for place, (made_by, slot) in enumerate(node.next_functions):
                if made_by is None:
                    continue
                if (made_by, slot) in read:
                    node.register_hook(Hook(self._safely(self._share(read[made_by, slot], place, reader))))
                if made_by not in visited and made_by not in stop:
                    visited.add(made_by)
                    ahead.append(made_by)
            if len(visited) > _LARGE:
                raise FlowError(f"one step of it has more than {_LARGE} operations.")

    def _share(self, reading: _Reading, place: int, reader: int) -> Callable[..., None]:
        step, part, slope = reading

        def gave(gradients: tuple[Tensor | None, ...], _: Any) -> None:
            gradient = gradients[place]
            if gradient is not None:
                task = torch._C._current_graph_task_id()
                gradient = gradient if slope is None else gradient * slope
                step.waiting.setdefault(part, []).append((task, reader, _some(gradient, step.rows)))

        return gave

    def _arrival(self, step: Step, part: str) -> Callable[..., None]:
        answered, compared = self._answered, self._compared  # of this time that it is open

        def arrived(gradient: Tensor) -> None:
            task = torch._C._current_graph_task_id()
            shares = [(reader, share) for its, reader, share in step.waiting.pop(part, []) if its == task]
            step.came.setdefault(part, []).append(Came(_some(gradient, step.rows), shares))
            answered[step.number] = step
            step.differentiated |= torch.is_grad_enabled()
            if (task, id(step.weights)) not in compared:
                compared.add((task, id(step.weights)))
                step.changed |= not step.weights.stands()

        return arrived


def _anatomy(module: nn.Module) -> tuple[Cell, tuple[str, ...]]:
    """Equations and shapes, and the parts in the order in which torch.nn's cells take them."""
    if isinstance(module, Cell):
        return module, module.parts
    names = {nn.RNNCell: "elman", nn.LSTMCell: "lstm", nn.GRUCell: "gru"}
    name = next((name for kind, name in names.items() if isinstance(module, kind)), None)
    if name is None or not isinstance(module, nn.RNNCellBase):
        raise FlowError(f"{type(module).__name__} is no cell that can be watched.")
    options = {"nonlinearity": module.nonlinearity} if isinstance(module, nn.RNNCell) else {}
    cell = make(name, module.input_size, module.hidden_size, bias=module.bias, device="meta", **options)
    return cell, ("h", "s")[: len(cell.parts)]


def _arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Any]:
    """The input and the state, as torch.nn's cells and `Cell.forward` name them."""
    x = args[0] if args else kwargs["input"] if "input" in kwargs else kwargs["x"]
    return x, args[1] if len(args) > 1 else kwargs.get("hx", kwargs.get("state"))


def _some(tensor: Tensor, rows: Tensor | None) -> Tensor:
    """A copy of the kept sequences, (n, ...)."""
    tensor = tensor.detach()
    tensor = tensor.unsqueeze(0) if tensor.ndim == 1 else tensor
    return tensor.clone() if rows is None else tensor.index_select(0, rows)


def _computed_in(output: Tensor) -> torch.dtype:
    """The least exact of the dtypes in which a call was computed."""
    kind = output.device.type
    if torch.is_autocast_enabled(kind):
        return max(torch.get_autocast_dtype(kind), output.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return output.dtype
