"""Values as they are met, each kept once, with what follows from constants done on the way."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch

from throughtime.engines.trace.program import MASKS, OPERATORS, Node

_COMMUTE = frozenset({"add", "mul", "minimum", "maximum", "eq", "ne", "and", "or"})


class Ref(int):
    """The number of a node, told apart from a number to calculate with."""


Operand: TypeAlias = "Ref | float | bool"


class Graph:
    """Nodes in an order in which every node stands after its arguments; equal ones are one node.

    Nothing is left out that could turn NaN or ∞ into a number, or one zero into the other: x · 1 is x, but x · 0 and
    x + 0, which is 0 where x is −0, stay.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: dict[tuple[object, ...], Ref] = {}

    def leaf(self, op: str, at: int) -> Ref:
        """One of LEAVES, by number."""
        return self._add(Node(op, (), at), (op, at))

    def constant(self, number: float) -> Ref:
        """A number that is the same for all units."""
        number = float(number)
        return self._add(Node("constant", (), number), ("constant", number.hex()))

    def value_of(self, ref: Ref) -> float | None:
        """The number, if the node is a constant."""
        node = self.nodes[ref]
        return float(node.at) if node.op == "constant" else None

    def is_mask(self, ref: Ref) -> bool:
        """Whether the node says yes or no for each unit; `where` and numbers are values."""
        return self.nodes[ref].op in MASKS

    def operand(self, of: Operand) -> Ref:
        """A node of what may be a plain number."""
        return of if isinstance(of, Ref) else self.constant(of)

    def op(self, op: str, *operands: Operand) -> Ref:
        """An operator on values; a mask among them counts as 0 and 1."""
        return self.raw(op, *(self.number(self.operand(of)) for of in operands))

    def number(self, ref: Ref) -> Ref:
        """A mask as 0 and 1; a value as it is."""
        return self.raw("number", ref) if self.is_mask(ref) else ref

    def mask(self, of: Operand) -> Ref:
        """A value as a mask: where it is not 0."""
        ref = self.operand(of)
        return ref if self.is_mask(ref) else self.raw("ne", ref, self.constant(0.0))

    def where(self, mask: Operand, yes: Operand, no: Operand) -> Ref:
        """`yes` where the mask holds, else `no`."""
        a, b = self.number(self.operand(yes)), self.number(self.operand(no))
        return a if a == b else self.raw("where", self.mask(mask), a, b)

    def apart(self, ref: Ref) -> Ref:
        """The same numbers as a node of its own, whatever else they are: v · 1, made anew each time."""
        self.nodes.append(Node("mul", (ref, self.constant(1.0))))
        return Ref(len(self.nodes) - 1)

    def raw(self, op: str, *args: Ref) -> Ref:
        """An operator on nodes as they are, less what follows from constants."""
        if op in _COMMUTE:
            args = tuple(sorted(args))
        simpler = self._simpler(op, args)
        return self._add(Node(op, args), (op, args)) if simpler is None else simpler

    def _add(self, node: Node, key: tuple[object, ...]) -> Ref:
        if key not in self._known:
            self._known[key] = Ref(len(self.nodes))
            self.nodes.append(node)
        return self._known[key]

    def _simpler(self, op: str, args: tuple[Ref, ...]) -> Ref | None:
        numbers = [self.value_of(ref) for ref in args]
        known = [number for number in numbers if number is not None]
        if len(known) == len(args) and op not in MASKS:
            given = [torch.tensor(number, dtype=torch.float64) for number in known]
            return self.constant(float(OPERATORS[op](*given)))
        if op == "neg":
            return self._negated(args[0])
        if len(args) != 2:
            return None
        (a, b), (left, right) = args, numbers
        if op in ("add", "mul"):
            neutral = -0.0 if op == "add" else 1.0
            if _same(left, neutral) or _same(right, neutral):
                return b if _same(left, neutral) else a
        if op == "add":
            for this, other in ((a, b), (b, a)):
                positive = self._negated(this)
                if positive is not None:
                    return self.raw("sub", other, positive)
        if op == "mul" and -1.0 in (left, right):
            return self.raw("neg", b if left == -1.0 else a)
        if op == "sub":
            if _same(right, 0.0):
                return a
            if _same(left, -0.0):
                return self.raw("neg", b)
            positive = self._negated(b)
            return None if positive is None else self.raw("add", a, positive)
        if op == "div" and right is not None and _power_of_two(right):
            return self.raw("mul", a, self.constant(1.0 / right))
        return None

    def _negated(self, ref: Ref) -> Ref | None:
        """−v where that is at hand: v is itself −w."""
        node = self.nodes[ref]
        return Ref(node.args[0]) if node.op == "neg" else None


def _same(number: float | None, other: float) -> bool:
    """Whether a number is this one, 0 and −0 told apart."""
    return number == other and math.copysign(1.0, number) == math.copysign(1.0, other)


def _power_of_two(number: float) -> bool:
    """Whether 1 / number is exact."""
    return math.isfinite(number) and abs(math.frexp(number)[0]) == 0.5 and 2.0**-100 < abs(number) < 2.0**100
