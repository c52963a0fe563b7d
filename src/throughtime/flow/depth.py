"""The gradient by layer of a feed-forward chain.

Dimensions: N layers, B samples in the batch, S samples behind the Jacobians, n_l numbers in what layer l puts out.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from throughtime.errors import FlowError
from throughtime.flow.lags import medians
from throughtime.flow.linear.spectral import log10_norm
from throughtime.flow.linear.sweep import log10, shift, split
from throughtime.records import DepthRecord, Floats

# γ = sup |φ'| of what can follow a linear map inside one layer; the last three pass on what they get.
STEEPEST: dict[type[nn.Module], float] = {
    nn.Sigmoid: 0.25,
    nn.Tanh: 1.0,
    nn.ReLU: 1.0,
    nn.Identity: 1.0,
    nn.Flatten: 1.0,
    nn.Dropout: 1.0,
}
_OTHERWISE = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)  # in training than in prediction
_BUDGET = 1e10  # multiplications that the Jacobians of all samples may take: a few seconds
_LARGEST = 2**25  # numbers in one Jacobian
_TOGETHER = 2**23  # numbers in the rows that go through a layer at once
_SAME = 1e-9  # how far a sample's answer may move when it is run in other company


def depth(
    chain: nn.Sequential | Sequence[nn.Module],
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    name: str | None = None,
    samples: int = 32,
) -> DepthRecord:
    """How the gradient of a loss travels back through a feed-forward chain, layer by layer.

    `chain` is an `nn.Sequential` (nested ones are opened) or a sequence of modules, each taking what the one before
    puts out; x is (B, …), and `loss` makes a scalar of what the chain puts out for it. An `nn.Linear` with the
    activations after it (logistic, tanh, relu; also dropout, which is off, and flattening) is one layer
    a_l = φ(W_l a_{l-1} + b_l); any other module is a layer by itself. ∂L/∂W_l is of all of a layer's parameters but its
    biases; of a module that stands at several places, each place's own share.

    The norms of gradients are over the whole batch. The Jacobians J_l = ∂a_l/∂a_{l-1} are those of `samples` samples
    at most, spread over the batch, fewer where the layers are wide; the record says how many and why. For each sample
    ‖J_N … J_{l+1}‖₂ ≤ Π ‖J_j‖₂ ≤ Π γ‖W_j‖₂. Everything is exact, in float64, on a copy in evaluation mode: the chain,
    its gradients and the global random numbers stay as they are. Costs a forward and a backward pass of the batch, and
    for each sample and layer n_l backward rows and a singular value decomposition (n_l, n_{l-1}).

    Raises FlowError if this is no such chain, if a layer draws random numbers, lets samples hear each other or puts out
    something else than a finite tensor with a row for each sample, or if the loss is no finite scalar of its output.

    Source: lectures: Jacobians of a deep net, and the deep linear net. Glorot and Bengio 2010, section 4.2.

    >>> import torch, throughtime as tt
    >>> layers = [module for _ in range(50) for module in (torch.nn.Linear(4, 4), torch.nn.Sigmoid())]
    >>> record = tt.flow.depth(layers, torch.ones(8, 4), lambda y: y.square().mean())
    >>> bool(record.kept < 49 * -0.6)  # a quarter a layer at most, times ‖W‖
    True
    """
    began = time.perf_counter()
    if samples < 1:
        raise FlowError(f"samples must be at least 1, got {samples}; the medians need some.")
    net, notes = _copied(chain)
    layers = _layers(net)
    with _random_numbers_kept(x.device):
        outputs = _forward(layers, x)
        value, delta = _asked(loss, outputs[-1])
        gradient, weights = _backward(layers, outputs, delta)
        gains, steps, count, limits = _jacobians(layers, outputs, samples)
    return DepthRecord(
        layers=tuple(layer.name for layer in layers),
        gradient=gradient,
        weights=weights,
        gain=medians(gains),
        steps=medians(steps),
        bound=_below([layer.bound() for layer in layers]),
        samples=count,
        loss=value,
        dtype="float64",
        seconds=time.perf_counter() - began,
        chain=name or (type(chain).__name__ if isinstance(chain, nn.Module) else "chain"),
        left_out=(*notes, *limits),
    )


@dataclass(frozen=True)
class _Layer:
    """Modules that are one layer."""

    name: str
    modules: tuple[nn.Module, ...]

    def __call__(self, a: Tensor) -> Tensor:
        a = a.clone()  # a module may work in place
        for module in self.modules:
            a = module(a)
            if not isinstance(a, Tensor):
                raise FlowError(
                    f"layer {self.name} puts out {type(a).__name__}, not a tensor, so it is no link of a chain; "
                    "wrap it in a module that passes on the tensor the next layer takes."
                )
        return a

    def parameters(self) -> list[nn.Parameter]:
        """W_l: all but biases."""
        named = (pair for module in self.modules for pair in module.named_parameters())
        return [p for name, p in named if not name.rpartition(".")[2].startswith("bias") and p.is_floating_point()]

    def bound(self) -> float:
        """log10 γ‖W‖₂; NaN if the layer is not of the form φ(W a + b)."""
        first, *rest = self.modules
        norm = 0.0
        if _is_linear(first):
            norm = float(log10_norm(first.weight.detach()))
        else:
            rest = [first, *rest]
        return norm + sum(math.log10(STEEPEST.get(type(module), math.nan)) for module in rest)


def _is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """A parametrised one too, but none that does something else than W a + b."""
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def _copied(chain: nn.Sequential | Sequence[nn.Module]) -> tuple[nn.Sequential, list[str]]:
    """The chain in float64 and evaluation mode, and what that leaves out."""
    given = chain if isinstance(chain, nn.Sequential | nn.Module) else list(chain)
    if isinstance(given, nn.Module) and not isinstance(given, nn.Sequential):
        raise FlowError(
            f"{type(given).__name__} does not say in which order its layers run; give them in order, as an "
            "nn.Sequential or a list: tt.flow.depth([model.first, torch.nn.Tanh(), model.second], x, loss)."
        )
    wrong = [type(module).__name__ for module in given if not isinstance(module, nn.Module)]
    if wrong or not len(given):
        what = f"{', '.join(wrong)} among its links" if wrong else "no layer"
        raise FlowError(f"a chain is made of torch modules, this one has {what}; functions have modules: nn.Tanh().")
    whole = given if isinstance(given, nn.Sequential) else nn.Sequential(*given)
    other = any(module.training and isinstance(module, _OTHERWISE) for module in whole.modules())
    with torch.no_grad():
        net = copy.deepcopy(whole).double().eval()
    note = "The chain as it trains: dropout was off, and batch norms used their running statistics."
    return net.requires_grad_(True), [note] if other else []


def _layers(net: nn.Sequential) -> list[_Layer]:
    """Each linear map with the activations after it, and what stands between them."""
    found: list[list[tuple[str, nn.Module]]] = []
    for name, module in _opened(net):
        if found and _is_linear(found[-1][0][1]) and type(module) in STEEPEST:
            found[-1].append((name, module))
        else:
            found.append([(name, module)])
    return [
        _Layer(f"{some[0][0]} {' + '.join(type(m).__name__ for _, m in some)}", tuple(m for _, m in some))
        for some in found
    ]


def _opened(net: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, module in net._modules.items():
        if type(module) is nn.Sequential:
            yield from _opened(module, f"{prefix}{name}.")
        elif module is not None:
            yield f"{prefix}{name}", module


@contextmanager
def _random_numbers_kept(device: torch.device) -> Iterator[None]:
    """The global generators are as they were, and whoever draws from them is found."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        before = torch.cuda.get_rng_state(device) if cuda else torch.get_rng_state()
        try:
            yield
        finally:  # first of all complaints: whoever draws gives other answers too
            if not torch.equal(before, torch.cuda.get_rng_state(device) if cuda else torch.get_rng_state()):
                raise FlowError(
                    "a layer (or the loss) draws random numbers also in evaluation mode, so its Jacobian would be "
                    "random; measure the chain with that switched off."
                )


