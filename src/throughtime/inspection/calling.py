"""How somebody's own model is called with a batch, and how its answer becomes a loss.

Dimensions: B sequences, T steps, C classes, O outputs.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from throughtime.errors import InputError
from throughtime.inspection.factory import Loss, short
from throughtime.inspection.specimen import UNCOUNTED, Specimen

_WRAPPERS = ("_orig_mod", "module")  # where torch.compile and DistributedDataParallel keep the model


@dataclass(frozen=True)
class Call:
    """The arguments of `forward`."""

    given: Mapping[str, Tensor]  # parameter -> array; one without a name is the first
    notes: tuple[str, ...] = ()

    def __call__(self, model: nn.Module) -> Any:
        """Run the model."""
        named = dict(self.given)
        first = [named.pop("")] if "" in named else []
        return model(*first, **named)


@dataclass(frozen=True)
class Judged:
    """A loss, and how it was taken, in words."""

    loss: Tensor
    how: str


def arrange(model: nn.Module, specimen: Specimen) -> Call:
    """Which array goes to which parameter: by name where names are the same, else x first.

    Lengths also go to a parameter with "len" in its name; to one of another name they could be anything.

    Raises InputError if `forward` asks for something that the data do not have.
    """
    parameters = list(inspect.signature(_inner(model).forward).parameters.values())
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [p.name for p in places]
    left = dict(specimen.arrays)
    if specimen.target in names:  # a decoder that is fed with what it should say
        left[specimen.target] = specimen.y
    given = {name: left.pop(name) for name in names if name in left}
    main = "x" if "x" in left else next((name for name in left if name != "lengths"), None)
    if main is not None and not given.keys() - {"lengths", specimen.target}:
        given[next((name for name in names if name not in given), "")] = left.pop(main)
    place = next((name for name in names if "len" in name.lower() and name not in given), None)
    if "lengths" in left and place is not None:
        given[place] = left.pop("lengths")
    missing = [p.name for p in places if p.default is p.empty and p.name not in given and "" not in given]
    if missing:
        there = ", ".join(f"{name} {_shape(array)}" for name, array in specimen.arrays.items())
        raise InputError(
            f"the model's forward({', '.join(names)}) asks for {' and '.join(missing)}, and the data have {there}; "
            "give an .npz file that has an array of that name beside the target y (lengths go to a parameter with len "
            "in its name)."
        )
    return Call({name: given[name] for name in ("", *names) if name in given}, _unread(left, specimen))


def _unread(left: Mapping[str, Tensor], specimen: Specimen) -> tuple[str, ...]:
    lengths = left.get("lengths")
    notes = []
    if lengths is not None and int(lengths.min()) < specimen.steps:
        notes.append(
            "The model does not ask for lengths, so it also read the zeros that sequences are padded with; a parameter "
            "of forward with len in its name would be given them."
        )
    others = [name for name in left if name != "lengths"]
    if others:
        notes.append(f"Not handed to the model, which does not ask for them: {', '.join(others)}.")
    return tuple(notes)


def failed(model: nn.Module, call: Call, error: BaseException) -> str:
    """What to say of a model that could not be run."""
    names = ", ".join(inspect.signature(_inner(model).forward).parameters)
    said = ", ".join(f"{name or 'x'} {_shape(array)}" for name, array in call.given.items())
    return f"forward({names}) was given {said}: {short(error)}"


def judge(output: Any, specimen: Specimen, loss: Loss | None) -> Judged:
    """The loss of the model's answer: the person's own, else what suits the targets.

    A loss of torch's own is called as it asks for: with the first thing that `forward` returns, classes second, and
    targets as numbers where the answer has their shape. Any other is given what `forward` returned.

    Raises InputError if they do not fit each other, or if the loss is no single number with a gradient.
    """
    theirs = loss is not None and not _torchs(loss)
    output, how = (output, "") if theirs else _first(output)
    y, counted = specimen.y, specimen.counted
    if _once(output, specimen):
        y, counted = _last(specimen, y), None if counted is None else _last(specimen, counted)
        how += ", of the answer to each sequence's last step"
    elif specimen.time_first and counted is not None:
        counted = counted.transpose(0, 1)
    if loss is not None:
        if not theirs:
            output, y = _as_torch_asks(output, y, loss)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")  # torch would stretch one to the other
            value = loss(output, y)
        filled = 0 if counted is None or not y.is_floating_point() else int((~counted).sum())
        how += f"; {filled} of the targets were filled in and count too" if filled else ""
        return Judged(_checked(value), f"the factory's own{_called(loss)}{how}")
    if y.is_floating_point():
        return Judged(_checked(_squares(output, y, counted, specimen)), f"mean squared error{how}")
    value, name = _classes(output, y, specimen)
    return Judged(_checked(value), name + how)


def _called(loss: Loss) -> str:
    name = getattr(loss, "__name__", type(loss).__name__)
    return " loss" if name in ("loss", "<lambda>") else f" loss, {name}"


def _torchs(loss: Loss) -> bool:
    return isinstance(loss, _Loss) or getattr(loss, "__module__", "") == "torch.nn.functional"


def _first(output: Any) -> tuple[Tensor, str]:
    """Of several things that a model returns, the first."""
    if isinstance(output, Tensor):
        return output, ""
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return output["logits"], ' of "logits" of what forward returns'
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0], " of the first thing that forward returns"
    raise InputError(
        f"the model returns a {type(output).__name__}, of which no loss is known; let the factory return (model, loss) "
        'with a function loss(output, y), or let the model return its scores, alone or as "logits".'
    )


def _as_torch_asks(output: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) or loss in (F.cross_entropy, F.nll_loss):
        return (output.movedim(-1, 1) if output.ndim > 2 and output.shape[:-1] == y.shape else output), y
    return output, y.to(output.dtype) if output.shape == y.shape else y


def _once(output: Any, specimen: Specimen) -> bool:
    """Whether the model answers once a sequence although there is one target a step."""
    if not specimen.each_step or not isinstance(output, Tensor) or output.shape[:1] != (specimen.size,):
        return False
    if output.shape == specimen.y.shape:
        return False
    if specimen.y.is_floating_point():
        return output.shape in {(specimen.size, *specimen.y.shape[2:]), (specimen.size,), (specimen.size, 1)}
    return output.ndim == 2 and output.shape[1] != specimen.steps


def _last(specimen: Specimen, each: Tensor) -> Tensor:
    """What belongs to each sequence's last step; `counted` is always laid out sequences first."""
    each = each.transpose(0, 1) if specimen.time_first and each is specimen.y else each
    lengths = specimen.arrays.get("lengths")
    ends = torch.full((specimen.size,), specimen.steps, device=each.device) if lengths is None else lengths
    return each[torch.arange(specimen.size, device=each.device), ends - 1]


