"""The trap: the gradient that is easy to see is not the one that travels through time."""

from __future__ import annotations

import torch

import throughtime as tt
from tests.tolerances import MEASURE, close


def test_the_gradient_of_the_stacked_output_is_not_the_gradient_through_time() -> None:
    torch.manual_seed(0)
    T, B, I, H = 20, 3, 4, 8  # noqa: E741
    net = torch.nn.RNN(I, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    target = torch.randn(B, H, dtype=torch.float64)

    def loss_of(output: torch.Tensor) -> torch.Tensor:
        return (output[-1] - target).square().mean()

    # What people look at: exactly 0 at every step before the last, whatever the net does.
    output, _ = net(x)
    output.retain_grad()
    loss_of(output).backward()
    assert output.grad is not None
    assert (output.grad[:-1] == 0).all()
    assert (output.grad[-1] != 0).all()

    # The truth, by a loop that keeps its states: dL/dh_k is not 0 at all.
    h, kept = torch.zeros(B, H, dtype=torch.float64), []
    for x_t in x:
        h = torch.tanh(x_t @ net.weight_ih_l0.T + h @ net.weight_hh_l0.T + net.bias_ih_l0 + net.bias_hh_l0)
        h.retain_grad()
        kept.append(h)
    loss_of(torch.stack(kept)).backward()
    true = torch.stack([state.grad for state in kept])
    assert (true[0].norm(dim=-1) > 0).all()

    # What the library gives: the first under the name `direct`, the second as adjoint and credit.
    layer = tt.from_torch(net)
    delta = tt.flow.direct(loss_of, output)
    assert torch.equal(delta, output.grad)
    close(tt.flow.adjoint(layer, x, delta), true)
    record = tt.flow.credit(layer, x, delta)
    close(torch.from_numpy(record.pairs[-1]), true.norm(dim=-1), MEASURE)  # all of it stems from the last output
    close(torch.from_numpy(10**record.log10_adjoint), true.norm(dim=-1), MEASURE)