def _forward(layers: Sequence[_Layer], x: Tensor) -> list[Tensor]:
    """What goes in, and what each layer puts out."""
    if x.ndim < 1 or not len(x):
        raise FlowError(f"x must have a row for each sample, at least one, got {tuple(x.shape)}.")
    outputs = [x.detach().double() if x.is_floating_point() else x.detach()]
    with torch.no_grad():
        for layer in layers:
            a = layer(outputs[-1])
            if not a.is_floating_point() or a.ndim < 1 or len(a) != len(x):
                raise FlowError(
                    f"layer {layer.name} puts out {a.dtype} {tuple(a.shape)} for {len(x)} samples; a layer of a chain "
                    "puts out floating-point numbers with a row for each sample."
                )
            if not bool(torch.isfinite(a).all()):
                raise FlowError(
                    f"what layer {layer.name} puts out is not finite, so no gradient through it is defined; look at "
                    "its weights and at the input."
                )
            again = layer(outputs[-1][[0, 0]])[0]
            if not bool(((again - a[0]).abs() <= _SAME * a.abs().max()).all()):
                raise FlowError(
                    f"layer {layer.name} answers another thing when a sample comes in other company, so it has no "
                    "Jacobian of a single sample; measure it with running statistics, or without what mixes samples."
                )
            outputs.append(a)
    return outputs


