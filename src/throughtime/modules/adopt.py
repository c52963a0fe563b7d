"""torch.nn's recurrent modules as this package's, with their weights."""

from __future__ import annotations

from typing import TypeVar, overload

from torch import nn

from throughtime.cells.cell import Cell, make
from throughtime.errors import CellError
from throughtime.modules.dropins import GRU, LSTM, RNN
from throughtime.modules.recurrent import Recurrent


@overload
def from_torch(module: nn.RNNBase) -> Recurrent: ...
@overload
def from_torch(module: nn.RNNCellBase) -> Cell: ...
def from_torch(module: nn.Module) -> Recurrent | Cell:
    """The same layer as a throughtime module: weights copied, on the same device, in the same mode.

    nn.RNN, nn.LSTM and nn.GRU become `tt.RNN`, `tt.LSTM` and `tt.GRU`, whose outputs are the same to rounding; with
    `engine` set to "native" bitwise, but for packed sequences on the CPU, which may run a faster kernel than torch.nn
    takes. nn.RNNCell, LSTMCell and GRUCell become a `tt.Cell`, for `tt.unroll`. The random generator is not touched.

    Raises CellError for any other module, and for an LSTM with projections.

    >>> import torch, throughtime as tt
    >>> theirs, x = torch.nn.GRU(3, 4), torch.ones(5, 2, 3)
    >>> torch.allclose(tt.from_torch(theirs)(x)[0], theirs(x)[0], atol=1e-6)
    True
    """
    if isinstance(module, nn.RNNBase):
        return _like(module, _layers(module))
    if isinstance(module, nn.RNNCellBase):
        return _like(module, _cell(module))
    raise CellError(
        f"from_torch takes torch.nn's RNN, LSTM, GRU and their cells, not {type(module).__name__}; a net of one's own "
        "hands over its recurrent layers one by one"
    )


def _layers(module: nn.RNNBase) -> Recurrent:
    if module.proj_size > 0:
        raise CellError(
            f"this LSTM has projections (proj_size={module.proj_size}), which no cell here has; retrain with "
            "proj_size=0, or put an nn.Linear after the layer"
        )
    arguments = (
        module.input_size, module.hidden_size, module.num_layers, module.bias, module.batch_first, 0.0,
        module.bidirectional,
    )  # fmt: skip
    ours: Recurrent
    if isinstance(module, nn.LSTM):
        ours = LSTM(*arguments, device="meta")
    elif isinstance(module, nn.GRU):
        ours = GRU(*arguments, device="meta")
    elif isinstance(module, nn.RNN):
        ours = RNN(*arguments, nonlinearity=module.nonlinearity, device="meta")
    else:
        raise CellError(f"from_torch does not know {type(module).__name__}")
    ours.dropout = module.dropout  # set here, so that a rate that does nothing is not warned about twice
    return ours


def _cell(module: nn.RNNCellBase) -> Cell:
    names = {nn.RNNCell: "elman", nn.LSTMCell: "lstm", nn.GRUCell: "gru"}
    name = next((name for kind, name in names.items() if isinstance(module, kind)), None)
    if name is None:
        raise CellError(f"from_torch does not know {type(module).__name__}")
    options = {"nonlinearity": module.nonlinearity} if isinstance(module, nn.RNNCell) else {}
    return make(name, module.input_size, module.hidden_size, bias=module.bias, device="meta", **options)


_M = TypeVar("_M", Recurrent, Cell)


def _like(theirs: nn.Module, ours: _M) -> _M:
    """Give `ours` copies of the weights, whatever made them (a parametrisation included)."""
    for name, _ in list(ours.named_parameters()):
        weight = getattr(theirs, name)
        setattr(ours, name, nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad))
    ours.train(theirs.training)
    if isinstance(ours, Recurrent):
        ours.flatten_parameters()
    return ours
