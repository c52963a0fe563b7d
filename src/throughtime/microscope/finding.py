"""Finds the recurrent modules inside a model that can be watched, and says why others cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from throughtime.cells.cell import Cell
from throughtime.errors import FlowError
from throughtime.modules import Recurrent

LAYERS = (nn.RNN, nn.LSTM, nn.GRU)
CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
LOOKED_FOR = "nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell and throughtime's layers and cells"

_NAMES = {kind.__name__ for kind in (*LAYERS, *CELLS)}
_QUANTISED = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.quantizable")
_OURS = Recurrent.__module__.rpartition(".")[0]


@dataclass(frozen=True)
class Found:
    """The recurrent modules of a model, in its order."""

    watchable: tuple[tuple[str, nn.Module], ...]  # name, module
    refused: tuple[str, ...]  # sentences: what cannot be watched, why, what to do


def find(model: nn.Module) -> Found:
    """Walk a model; names are as its own `named_modules` gives them, without what DDP and the compiler put before.

    A recurrent module that is itself the model has its class's name, in lower case.
    Raises FlowError if `model` is no torch module.
    """
    if not isinstance(model, nn.Module):
        raise FlowError(f"tt.watch looks into a torch.nn.Module, not {type(model).__name__}; give it the model itself.")
    watchable: list[tuple[str, nn.Module]] = []
    refused: list[str] = []
    for name, module in _walk(model, "", set()):
        if not _recurrent(module):
            continue
        name = name or _kind(module).lower()
        reason = _why_not(module)
        if reason is None:
            watchable.append((name, module))
        else:
            refused.append(f"{name} ({_kind(module)}) cannot be watched: {reason}")
    return Found(tuple(watchable), tuple(refused))


def nothing(model: nn.Module, found: Found) -> str:
    """Why there is nothing to watch in a model; empty if there is something."""
    if found.watchable:
        return ""
    whole = f"there is nothing to watch in {type(model).__name__}"
    return f"{whole}: {' '.join(found.refused)}" if found.refused else f"{whole}: looked for {LOOKED_FOR}."


def _walk(module: nn.Module, name: str, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    module = _unwrapped(module)
    if module in seen:
        return
    seen.add(module)
    yield name, module
    if _recurrent(module):
        return  # what is inside belongs to it
    for child, inside in module.named_children():
        yield from _walk(inside, f"{name}.{child}" if name else child, seen)


def _unwrapped(module: nn.Module) -> nn.Module:
    """What is inside a wrapper that adds nothing of its own: DataParallel, DDP, the compiler's."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif "_orig_mod" in module._modules:  # asked by name, as to load the compiler takes seconds
            module = cast(nn.Module, module._modules["_orig_mod"])
        else:
            return module


def _recurrent(module: nn.Module) -> bool:
    if isinstance(module, nn.RNNBase | nn.RNNCellBase | Recurrent | Cell):
        return True
    return (_scripted(module) or _quantised(module)) and _kind(module) in _NAMES


def _kind(module: nn.Module) -> str:
    """The name of its class, before it was scripted."""
    return str(module.original_name) if _scripted(module) else type(module).__name__


def _scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _quantised(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_QUANTISED)


def _why_not(module: nn.Module) -> str | None:
    """Why a recurrent module cannot be watched, and what to do; None if it can."""
    if _scripted(module):
        return "it is scripted (torch.jit), so that hooks do not see its calls. Watch the model before it is scripted."
    if _quantised(module):
        return "it is one of quantisation's (torch.ao), whose arithmetic is its own. Watch the model before that."
    if isinstance(module, nn.RNNBase) and module.proj_size > 0:
        return (
            f"it has a projection (proj_size={module.proj_size}), which no cell here has. Train it with proj_size=0, "
            "or put an nn.Linear after it."
        )
    base = _base(module)
    if base is None:
        return f"it is none of {LOOKED_FOR}, whose equations are known."
    if type(module).forward is not base.forward or "forward" in module.__dict__:
        return (
            f"its forward is not that of {base.__name__}, so its equations are not known. Write them as a tt.Cell, "
            "whose step can be watched."
        )
    if parametrize.is_parametrized(module):
        return (
            "its weights are made by a parametrisation anew in each call. Take it off "
            "(torch.nn.utils.parametrize.remove_parametrizations) before watching."
        )
    return None


def _base(module: nn.Module) -> type[nn.Module] | None:
    """The class whose equations are known."""
    if isinstance(module, Cell):
        return Cell
    if isinstance(module, Recurrent):
        return next(kind for kind in type(module).__mro__ if kind.__module__.startswith(_OURS))
    return next((kind for kind in (*LAYERS, *CELLS) if isinstance(module, kind)), None)
