"""One recurrent layer inside a net of this package, with the gradient that arrives at its output.

Dimensions: T steps, B sequences, E encoded values a step, H units, D directions.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.data.dataset import Batch
from throughtime.errors import FlowError
from throughtime.flow.adjoint import checked
from throughtime.flow.linear.trajectory import follow
from throughtime.flow.sighting import Sighting, place_of
from throughtime.models import Net
from throughtime.unrolling import unroll


@dataclass(frozen=True)
class Layer:
    """A layer's forward direction on one batch, and what the net made of it."""

    batch: Batch
    seen: Sighting
    prediction: Tensor


def twin(net: Net) -> Net:
    """A copy of a net in float64, without dropout, that takes no gradient; the net itself is not changed."""
    with torch.no_grad():
        double = copy.deepcopy(net).double().eval()
    return double.requires_grad_(False)


def look(double: Net, batch: Batch, layer: int) -> Layer:
    """Run a `twin` on a batch, and take δ at one layer's output.

    Raises FlowError if there is no such layer, or if what the layer makes or its gradient is not finite.
    """
    recurrent = double.recurrent
    if not 0 <= layer < recurrent.num_layers:
        raise FlowError(f"this net has {recurrent.num_layers} recurrent layers, counted from 0; there is no {layer}.")
    device = double.head.weight.device
    batch = batch.to(device)
    with torch.no_grad():
        x = double.encode(batch.x)
        for below in range(layer):
            x = _run(double, below, x, batch.lengths)
    cell = recurrent.cells[layer]
    along = follow(cell, x, lengths=batch.lengths, parameters=recurrent.parameters_of(layer))
    leaf = along.run.output.clone().requires_grad_()
    with torch.enable_grad():
        ahead = _ended(leaf, batch.lengths)
        if recurrent.bidirectional:
            ahead = torch.cat([ahead, _backwards(double, layer, x, batch.lengths)], dim=-1)
        for above in range(layer + 1, recurrent.num_layers):
            ahead = _run(double, above, ahead, batch.lengths)
        prediction = double.decode(ahead, batch.lengths)
        loss = double.loss(prediction, batch)
        (delta,) = torch.autograd.grad(loss, leaf, allow_unused=True, materialize_grads=True)
    notes: list[str] = []
    if recurrent.bidirectional:
        notes.append("Only the forward direction was measured; the gradient of the backward direction was not.")
    if recurrent.num_layers > 1:
        notes.append(f"Of {recurrent.num_layers} recurrent layers, layer {layer} (counted from 0) was measured.")
    place = place_of(cell, "recurrent", type(recurrent).__name__, layer, 0, f"_l{layer}", ours=True)
    seen = Sighting(f"recurrent.{layer}", along, checked(along, delta), float(loss.detach()), tuple(notes), place)
    return Layer(batch, seen, prediction.detach())


def _run(net: Net, layer: int, x: Tensor, lengths: Tensor) -> Tensor:
    """The outputs of a layer (T, B, H·D), zero past each length."""
    recurrent = net.recurrent
    parameters = recurrent.parameters_of(layer)
    forward = unroll(recurrent.cells[layer], x, lengths=lengths, parameters=parameters).output
    ended = _ended(forward, lengths)
    return torch.cat([ended, _backwards(net, layer, x, lengths)], dim=-1) if recurrent.bidirectional else ended


def _backwards(net: Net, layer: int, x: Tensor, lengths: Tensor) -> Tensor:
    """The outputs of a layer's other direction, which reads each sequence from its own end."""
    parameters = net.recurrent.parameters_of(layer, 1)
    cell, turned = net.recurrent.cells[layer], _turned(x, lengths)
    output = unroll(cell, turned, lengths=lengths, parameters=parameters).output
    return _turned(_ended(output, lengths), lengths)


def _turned(x: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence the other way round; the steps past its end stay."""
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    back = lengths - 1 - steps
    return x.gather(0, torch.where(back >= 0, back, steps).unsqueeze(-1).expand_as(x))


def _ended(output: Tensor, lengths: Tensor) -> Tensor:
    """Zero past each length."""
    running = torch.arange(output.shape[0], device=output.device).unsqueeze(1) < lengths
    return torch.where(running.unsqueeze(-1), output, 0.0)
