"""A sequence in one launch: a program instance takes a block of sequences through all steps.

What hangs on the cell comes as constants (see `emit.py`) and is unrolled while Triton compiles; the kernels below are
the loop around it. Nothing mixes sequences, so that no two program instances ever wait for each other.

A step goes through its stages, a stage through tiles of BLOCK_H units. What all units must be known for, the next
stage reads from memory: within an instance a barrier makes written numbers visible.

Products are sums in the dtype itself, never TF32. Loads and stores are masked to B sequences and H units, so that
what tiles hold beyond them is never seen.

T steps, B sequences, H units, N rows. Row `first[t] + b`, or t·B + b where `first` is None, belongs to sequence b at
step t; `running[t]` sequences, the longest first, have a step t.
"""

# No `from __future__ import annotations` here: Triton's interpreter reads the annotations themselves.

import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

INTERPRETED: bool = isinstance(triton.language.zeros, InterpretedFunction)  # decided when Triton was imported

if INTERPRETED:
    from throughtime.engines.triton import interpreted as libdevice
else:
    from triton.language.extra import libdevice


@triton.jit
def _rows(t, b, first, running, T, B):
    """The row of each sequence at step t, and whether it has one; of no step outside 0..T−1."""
    inside = (t >= 0) & (t < T)
    if first is None:
        return t * B.to(tl.int64) + b, b < tl.where(inside, B, 0)
    else:
        return tl.load(first + t, mask=inside, other=0) + b, b < tl.load(running + t, mask=inside, other=0)


@triton.jit
def _weights(weight, k, units, DEEP: tl.constexpr, WIDE: tl.constexpr):
    """A tile weight[k, units] of a matrix with WIDE numbers a row, zero past DEEP of both."""
    mask = (k < DEEP)[:, None] & (units < DEEP)[None, :]
    return tl.load(weight + k[:, None] * WIDE + units[None, :], mask=mask, other=0.0)


