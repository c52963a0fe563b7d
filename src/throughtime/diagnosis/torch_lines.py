"""Advice for a model of somebody's own: lines of torch to paste, in place of a command of ours."""

from __future__ import annotations

import re

from throughtime.diagnosis.case import Case
from throughtime.records import Place

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def module(place: Place) -> str:
    """The layer as Python finds it from `model`."""
    if not place.module:
        return "model"
    return f"model.{place.module}" if _NAME.fullmatch(place.module) else f'model.get_submodule("{place.module}")'


def open_gates(case: Case, lag: int) -> str:
    """Lines that start the memory gates open for lags up to `lag`, each with its rows of the bias; empty: none known.

    Biases log(u), u uniform between 1 and lag − 1: Tallec and Ollivier 2018 (chrono initialisation).
    """
    flow = case.flow
    if flow is None or flow.place is None or not any(gate.parameter for gate in flow.memory_gates):
        return ""
    lines = ["with torch.no_grad():", f"    keep = torch.empty({flow.H}).uniform_(1, {max(2, lag - 1)}).log()"]
    for gate in flow.memory_gates:
        if not gate.parameter:
            continue
        first, last = gate.rows
        sign = "" if gate.sign > 0 else "-"
        its = f"{module(flow.place)}.{gate.parameter}[{first}:{last}]"
        lines.append(f"    {its}.copy_({sign}keep)  # the {gate.gate} gate's rows")
    return "\n".join(lines)


def take_gated(case: Case) -> str:
    """A line that puts a gated layer in the place of one that has none."""
    place = case.flow.place if case.flow is not None else None
    if place is None:
        return ""
    gated = "torch.nn.GRUCell(...)" if place.kind.endswith("Cell") else "torch.nn.GRU(...)"
    named = module(place)
    put = f'model.set_submodule("{place.module}", {gated})' if named.endswith(")") else f"{named} = {gated}"
    return f"{put}  # the same sizes as {place.kind}"


CLIP = "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # between backward() and step()"


def orthogonal(case: Case) -> str:
    """Lines that start each recurrent matrix as one that stretches nothing."""
    place = case.flow.place if case.flow is not None else None
    if place is None:
        return ""
    return "\n".join(
        (
            f"for block in {module(place)}.weight_hh{place.suffix}.data.split({case.flow.H if case.flow else 0}):",
            "    torch.nn.init.orthogonal_(block)",
        )
    )
