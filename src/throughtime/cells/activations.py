"""Activation functions by name, with the largest slope each can have.

Source: Pascanu, Mikolov, Bengio 2013, section 2.1: γ = 1 for tanh, 1/4 for the logistic function.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from throughtime.errors import CellError

Nonlinearity = Literal["tanh", "relu", "sigmoid", "identity"]
Bounded = Literal["tanh", "sigmoid"]  # a candidate's φ
Squash = Literal["tanh", "sigmoid", "identity"]  # what is put on a cell state before it is read out


class Activation(NamedTuple):
    """φ, its derivative, and γ = sup |φ'|."""

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]  # φ'(a) from the pre-activation a
    steepest: float  # γ


def _identity(a: Tensor) -> Tensor:
    return a


def _logistic_slope(a: Tensor) -> Tensor:
    return torch.sigmoid(a) * torch.sigmoid(-a)


def _tanh_slope(a: Tensor) -> Tensor:
    return 1 - torch.tanh(a) ** 2


def _relu_slope(a: Tensor) -> Tensor:
    return (a > 0).to(a.dtype)


ACTIVATIONS: dict[str, Activation] = {
    "tanh": Activation(torch.tanh, _tanh_slope, 1.0),
    "relu": Activation(torch.relu, _relu_slope, 1.0),
    "sigmoid": Activation(torch.sigmoid, _logistic_slope, 0.25),
    "identity": Activation(_identity, torch.ones_like, 1.0),
}


def activation(name: str, *, among: tuple[str, ...] = get_args(Nonlinearity)) -> Activation:
    """An activation by name.

    Raises CellError for a name that is not among those the caller allows.
    """
    if name not in among:
        raise CellError(f'no activation "{name}" here; choose one of {", ".join(among)}')
    return ACTIVATIONS[name]
