"""Runs a cell's step and its way back on random numbers, looking on."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from throughtime.cells.cell import Cell, Gates, Share, State, Weights
from throughtime.engines.trace import gradients
from throughtime.engines.trace.derive import Derived, Found, derive
from throughtime.engines.trace.graph import Ref
from throughtime.engines.trace.interpret import numbers
from throughtime.engines.trace.program import Node, Product, Program
from throughtime.engines.trace.proof import close, same_ways
from throughtime.engines.trace.record import Recorder, Untraceable, Value
from throughtime.engines.trace.tape import Entry, needed


@dataclass(frozen=True)
class Followed:
    """A program and the tape its vectors come from."""

    program: Program
    tape: tuple[Entry, ...]
    slots: tuple[int, ...]  # where on the tape each vector stands


def follow(cell: Cell, dtype: torch.dtype) -> Followed:
    """Follow a step twice, on other numbers and for other numbers of sequences; both must say the same.

    Raises Untraceable.
    """
    with _undrawn(cell):
        blocks = _blocks(cell)
        first, second = (_Run(cell, dtype, batch, seed).follow(blocks) for seed, batch in enumerate(_batches(cell, 2)))
    if first.program != second.program and repr(first.program) != repr(second.program):  # as text, NaN is NaN
        raise Untraceable(f'the step of "{cell.title}" is not the same each time it runs.')
    return first


@contextmanager
def _undrawn(cell: Cell) -> Iterator[None]:
    """Refuse where numbers are drawn by Python or numpy, however seldom they tell; they are left to be drawn."""
    python, numpys = random.getstate(), np.random.get_state(legacy=False)
    drawn = False
    try:
        yield
    finally:
        if random.getstate() != python:
            drawn = True
            random.setstate(python)
        now = np.random.get_state(legacy=False)
        if not all(map(np.array_equal, pytree.tree_leaves(now), pytree.tree_leaves(numpys))):
            drawn = True
            np.random.set_state(numpys)
    if drawn:
        raise Untraceable(f'the step of "{cell.title}" draws random numbers.')


def _batches(cell: Cell, count: int) -> list[int]:
    """Numbers of sequences that cannot be taken for the size of anything else: primes that divide none."""
    sizes = {cell.hidden_size, *(size for shape in cell.shapes().values() for size in shape)}
    found: list[int] = []
    candidate = 3
    while len(found) < count:
        if all(candidate % p for p in range(2, candidate)) and all(size % candidate for size in sizes if size):
            found.append(candidate)
        candidate += 2
    return found


def _blocks(cell: Cell) -> tuple[str, ...]:
    """The blocks of the input's share that the cell makes; it may make them in its own way, but of the usual shape."""
    kind = type(cell)
    if kind.weights is not Cell.weights or "weights" in cell.__dict__:
        raise Untraceable(f'the cell "{cell.title}" binds its recurrent weights in its own way.')
    if not cell.own_share:
        return cell.inputs
    parameters = {name: torch.empty(shape, device="meta") for name, shape in cell.shapes().items()}
    share = cell.share(torch.empty(2, cell.input_size, device="meta"), parameters)
    if not set(share) <= set(cell.inputs) or {tuple(b.shape) for b in share.values()} != {(2, cell.hidden_size)}:
        raise Untraceable(f'the input\'s share of "{cell.title}" is not one number a unit for each of its blocks.')
    return tuple(share)


