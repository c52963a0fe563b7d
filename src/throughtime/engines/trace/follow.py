"""Runs a cell's step and its way back once, looking on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Share, State, Weights
from throughtime.engines.trace.derive import Found, derive
from throughtime.engines.trace.graph import Ref
from throughtime.engines.trace.program import Product, Program
from throughtime.engines.trace.record import DRIVERS, Call, Recorder, Untraceable

_CLOSE = {torch.float64: 1e-9, torch.float32: 1e-3}  # relative to the largest; far above rounding, below any mistake


@dataclass(frozen=True)
class Followed:
    """A program and the tape its vectors come from."""

    program: Program
    tape: tuple[Call | str, ...]
    slots: tuple[int, ...]  # where on the tape each vector stands


class _Parameters(Mapping[str, Tensor]):
    """A cell's parameters, drawn when they are asked for: most steps ask for none by name."""

    def __init__(self, run: _Run, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._run, self._shapes = run, shapes
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            shape = self._shapes[name]
            with self._run.recorder.paused():
                self._made[name] = self._run.recorder.parameter(name, self._run.draw(shape).requires_grad_())
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class _Tap:
    """In place of one row block of the recurrent weights: takes down what it is given, returns a leaf."""

    def __init__(self, run: _Run, name: str, block: int, bias: int | None) -> None:
        self._run, self._name, self._block, self._bias = run, name, block, bias

    def __call__(self, h: Tensor) -> Tensor:
        return self._run.product(self._name, self._block, self._bias, h)

    def __getattr__(self, name: str) -> Any:
        raise self._run.recorder.refuse(f"uses W.{self._name}.{name} at {{}} and not W.{self._name} as a whole")

    def __iter__(self) -> Any:
        raise self._run.recorder.refuse(f"takes W.{self._name} apart at {{}}")


class _Run:
    """One step on random numbers."""

    def __init__(self, cell: Cell, dtype: torch.dtype, batch: int, seed: int) -> None:
        self.cell, self.dtype = cell, dtype
        self.batch, self.units = batch, cell.hidden_size
        self.recorder = Recorder(cell.title, batch, self.units, dtype)
        self._generator = torch.Generator().manual_seed(seed)
        self.products: list[Product] = []
        self.taps: list[Tensor] = []
        self.sources: list[Ref] = []
        self._given: list[Tensor] = []  # what each source was, as autograd knows it
        self._source_of: dict[int, int] = {}  # id of the tensor -> number of the source
        self._tap_of: dict[tuple[int, int], int] = {}  # block and source -> number of the product
        self.real: dict[tuple[str, int], Tensor] = {}  # the numbers of leaves

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Random numbers of this run's own."""
        return torch.randn(shape, generator=self._generator, dtype=torch.float64, device="cpu").to(self.dtype)

    def leaf(self, op: str, at: int, *, grad: bool = True) -> Tensor:
        """A leaf (B, H)."""
        tensor = self.draw((self.batch, self.units)).requires_grad_(grad)
        self.recorder.name(tensor, self.recorder.graph.leaf(op, at), fixed=True)
        self.real[op, at] = tensor
        return tensor

    def product(self, name: str, block: int, bias: int | None, h: Tensor) -> Tensor:
        """W_block h + b."""
        recorder = self.recorder
        with recorder.paused():
            if not isinstance(h, Tensor) or tuple(h.shape) != (self.batch, self.units) or h.dtype != self.dtype:
                shown = f"{tuple(h.shape)} {h.dtype}" if isinstance(h, Tensor) else type(h).__name__
                raise recorder.refuse(f"gives W.{name} {shown} at {{}}, where (B, H) is needed")
            source = self._source(h)
            if (block, source) not in self._tap_of:
                self._tap_of[block, source] = len(self.products)
                self.taps.append(self.leaf("product", len(self.products)))
                self.products.append(Product(block, bias, self.sources[source]))
            return self.taps[self._tap_of[block, source]]

    def _source(self, h: Tensor) -> int:
        if id(h) not in self._source_of:
            node = self.recorder.value(h).node
            leaf = not self.recorder.graph.nodes[node].args
            if not (leaf and any(h is self.real.get(("read", at)) for at in range(len(self.cell.parts)))):
                # Equal numbers may hang on the state in different ways: each source has a gradient of its own.
                if leaf or node in self.sources:
                    node = self.recorder.graph.apart(node)
            self.recorder.fix(h)
            self._source_of[id(h)] = len(self.sources)
            self.sources.append(node)
            self._given.append(h)
        return self._source_of[id(h)]

    def follow(self) -> Followed:
        """The program of the step as this run saw it."""
        cell, recorder = self.cell, self.recorder
        u = Share(**{name: self.leaf("u", at) for at, name in enumerate(cell.inputs)})
        state = State(**{part: self.leaf("read", at) for at, part in enumerate(cell.parts)})
        parameters = _Parameters(self, cell.shapes())
        blocks = cell.recurrent or ()
        biased = [b for b in blocks if b not in cell.unbiased] if "bias_hh" in parameters else []
        maps: dict[str, Any] = {
            name: _Tap(self, name, at, biased.index(name) if name in biased else None) for at, name in enumerate(blocks)
        }
        W = Weights(maps, parameters)
        with recorder.on():
            new, gates = cell.advance(u, state, W)
        self._check(new, gates)
        refs = {part: recorder.value(new[part]).node for part in cell.parts}
        opened = {name: recorder.value(gate).node for name, gate in gates.items()}
        wanted, sent = self._back(list(u.values()), list(state.values()), [new[part] for part in cell.parts])
        nodes = [None if g is None else self._gradient(g) for g in sent]
        ends = [len(u), len(state), len(self.taps)]
        cuts = [sum(ends[:k]) for k in range(4)] + [len(nodes)]
        d_u, d_read, d_product, d_some = (tuple(nodes[a:b]) for a, b in zip(cuts, cuts[1:], strict=False))
        leaves = {id(tensor): node for tensor, node in zip(wanted[cuts[3] :], d_some, strict=True)}
        slots = {pure.slot: pure.tensor for pure in recorder.pure.values()}
        found = Found(
            graph=recorder.graph,
            parts=cell.parts,
            inputs=len(u),
            vectors=len(recorder.vectors),
            products=tuple(self.products),
            sources=tuple(self.sources),
            states=tuple(refs.values()),
            gates=opened,
            d_u=d_u,
            d_product=d_product,
            d_vector=tuple(leaves.get(id(slots[slot])) for slot in recorder.vectors),
            d_read=d_read,
        )
        program, left = derive(found)
        order = list(recorder.vectors)
        followed = Followed(program, tuple(recorder.tape), tuple(order[v] for v in left))
        return followed

    def _check(self, new: Any, gates: Any) -> None:
        cell = self.cell
        if not (isinstance(new, Mapping) and set(new) == set(cell.parts) and isinstance(gates, Mapping)):
            raise Untraceable(f'the step of "{cell.title}" does not return State({", ".join(cell.parts)}), Gates(...).')
        for name, value in (*new.items(), *gates.items()):
            fits = isinstance(value, Tensor) and tuple(value.shape) == (self.batch, self.units)
            if not fits or value.dtype != self.dtype:
                raise Untraceable(f'the step of "{cell.title}" does not return "{name}" as (B, H) in {self.dtype}.')

    def _back(self, u: list[Tensor], read: list[Tensor], new: list[Tensor]) -> tuple[list[Tensor], list[Tensor | None]]:
        """Autograd's answer for every leaf."""
        recorder = self.recorder
        recorder.back = True
        outputs = [(tensor, self.leaf("grad", at, grad=False)) for at, tensor in enumerate(new) if tensor.requires_grad]
        inner = {
            s: (tensor, self.leaf("pulled", s, grad=False))
            for s, tensor in enumerate(self._given)
            if tensor.requires_grad and not any(tensor is each for each in read)
        }
        vectors = [
            pure.tensor
            for pure in recorder.pure.values()
            if pure.slot in recorder.vectors and pure.tensor.requires_grad
        ]
        wanted = [*u, *read, *self.taps, *vectors]
        while True:
            pairs = [*outputs, *inner.values()]
            if not pairs:
                return wanted, [None] * len(wanted)
            with recorder.on():
                sent = torch.autograd.grad(
                    [tensor for tensor, _ in pairs],
                    wanted,
                    [gradient for _, gradient in pairs],
                    retain_graph=True,
                    allow_unused=True,
                )
            heard = {
                self.sources.index(product.source)
                for product, gradient in zip(self.products, sent[len(u) + len(read) :], strict=False)
                if gradient is not None
            }
            silent = [s for s in inner if s not in heard]  # nothing comes back through any product of these
            if not silent:
                return wanted, list(sent)
            for s in silent:
                del inner[s]

    def _gradient(self, tensor: Tensor) -> Ref | None:
        found = self.recorder.value(tensor)
        return None if self.recorder.graph.value_of(found.node) == 0.0 else found.node


def follow(cell: Cell, dtype: torch.dtype) -> Followed:
    """Follow a step twice, on other numbers and for other numbers of sequences; both must say the same.

    Raises Untraceable.
    """
    dimensions = {cell.hidden_size, *(size for shape in cell.shapes().values() for size in shape)}
    primes = (p for p in range(3, 10_000) if all(p % q for q in range(2, p)) and all(size % p for size in dimensions))
    runs = []
    for seed in range(2):
        run = _Run(cell, dtype, next(primes), seed)
        try:
            with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
                runs.append(run.follow())
        except Untraceable:
            raise
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise Untraceable(f'the step of "{cell.title}" cannot be traced: {first}.') from error
    if repr(runs[0].program) != repr(runs[1].program):
        raise Untraceable(f'the step of "{cell.title}" is not the same each time it is traced.')
    return runs[0]


DRIVERS.update({follow.__code__, _Run.follow.__code__, _Run._back.__code__})
