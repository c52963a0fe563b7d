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
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from throughtime.cells.cell import Cell, make
from throughtime.errors import FlowError
from throughtime.flow.sighting import Sighting
from throughtime.microscope.calls import Snapshot, one_of
from throughtime.microscope.hooks import Hook
from throughtime.microscope.loops import Came, Step, joined, sighting

Key = tuple[int, int, int]  # thread, number of an operation in it, which of its outputs

_FAR = 200  # operations that are gone back through, to find where a state or an input comes from
_AT_THE_START = 8  # calls of a chain whose inputs are traced; later ones come as these do
_LARGE = 2000  # operations of one step, at most
_CHAINS = 8  # that are measured, at most: the longest


class CellCatcher:
    """Catches the calls of one cell, and what comes back to the states that it puts out.

    A call that is given the very state that an earlier one put out goes on from it. `sequences`: at most so many of a
    batch are kept, evenly spread (None: all). A step whose graph is gone without a gradient is forgotten with it.

    Costs a copy of the kept sequences for each call and of the weights once, and a walk through the operations of the
    step; nothing where it is not open.
    """

    def __init__(self, name: str, module: nn.Module, sequences: int | None) -> None:
        self.name = name
        self._module = module
        self._sequences = sequences
        self._cell, self._order = _anatomy(module)
        self._handle: RemovableHandle | None = None
        self._forget()

    def _forget(self) -> None:
        self._count = self._idle = 0  # calls that were caught; that no gradient can come back to
        self._makers: WeakValueDictionary[Key, Step] = WeakValueDictionary()  # output -> the last call that put it out
        self._owners: WeakValueDictionary[Key, Step] = WeakValueDictionary()  # and the first
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
        return tuple(
            sighting(self.name + (f" (chain {number})" if number > 1 else ""), self._cell, chain, tuple(notes))
            for number, chain in enumerate(chains, 1)
            if chain in longest
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
        keys = {part: _key(tensor) for part, tensor in new.items()}
        before, cut = self._goes_on(state, B)
        rows = self._rows(B, x.device) if before is None else before.rows
        self._weights = Snapshot.of(
            ({name: getattr(self._module, name) for name in self._cell.shapes()},), self._weights
        )
        step = Step(
            number=self._count,
            x=_some(x, rows),
            given={part: _some(tensor, rows) for part, tensor in state.items()} if before is None else {},
            out={part: _some(tensor, rows) for part, tensor in new.items()},
            B=B,
            rows=rows,
            weights=self._weights,
            dtype=_computed_in(next(iter(new.values()))),
            before=before,
            cut=cut,
            goes_on=before is None and any(part.requires_grad for part in state.values()),
            keys=keys,
        )
        if before is not None:
            step.at, step.fed = before.at + 1, before.fed
        if not step.fed and step.at <= _AT_THE_START:
            step.fed = self._origin(x) is not None
        self._await(x, state, new, step)

    def _goes_on(self, state: dict[str, Tensor], B: int) -> tuple[Step | None, str]:
        """The call that put this state out; or why it is not quite that, if it was made from one."""
        before = next((step for part in state.values() if (step := self._makers.get(_key(part)))), None)
        if before is not None and all(before.keys[part] == _key(state[part]) for part in before.keys):
            return before, ""
        origin = before or next((step for part in state.values() if (step := self._origin(part))), None)
        if origin is None:
            return None, ""
        if B < origin.B:
            return None, f"the batch shrinks from {origin.B} to {B} sequences"
        by = [part.grad_fn.name() for part in state.values() if part.grad_fn and _key(part) not in self._makers]
        last = f" (the last is {by[0].partition('Backward')[0]})" if by else ""
        return None, f"the loop changes the state by operations that are not the cell's{last}"

    def _origin(self, tensor: Tensor) -> Step | None:
        """A call whose output this was made from, if there is one not far back."""
        step = self._makers.get(_key(tensor))
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

    def _await(self, x: Tensor, state: dict[str, Tensor], new: dict[str, Tensor], step: Step) -> None:
        """Put hooks on the states that are new, and on the operations that read them, or the state before."""
        read: dict[tuple[Node, int], tuple[Step, str]] = {}
        if step.before is not None:
            for given in state.values():
                owner = self._owners.get(_key(given))
                if owner is not None and given.grad_fn is not None:
                    read[given.grad_fn, given.output_nr] = owner, owner.part_of(_key(given))
            if (x.grad_fn, x.output_nr) in read:
                raise FlowError(
                    "its input is the very tensor of its state, so what comes back by the two ways cannot be told "
                    "apart; hand it x.clone()."
                )
        stop = {tensor.grad_fn for tensor in (x, *state.values()) if tensor.grad_fn is not None}
        own: dict[tuple[Node, int], tuple[Step, str]] = {}
        for part, tensor in new.items():
            key = step.keys[part]
            if tensor.grad_fn is None or tensor.grad_fn in stop:
                step.aliased = True  # a part that was handed on as it is
            elif key not in self._owners:
                self._owners[key] = step
                own[tensor.grad_fn, tensor.output_nr] = step, part
                arrival = Hook(self._safely(self._arrival(step, part)))
                tensor.register_hook(arrival)  # type: ignore[no-untyped-call]
            self._makers[key] = step
        step.aliased |= len(own) < len(new)
        self._listen([node for node, _ in own], stop, read | own, step.number)

    def _listen(
        self,
        ahead: list[Node],
        stop: set[Node],
        read: dict[tuple[Node, int], tuple[Step, str]],
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
                    step, part = read[made_by, slot]
                    node.register_hook(Hook(self._safely(self._share(step, part, place, reader))))
                if made_by not in visited and made_by not in stop:
                    visited.add(made_by)
                    ahead.append(made_by)
            if len(visited) > _LARGE:
                raise FlowError(f"one step of it has more than {_LARGE} operations.")

    def _share(self, step: Step, part: str, place: int, reader: int) -> Callable[..., None]:
        def gave(gradients: tuple[Tensor | None, ...], _: Any) -> None:
            gradient = gradients[place]
            if gradient is not None:
                task = torch._C._current_graph_task_id()
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


def _key(tensor: Tensor) -> Key:
    """Where a tensor comes from; of one without a gradient, where it lies."""
    node = tensor.grad_fn
    if node is None:
        return -1, tensor.data_ptr(), tensor._version
    return threading.get_ident(), node._sequence_nr(), tensor.output_nr


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
