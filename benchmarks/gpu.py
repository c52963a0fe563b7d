"""Triton's kernels on a GPU, beside cuDNN where it has the cell, and beside a loop over a step that torch.compile made.

Every side does the same work in float32, without TF32: from the parameters and x, the outputs of all steps and the
gradient of their sum with respect to every parameter. Before a row is timed both sides have given the same numbers.
torch.compile gets the step, not the loop: a whole loop takes it minutes, and again for each length.

Nothing is measured, and one line says so, where there is no CUDA device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.engines import check_alike
from benchmarks.families import OTHERS, STANDARD, Family
from benchmarks.table import Row, paired
from throughtime.cells import Share, State
from throughtime.modules import Recurrent

SIZES = (  # T steps, B sequences, I inputs, H units
    (100, 16, 32, 64),
    (100, 16, 64, 128),
    (200, 32, 128, 256),
    (784, 32, 1, 128),
    (1000, 1, 8, 32),
    (200, 512, 64, 128),
    (100, 64, 512, 512),
)
Run = Callable[[Tensor], Tensor]  # x to the outputs of all steps


def rows() -> list[Row]:
    """By cell and size."""
    if not torch.cuda.is_available():
        print("gpu: there is no CUDA device here: nothing measured", file=sys.stderr)
        return []
    found = []
    with torch.backends.cudnn.flags(allow_tf32=False):
        for family in (*STANDARD, *OTHERS):
            for size in SIZES:
                found += beside(family, size, torch.device("cuda"), "triton")
    return found


def beside(family: Family, size: tuple[int, ...], device: torch.device, engine: str) -> list[Row]:
    """An engine beside each peer that there is for the cell, at one size."""
    T, B, I, H = size  # noqa: E741
    torch.manual_seed(0)
    ours = family.layer(I, H, engine).to(device)
    x = torch.randn(T, B, I, device=device)
    peers: dict[str, Run] = {"compiled step": compiled_loop(ours)}
    if family.theirs is not None:
        cudnn = family.layer(I, H, "native").to(device)
        cudnn.load_state_dict(ours.state_dict())
        peers = {"cuDNN" if device.type == "cuda" else "torch.nn": lambda x: cudnn(x)[0], **peers}
    found = []
    for name, peer in peers.items():
        owner = cudnn if name in ("cuDNN", "torch.nn") else ours
        mine, theirs = _work(ours, lambda x: ours(x)[0], x), _work(owner, peer, x)
        what = f"{family.name} by {engine}, forward and back"
        check_alike(f"{what}: {engine} and {name}", mine(), theirs())
        found.append(paired(mine, theirs, repeats=4).row(what, f"T {T}, B {B}, I {I}, H {H}", name))
    return found


def compiled_loop(layer: Recurrent) -> Run:
    """The layer's step through torch.compile, in a loop."""
    cell, parameters = layer.cells[0], layer.parameters_of(0)

    @torch.compile(dynamic=False)
    def step(u: tuple[Tensor, ...], z: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        share = Share(**dict(zip(cell.inputs, u, strict=True)))
        state = State(**dict(zip(cell.parts, z, strict=True)))
        return tuple(cell.advance(share, state, cell.weights(parameters))[0].values())

    def run(x: Tensor) -> Tensor:
        z = tuple(cell.zero_state(x.shape[1], x).values())
        outputs = []
        for u in zip(*(block.unbind(0) for block in cell.share(x, parameters).values()), strict=True):
            z = step(u, z)
            outputs.append(z[-1])
        return torch.stack(outputs)

    return run


def _work(layer: Recurrent, run: Run, x: Tensor) -> Callable[[], tuple[Tensor, dict[str, Tensor]]]:
    """One forward and backward pass, waited for."""
    parameters = dict(layer.named_parameters())

    def work() -> tuple[Tensor, dict[str, Tensor]]:
        output = run(x)
        gradients = torch.autograd.grad(output.sum(), list(parameters.values()))
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        return output.detach(), dict(zip(parameters, gradients, strict=True))

    return work
