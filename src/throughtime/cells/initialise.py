"""How a cell's parameters start, beside torch.nn's own draw (`Cell.reset_parameters`).

All of them write in place into a mapping of a cell's parameter names to tensors, so they serve a single cell and
each layer and direction of a module alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from throughtime.cells.cell import Cell, Parameters
from throughtime.errors import CellError


def initialise(
    cell: Cell,
    parameters: Parameters,
    *,
    forget_bias: float | None = None,
    inputs: Literal["lecun"] | None = None,
    recurrent: Literal["orthogonal", "identity"] | None = None,
    chrono: float | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """Draw all of a cell's parameters as torch.nn does, in its order, then set what was asked for.

    `forget_bias`: see `set_forget_bias`; `inputs`: see `lecun`; `recurrent`: the recurrent matrices; `chrono`: the
    longest lag, in steps.

    Raises CellError if both `forget_bias` and `chrono` are given, or the cell has not what they set.
    """
    if forget_bias is not None and chrono is not None:
        raise CellError("forget_bias and chrono both set the forget gate's bias; choose one")
    if inputs not in (None, "lecun"):
        raise CellError(f'input weights start "lecun", got {inputs!r}')
    if recurrent not in (None, "orthogonal", "identity"):
        raise CellError(f'recurrent weights start "orthogonal" or "identity", got {recurrent!r}')
    cell.reset_parameters(parameters, generator=generator)
    if inputs == "lecun":
        lecun(parameters, generator=generator)
    if recurrent == "orthogonal":
        orthogonal(cell, parameters, generator=generator)
    elif recurrent == "identity":
        identity(cell, parameters)
    if forget_bias is not None:
        set_forget_bias(cell, parameters, forget_bias)
    if chrono is not None:
        set_chrono(cell, parameters, chrono, generator=generator)


def lecun(parameters: Parameters, *, generator: torch.Generator | None = None) -> None:
    """Draw the input weights from N(0, 1/I), so that inputs of size 1 make pre-activations of size 1, whatever I is.

    Source: LeCun, Bottou, Orr, Müller 1998, "Efficient BackProp", section 4.6.
    """
    weight = parameters.get("weight_ih")
    if weight is None:
        raise CellError("this cell has no input weights, so none to start as lecun; leave the option out")
    with torch.no_grad():
        weight.normal_(std=weight.shape[-1] ** -0.5, generator=generator)


def orthogonal(cell: Cell, parameters: Parameters, *, generator: torch.Generator | None = None) -> None:
    """Make each H×H recurrent matrix a random orthogonal one: it stretches and shrinks nothing.

    Source: Saxe, McClelland, Ganguli 2014.
    """
    _each_square(cell, parameters, lambda square: nn.init.orthogonal_(square, generator=generator))


def identity(cell: Cell, parameters: Parameters) -> None:
    """Make each H×H recurrent matrix the identity.

    Source: Le, Jaitly, Hinton 2015.
    """
    _each_square(cell, parameters, nn.init.eye_)


def set_forget_bias(cell: Cell, parameters: Parameters, value: float) -> None:
    """Make the bias of the gate that keeps memory `value` in every unit, both its biases together.

    That gate is the LSTM's forget gate and the GRU's update gate (which is torch's z: it multiplies the old state).
    With coupled gates, f_t = 1 − i_t, the input gate's bias becomes −`value`, so that again f_t starts at σ(value).

    Source: Gers et al. 2000; Jozefowicz et al. 2015.
    """
    if not math.isfinite(value):
        raise CellError(f"a forget bias is a finite number, got {value}")
    block, sign = next(iter(_clock(cell).items()))
    _set_bias(cell, parameters, block, torch.full((cell.hidden_size,), sign * value))


def set_chrono(cell: Cell, parameters: Parameters, longest: float, *, generator: torch.Generator | None = None) -> None:
    """Spread the units' time scales over 1 … `longest` − 1 steps: b_f = log U(1, longest − 1), b_i = −b_f.

    A unit with forget bias b keeps σ(b) of its memory a step, so half of it for about exp(b) steps. For the GRU it
    is the update gate's bias that is drawn, and the candidate's share 1 − z_t follows by itself.

    Source: Tallec and Ollivier 2018, section 3.
    """
    if not (math.isfinite(longest) and longest >= 2):
        raise CellError(f"chrono is the longest lag in steps, 2 or more; got {longest}")
    clock = _clock(cell)
    bias = torch.empty(cell.hidden_size).uniform_(1.0, longest - 1.0, generator=generator).log()
    for block, sign in clock.items():
        _set_bias(cell, parameters, block, sign * bias)


def _each_square(cell: Cell, parameters: Parameters, fill: Callable[[Tensor], object]) -> None:
    squares = cell.squares(parameters)
    if not squares:
        raise CellError(f'cell "{cell.name}" has no recurrent matrix, so none to start orthogonal or as identity')
    with torch.no_grad():
        for square in squares:
            fill(square)


def _clock(cell: Cell) -> dict[str, int]:
    if not cell.clock:
        raise CellError(
            f'cell "{cell.name}" with options {cell.options} has no gate that keeps memory, so neither a forget bias '
            "nor chrono can be set; leave them out, or choose lstm or gru"
        )
    if not cell.bias:
        raise CellError("a forget bias and chrono need the cell's biases; leave out bias=False")
    return dict(cell.clock)


def _set_bias(cell: Cell, parameters: Parameters, block: str, value: Tensor) -> None:
    """Make both biases of a block add up to `value`: all of it in bias_ih, nothing in bias_hh."""
    H = cell.hidden_size
    with torch.no_grad():
        row = cell.inputs.index(block) * H
        parameters["bias_ih"][row : row + H] = value.to(parameters["bias_ih"])
        biased = [name for name in cell.recurrent or () if name not in cell.unbiased]
        if block in biased:
            row = biased.index(block) * H
            parameters["bias_hh"][row : row + H] = 0.0
