"""What torch's operators are in the words of a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from throughtime.engines.trace.graph import Graph, Operand, Ref

# Given a graph and the operator's arguments, tensors as nodes. None: not this way of calling it.
Rule = Callable[..., "Ref | None"]


def _plain(op: str) -> Rule:
    return lambda g, *operands: g.op(op, *operands)


def _unless_mask(op: str, mask_op: str) -> Rule:
    """On masks alone, torch's arithmetic is logic."""

    def rule(g: Graph, *operands: Operand) -> Ref:
        masks = all(isinstance(of, Ref) and g.is_mask(of) for of in operands)
        return g.raw(mask_op, *map(g.operand, operands)) if masks else g.op(op, *operands)

    return rule


def _logic(op: str) -> Rule:
    return lambda g, *operands: g.raw(op, *(g.mask(of) for of in operands))


def _add(g: Graph, a: Operand, b: Operand, alpha: float = 1) -> Ref:
    return g.op("add", a, g.op("mul", b, alpha))


def _sub(g: Graph, a: Operand, b: Operand, alpha: float = 1) -> Ref:
    return g.op("sub", a, g.op("mul", b, alpha))


def _div(g: Graph, a: Operand, b: Operand, rounding_mode: str | None = None) -> Ref | None:
    return g.op("div", a, b) if rounding_mode is None else None


def _pow(g: Graph, base: Operand, exponent: Operand) -> Ref:
    power = g.value_of(g.operand(exponent))
    base = g.number(g.operand(base))
    if power == 0.0:
        return g.constant(1.0)
    if power == 1.0:
        return base
    if power in (2.0, 3.0):
        square = g.op("mul", base, base)
        return square if power == 2.0 else g.op("mul", square, base)
    simple = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}.get(power) if power is not None else None
    return g.op(simple, base) if simple else g.op("pow", base, exponent)


def _slope(g: Graph, y: Ref) -> Ref:
    """Y (1 − y)."""
    return g.op("mul", g.op("sub", 1.0, y), y)


def _tanh_backward(g: Graph, grad: Ref, y: Ref) -> Ref:
    return g.op("mul", grad, g.op("sub", 1.0, g.op("mul", y, y)))


def _threshold_backward(g: Graph, grad: Ref, x: Ref, threshold: float) -> Ref:
    return g.where(g.op("le", x, threshold), 0.0, grad)


def _clamp(g: Graph, x: Ref, min: Operand | None = None, max: Operand | None = None) -> Ref:
    if min is not None:
        x = g.op("maximum", x, min)
    return x if max is None else g.op("minimum", x, max)


def _lerp(g: Graph, a: Operand, b: Operand, weight: Operand) -> Ref:
    """Torch goes from the nearer end."""
    step = g.op("sub", b, a)
    near = g.op("add", a, g.op("mul", weight, step))
    far = g.op("sub", b, g.op("mul", step, g.op("sub", 1.0, weight)))
    number = g.value_of(g.operand(weight))
    if number is not None:
        return near if abs(number) < 0.5 else far
    return g.where(g.op("lt", g.op("abs", weight), 0.5), near, far)


def _softplus(g: Graph, x: Ref, beta: float = 1, threshold: float = 20) -> Ref:
    scaled = g.op("mul", x, beta)
    soft = g.op("div", g.op("log1p", g.op("exp", scaled)), beta)
    return g.where(g.op("gt", scaled, threshold), x, soft)


def _softplus_backward(g: Graph, grad: Ref, x: Ref, beta: float, threshold: float) -> Ref:
    scaled = g.op("mul", x, beta)
    return g.where(g.op("gt", scaled, threshold), grad, g.op("mul", grad, g.op("sigmoid", scaled)))


def _silu(g: Graph, x: Ref) -> Ref:
    return g.op("mul", x, g.op("sigmoid", x))


def _silu_backward(g: Graph, grad: Ref, x: Ref) -> Ref:
    y = g.op("sigmoid", x)
    return g.op("mul", grad, g.op("mul", y, g.op("add", 1.0, g.op("mul", x, g.op("sub", 1.0, y)))))


def _gelu(g: Graph, x: Ref, approximate: str = "none") -> Ref | None:
    if approximate != "none":
        return None
    bell = g.op("add", 1.0, g.op("erf", g.op("mul", x, math.sqrt(0.5))))
    return g.op("mul", g.op("mul", x, 0.5), bell)


