"""RNN, LSTM and GRU under torch.nn's names: the same parameters, called and answering the same way."""

from __future__ import annotations

from typing import Any

from throughtime.modules.recurrent import Recurrent


class RNN(Recurrent):
    """`torch.nn.RNN` with more nonlinearities: h_t = φ(U x_t + b + W h_{t-1} + b′).

    Called as `output, h_n = rnn(x)` or `rnn(x, h_0)`, with shapes as torch.nn has them. `nonlinearity` is "tanh",
    "relu", "sigmoid" or "identity"; it is a keyword, not the fourth argument as in torch.nn. All other arguments
    and the errors are those of `Recurrent`.

    >>> import torch, throughtime as tt
    >>> output, h_n = tt.RNN(3, 4, nonlinearity="relu")(torch.zeros(7, 2, 3))
    >>> output.shape, h_n.shape
    (torch.Size([7, 2, 4]), torch.Size([1, 2, 4]))
    """

    torch_state = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        **options: Any,
    ) -> None:
        arguments = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__("elman", *arguments, **options)


class LSTM(Recurrent):
    """`torch.nn.LSTM` with the variants of Greff et al. 2017.

    Called as `output, (h_n, c_n) = lstm(x)` or `lstm(x, (h_0, c_0))`, with shapes as torch.nn has them. Options:
    `candidate`, `squash`, `forget_gate`, `input_gate`, `output_gate`, `coupled`, `peephole` (see
    `tt.cells.find("lstm")`); with `peephole=True` there is a parameter `weight_ch_l{k}` (3·H,) for the input, the
    forget and the output gate, in this order. All other arguments and the errors are those of `Recurrent`.
    """

    torch_state = ("h", "s")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        **options: Any,
    ) -> None:
        arguments = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__("lstm", *arguments, **options)


class GRU(Recurrent):
    """`torch.nn.GRU`, and the arrangement with the reset before the product.

    Called as `output, h_n = gru(x)` or `gru(x, h_0)`, with shapes as torch.nn has them. Options: `reset` ("after" as
    torch.nn has it, or "before") and `candidate` ("tanh" or "sigmoid"). All other arguments and the errors are those
    of `Recurrent`.
    """

    torch_state = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        **options: Any,
    ) -> None:
        arguments = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__("gru", *arguments, **options)
