"""Any cell beside the fastest there is for it: torch.nn, a jitted scan of JAX, the eager loop, the bare products.

Every side does the same work: from the parameters (float32, torch.nn's layouts) and x, the outputs of all steps and the
gradient of their sum with respect to every parameter; not with respect to x or the initial state, which is zero. Ours
is engine="auto", what people get; the note says which engine that was. Before a row is timed all its sides have given
the same outputs and gradients, or the comparison stops. torch and XLA take the threads they take by themselves, one for
each core.

The bare products are what no side can do without: the matrix products of those shapes by torch.mm into memory that is
there. At small sizes they are no bound, since torch.mm takes a few µs to be called.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks.families import OTHERS, STANDARD, Family, bare_products
from benchmarks.table import Paired, Row, paired

SIZES = (  # T steps, B sequences, I inputs, H units
    (100, 1, 32, 64),
    (100, 16, 32, 64),
    (100, 16, 64, 128),
    (200, 32, 128, 256),
    (100, 64, 512, 512),
    (784, 32, 1, 128),
    (1000, 1, 8, 32),
    (57, 5, 11, 48),  # from here on: sizes that nothing was tuned for
    (300, 24, 40, 96),
    (64, 128, 16, 32),
)
ALIKE = 1e-4  # how far the sides' numbers may be from each other, relative to the largest magnitude
AS_NEAR, UNSTABLE = (
    3,
    1e-2,
)  # where rounding grows: how much farther from float64 than the other side; and how far at all
SHORT = "abba"  # the order of a round where the peer is many times slower, or both take seconds
TIMING = 0.008  # s: the least that one timing holds, in as many calls as that takes
PATIENCE = 0.8  # s: what the rounds of one row take, but for rows whose one round takes longer
LONG = 0.2  # s: what takes so long is called once to learn how long it takes
LARGE_H, LARGE_B = 256, 32  # from here on products dominate
MOST_OF_PRODUCTS = 1.4  # times the bare products, where they dominate


@dataclass(frozen=True)
class Promise:
    """How many times as fast, over the sizes."""

    aimed: float  # geometric mean
    least: float  # geometric mean
    worst: float  # at every size


PROMISES = {"RNN": Promise(3, 2.2, 1), "GRU": Promise(3, 2.2, 1), "LSTM": Promise(1.8, 1.5, 1)}
BESIDE_JAX, BESIDE_LOOP = Promise(2.5, 2, 1), Promise(10, 8, 3)


def rows() -> list[Row]:
    """By cell and size; then, by cell, the geometric mean and the worst size, beside what is promised."""
    jax = find_spec("jax") is not None
    if not jax:
        print("engines: JAX is not installed (pip install '.[bench]'): measured beside torch alone", file=sys.stderr)
    found: list[Row] = []
    means: list[Row] = []
    products: list[Row] = []
    for family in (*STANDARD, *OTHERS):
        fastest, loops = [], []
        for size in SIZES:
            done = _measured(family, size, jax)
            fastest += done.fastest
            loops += done.loop
            products += done.products
        found += fastest + loops
        if fastest:
            means += summary(fastest, PROMISES.get(family.name, BESIDE_JAX))
        if loops:
            means += summary(loops, BESIDE_LOOP)
    worst = max(products, key=lambda row: row.ratio)
    return [*found, *means, replace(worst, size=f"where products dominate, worst of {len(products)}: {worst.size}")]


def summary(some: Sequence[Row], promise: Promise) -> list[Row]:
    """The geometric mean and the worst of one comparison's rows."""
    ours, peer, ratio = (math.exp(math.fsum(math.log(v) for v in vs) / len(some)) for vs in (
        [row.ours for row in some], [row.peer for row in some], [row.ratio for row in some])
    )  # fmt: skip
    first, worst = some[0], max(some, key=lambda row: row.ratio)
    names = " or ".join(sorted({row.peer_name for row in some}))
    mean = f"{faster(ratio)}, aimed at {promise.aimed:g}, at least {promise.least:g}"
    least = f"{faster(worst.ratio)}, at least {promise.worst:g}"
    return [
        Row(first.comparison, f"geometric mean of {len(some)}", ours, peer, names, "ms", ratio, mean),
        replace(worst, size=f"worst of {len(some)}: {worst.size}", note=least),
    ]


def faster(ratio: float) -> str:
    """A ratio of times as people say it."""
    return f"{1 / ratio:.2g} times as fast"


@dataclass(frozen=True)
class Measured:
    """The rows of one cell and size."""

    fastest: list[Row]  # beside the faster of torch.nn and JAX, if there is either
    loop: list[Row]  # beside the eager loop, where torch.nn has no such cell
    products: list[Row]  # beside the bare products, where they dominate