def _squares(output: Tensor, y: Tensor, counted: Tensor | None, specimen: Specimen) -> Tensor:
    if output.shape != y.shape and output.squeeze(-1).shape == y.squeeze(-1).shape:
        output = output.reshape(y.shape)  # one number an answer, with and without an axis for it
    if output.shape != y.shape:
        raise InputError(_unlike(output, y, specimen))
    squares = (output - y).square()
    return squares.mean() if counted is None else squares[counted].mean()


def _classes(output: Tensor, y: Tensor, specimen: Specimen) -> tuple[Tensor, str]:
    """Cross-entropy; binary if there is one number an answer and all targets are 0 or 1."""
    there = y[y != UNCOUNTED] if y.dtype != torch.bool else y
    highest = int(there.max()) if there.numel() else 0
    if output.shape == y.shape or output.shape == (*y.shape, 1):
        if highest > 1 or (y.dtype != torch.bool and int(there.min()) < 0):
            raise InputError(_unlike(output, y, specimen))
        flat = output.reshape(y.shape)[y != UNCOUNTED] if y.dtype != torch.bool else output.reshape(y.shape)
        return F.binary_cross_entropy_with_logits(flat, there.to(flat.dtype)), "binary cross-entropy (with logits)"
    if output.shape[:-1] == y.shape:
        scores = output.flatten(0, -2)
    elif output.ndim == y.ndim + 1 and output.shape[:1] + output.shape[2:] == y.shape:
        scores = output.movedim(1, -1).flatten(0, -2)
    else:
        raise InputError(_unlike(output, y, specimen))
    if highest >= scores.shape[-1]:
        raise InputError(
            f"the targets name classes up to {highest}, and the model answers with {scores.shape[-1]} numbers, which "
            f"are the classes 0 to {scores.shape[-1] - 1}; give it more outputs, or return a loss of your own."
        )
    return F.cross_entropy(scores, y.flatten().long(), ignore_index=UNCOUNTED), "cross-entropy"


def _unlike(output: Tensor, y: Tensor, specimen: Specimen) -> str:
    turned = output.shape[:1] == (specimen.steps,) and not specimen.time_first
    return (
        f"the model answers with {_shape(output)}, and the targets are {_shape(y)}: no loss is known that compares "
        + ("these; if the model reads steps first, pass --time-first." if turned else "these; let the factory return ")
        + ("" if turned else "(model, loss) with a function loss(output, y).")
    )


def _checked(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        advice = "take its mean, for example" if isinstance(value, Tensor) else "return that, as a tensor"
        raise InputError(f"the loss is {what(value)}, and has to be a single number; {advice}.")
    if not value.requires_grad:
        raise InputError(
            "the loss has no gradient: it does not depend on the model's weights, or they were run under "
            "torch.no_grad, detached or frozen."
        )
    return value.reshape(())


def _inner(model: nn.Module) -> nn.Module:
    """The model inside its wrappers, whose own forward takes anything."""
    for wrapper in _WRAPPERS:
        inner = getattr(model, wrapper, None)
        if isinstance(inner, nn.Module) and any(
            p.kind is p.VAR_POSITIONAL for p in inspect.signature(model.forward).parameters.values()
        ):
            return _inner(inner)
    return model


def what(value: Any) -> str:
    """Kind and shape, for a message."""
    return _shape(value) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _shape(array: Tensor) -> str:
    return f"{str(array.dtype).removeprefix('torch.')} {tuple(array.shape)}"
