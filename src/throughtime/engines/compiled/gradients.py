"""Gradients of weights and biases, once dL/du and dL/d product are known at every step: sums over all rows.

Dimensions: B sequences, I inputs, H units, N packed rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime.engines.compiled.plan import Plan
from throughtime.engines.compiled.rows import Rows

Piece = tuple[int, int, Tensor]  # the first row of the slots, how many, and what they are multiplied by: (…, K)


class Sum(NamedTuple):
    """Σ over rows of slotsᵀ b, for so many `slots` from `slot`; with their own sums where `totals` is true."""

    slot: int
    slots: int
    out: Tensor | None  # (slots·H, K); None: the slots' own sums alone
    pieces: tuple[Piece, ...]
    totals: bool


class Asked(NamedTuple):
    """What is asked for, and where it goes."""

    sums: list[Sum]
    weight_ih: Tensor | None
    weight_hh: Tensor | None
    totals: Tensor | None  # (slots·H,): each slot summed over all rows
    again: list[tuple[Tensor, Tensor]]  # (where to, what is to be added) of blocks that are used more than once

    def plus(self, more: Asked) -> Asked:
        """With what was asked of other rows added, in place."""
        ours, theirs = ((a.weight_ih, a.weight_hh, a.totals) for a in (self, more))
        for mine, other in zip(ours, theirs, strict=True):
            if mine is not None and other is not None:
                mine += other
        return self


def ask(
    plan: Plan,
    rows: Rows,
    x: Tensor | None,
    weight_hh: Tensor | None,
    initial: Sequence[Tensor],
    states: Sequence[Tensor | None],
    saved: Tensor | None,
    *,
    reverse: bool,
    totals: bool,
) -> Asked:
    """Which sums the gradients are: of weight_ih if x (…, I) is given, of a weight_hh, and of each slot alone."""
    like, H = initial[0], initial[0].shape[-1]
    sums: list[Sum] = []
    again: list[tuple[Tensor, Tensor]] = []
    summed = 0  # slots below have their totals
    d_ih = d_hh = None
    if x is not None:
        count = plan.program.inputs
        d_ih = like.new_empty(count * H, x.shape[-1])
        # Kernels are told how far apart rows lie: not what torch says of a size of 1.
        lines = x.view(rows.N, x.shape[-1])
        sums.append(Sum(0, count, d_ih, ((0, rows.N, lines),), totals=totals))
        summed = count
    if weight_hh is not None:
        make = like.new_empty if plan.blocks * H == len(weight_hh) else like.new_zeros
        d_hh = make(*weight_hh.shape)  # contiguous, also where the weight is not
        done: set[int] = set()
        for run in plan.weight_runs:
            out = d_hh[run.block * H : (run.block + run.count) * H]
            blocks = range(run.block, run.block + run.count)
            if not done.isdisjoint(blocks):
                target, out = out, torch.empty_like(out)
                again.append((target, out))
            done.update(blocks)
            given = _given(plan, rows, run.source, initial, states, saved, reverse)
            sums.append(Sum(run.slot, run.count, out, given, totals=False))
    if totals and summed < len(plan.slots):
        sums.append(Sum(summed, len(plan.slots) - summed, None, ((0, rows.N, like),), totals=True))
    return Asked(sums, d_ih, d_hh, like.new_empty(len(plan.slots) * H) if totals else None, again)


def bias_gradient(plan: Plan, totals: Tensor, bias: Tensor, H: int) -> Tensor:
    """dL/d bias_hh, from the slots summed over all rows (slots·H,).

    A copy: the gradient of bias_ih may be the same numbers, and .grad of each is changed in place by others.
    """
    if len(plan.bias_runs) == 1 and plan.bias_runs[0].count * H == len(bias):
        first = plan.bias_runs[0].slot * H
        return totals[first : first + len(bias)].clone()
    gradient = torch.zeros_like(bias)
    for run in plan.bias_runs:
        some = totals[run.slot * H : (run.slot + run.count) * H]
        gradient[run.block * H : (run.block + run.count) * H] += some
    return gradient


def _given(
    plan: Plan,
    rows: Rows,
    source: int,
    initial: Sequence[Tensor],
    states: Sequence[Tensor | None],
    saved: Tensor | None,
    reverse: bool,
) -> tuple[Piece, ...]:
    """What products with one input were given at every step."""
    program, H = plan.program, initial[0].shape[-1]
    node = program.nodes[source]
    if node.op == "read":
        part = int(node.at)
        return rows.before(_there(states[part]), initial[part], reverse=reverse)
    if source in program.states:
        return ((0, rows.N, _there(states[program.states.index(source)])),)
    place = program.saved.index(source) * H
    return ((0, rows.N, _there(saved)[:, place : place + H]),)


def _there(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "the plan keeps what it reads"
    return tensor