def _measured(family: Family, size: tuple[int, int, int, int], jax: bool) -> Measured:
    torch.manual_seed(0)
    T, B, I, H = size  # noqa: E741
    x, ours = torch.randn(T, B, I), family.layer(I, H)
    peers: dict[str, Callable[[], None]] = {}
    expected: dict[str, Answer] = {}
    if family.theirs is not None:
        theirs = family.theirs(I, H)
        theirs.load_state_dict(ours.state_dict())
        peers["torch.nn"], expected["torch.nn"] = _learning(theirs, x), _answer(theirs, x)
    if jax:
        from benchmarks.scan import Learning

        scan = Learning(family.name, {plain(name): p for name, p in ours.named_parameters()}, x)
        output, gradients = scan.answer()
        peers["JAX"] = scan
        expected["JAX"] = torch.from_numpy(output), {name: torch.from_numpy(g) for name, g in gradients.items()}
    loop = family.layer(I, H, engine="reference")
    if family.theirs is None:
        loop.load_state_dict(ours.state_dict())
        expected["eager loop"] = _answer(loop, x)
    answer = _answer(ours, x)
    where = f"T={T} B={B} I={I} H={H}"
    for name, other in expected.items():
        check_alike(f"{family.name}, {where}: ours and {name}", answer, other, partial(_exact, family, ours, x))

    work, bare = _learning(ours, x), bare_products(*size, family.products)
    what, dominate = f"{family.name}, forward and backward", H >= LARGE_H and B >= LARGE_B
    beside = _timed(work, bare, SHORT)
    limit = f", at most {MOST_OF_PRODUCTS}" if dominate else ""
    note = f"engine {ours.served}; {beside.ratio:.2f} times the bare products{limit}"
    fastest = _beside_the_fastest(work, peers, what, where, note)
    eager = []
    if family.theirs is None:
        pair = _timed(work, _learning(loop, x), SHORT, patience=0.0)
        eager.append(_row(pair, what, where, "eager loop", note))
    products = [_row(beside, what, where, "bare products", f"at most {MOST_OF_PRODUCTS}")] if dominate else []
    return Measured(fastest, eager, products)


def _beside_the_fastest(
    work: Callable[[], None], peers: Mapping[str, Callable[[], None]], what: str, where: str, note: str
) -> list[Row]:
    """A row beside whichever peer is fastest; the others' times go into the note."""
    if not peers:
        return []
    times = {name: _quickest(peer) for name, peer in peers.items()}
    best, *others = sorted(times, key=lambda name: times[name])
    note = "; ".join([note, *(f"{name} {times[name] * 1e3:.3g} ms" for name in others)])
    return [_row(_timed(work, peers[best]), what, where, best, note)]


def _row(pair: Paired, what: str, where: str, peer: str, note: str) -> Row:
    row = pair.row(what, where, peer)
    return replace(row, note=f"{row.note}; {faster(pair.ratio)}; {note}")


def _timed(
    ours: Callable[[], None], peer: Callable[[], None], order: str | None = None, *, patience: float = PATIENCE
) -> Paired:
    """Both paired, in as many calls a timing and as many rounds as their times ask for; the times are of one call."""
    times = [_quickest(work) for work in (ours, peer)]
    calls = max(1, math.ceil(TIMING / max(times)))
    orders = {} if order is None else {"order": order}
    repeats = min(5, max(1, round(patience / (5 * calls * sum(times)))))

    def several(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(calls):
                work()

        return run

    pair = paired(several(ours), several(peer), repeats=repeats, warmup=0, **orders)
    return replace(pair, ours=pair.ours / calls, peer=pair.peer / calls)


def _quickest(work: Callable[[], None]) -> float:
    """Seconds of the quickest of some calls."""
    times: list[float] = []
    while len(times) < 5 and sum(times) < LONG:
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return min(times)


# -- the same work on every side

Answer = tuple[Tensor, dict[str, Tensor]]  # outputs, and gradients by parameter


def _learning(module: Any, x: Tensor) -> Callable[[], None]:
    """What a training loop does between two updates, with the gradients set to None as optimizers do."""
    parameters = list(module.parameters())

    def work() -> None:
        for parameter in parameters:
            parameter.grad = None
        module(x)[0].sum().backward()

    return work


def _answer(module: Any, x: Tensor) -> Answer:
    output = module(x)[0]
    output.sum().backward()
    gradients = {plain(name): parameter.grad for name, parameter in module.named_parameters()}
    return output.detach(), gradients


def _exact(family: Family, ours: Any, x: Tensor) -> Answer:
    """The step in a loop, in float64."""
    loop = family.layer(x.shape[-1], ours.hidden_size, engine="reference")
    loop.load_state_dict(ours.state_dict())
    return _answer(loop.double(), x.double())


def plain(name: str) -> str:
    """A parameter's name in its cell, from that in a layer of one."""
    return name.removesuffix("_l0")


def check_alike(what: str, ours: Answer, theirs: Answer, exact: Callable[[], Answer]) -> None:
    """Raise ValueError if outputs or gradients differ: a wrong result is not worth timing.

    Where a net is so unstable that rounding grows past ALIKE, ours must be about as near as theirs to the numbers of
    float64, which `exact` gives.
    """
    for name in ("outputs", *theirs[1]):
        mine, other = _of(ours, name), _of(theirs, name)
        if _apart(mine, other) <= ALIKE:
            continue
        right = _of(exact(), name)
        if not _apart(mine, right) <= AS_NEAR * _apart(other, right) <= UNSTABLE:  # NaN included
            raise ValueError(f"{what} differ in {name} by {_apart(mine, other):.1e} relative, more than rounding does")


def _of(answer: Answer, name: str) -> Tensor:
    return answer[0] if name == "outputs" else answer[1][name]


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.abs().max())
