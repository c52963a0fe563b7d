"""Gradients of weights, once dL/d product is known at every step: products over the whole sequence.

Dimensions: B sequences, H units, N packed rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from throughtime.engines.cpu.plan import Plan
from throughtime.engines.cpu.rows import Rows


def weight_gradient(
    plan: Plan,
    rows: Rows,
    slots: Tensor,
    shape: torch.Size,
    initial: Sequence[Tensor],
    states: Sequence[Tensor | None],
    saved: Tensor | None,
    *,
    reverse: bool,
) -> Tensor:
    """dL/d weight_hh, from slots (N, slots·H), each part of the state before ((B, H)) and after ((N, H)), and saved."""
    program, H = plan.program, initial[0].shape[1]
    gradient: Tensor | None = None
    whole = len(plan.weight_runs) == 1 and plan.weight_runs[0].count * H == shape[0]
    if not whole:
        gradient = slots.new_zeros(shape)
    for run in plan.weight_runs:
        node = program.nodes[run.source]
        if node.op == "read":
            part = int(node.at)
            given = rows.before(_there(states[part]), initial[part], reverse=reverse)
        else:
            given = [(slice(0, rows.N), _kept(plan, run.source, H, states, saved))]
        columns = slots[:, run.slot * H : (run.slot + run.count) * H]
        for here, before in given:
            made = columns[here].T
            if gradient is None:
                gradient = torch.mm(made, before)
            else:
                gradient[run.block * H : (run.block + run.count) * H].addmm_(made, before)
    assert gradient is not None
    return gradient


def bias_gradient(plan: Plan, totals: Tensor, bias: Tensor) -> Tensor:
    """dL/d bias_hh, from the slots summed over all rows (slots, H)."""
    H = totals.shape[1]
    if len(plan.bias_runs) == 1 and plan.bias_runs[0].count * H == len(bias):
        run = plan.bias_runs[0]
        return totals[run.slot : run.slot + run.count].flatten()
    gradient = torch.zeros_like(bias)
    blocks = gradient.view(-1, H)
    for run in plan.bias_runs:
        blocks[run.block : run.block + run.count] += totals[run.slot : run.slot + run.count]
    return gradient


def _kept(plan: Plan, node: int, H: int, states: Sequence[Tensor | None], saved: Tensor | None) -> Tensor:
    """A value of the step at every step, (N, H)."""
    program = plan.program
    if node in program.states:
        return _there(states[program.states.index(node)])
    place = program.saved.index(node) * H
    return _there(saved)[:, place : place + H]


def _there(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "the plan keeps what it reads"
    return tensor
