"""What is compiled: one step of a cell and its vector-Jacobian product, as straight-line code over the units.

All that mixes units are the products with the blocks of `weight_hh`; everything else is one number a unit, so an
engine may run it on as many units at a time as its registers hold. A `Program` knows neither sizes nor a device.

Dimensions: B sequences, H units. A value is (B, H): one number for each unit of each sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# What a node can be, beside an operator of OPERATORS. `at` says which one:
#   "u"         block `at` of the input's share, in the order of cell.inputs
#   "read"      part `at` of the state before the step, in the order of cell.parts
#   "vector"    number `at` of the values that hang on parameters alone, (H,), the same for all sequences
#   "constant"  the number `at`
#   "product"   number `at` of `Program.products`: W v + b
# and in the way back:
#   "grad"      dL/dz of part `at` after the step: all that came back from later steps and from the step's own output
#   "pulled"    Wᵀ dL/da summed over the products that are given source `at` of `Program.sources`; only of sources that
#               the step makes itself (what goes back to a part as it was read, the engine carries to the step before);
#               it stands after these dL/da
LEAVES = ("u", "read", "vector", "constant", "product", "grad", "pulled")

# Operators on values, by name; comparisons give a mask, `where` and `number` take one. What they are is said by torch.
OPERATORS: Mapping[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": torch.sign,
    "reciprocal": torch.reciprocal,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "where": torch.where,
    "number": lambda mask: mask,  # 1 where the mask holds, else 0; in the dtype of the program
}
MASKS = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"})
# Cheap enough to be done again on the way back rather than kept for every step.
CHEAP = MASKS | {"add", "sub", "mul", "neg", "abs", "sign", "minimum", "maximum", "relu", "where", "number"}


@dataclass(frozen=True)
class Node:
    """One value: a leaf, or an operator on earlier values."""

    op: str  # one of LEAVES or OPERATORS
    args: tuple[int, ...] = ()  # the numbers of earlier nodes; empty for a leaf
    at: int | float = 0  # for a leaf: which; see LEAVES


@dataclass(frozen=True)
class Product:
    """a = W_block v + b_bias."""

    block: int  # which H rows of weight_hh
    bias: int | None  # which H numbers of bias_hh; None: no bias
    source: int  # the node v


@dataclass(frozen=True)
class Program:
    """A step and its vector-Jacobian product.

    Nodes up to `forward` are the step; the rest is the way back, which of the step's nodes reads leaves ("u", "read",
    "vector", "constant"), the new states, and those in `saved`; anything else it makes again from these.
    """

    parts: tuple[str, ...]
    gates: tuple[str, ...]
    inputs: int  # blocks of the input's share
    vectors: int  # values (H,) that hang on parameters alone
    nodes: tuple[Node, ...]  # in an order in which every node stands after its arguments
    forward: int  # how many of the nodes are the step's
    products: tuple[Product, ...]
    sources: tuple[int, ...]  # the different nodes that products are given, in the order of first use; each is a part
    # as it was read, or a node that is no leaf but a product, even where the step gives a product one of its leaves
    states: tuple[int, ...]  # the node of each new part
    opened: tuple[int, ...]  # the node of each gate
    saved: tuple[int, ...]  # nodes of the step whose numbers must be kept for the way back, at every step;
    # the sources that the step makes itself are among them, as the gradient of the weights needs them
    # The way back: None is zero.
    d_u: tuple[int | None, ...]  # dL/du, for each block
    d_product: tuple[int | None, ...]  # dL/da, for each product
    d_vector: tuple[int | None, ...]  # each sequence's share of dL/dvector
    d_read: tuple[int | None, ...]  # dL/dz before the step, for each part, beside what goes through products that are
    # given the part as it was read: the engine adds Wᵀ dL/da of those
