"""Records what torch does in one step of a cell and in its vector-Jacobian product.

Two modes look on. The one above autograd sees the calls as they were written: those that are given parameters and
constants alone are put on a tape, so that they can be done again for other parameters, and what they return is cut
off from what it was made of. The one below autograd sees every operator, those of the way back included, and writes
down what it is in the words of a program.

Dimensions: B sequences, H units.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from throughtime.engines.trace.aten import FILLED, LINEAR, RULES, SAME
from throughtime.engines.trace.graph import Graph, Operand, Ref


class Untraceable(Exception):
    """Why a step cannot be compiled, in one sentence."""


@dataclass(frozen=True)
class Slot:
    """Where a tensor stands on the tape."""

    index: int


@dataclass(frozen=True)
class Call:
    """A call that is given parameters and constants alone; its results follow what is on the tape already."""

    function: Any
    args: Any  # tensors as slots
    kwargs: Any
    grad: bool  # whether autograd looked on


class Value(NamedTuple):
    """What is known of a tensor."""

    node: Ref
    summed: bool = False  # the sum over sequences (and over units, for one number) of the node


class Pure(NamedTuple):
    """A tensor that hangs on parameters and constants alone."""

    tensor: Tensor
    slot: int
    constant: bool  # on no parameter


DRIVERS: set[CodeType] = set()  # functions that run steps: what called them has no part in the step
_HERE = (os.path.dirname(__file__), os.path.dirname(torch.__file__))
_READERS = frozenset({"tolist", "numpy", "__array__", "data_ptr", "storage", "untyped_storage", "__dlpack__"})
_KEY = tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype]


class Recorder:
    """A step as it is met: a graph, and a tape of what hangs on parameters alone."""

    def __init__(self, title: str, batch: int, units: int, dtype: torch.dtype) -> None:
        self.graph = Graph()
        self.title = title
        self.shape = (batch, units)
        self.dtype = dtype
        self.back = False  # whether the way back is being recorded
        self.tape: list[Call | str] = []  # a name is the parameter of that name
        self.slots = 0
        self.vectors: dict[int, Ref] = {}  # slot -> leaf, in the order of first use
        self.pure: dict[int, Pure] = {}  # by id; the tensor is held, so the id stays its own
        self.fixed: set[_KEY] = set()  # must not be written to
        self._values: dict[_KEY, Value] = {}
        self._pure_keys: dict[_KEY, Pure] = {}
        self._held: list[Tensor] = []
        self.inside_pure = False
        self._function_mode = _Calls(self)
        self._dispatch_mode = _Operators(self)
        self._paused = False

    @contextmanager
    def on(self) -> Iterator[None]:
        """Look on."""
        with self._dispatch_mode, self._function_mode:
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Look away."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def refuse(self, what: str) -> Untraceable:
        """The error for something that a step did, saying where."""
        return Untraceable(
            f'the {"way back of the " if self.back else ""}step of "{self.title}" {what.format(_where())}.'
        )

    # -- what tensors are

    def name(self, tensor: Tensor, node: Ref, *, fixed: bool = False, summed: bool = False) -> None:
        """Say what a tensor is."""
        key = _key(tensor)
        self._held.append(tensor)
        self._values[key] = Value(node, summed)
        if fixed:
            self.fixed.add(key)

    def fix(self, tensor: Tensor) -> None:
        """Say that a tensor must not be written to."""
        self.fixed.add(_key(tensor))

    def parameter(self, name: str, tensor: Tensor) -> Tensor:
        """Put a parameter on the tape."""
        self.tape.append(name)
        return self._put(tensor, constant=False)

    def _put(self, tensor: Tensor, *, constant: bool) -> Tensor:
        found = Pure(tensor, self.slots, constant)
        self.slots += 1
        self.pure[id(tensor)] = found
        self._pure_keys[_key(tensor)] = found
        return tensor

    def pure_of(self, tensor: Tensor) -> Pure | None:
        """What is known of a tensor that hangs on parameters alone."""
        found = self.pure.get(id(tensor))
        if found is None and _key(tensor) not in self._values:
            found = self._pure_keys.get(_key(tensor))
        return found

    def value(self, tensor: Tensor) -> Value:
        """The node of a tensor.

        Raises Untraceable for one that came from outside.
        """
        pure = self.pure_of(tensor)
        if pure is not None:
            return Value(self._vector(pure))
        found = self._values.get(_key(tensor))
        if found is None:
            raise self.refuse("uses a tensor that is neither u, read nor W's at {}")
        return found

    def _vector(self, pure: Pure) -> Ref:
        tensor = pure.tensor.detach()
        if pure.constant and tensor.numel() and bool((tensor == tensor.reshape(-1)[0]).all()):
            return self.graph.constant(float(tensor.reshape(-1)[0]))
        if tensor.dtype == torch.bool or not self._is_row(tensor):
            raise self.refuse(
                f"uses parameters as {tuple(tensor.shape)} {tensor.dtype} at {{}}, where one number a unit is needed"
            )
        if pure.slot not in self.vectors:
            self.vectors[pure.slot] = self.graph.leaf("vector", len(self.vectors))
        return self.vectors[pure.slot]

    def _is_row(self, tensor: Tensor) -> bool:
        """Whether it holds one number for each unit, or one for all."""
        shape = tuple(tensor.shape)
        return shape in ((), (1,), (1, 1), self.shape[1:], (1, *self.shape[1:]))

    def _is_unit(self, tensor: Tensor) -> bool:
        return tuple(tensor.shape) == self.shape

    # -- calls above autograd

    def call(self, function: Any, args: Any, kwargs: Any) -> Any:
        """One call as it was written."""
        if self._paused:
            return function(*args, **kwargs)
        given = _tensors((args, kwargs))
        name = getattr(function, "__name__", "")
        if name in _READERS:
            raise self.refuse(f"reads numbers by {name} at {{}}, which a compiled step cannot")
        pure = [self.pure_of(tensor) for tensor in given]
        for tensor, found in zip(given, pure, strict=True):
            if found is None and _key(tensor) not in self._values:
                raise self.refuse("uses a tensor that is neither u, read nor W's at {}")
        if not all(pure):
            return function(*args, **kwargs)
        known = [found for found in pure if found is not None]
        before, self.inside_pure = self.inside_pure, True
        try:
            out = function(*args, **kwargs)
        finally:
            self.inside_pure = before
        results, tree = pytree.tree_flatten(out)
        tensors = [result for result in results if isinstance(result, Tensor)]
        if not tensors:
            return out
        if any(self.shape[0] in tensor.shape for tensor in tensors):  # made for these sequences
            return function(*args, **kwargs)
        slots = {id(found.tensor): Slot(found.slot) for found in known}
        slots |= {id(tensor): Slot(found.slot) for tensor, found in zip(given, known, strict=True)}
        self.tape.append(Call(function, _with_slots(args, slots), _with_slots(kwargs, slots), torch.is_grad_enabled()))
        constant = all(found.constant for found in known)
        with self.paused():
            cut = [
                self._put(result.detach().requires_grad_(result.requires_grad), constant=constant)
                if isinstance(result, Tensor)
                else result
                for result in results
            ]
        return pytree.tree_unflatten(cut, tree)

    # -- operators below autograd

    def operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One operator."""
        if self._paused:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        shown = func._schema.name.replace("::", ".")
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise self.refuse(f"draws random numbers ({shown}) at {{}}, which a compiled step cannot")
        if name in ("_local_scalar_dense", "equal", "is_nonzero"):
            raise self.refuse("lets Python read a tensor's numbers at {}, so that it may go different ways")
        if self.inside_pure:
            if func._schema.is_mutable:
                raise self.refuse(f"writes in place ({shown}) to what hangs on parameters alone at {{}}")
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        made = [out] if isinstance(out, Tensor) else _tensors(out)
        target = None
        if func._schema.is_mutable:
            target = args[0]
            if not name.endswith("_") or out is not target:
                raise self.refuse(f"writes into a tensor ({shown}) at {{}}")
            self._check_write(target, shown)
            name = name.removesuffix("_")
        if len(made) == 1 and isinstance(out, Tensor):
            found = self._meaning(name, args, kwargs, out)
            if found is not None:
                self._check_result(found, out, shown)
                self.name(out, found.node, summed=found.summed)
                return out
        if target is None:
            simpler = self._decomposed(func, args, kwargs)
            if simpler is not NotImplemented:
                return simpler
        raise self.refuse(f"uses {shown} at {{}}, which is not one number a unit from numbers of the same unit")

    def _meaning(self, name: str, args: Any, kwargs: Any, out: Tensor) -> Value | None:
        if name in FILLED and out.numel():
            return Value(self.graph.constant(float(out.reshape(-1)[0])))
        if name == "lift_fresh" and out.ndim == 0 and _key(args[0]) not in self._values:
            return Value(self.graph.constant(float(out)))
        if name in SAME:
            found = self.value(args[0])
            return found if self._keeps_places(args[0], out, found.summed) else None
        if name == "_to_copy":
            return self._converted(self.value(args[0]), args[0], out)
        if name == "sum" and self.back:
            found = self.value(args[0])
            fits = self._is_row(out) and (found.summed or self._is_unit(args[0]))
            return Value(found.node, summed=True) if fits else None
        if name not in RULES:
            return None
        given = [self.value(tensor) for tensor in _tensors((args, kwargs))]
        if any(value.summed for value in given):
            return self._linear(name, args, kwargs)
        node = RULES[name](self.graph, *map(self._operand, args), **{k: self._operand(v) for k, v in kwargs.items()})
        return None if node is None else Value(node)

    def _operand(self, given: Any) -> Any:
        return self.value(given).node if isinstance(given, Tensor) else given

    def _keeps_places(self, before: Tensor, after: Tensor, summed: bool) -> bool:
        if self._is_unit(before):
            return self._is_unit(after)
        if not self._is_row(before):
            return False
        return (self._is_row(after) and before.numel() == after.numel()) or (not summed and self._is_unit(after))

    def _converted(self, found: Value, before: Tensor, after: Tensor) -> Value | None:
        if after.device.type != "cpu" or found.summed:
            return None
        if after.dtype == before.dtype:
            return found
        if after.dtype == torch.bool:
            return Value(self.graph.mask(found.node))
        return (
            Value(self.graph.number(found.node)) if before.dtype == torch.bool and after.dtype == self.dtype else None
        )

    def _linear(self, name: str, args: Any, kwargs: Any) -> Value | None:
        """An operator on sums over sequences is the sum of the operator where it is linear in them."""
        if name not in LINEAR or kwargs:
            return None
        values = [self.value(given) if isinstance(given, Tensor) else None for given in args]
        summed = [value is not None and value.summed for value in values]
        rows = all(self._is_row(given) for given in args if isinstance(given, Tensor))
        fits = (
            all(summed) if name in ("add", "sub") else summed[0] + sum(summed[1:]) == 1 and (summed[0] or name == "mul")
        )
        if not (rows and fits):
            return None
        operands: list[Operand] = [
            given if value is None else value.node for given, value in zip(args, values, strict=True)
        ]
        return Value(self.graph.op(name, *operands), summed=True)

    def _check_result(self, found: Value, out: Tensor, shown: str) -> None:
        if not (self._is_unit(out) or self._is_row(out)):
            raise self.refuse(
                f"makes {tuple(out.shape)} of (B, H) by {shown} at {{}}, where one number a unit is needed"
            )
        if self.graph.value_of(found.node) is not None and out.dtype != torch.bool:
            return
        mask = self.graph.is_mask(found.node)
        if out.dtype != (torch.bool if mask else self.dtype) or out.device.type != "cpu":
            raise self.refuse(f"makes {out.dtype} on {out.device} by {shown} at {{}}, where {self.dtype} is computed")

    def _check_write(self, target: Tensor, shown: str) -> None:
        key = _key(target)
        others = any(other != key and other[0] == key[0] for other in self._values)
        if key in self.fixed or others or self.pure_of(target) is not None:
            raise self.refuse(f"writes in place ({shown}) at {{}} to a tensor that is needed as it was")

    def _decomposed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What torch says the operator is made of, recorded in its place."""
        if func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            with self._dispatch_mode:
                return func.decompose(*args, **kwargs)
        from torch._decomp import decomposition_table  # here, as it loads much

        made_of = decomposition_table.get(func)
        if made_of is None:
            return NotImplemented
        with self._dispatch_mode:
            return made_of(*args, **kwargs)


class _Calls(TorchFunctionMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._recorder.call(func, args, kwargs or {})


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped by torch's compiler, torch would first load all of it, for seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._recorder.operator(func, args, kwargs or {})


def replay(tape: Sequence[Call | str], parameters: Mapping[str, Tensor]) -> list[Any]:
    """What stands in each slot, for these parameters; under autograd."""
    slots: list[Any] = []
    for entry in tape:
        if isinstance(entry, str):
            slots.append(parameters[entry])
            continue
        args, kwargs = pytree.tree_map(
            lambda leaf: slots[leaf.index] if isinstance(leaf, Slot) else leaf, (entry.args, entry.kwargs)
        )
        with torch.set_grad_enabled(entry.grad and torch.is_grad_enabled()):
            slots += _tensors(entry.function(*args, **kwargs))
    return slots


def _key(tensor: Tensor) -> _KEY:
    """The same for all tensors that hold the same numbers in the same places of memory."""
    return (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _with_slots(tree: Any, slots: Mapping[int, Slot]) -> Any:
    return pytree.tree_map(lambda leaf: slots[id(leaf)] if isinstance(leaf, Tensor) else leaf, tree)


def _where() -> str:
    """The line of the step, or of what it calls, that is running: file and number."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_HERE):
            return f"{os.path.basename(file)}:{frame.f_lineno}"
        if frame.f_code in DRIVERS:
            break
        frame = frame.f_back
    return "a line of torch's own"
