"""Every path from a state to a later one crosses one port at each step; counted one by one they are the measures.

The oracles: all words of ports, one after another, and a plain loop in which every port but some is cut off.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

import throughtime as tt
from tests.laws.variants import sequence
from tests.tolerances import MEASURE, close, near
from throughtime.cells import Cell, Read, State

K = 1


def words(cell: Cell, x: Tensor, state: State) -> tuple[int, dict[tuple[str, ...], Tensor]]:
    """A step t, and for each word of ports, the newest step's first, its product of port Jacobians from K to t."""
    ports = tt.flow.ports(cell, x, state)
    t = K + (3 if len(ports) <= 5 else 2)
    found = {}
    for word in itertools.product(ports, repeat=t - K):
        product = torch.eye(cell.state_size, dtype=x.dtype)
        for j, port in zip(range(t, K, -1), word, strict=True):
            product = product @ ports[port][j]
        found[word] = product
    return t, found


def total(several: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(several).sum(0) if several else torch.zeros_like(like)


def test_families_are_sums_over_words_of_ports(cell: Cell) -> None:
    x, state = sequence(cell)
    t, each = words(cell, x, state)
    whole = tt.flow.transport(cell, x, t, K, state)
    close(total(list(each.values()), whole), whole)
    for port in cell.reads:
        alone = tt.flow.only(cell, x, t, K, port, state)
        near(alone, each[(port,) * (t - K)])
        near(tt.flow.without(cell, x, t, K, port, state), total([m for w, m in each.items() if port not in w], whole))
    pair = list(cell.reads)[:2]
    near(tt.flow.only(cell, x, t, K, pair, state), total([m for w, m in each.items() if set(w) <= set(pair)], whole))
    close(tt.flow.only(cell, x, t, K, cell.reads, state), whole)


def test_excursions_are_words_by_how_often_they_leave_and_add_up_to_the_transport(cell: Cell) -> None:
    """Any port can play the carousel."""
    x, state = sequence(cell)
    t, each = words(cell, x, state)
    whole = tt.flow.transport(cell, x, t, K, state)
    for carousel in cell.reads:
        found = tt.flow.excursions(cell, x, t, K, state, carousel=carousel)
        assert found.shape == (t - K + 1, *whole.shape)
        close(found.sum(0), whole)
        for m, coefficient in enumerate(found):
            counted = [its for word, its in each.items() if sum(port != carousel for port in word) == m]
            near(coefficient, total(counted, whole))
    few = tt.flow.excursions(cell, x, t, K, state, carousel=carousel, most=1)
    near(few, found[:2])


def cut_off(cell: Cell, x: Tensor, state: State, kept: str | None) -> list[State]:
    """The states of a plain loop in which only one port lets a gradient through, and the gates are as they were."""
    states, u, W = [], cell.share(x), cell.weights()
    for t in range(x.shape[0]):
        read = {port: state[part] if port == kept else state[part].detach() for port, part in cell.reads.items()}
        state, _ = cell.step(u.map(lambda tensor, t=t: tensor[t]), Read(**read), W)
        state = state.map(lambda part: part if part.requires_grad else part.clone().requires_grad_())
        states.append(state)
    return states


def gradient(made: Tensor, of: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(made, of, retain_graph=True, allow_unused=True, materialize_grads=True)
    return found


def logs(norms: list[list[Tensor]], starts: list[Tensor]) -> list[np.floating]:
    """Medians by lag of log10 of the norms (lag, source) to those at the start."""
    with np.errstate(divide="ignore"):
        ratios = [np.concatenate([(n / s).numpy() for n, s in zip(its, starts, strict=False)]) for its in norms]
        return [np.median(np.log10(each)) for each in ratios]


def test_the_two_paths_against_a_loop_in_which_all_other_ports_are_cut_off(cell: Cell) -> None:
    """t0 is what autograd gives for the kept node s_k, the lag 0 included; t1 the same for h_k and the output gate."""
    if "carousel" not in cell.reads:
        return
    x, state = sequence(cell, batch=3)
    T, H = x.shape[0], cell.hidden_size
    delta = torch.randn(T, 3, H, dtype=x.dtype)
    record = tt.flow.carousel(cell, x, delta, state=state, sources=[T - 1])
    for port, found in (("carousel", record.t0), ("output", record.t1)):
        assert (found is None) == (port not in cell.reads)
        if found is None:
            continue
        states = cut_off(cell, x, state, port)
        out = (delta[-1] * states[-1][cell.parts[-1]]).sum()
        part = cell.reads[port]
        norms = [[gradient(out, states[T - 1 - lag][part]).norm(dim=-1)] for lag in range(T)]
        if port == "output":
            norms[0] = [delta[-1].norm(dim=-1)]  # h_t itself is where the gradient comes in
        near(found, logs(norms, [delta[-1].norm(dim=-1)]), MEASURE)
    if record.t1 is not None:
        assert record.t1_bound is not None
        assert (record.t1 <= record.t1_bound + 1e-12).all()


def test_keeping_is_fair(cell: Cell) -> None:
    """Forward and backward the same product: of what a unit does to itself while all gates are as they were."""
    if "carousel" not in cell.reads:
        return
    x, state = sequence(cell)
    T, part = x.shape[0], cell.reads["carousel"]
    record = tt.flow.carousel(cell, x, torch.ones(T, x.shape[1], cell.hidden_size, dtype=x.dtype), state=state)
    assert record.kept_forward is not None
    assert record.kept_backward is not None
    near(record.kept_forward, record.kept_backward)
    states = cut_off(cell, x, state, "carousel")
    for lag in range(T):
        shares = [gradient(states[t][part].sum(), states[t - lag][part]).abs().mean(-1) for t in range(lag, T)]
        near(record.kept_backward[lag], float(np.median(torch.cat(shares).log10().numpy())), MEASURE)
        assert record.pairs[lag] == (T - lag) * x.shape[1]


def test_what_is_left_along_families_is_the_norm_of_a_row_times_the_words(cell: Cell) -> None:
    x, state = sequence(cell)
    t, each = words(cell, x, state)
    delta = torch.zeros(t + 1, x.shape[1], cell.hidden_size, dtype=x.dtype)
    delta[t] = torch.randn(x.shape[1], cell.hidden_size, dtype=x.dtype)
    record = tt.flow.paths(cell, x[: t + 1], delta, state=state, carousel=next(iter(cell.reads)))
    row = delta.new_zeros(x.shape[1], 1, cell.state_size)
    row[:, 0, -cell.hidden_size :] = delta[t]
    start = row.norm(dim=(1, 2))

    def left(chosen: list[Tensor]) -> float:
        with np.errstate(divide="ignore"):
            norms = (row @ total(chosen, next(iter(each.values())))).norm(dim=(1, 2)) / start
            return float(np.median(np.log10(norms.detach().numpy())))

    lag = t - K
    near(record.whole[lag], left(list(each.values())), MEASURE)
    for port in cell.reads:
        near(record.only[port][lag], left([each[(port,) * lag]]), MEASURE)
        near(record.without[port][lag], left([m for w, m in each.items() if port not in w]), MEASURE)
    assert record.excursions is not None
    assert record.carousel is not None
    for m, found in enumerate(record.excursions[:, lag]):
        counted = [its for word, its in each.items() if sum(port != record.carousel for port in word) == m]
        if m > lag:
            assert math.isinf(found)
        else:
            near(found, left(counted), MEASURE)