def _gelu_backward(g: Graph, grad: Ref, x: Ref, approximate: str = "none") -> Ref | None:
    if approximate != "none":
        return None
    below = g.op("mul", 0.5, g.op("add", 1.0, g.op("erf", g.op("mul", x, math.sqrt(0.5)))))
    density = g.op("mul", g.op("exp", g.op("mul", g.op("mul", x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return g.op("mul", grad, g.op("add", below, g.op("mul", x, density)))


def _elu(g: Graph, x: Ref, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Ref:
    negative = g.op("mul", g.op("expm1", g.op("mul", x, input_scale)), alpha * scale)
    return g.where(g.op("le", x, 0.0), negative, g.op("mul", x, scale))


def _elu_backward(g: Graph, grad: Ref, alpha: float, scale: float, input_scale: float, is_result: bool, of: Ref) -> Ref:
    if is_result:
        slope = g.op("mul", g.op("add", of, alpha * scale), input_scale)
    else:
        slope = g.op("mul", g.op("exp", g.op("mul", of, input_scale)), input_scale * alpha * scale)
    return g.where(g.op("gt", of, 0.0), g.op("mul", grad, scale), g.op("mul", grad, slope))  # NaN: the slope


def _leaky_relu(g: Graph, x: Ref, slope: float = 0.01) -> Ref:
    return g.where(g.op("gt", x, 0.0), x, g.op("mul", x, slope))


def _leaky_relu_backward(g: Graph, grad: Ref, x: Ref, slope: float, is_result: bool) -> Ref:
    return g.where(g.op("gt", x, 0.0), grad, g.op("mul", grad, slope))


def _hardtanh_backward(g: Graph, grad: Ref, x: Ref, least: float, most: float) -> Ref:
    return g.where(g.raw("and", g.op("gt", x, least), g.op("lt", x, most)), grad, 0.0)


def _hardswish_backward(g: Graph, grad: Ref, x: Ref) -> Ref:
    """As torch's kernel, not as its decomposition, which sends NaN's gradient on."""
    slope = g.op("add", g.op("div", x, 3.0), 0.5)
    return g.where(g.op("ge", x, 3.0), grad, g.where(g.op("le", x, -3.0), 0.0, g.op("mul", grad, slope)))


def _smooth_l1_backward(g: Graph, grad: Ref, x: Ref, target: Ref, reduction: int, beta: float) -> Ref | None:
    """As torch's kernel, not as its decomposition, in which NaN has the sign 0."""
    if reduction != 0:
        return None
    far = g.op("sub", x, target)
    near = g.op("div", g.op("mul", far, grad), beta)
    return g.where(g.op("le", far, -beta), g.op("neg", grad), g.where(g.op("ge", far, beta), grad, near))


def _hardsigmoid_backward(g: Graph, grad: Ref, x: Ref) -> Ref:
    """Torch has the slope, 1/6, in single precision for all."""
    inside = g.raw("and", g.op("gt", x, -3.0), g.op("lt", x, 3.0))
    return g.where(inside, g.op("mul", grad, float.fromhex("0x1.555556p-3")), 0.0)


def _addcmul(g: Graph, x: Ref, a: Ref, b: Ref, value: float = 1) -> Ref:
    return g.op("add", x, g.op("mul", g.op("mul", a, b), value))


def _addcdiv(g: Graph, x: Ref, a: Ref, b: Ref, value: float = 1) -> Ref:
    return g.op("add", x, g.op("mul", g.op("div", a, b), value))


RULES: Mapping[str, Rule] = {
    **{name: _plain(name) for name in (
        "minimum", "maximum", "neg", "abs", "sign", "reciprocal", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p",
        "sigmoid", "tanh", "relu", "erf", "sin", "cos", "atan", "lt", "le", "gt", "ge", "eq", "ne",
    )},
    "add": _add,
    "sub": _sub,
    "rsub": lambda g, a, b, alpha=1: _sub(g, b, a, alpha),
    "mul": _unless_mask("mul", "and"),
    "div": _div,
    "true_divide": _div,
    "pow": _pow,
    "square": lambda g, x: g.op("mul", x, x),
    "sgn": _plain("sign"),
    "logical_and": _logic("and"),
    "logical_or": _logic("or"),
    "logical_not": _logic("not"),
    "bitwise_and": lambda g, a, b: _bitwise(g, "and", a, b),
    "bitwise_or": lambda g, a, b: _bitwise(g, "or", a, b),
    "bitwise_not": lambda g, a: _bitwise(g, "not", a),
    "where": lambda g, mask, yes, no: g.where(mask, yes, no),
    "masked_fill": lambda g, x, mask, value: g.where(mask, value, x),
    "isnan": lambda g, x: g.op("ne", x, x),
    "sigmoid_backward": lambda g, grad, y: g.op("mul", grad, _slope(g, y)),
    "tanh_backward": _tanh_backward,
    "threshold_backward": _threshold_backward,
    "clamp": _clamp,
    "clamp_min": lambda g, x, least: _clamp(g, x, least),
    "clamp_max": lambda g, x, most: _clamp(g, x, None, most),
    "hardtanh": lambda g, x, least=-1, most=1: _clamp(g, x, least, most),
    "hardtanh_backward": _hardtanh_backward,
    "lerp": _lerp,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "softplus": _softplus,
    "softplus_backward": _softplus_backward,
    "log_sigmoid_backward": lambda g, grad, x, buffer: g.op("mul", grad, g.op("sigmoid", g.op("neg", x))),
    "silu": _silu,
    "silu_backward": _silu_backward,
    "gelu": _gelu,
    "gelu_backward": _gelu_backward,
    "elu": _elu,
    "elu_backward": _elu_backward,
    "hardsigmoid_backward": _hardsigmoid_backward,
    "hardswish_backward": _hardswish_backward,
    "smooth_l1_loss_backward": _smooth_l1_backward,
    "leaky_relu": _leaky_relu,
    "leaky_relu_backward": _leaky_relu_backward,
}  # fmt: skip


def _bitwise(g: Graph, op: str, *masks: Operand) -> Ref | None:
    if not all(isinstance(of, Ref) and g.is_mask(of) for of in masks):
        return None
    return g.raw(op, *map(g.operand, masks))


# The same numbers, perhaps in another shape or place.
SAME = frozenset({
    "alias", "detach", "clone", "expand", "view", "_unsafe_view", "_reshape_alias", "reshape", "unsqueeze", "squeeze",
    "view_as", "expand_as", "contiguous", "t", "transpose", "permute", "lift_fresh",
})  # fmt: skip

# Made of nothing, or of a tensor's shape alone; filled with one number.
FILLED = frozenset({
    "zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full",
    "scalar_tensor", "fill", "zero",
})  # fmt: skip

# What carries a sum over sequences on without mixing it with a single one: linear in it.
LINEAR = frozenset({"mul", "div", "neg", "add", "sub"})