def _asked(loss: Callable[[Tensor], Tensor], output: Tensor) -> tuple[float, Tensor]:
    """The loss, and ∂L/∂a_N."""
    leaf = output.clone().requires_grad_()
    with torch.enable_grad():
        try:
            value = loss(leaf)
        except RuntimeError as error:
            raise FlowError(
                f"the loss could not be taken of the chain's output in float64 ({error}); targets and class weights "
                "must suit a float64 output: target.to(output.dtype)."
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1 or not bool(torch.isfinite(value).all()):
            raise FlowError(f"the loss must be one finite number, a tensor; it is {value!r}.")
        if not value.requires_grad:
            raise FlowError("the loss does not depend on what the chain puts out, so there is no gradient to follow.")
        (delta,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    if delta is None:
        raise FlowError("the loss does not depend on what the chain puts out, so there is no gradient to follow.")
    if not bool(torch.isfinite(delta).all()):
        raise FlowError("the gradient of the loss at the chain's output is not finite; look at the loss first.")
    return float(value.detach()), delta


def _backward(layers: Sequence[_Layer], outputs: Sequence[Tensor], delta: Tensor) -> tuple[Floats, Floats]:
    """log10 ‖∂L/∂a_l‖ and log10 ‖∂L/∂W_l‖, (N,) each; every sample's row has a power of two of its own."""
    N = len(layers)
    gradient, weights = np.full(N, np.nan), np.full(N, np.nan)
    rows, exponents = split(delta.flatten(1), (-1,))
    for place in reversed(range(N)):
        layer, below = layers[place], outputs[place].clone()
        together, top = _level(rows, exponents)
        gradient[place] = _norm([together], top)
        parameters = layer.parameters()
        with torch.enable_grad():
            made = layer(below.requires_grad_(place > 0))
            if parameters and made.requires_grad:
                given = together.view_as(made)
                found = torch.autograd.grad(made, parameters, given, retain_graph=place > 0, allow_unused=True)
                there = [each for each in found if each is not None]
                weights[place] = _norm(there, top) if there else np.nan
            if place > 0:
                pulled = None
                if made.requires_grad:
                    (pulled,) = torch.autograd.grad(made, below, rows.view_as(made), allow_unused=True)
                rows = torch.zeros_like(below).flatten(1) if pulled is None else pulled.flatten(1)
        if not bool(torch.isfinite(rows).all()):
            raise FlowError(
                f"the gradient is not finite at layer {layer.name}: this one layer took it beyond float64. Look at the "
                "size of its weights."
            )
        if place > 0:
            rows, moved = split(rows, (-1,))
            exponents = exponents + moved
    return gradient, weights


def _level(rows: Tensor, exponents: Tensor) -> tuple[Tensor, float]:
    """Rows (B, n) with powers of two (B,), brought to one common power."""
    some = rows.any(-1)
    top = float(exponents[some].max()) if bool(some.any()) else 0.0
    down = torch.where(some, exponents - top, 0.0)
    return shift(rows, down.clamp(min=-8000.0).int().unsqueeze(-1)), top


def _norm(tensors: Sequence[Tensor], power: float) -> float:
    """log10 of the 2-norm of all their numbers times 2**power; the squares of small numbers do not underflow."""
    scaled, exponents = split(torch.cat([tensor.flatten() for tensor in tensors]), (-1,))
    return float(log10(torch.linalg.vector_norm(scaled), exponents + power))


def _jacobians(
    layers: Sequence[_Layer], outputs: Sequence[Tensor], samples: int
) -> tuple[Floats, Floats, int, list[str]]:
    """log10 ‖J_N … J_{l+1}‖₂ and log10 Π ‖J_j‖₂ by sample, (N, S) each; how many samples; what limited them."""
    N, sizes = len(layers), [output[0].numel() for output in outputs]
    asked = min(samples, len(outputs[0]))
    wide = [j for j in range(2, N + 1) if sizes[j] * max(sizes[j], sizes[j - 1]) > _LARGEST]
    lowest = max(wide, default=1)  # Jacobians are made of the layers above this one, counted from 1
    work = sum(
        sizes[j] * sizes[j - 1] * (sizes[j] + sizes[N] + min(sizes[j], sizes[j - 1])) for j in range(lowest + 1, N + 1)
    )
    count = max(1, min(asked, int(_BUDGET / work) if work else asked))
    limits = []
    if wide:
        limits.append(
            f"Jacobians from layer {layers[lowest - 1].name} down: ∂a/∂a of that layer alone has "
            f"{sizes[lowest]} x {sizes[lowest - 1]} numbers a sample."
        )
    if count < asked:
        limits.append(f"Jacobians of more than {count} of the {len(outputs[0])} samples: these layers are wide.")
    which = np.unique(np.linspace(0, len(outputs[0]) - 1, count).round().astype(int))
    here = torch.from_numpy(which).to(outputs[-1].device)
    gains, steps = np.full((N, count), np.nan), np.full((N, count), np.nan)
    gains[-1] = steps[-1] = 0.0
    product, exponents = None, None
    for j in range(N, lowest, -1):
        J = _jacobian(layers[j - 1], outputs[j - 1][here], outputs[j][here])
        product, moved = split(J if product is None else product @ J, (-1,))
        exponents = moved if exponents is None else exponents + moved
        gains[j - 2] = log10_norm(product, exponents).cpu().numpy()
        steps[j - 2] = steps[j - 1] + log10_norm(J).cpu().numpy()
    return gains, steps, 0 if N > 1 and lowest == N else count, limits


def _jacobian(layer: _Layer, below: Tensor, above: Tensor) -> Tensor:
    """∂a_l/∂a_{l-1} by sample, (S, n_l, n_{l-1}): a backward row for each number the layer puts out."""
    S, rows, columns = len(below), above[0].numel(), below[0].numel()
    found = above.new_empty(S, rows, columns)
    size = max(1, _TOGETHER // (rows * max(rows, columns)))
    for first in range(0, S, size):
        some = slice(first, min(first + size, S))
        leaf = below[some].repeat_interleave(rows, 0).requires_grad_()
        with torch.enable_grad():
            made = layer(leaf)
        if not made.requires_grad:
            found[some] = 0.0
            continue
        unit = torch.eye(rows, dtype=above.dtype, device=above.device).repeat(some.stop - first, 1)
        (pulled,) = torch.autograd.grad(made, leaf, unit.view_as(made), allow_unused=True, materialize_grads=True)
        found[some] = pulled.view(-1, rows, columns)
    return found


def _below(logarithms: Sequence[float]) -> Floats:
    """Sums over the layers above each: Σ_{j>l}."""
    above = np.concatenate([[0.0], np.cumsum(logarithms[:0:-1])])
    return np.asarray(above[::-1], dtype=np.float64)
