"""Runs a program with torch, one operator at a time: what its nodes mean, said once more in code."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from throughtime.engines.trace.program import OPERATORS, Node, Program


def numbers(program: Program, leaf: Callable[[Node, list[Tensor]], Tensor], upto: int | None = None) -> list[Tensor]:
    """What each node is, given what its leaves are; `leaf` sees the nodes before it too."""
    found: list[Tensor] = []
    for node in program.nodes[:upto]:
        if not node.args:
            found.append(leaf(node, found))
            continue
        given = [found[a] for a in node.args]
        value = OPERATORS[node.op](*given)
        if node.op == "number":
            value = value.to(leaf(Node("constant", (), 0.0), found).dtype)
        found.append(value)
    return found


def evaluate(
    program: Program,
    u: Sequence[Tensor],
    read: Sequence[Tensor],
    vectors: Sequence[Tensor],
    maps: Sequence[tuple[Tensor, Tensor | None]],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """States by part and gates by name after one step; `maps` are weight and bias of each product, each value (B, H)."""

    def leaf(node: Node, found: list[Tensor]) -> Tensor:
        if node.op == "constant":
            return read[0].new_full((), node.at)
        if node.op == "product":
            product = program.products[int(node.at)]
            weight, bias = maps[int(node.at)]
            a = found[product.source] @ weight.mT
            return a if bias is None else a + bias
        given = {"u": u, "read": read, "vector": vectors}[node.op][int(node.at)]
        return given.expand_as(read[0])

    found = numbers(program, leaf, program.forward)
    whole = [value.expand_as(read[0]) for value in found]
    states = {part: whole[n] for part, n in zip(program.parts, program.states, strict=True)}
    return states, {gate: whole[n] for gate, n in zip(program.gates, program.opened, strict=True)}