@triton.jit
def _products(
    sums,
    given,
    rows,
    live,
    weight,
    TAPS: tl.constexpr,
    units,
    H: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Add to each of several tiles given[rows] times its block of the weights; live rows alone.

    All loads stand before the first product, which waits for other threads: so they are under way together.
    """
    for k0 in range(0, H, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        a = tl.load(given + rows[:, None] + k[None, :], mask=live[:, None] & (k < H)[None, :], other=0.0)
        w = ()
        for i in tl.static_range(len(TAPS)):
            w = w + (_weights(weight + TAPS[i] * H, k, units, H, BLOCKS * H),)
        added = ()
        for i in tl.static_range(len(TAPS)):
            added = added + (tl.dot(a, w[i], sums[i], input_precision="ieee", out_dtype=a.dtype),)
        sums = added
    return sums


@triton.jit
def _pulled(total, slots, rows, live, weight, RUN: tl.constexpr, units, H: tl.constexpr, BLOCK_K: tl.constexpr):
    """Add Wᵀ dL/da, summed over the products of a run, to a tile; `rows` is where each sequence's slots stand."""
    if len(RUN) > 0:
        for k0 in range(0, H, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            mask = live[:, None] & (k < H)[None, :]
            a = ()
            w = ()
            for i in tl.static_range(len(RUN)):
                a = a + (tl.load(slots + rows[:, None] + (RUN[i][0] * H + k)[None, :], mask=mask, other=0.0),)
                w = w + (_weights(weight + RUN[i][1] * H * H, k, units, H, H),)
            for i in tl.static_range(len(RUN)):
                total = tl.dot(a[i], w[i], total, input_precision="ieee", out_dtype=total.dtype)
    return total


@triton.jit
def _operator(OP: tl.constexpr, a, b, c, REAL: tl.constexpr):
    """One operator of `trace.program.OPERATORS`. As torch's: NaN in, NaN out, also of minimum, maximum and relu."""
    if OP == "add":
        return a + b
    elif OP == "sub":
        return a - b
    elif OP == "mul":
        return a * b
    elif OP == "div":
        return a / b
    elif OP == "pow":
        return libdevice.pow(a, b)
    elif OP == "minimum":
        return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
    elif OP == "maximum":
        return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
    elif OP == "neg":
        return -a
    elif OP == "abs":
        return tl.abs(a)
    elif OP == "sign":
        return (a > 0).to(REAL) - (a < 0).to(REAL)
    elif OP == "reciprocal":
        return 1.0 / a
    elif OP == "sqrt":
        return libdevice.sqrt(a)
    elif OP == "rsqrt":
        return libdevice.rsqrt(a)
    elif OP == "exp":
        return libdevice.exp(a)
    elif OP == "expm1":
        return libdevice.expm1(a)
    elif OP == "log":
        return libdevice.log(a)
    elif OP == "log1p":
        return libdevice.log1p(a)
    elif OP == "sigmoid":
        return 1.0 / (1.0 + libdevice.exp(-a))
    elif OP == "tanh":
        return libdevice.tanh(a)
    elif OP == "relu":
        return tl.where(a < 0, 0.0, a)
    elif OP == "erf":
        return libdevice.erf(a)
    elif OP == "sin":
        return libdevice.sin(a)
    elif OP == "cos":
        return libdevice.cos(a)
    elif OP == "atan":
        return libdevice.atan(a)
    elif OP == "lt":
        return a < b
    elif OP == "le":
        return a <= b
    elif OP == "gt":
        return a > b
    elif OP == "ge":
        return a >= b
    elif OP == "eq":
        return a == b
    elif OP == "ne":
        return a != b
    elif OP == "and":
        return a & b
    elif OP == "or":
        return a | b
    elif OP == "not":
        return ~a
    elif OP == "where":
        return tl.where(a, b, c)
    else:
        tl.static_assert(OP == "number", "there is no such operator")
        return a.to(REAL)


@triton.jit
def _get(base, rows, at, units, mask):
    """A tile: from each row's place in memory on, `at` numbers further, the tile's units."""
    return tl.load(base + rows[:, None] + (at + units)[None, :], mask=mask, other=0.0)


@triton.jit
def _put(base, rows, at, units, value, mask):
    tl.store(base + rows[:, None] + (at + units)[None, :], value, mask=mask)


@triton.jit
def _step_tile(
    u,
    weight,
    bias,
    vectors,
    states,
    gates,
    saved,
    scratch,
    b,
    row,
    before,
    live,
    units,
    B,
    CODE: tl.constexpr,
    WRITES: tl.constexpr,
    H: tl.constexpr,
    U: tl.constexpr,
    BLOCKS: tl.constexpr,
    SAVED: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One stage of the step on a tile of sequences and units."""
    real: tl.constexpr = u.dtype.element_ty
    mask = live[:, None] & (units < H)[None, :]
    zero = tl.zeros((b.shape[0], units.shape[0]), real)
    places = B.to(tl.int64) * H
    values = ()
    for i in tl.static_range(len(CODE)):
        if CODE[i][0] == "u":
            made = _get(u, row * (U * H), CODE[i][1] * H, units, mask)
        elif CODE[i][0] == "read":
            made = _get(states[CODE[i][1]], before * H, 0, units, mask)
        elif CODE[i][0] == "vector":
            made = zero + tl.load(vectors[CODE[i][1]] + units, mask=units < H, other=0.0)[None, :]
        elif CODE[i][0] == "constant":
            made = tl.full(zero.shape, CODE[i][1], real)
        elif CODE[i][0] == "scratch":
            made = _get(scratch + CODE[i][1] * places, b * H, 0, units, mask)
        elif CODE[i][0] == "mask":
            made = _get(scratch + CODE[i][1] * places, b * H, 0, units, mask) != 0
        elif CODE[i][0] == "given part" or CODE[i][0] == "given scratch":
            sums = ()
            for tap in tl.static_range(len(CODE[i][2])):
                if CODE[i][3][tap] >= 0 and bias is not None:
                    at = CODE[i][3][tap] * H + units
                    sums = sums + (zero + tl.load(bias + at, mask=units < H, other=0.0)[None, :],)
                else:
                    sums = sums + (zero,)
            if CODE[i][0] == "given part":
                sums = _products(
                    sums, states[CODE[i][1]], before * H, live, weight, CODE[i][2], units, H, BLOCKS, BLOCK_K
                )
            else:
                given = scratch + CODE[i][1] * places
                sums = _products(sums, given, b * H, live, weight, CODE[i][2], units, H, BLOCKS, BLOCK_K)
            values = values + sums
        else:
            made = _operator(CODE[i][0], values[CODE[i][1]], values[CODE[i][2]], values[CODE[i][3]], real)
        if CODE[i][0] != "given part" and CODE[i][0] != "given scratch":
            values = values + (made,)
    for i in tl.static_range(len(WRITES)):
        if WRITES[i][0] == "state":
            _put(states[WRITES[i][1]], (row + B) * H, 0, units, values[WRITES[i][2]], mask)
        elif WRITES[i][0] == "scratch":
            _put(scratch + WRITES[i][1] * places, b * H, 0, units, values[WRITES[i][2]].to(real), mask)
        elif WRITES[i][0] == "gate":
            if len(gates) > 0:
                _put(gates[WRITES[i][1]], row * H, 0, units, values[WRITES[i][2]], mask)
        elif saved is not None:
            _put(saved, row * (SAVED * H), WRITES[i][1] * H, units, values[WRITES[i][2]], mask)


@triton.jit(do_not_specialize=["T", "B"])
def forward(
    u,  # (N, U·H)
    weight,  # (H, BLOCKS·H): weight_hh transposed; None if there is none
    bias,  # (biased blocks·H,), or None
    vectors,  # each (H,)
    states,  # of each part (B + N, H): the initial state, then the state after every row
    final,  # of each part (B, H)
    gates,  # each (N, H); empty if they are not asked for
    saved,  # (N, SAVED·H); None if no way back follows
    scratch,  # (places, B, H)
    first,
    running,
    T,
    B,
    STAGES: tl.constexpr,
    WRITES: tl.constexpr,
    H: tl.constexpr,
    U: tl.constexpr,
    BLOCKS: tl.constexpr,
    SAVED: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The step, T times."""
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    before = b  # where each sequence's newest state stands
    for n in range(T):
        if REVERSE:
            row, live = _rows(T - 1 - n, b, first, running, T, B)
        else:
            row, live = _rows(n, b, first, running, T, B)
        for stage in tl.static_range(len(STAGES)):
            for unit in range(0, H, BLOCK_H):
                _step_tile(
                    u,
                    weight,
                    bias,
                    vectors,
                    states,
                    gates,
                    saved,
                    scratch,
                    b,
                    row,
                    before,
                    live,
                    unit + tl.arange(0, BLOCK_H),
                    B,
                    STAGES[stage],
                    WRITES[stage],
                    H,
                    U,
                    BLOCKS,
                    SAVED,
                    BLOCK_K,
                )
            tl.debug_barrier()
        before = tl.where(live, row + B, before)
    for part in tl.static_range(len(final)):
        for unit in range(0, H, BLOCK_H):
            units = unit + tl.arange(0, BLOCK_H)
            mask = (b < B)[:, None] & (units < H)[None, :]
            _put(final[part], b * H, 0, units, _get(states[part], before * H, 0, units, mask), mask)


@triton.jit
def _back_tile(
    u,
    weight,
    vectors,
    initial,
    states,
    saved,
    outer,
    carry,
    slots,
    scratch,
    b,
    row,
    live,
    before,
    had,
    later,
    units,
    B,
    CODE: tl.constexpr,
    WRITES: tl.constexpr,
    RUNS: tl.constexpr,
    H: tl.constexpr,
    U: tl.constexpr,
    SAVED: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One stage of the way back on a tile of sequences and units."""
    real: tl.constexpr = u.dtype.element_ty
    within = (units < H)[None, :]
    mask = live[:, None] & within
    zero = tl.zeros((b.shape[0], units.shape[0]), real)
    places = B.to(tl.int64) * H
    values = ()
    for i in tl.static_range(len(CODE)):
        if CODE[i][0] == "u":
            made = _get(u, row * (U * H), CODE[i][1] * H, units, mask)
        elif CODE[i][0] == "read":
            made = _get(states[CODE[i][1]], before * H, 0, units, had[:, None] & within)
            made += _get(initial[CODE[i][1]], b * H, 0, units, (live & ~had)[:, None] & within)
        elif CODE[i][0] == "new":
            made = _get(states[CODE[i][1]], row * H, 0, units, mask)
        elif CODE[i][0] == "saved":
            made = _get(saved, row * (SAVED * H), CODE[i][1] * H, units, mask)
        elif CODE[i][0] == "vector":
            made = zero + tl.load(vectors[CODE[i][1]] + units, mask=units < H, other=0.0)[None, :]
        elif CODE[i][0] == "constant":
            made = tl.full(zero.shape, CODE[i][1], real)
        elif CODE[i][0] == "scratch":
            made = _get(scratch + CODE[i][1] * places, b * H, 0, units, mask)
        elif CODE[i][0] == "mask":
            made = _get(scratch + CODE[i][1] * places, b * H, 0, units, mask) != 0
        elif CODE[i][0] == "grad":
            made = _get(carry[CODE[i][1]], b * H, 0, units, mask)
            made = _pulled(made, slots, later * (SLOTS * H), later >= 0, weight, RUNS[CODE[i][1]], units, H, BLOCK_K)
            if outer[CODE[i][1]] is not None:
                made += _get(outer[CODE[i][1]], row * H, 0, units, mask)
        elif CODE[i][0] == "pulled":
            made = _pulled(zero, slots, row * (SLOTS * H), live, weight, RUNS[CODE[i][1]], units, H, BLOCK_K)
        else:
            made = _operator(CODE[i][0], values[CODE[i][1]], values[CODE[i][2]], values[CODE[i][3]], real)
        values = values + (made,)
    tl.debug_barrier()  # what is carried on has been read before it is written anew
    for i in tl.static_range(len(WRITES)):
        if WRITES[i][0] == "slot":
            _put(slots, row * (SLOTS * H), WRITES[i][1] * H, units, values[WRITES[i][2]], mask)
        elif WRITES[i][0] == "carry":
            _put(carry[WRITES[i][1]], b * H, 0, units, values[WRITES[i][2]], mask)
        else:
            _put(scratch + WRITES[i][1] * places, b * H, 0, units, values[WRITES[i][2]].to(real), mask)


@triton.jit(do_not_specialize=["T", "B"])
def backward(
    u,  # as forward had it
    weight,  # (BLOCKS·H, H): weight_hh
    vectors,
    initial,  # of each part (B, H)
    states,  # of each part that is read (N, H): the state after every row
    saved,
    outer,  # of each part (N, H): dL/dz of every step's own output; or None
    carry,  # of each part (B, H): dL/d final; becomes dL/d initial
    slots,  # (N, SLOTS·H)
    scratch,  # (places, B, H)
    first,
    running,
    T,
    B,
    STAGES: tl.constexpr,
    WRITES: tl.constexpr,
    RUNS: tl.constexpr,
    H: tl.constexpr,
    U: tl.constexpr,
    SAVED: tl.constexpr,
    SLOTS: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The way back, T times, from the step that was last."""
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    later = tl.full((BLOCK_B,), -1, tl.int64)  # the row of each sequence that was gone through last; −1: none yet
    for n in range(T):
        if REVERSE:
            row, live = _rows(n, b, first, running, T, B)
            before, had = _rows(n + 1, b, first, running, T, B)
        else:
            row, live = _rows(T - 1 - n, b, first, running, T, B)
            before, had = _rows(T - 2 - n, b, first, running, T, B)
        for stage in tl.static_range(len(STAGES)):
            for unit in range(0, H, BLOCK_H):
                _back_tile(
                    u,
                    weight,
                    vectors,
                    initial,
                    states,
                    saved,
                    outer,
                    carry,
                    slots,
                    scratch,
                    b,
                    row,
                    live,
                    before,
                    had,
                    later,
                    unit + tl.arange(0, BLOCK_H),
                    B,
                    STAGES[stage],
                    WRITES[stage],
                    RUNS,
                    H,
                    U,
                    SAVED,
                    SLOTS,
                    BLOCK_K,
                )
            tl.debug_barrier()
        later = tl.where(live, row, later)
    for part in tl.static_range(len(carry)):
        for unit in range(0, H, BLOCK_H):
            units = unit + tl.arange(0, BLOCK_H)
            mask = (b < B)[:, None] & (units < H)[None, :]
            total = _get(carry[part], b * H, 0, units, mask)
            total = _pulled(total, slots, later * (SLOTS * H), later >= 0, weight, RUNS[part], units, H, BLOCK_K)
            _put(carry[part], b * H, 0, units, total, mask)