class _Parameters(Mapping[str, Tensor]):
    """A cell's parameters, drawn when they are asked for: most steps ask for none by name."""

    def __init__(self, run: _Run, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._run, self._shapes = run, shapes
        self.made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.made:
            self.made[name] = self._run.parameter(name, self._shapes[name])
        return self.made[name]

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
        raise self._run.recorder.refuse(f"uses W.{self._name}.{name} at {{}}, not W.{self._name} as a whole")

    def __iter__(self) -> Any:
        raise self._run.recorder.refuse(f"takes W.{self._name} apart at {{}}")


class _Run:
    """One step on random numbers."""

    def __init__(self, cell: Cell, dtype: torch.dtype, batch: int, seed: int) -> None:
        self.cell, self.dtype, self.shape = cell, dtype, (batch, cell.hidden_size)
        self.recorder = Recorder(cell.title, batch, cell.hidden_size, dtype)
        self._generator = torch.Generator().manual_seed(seed)
        self._leaves: dict[tuple[str, int], Tensor] = {}
        self.products: list[Product] = []
        self.sources: list[Ref] = []
        self._called: list[tuple[int, int]] = []  # product and source, call by call
        self._given: list[Tensor] = []  # what each source was, as autograd knows it
        self._source_of: dict[int, int] = {}  # the id of that -> number of the source
        self._product_of: dict[tuple[int, int], int] = {}  # block and source -> number of the product

    def follow(self, blocks: Collection[str]) -> Followed:
        """The program of the step as this run saw it."""
        cell, recorder = self.cell, self.recorder
        u = Share(**{name: self._leaf("u", at) for at, name in enumerate(cell.inputs) if name in blocks})
        state = State(**{part: self._leaf("read", at) for at, part in enumerate(cell.parts)})
        parameters = _Parameters(self, cell.shapes())
        biased = [name for name in cell.recurrent or () if name not in cell.unbiased and "bias_hh" in parameters]
        maps: dict[str, Any] = {
            name: _Tap(self, name, block, biased.index(name) if name in biased else None)
            for block, name in enumerate(cell.recurrent or ())
        }
        with recorder.on():
            new, gates = cell.advance(u, state, Weights(maps, parameters))
        recorder.check()
        self._check(new, gates)
        vectors = list(recorder.vectors)

        def leaves(op: str, count: int) -> list[Tensor]:
            return [self._leaf(op, at) for at in range(count)]

        wanted = {
            "u": leaves("u", len(cell.inputs)),
            "product": leaves("product", len(self.products)),
            "vector": [recorder.slots[slot].tensor for slot in vectors],
            "read": leaves("read", len(cell.parts)),
        }
        outputs, sent = self._back([new[part] for part in cell.parts], wanted)
        recorder.check()
        found = Found(
            graph=recorder.graph,
            parts=cell.parts,
            inputs=len(cell.inputs),
            products=tuple(self.products),
            sources=tuple(self.sources),
            states=tuple(recorder.value(new[part]).node for part in cell.parts),
            gates={name: recorder.value(gate).node for name, gate in gates.items()},
            d_u=self._nodes(sent["u"]),
            d_product=self._nodes(sent["product"]),
            d_vector=self._nodes(sent["vector"], summed=True),
            d_read=self._nodes(sent["read"]),
        )
        derived = derive(found)
        self._prove(derived, [*new.values()] if tuple(new) == cell.parts else [new[p] for p in cell.parts], gates, sent)
        if parameters.made:
            heard = {vectors[v]: gradient for v in derived.vectors if (gradient := sent["vector"][v]) is not None}
            self._check_ways(outputs, wanted["vector"])
            again = self._again(u, state, parameters, outputs)
            if not same_ways(recorder.tape, parameters.made, heard, again, self._gradients(outputs)):
                raise Untraceable(f'what reaches the parameters of "{cell.title}" could not be found by a program.')
        tape, slots = needed(recorder.tape, [vectors[v] for v in derived.vectors], recorder.sizes)
        return Followed(derived.program, tuple(tape), tuple(slots))

    # -- what the step is given

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._generator, dtype=torch.float64, device="cpu").to(self.dtype)

    def _leaf(self, op: str, at: int, *, grad: bool = True) -> Tensor:
        if (op, at) not in self._leaves:
            tensor = self._leaves[op, at] = self._draw(self.shape).requires_grad_(grad)
            self.recorder.name(tensor, Value(self.recorder.graph.leaf(op, at)), fixed=True)
        return self._leaves[op, at]

    def parameter(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A parameter, put on the tape."""
        recorder = self.recorder
        with recorder.paused():
            recorder.tape.append(name)
            recorder.sizes.append(1)
            return recorder.put(self._draw(shape).requires_grad_())

    def product(self, name: str, block: int, bias: int | None, h: Any) -> Tensor:
        """W_block h + b, a leaf: what comes back to it and what goes on to h are the engine's products."""
        recorder = self.recorder
        with recorder.paused():
            if not isinstance(h, Tensor) or tuple(h.shape) != self.shape or h.dtype != self.dtype:
                shown = f"{tuple(h.shape)} of {h.dtype}" if isinstance(h, Tensor) else f"a {type(h).__name__}"
                raise recorder.refuse(f"gives W.{name} {shown} at {{}}, where (B, H) of {self.dtype} is needed")
            source = self._source(h)
            if (block, source) not in self._product_of:
                self._product_of[block, source] = len(self.products)
                self.products.append(Product(block, bias, self.sources[source]))
            self._called.append((self._product_of[block, source], source))
            made = self._leaf("product", self._product_of[block, source])
            return made if torch.is_grad_enabled() else made.detach()

    def _source(self, h: Tensor) -> int:
        if id(h) not in self._source_of:
            graph, node = self.recorder.graph, self.recorder.value(h).node
            # Equal numbers may hang on the state in different ways (one through detach, say), so that each tensor is
            # a source of its own; and one that is not the part itself must not be taken for it.
            if not self._is_read(h) and (node in self.sources or not graph.nodes[node].args):
                node = graph.apart(node)
            self.recorder.fix(h)
            self._source_of[id(h)] = len(self.sources)
            self.sources.append(node)
            self._given.append(h)
        return self._source_of[id(h)]

    def _is_read(self, h: Tensor) -> bool:
        return any(h is self._leaves["read", at] for at in range(len(self.cell.parts)))

    # -- what comes of it

    def _check(self, new: Any, gates: Any) -> None:
        if not (isinstance(new, State) and set(new) == set(self.cell.parts) and isinstance(gates, Gates)):
            raise Untraceable(
                f'the step of "{self.cell.title}" does not return State({", ".join(self.cell.parts)}) and Gates.'
            )
        for name, value in (*new.items(), *gates.items()):
            if tuple(value.shape) != self.shape or value.dtype != self.dtype:
                shown = f"{tuple(value.shape)} of {value.dtype}"
                raise Untraceable(
                    f'the step of "{self.cell.title}" returns "{name}" as {shown}, not (B, H) of {self.dtype}.'
                )

    def _back(
        self, new: list[Tensor], wanted: Mapping[str, list[Tensor]]
    ) -> tuple[dict[tuple[str, int], Tensor], dict[str, list[Tensor | None]]]:
        """What gradients come to, and what autograd sends from there to each leaf."""
        self.recorder.back = True
        outputs = {("grad", at): tensor for at, tensor in enumerate(new) if tensor.requires_grad}
        outputs |= {
            ("pulled", s): tensor
            for s, tensor in enumerate(self._given)
            if tensor.requires_grad and not self._is_read(tensor)
        }
        while True:
            sent = self._sent(outputs, wanted)
            heard = {
                p.source for p, d in zip(self.products, self._nodes(sent["product"]), strict=True) if d is not None
            }
            silent = [key for key in outputs if key[0] == "pulled" and self.sources[key[1]] not in heard]
            if not silent:
                return outputs, sent
            for key in silent:  # nothing comes back through any of its products
                del outputs[key]

    def _sent(
        self, outputs: Mapping[tuple[str, int], Tensor], wanted: Mapping[str, list[Tensor]]
    ) -> dict[str, list[Tensor | None]]:
        leaves = [tensor for some in wanted.values() for tensor in some]
        inputs = [tensor for tensor in leaves if tensor.requires_grad]
        found: dict[int, Tensor | None] = {}
        if outputs and inputs:
            start = gradients.seed([*outputs.values()], self._gradients(outputs))
            with self.recorder.on():
                sent = torch.autograd.grad(start, inputs, retain_graph=True, allow_unused=True)
            found = {id(tensor): gradient for tensor, gradient in zip(inputs, sent, strict=True)}
        return {op: [found.get(id(tensor)) for tensor in some] for op, some in wanted.items()}

    def _gradients(self, outputs: Iterable[tuple[str, int]]) -> list[Tensor]:
        return [self._leaf(*key, grad=False) for key in outputs]

    def _nodes(self, sent: Sequence[Tensor | None], *, summed: bool = False) -> tuple[Ref | None, ...]:
        nodes: list[Ref | None] = []
        for gradient in sent:
            found = None if gradient is None else self.recorder.value(gradient)
            if found is None or self.recorder.graph.value_of(found.node) == 0.0:
                nodes.append(None)
            elif found.summed is not summed:
                raise self.recorder.refuse("mixes the sequences of a batch")
            else:
                nodes.append(found.node)
        return tuple(nodes)

    def _again(
        self, u: Share, state: State, parameters: Mapping[str, Tensor], keys: Iterable[tuple[str, int]]
    ) -> list[Tensor]:
        """What gradients come to, once more, as autograd knows it where nobody looks on and no tape is kept."""
        called = iter(self._called)
        given: list[Tensor] = []

        def mapped(h: Tensor) -> Tensor:
            product, source = next(called)
            if source == len(given):
                given.append(h)
            made = self._leaves["product", product]
            return made if torch.is_grad_enabled() else made.detach()

        maps: dict[str, Any] = dict.fromkeys(self.cell.recurrent or (), mapped)
        new, _ = self.cell.advance(u, state, Weights(maps, parameters))
        return [new[self.cell.parts[at]] if op == "grad" else given[at] for op, at in keys]

    def _check_ways(self, outputs: Mapping[tuple[str, int], Tensor], vectors: Sequence[Tensor]) -> None:
        """Refuse where a gradient goes to what hangs on parameters by another way than through the vectors."""
        slots = [pure.tensor for pure in self.recorder.slots]
        heard = {id(tensor) for tensor in vectors}
        others = [tensor for tensor in slots if tensor.requires_grad and id(tensor) not in heard]
        sent = gradients.sent([*outputs.values()], self._gradients(outputs), others)
        if any(tensor.grad_fn is not None for tensor in slots) or any(gradient is not None for gradient in sent):
            raise Untraceable(
                f'the step of "{self.cell.title}" sends gradients to its parameters in its own way, '
                "as by torch.autograd.Function."
            )

    def _prove(
        self, derived: Derived, new: Sequence[Tensor], gates: Gates, sent: Mapping[str, Sequence[Tensor | None]]
    ) -> None:
        """Refuse unless the program's numbers are those that torch found, on the way there and back."""
        program = derived.program
        original = {"product": derived.products, "pulled": derived.sources}
        vectors = list(self.recorder.vectors)

        def leaf(node: Node) -> Tensor:
            at = int(node.at)
            if node.op == "vector":
                return self.recorder.slots[vectors[derived.vectors[at]]].tensor.to(self.dtype)
            return self._leaves[node.op, original[node.op][at] if node.op in original else at]

        with torch.no_grad():
            found = numbers(program, leaf, self.dtype)

            def agree(n: int | None, real: Tensor | None) -> bool:
                mine = None if n is None else found[n].expand(self.shape)
                if mine is None or real is None:
                    return mine is None and (real is None or not bool(real.any()))
                return close(mine.sum_to_size(real.shape), real)

            pairs = [
                *zip(program.states, new, strict=True),
                *zip(program.opened, gates.values(), strict=True),
                *zip(program.d_u, sent["u"], strict=True),
                *zip(program.d_product, (sent["product"][j] for j in derived.products), strict=True),
                *zip(program.d_vector, (sent["vector"][v] for v in derived.vectors), strict=True),
                *zip(program.d_read, sent["read"], strict=True),
            ]
            if not all(agree(n, real) for n, real in pairs):
                raise Untraceable(
                    f'the step of "{self.cell.title}" could not be written as a program that agrees with it.'
                )
