"""Records what torch does in one step of a cell and in its vector-Jacobian product.

Two modes look on. The one above autograd sees the calls as they were written: those that are given parameters and
constants alone are put on a tape, and what they return is cut off from what it was made of. The one below autograd
sees every operator, those of the way back included, and writes down what it is in the words of a program.

Tensors are known again by where their numbers lie in memory: what autograd saves for the way back comes as another
tensor with the same numbers. All tensors that were met are held, so that no place is given to another.

Dimensions: B sequences, H units. A row is one number a unit, (H,), or one for all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from throughtime.engines.trace.aten import FILLED, LINEAR, RULES, SAME
from throughtime.engines.trace.graph import Graph, Operand, Ref
from throughtime.engines.trace.tape import Entry, Pure, Slot, tensors, written


class Untraceable(Exception):  # noqa: N818 - it is no error of anybody's: another engine serves
    """Why a step cannot be compiled, in one sentence."""


class Value(NamedTuple):
    """What is known of a tensor."""

    node: Ref
    summed: bool = False  # the node's sum over the sequences (for one number, over the units too)


_HERE = (os.path.dirname(__file__), os.path.dirname(torch.__file__))
_READERS = frozenset({
    "tolist", "numpy", "__array__", "data_ptr", "storage", "untyped_storage", "__dlpack__", "__repr__", "__format__",
    "__set__",
})  # fmt: skip
# Answered otherwise while a step is traced: on the CPU, with leaves that all require gradients.
_ASKED = {
    getattr(Tensor, name).__get__: name
    for name in ("requires_grad", "is_leaf", "grad_fn", "retains_grad", "is_cuda", "is_cpu", "is_meta")
}
# What Python gets of these, a truth, a number or a shape, hangs on the numbers of a tensor.
_DECIDERS = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
_HOOKS = frozenset({"register_hook", "register_post_accumulate_grad_hook"})
_OUTSIDE = "uses a tensor that is neither u, read nor W's at {}"
_Key = tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype]


class Recorder:
    """A step as it is met: a graph, and a tape of what hangs on parameters alone."""

    def __init__(self, title: str, batch: int, units: int, dtype: torch.dtype) -> None:
        self.graph = Graph()
        self.title = title
        self.shape = (batch, units)
        self.dtype = dtype
        self.back = False  # whether the way back is being recorded
        self.first: Exception | None = None  # what went wrong first, whether or not the step went on all the same
        self.tape: list[Entry] = []
        self.sizes: list[int] = []  # how many slots each entry of the tape fills
        self.slots: list[Pure] = []
        self.vectors: dict[int, Ref] = {}  # slot -> leaf, in the order of first use
        self._rows = {(), (1,), (1, 1), (units,), (1, units)}
        self._pure: dict[int, Pure] = {}  # by id
        self._pure_at: dict[_Key, Pure] = {}
        self._values: dict[_Key, Value] = {}
        self._fixed: set[_Key] = set()  # must not be written to
        self._keys: dict[int, _Key] = {}  # by id, of tensors that are held
        self._held: list[Tensor] = []
        self._inside_pure = False
        self._paused = False
        self._below = False  # an operator is being looked at: calls are no longer the step's own
        self._calls = _Calls(self)
        self._operators = _Operators(self)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Look on; on the way back at operators alone, as nobody writes calls there."""
        with self._operators, nullcontext() if self.back else self._calls:
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
        """The error for something that a step does; `{}` in it is where."""
        whose = "the way back of the step" if self.back else "the step"
        error = Untraceable(f'{whose} of "{self.title}" {what.replace("{}", _where())}.')
        self.mind(error)
        return error

    def mind(self, error: Exception) -> None:
        """Remember an error: a step may catch it and go another way, which it goes while it is traced only."""
        self.first = self.first or error

    def check(self) -> None:
        """Raise what went wrong first, if anything did."""
        if self.first is not None:
            raise self.first

    # -- what tensors are

    def name(self, tensor: Tensor, value: Value, *, fixed: bool = False) -> None:
        """Say what a tensor is."""
        key = self._hold(tensor)
        self._values[key] = value
        if fixed:
            self._fixed.add(key)

    def fix(self, tensor: Tensor) -> None:
        """Say that a tensor must not be written to."""
        self._fixed.add(self._key(tensor))

    def put(self, tensor: Tensor, *, constant: bool = False) -> Tensor:
        """Give a tensor the next slot of the tape."""
        found = Pure(tensor, len(self.slots), constant)
        self.slots.append(found)
        self._pure[id(tensor)] = self._pure_at[self._hold(tensor)] = found
        return tensor

    def value(self, tensor: Tensor) -> Value:
        """What is known of a tensor.

        Raises Untraceable for one that came from outside.
        """
        pure = self._pure_of(tensor)
        if pure is not None:
            return Value(self._vector(pure))
        found = self._values.get(self._key(tensor))
        if found is None:
            raise self.refuse(_OUTSIDE)
        return found

    def _hold(self, tensor: Tensor) -> _Key:
        key = _key(tensor)
        self._held.append(tensor)
        self._keys[id(tensor)] = key
        return key

    def _key(self, tensor: Tensor) -> _Key:
        return self._keys.get(id(tensor)) or _key(tensor)

    def _pure_of(self, tensor: Tensor) -> Pure | None:
        found = self._pure.get(id(tensor))
        if found is not None or self._key(tensor) in self._values:
            return found
        return self._pure_at.get(self._key(tensor))

    def _vector(self, pure: Pure) -> Ref:
        tensor = pure.tensor.detach()
        if pure.constant and tensor.numel() and bool((tensor == tensor.reshape(-1)[0]).all()):
            return self.graph.constant(float(tensor.reshape(-1)[0]))
        if not tensor.dtype.is_floating_point or tuple(tensor.shape) not in self._rows:
            shown = f"{tuple(tensor.shape)} of {tensor.dtype}"
            raise self.refuse(f"uses parameters as {shown} at {{}}, where one number a unit is needed")
        if pure.slot not in self.vectors:
            self.vectors[pure.slot] = self.graph.leaf("vector", len(self.vectors))
        return self.vectors[pure.slot]

    # -- calls above autograd

    def call(self, function: Any, args: Any, kwargs: Any) -> Any:
        """One call as it was written."""
        if self._paused or self._below:
            return function(*args, **kwargs)
        given = tensors((args, kwargs))
        if getattr(function, "__name__", "") in _READERS:
            raise self.refuse(f"looks into a tensor or changes what it is by {function.__name__} at {{}}")
        if function in _ASKED:
            raise self.refuse(f"asks {_ASKED[function]} of a tensor at {{}}, which may differ from call to call")
        if getattr(function, "__name__", "") in _HOOKS and given[0].is_leaf:
            raise self.refuse("has gradients looked at (register_hook) at {} that other steps or calls add to")
        pure = [self._pure_of(tensor) for tensor in given]
        if any(p is None and self._key(tensor) not in self._values for p, tensor in zip(pure, given, strict=True)):
            raise self.refuse(_OUTSIDE)
        known = {id(tensor): found for tensor, found in zip(given, pure, strict=True) if found is not None}
        if len(known) < len({id(tensor) for tensor in given}):
            return function(*args, **kwargs)
        before, self._inside_pure = self._inside_pure, True
        try:
            out = function(*args, **kwargs)
        finally:
            self._inside_pure = before
        made = tensors(out)
        if any(self.shape[0] in tensor.shape for tensor in made):  # made for these sequences, not a row
            return function(*args, **kwargs)
        if not made:
            return out
        slots = {tensor: Slot(found.slot) for tensor, found in known.items()}
        self.tape.append(written(function, args, kwargs, slots))
        self.sizes.append(len(made))
        constant = all(found.constant for found in known.values())
        with self.paused():
            return pytree.tree_map(lambda leaf: self._cut(leaf, constant) if isinstance(leaf, Tensor) else leaf, out)

    def _cut(self, tensor: Tensor, constant: bool) -> Tensor:
        """The same numbers, as autograd's leaf: what it is made of is the tape's matter."""
        return self.put(tensor.detach().requires_grad_(tensor.requires_grad), constant=constant)

    # -- operators below autograd

    def operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One operator."""
        if self._paused:
            return func(*args, **kwargs)
        before, self._below = self._below, True
        try:
            return self._operator(func, args, kwargs)
        finally:
            self._below = before

    def _operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        schema = func._schema
        shown = schema.name.replace("::", ".")
        name = schema.name.removeprefix("aten::")
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise self.refuse(f"draws random numbers by {shown} at {{}}")
        if not _DECIDERS.isdisjoint(func.tags):
            raise self.refuse("lets Python read a tensor's numbers at {}, so that it may go different ways")
        if self._inside_pure:
            if schema.is_mutable:
                raise self.refuse(f"writes by {shown} at {{}} to what hangs on parameters alone")
            return func(*args, **kwargs)
        if schema.is_mutable:
            name = name.removesuffix("_")
            if name not in (*RULES, "fill", "zero") or schema.name == f"aten::{name}":
                raise self.refuse(f"writes by {shown} at {{}} into a tensor")
            self._check_write(args[0], shown)
        out = func(*args, **kwargs)
        if name == "empty_like":  # says nothing until it is filled
            return out
        found = self._meaning(name, args, kwargs, out) if isinstance(out, Tensor) else None
        if found is not None:
            self._check_result(found, out, shown)
            self.name(out, found)
            return out
        made = NotImplemented if schema.is_mutable else self._decomposed(func, args, kwargs)
        if made is NotImplemented:
            raise self.refuse(f"uses {shown} at {{}}, which is not known as an operator on one unit's numbers")
        return made

    def _meaning(self, name: str, args: Any, kwargs: Any, out: Tensor) -> Value | None:
        if name in FILLED and not (name == "fill" and isinstance(args[1], Tensor)):
            return Value(self.graph.constant(float(out.reshape(-1)[0])))
        if name == "lift_fresh" and out.ndim == 0 and self._key(args[0]) not in self._values:
            return Value(self.graph.constant(float(out)))
        if name in SAME:
            found = self.value(args[0])
            return found if self._keeps_places(args[0], out, found.summed) else None
        if name == "_to_copy":
            return self._converted(self.value(args[0]), args[0], out)
        if name == "sum" and self.back:
            found = self.value(args[0])
            fits = tuple(out.shape) in self._rows and (found.summed or tuple(args[0].shape) == self.shape)
            return Value(found.node, summed=True) if fits else None
        if name not in RULES:
            return None
        given = [self.value(each) if isinstance(each, Tensor) else each for each in args]
        named = {key: self.value(each) if isinstance(each, Tensor) else each for key, each in kwargs.items()}
        if any(isinstance(each, Value) and each.summed for each in (*given, *named.values())):
            return None if named else self._linear(name, args, given)
        operands = [each.node if isinstance(each, Value) else each for each in given]
        options = {key: each.node if isinstance(each, Value) else each for key, each in named.items()}
        node = RULES[name](self.graph, *operands, **options)
        return None if node is None else Value(node)

    def _keeps_places(self, before: Tensor, after: Tensor, summed: bool) -> bool:
        shapes = tuple(before.shape), tuple(after.shape)
        if shapes[0] == self.shape:
            return shapes[1] == self.shape
        if shapes[0] not in self._rows:
            return False
        if shapes[1] in self._rows:
            return before.numel() == after.numel() or not summed
        return shapes[1] == self.shape and not summed

    def _converted(self, found: Value, before: Tensor, after: Tensor) -> Value | None:
        if after.device.type != "cpu" or found.summed:
            return None
        if after.dtype == before.dtype:
            return found
        if after.dtype == torch.bool:
            return Value(self.graph.mask(found.node))
        exact = before.dtype == torch.bool and after.dtype == self.dtype
        return Value(self.graph.number(found.node)) if exact else None

    def _linear(self, name: str, args: Any, given: list[Any]) -> Value | None:
        """An operator on sums over sequences is the sum of the operator, where it is linear in them."""
        if name not in LINEAR or any(tuple(a.shape) not in self._rows for a in args if isinstance(a, Tensor)):
            return None
        summed = [isinstance(each, Value) and each.summed for each in given]
        once = sum(summed) == 1 and (summed[0] or name == "mul")
        if not (all(summed) if name in ("add", "sub") else once):
            return None
        operands: list[Operand] = [each.node if isinstance(each, Value) else each for each in given]
        return Value(self.graph.op(name, *operands), summed=True)

    def _check_result(self, found: Value, out: Tensor, shown: str) -> None:
        shape = tuple(out.shape)
        if shape != self.shape and shape not in self._rows:
            raise self.refuse(f"makes {shape} by {shown} at {{}}, where one number a unit is needed")
        if self.graph.value_of(found.node) is not None and out.dtype != torch.bool:
            return
        expected = torch.bool if self.graph.is_mask(found.node) else self.dtype
        if out.dtype != expected or out.device.type != "cpu":
            raise self.refuse(f"makes {out.dtype} by {shown} at {{}}, where {expected} is computed")

    def _check_write(self, target: Tensor, shown: str) -> None:
        key = self._key(target)
        others = any(other != key and other[0] == key[0] for other in (*self._values, *self._pure_at))
        if key in self._fixed or others or self._pure_of(target) is not None:
            raise self.refuse(f"writes by {shown} at {{}} to a tensor that is needed as it was")

    def _decomposed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What torch says the operator is made of, recorded in its place."""
        if func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            made_of = func.decompose
        else:
            from torch._decomp import decomposition_table  # here, as it loads much

            made_of = decomposition_table.get(func)
        if made_of is None:
            return NotImplemented
        before = self.first
        try:
            with self._operators:
                return made_of(*args, **kwargs)
        except Untraceable:  # of a part of it; the whole is what was written
            self.first = before
            return NotImplemented


class _Calls(TorchFunctionMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return self._recorder.call(func, args, kwargs or {})
        except Exception as error:
            self._recorder.mind(error)
            raise


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped by torch's compiler, torch would first load all of it, for seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return self._recorder.operator(func, args, kwargs or {})
        except Exception as error:
            self._recorder.mind(error)
            raise


def _key(tensor: Tensor) -> _Key:
    return (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def _where() -> str:
    """The line of the step, or of what it calls, that is running: file and number."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_HERE) and "threading" not in file:
            return f"{os.path.basename(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return "a line of torch's own"
