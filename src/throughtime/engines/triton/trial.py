"""A trial before a cell's kernels are trusted on a device: a short sequence, beside the step in a loop.

What Triton makes of a kernel hangs on the device, the driver and Triton's own version, more of them than any test
sees. So the first time that a kernel would serve on a device, it runs a few steps of a few sequences with drawn
numbers, forward and back, and if what it answers is not what the reference says in float64, another engine serves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, State
from throughtime.engines.reference import Reference
from throughtime.engines.seam import Job, Unrolled
from throughtime.errors import EngineWarning

NEAR = {torch.float32: 1e-4, torch.float64: 1e-10}  # relative to the largest number of each tensor
STEPS, SEQUENCES = 3, 4


def complaint(cell: Cell, dtype: torch.dtype, device: torch.device, run: Callable[[Job], Unrolled]) -> str | None:
    """Why kernels are not to be trusted with a cell on a device, in one sentence, which is a warning too; or None."""
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            mine = _answers(_job(cell, dtype, device), run)
            expected = _answers(_job(cell, torch.float64, device), Reference().run)
        apart = [name for name in expected if not _near(mine[name], expected[name], NEAR[dtype])]
        reason = f"they disagree with the reference in {', '.join(apart)}" if apart else None
    except Exception as error:  # whatever Triton or the driver could not do
        reason = f"they fail with {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if reason is None:
        return None
    sentence = f'Triton\'s kernels for "{cell.title}" are not used on {device}: {reason}.'
    warnings.warn(f"{sentence} Slower engines serve.", EngineWarning, stacklevel=2)
    return sentence


def _job(cell: Cell, dtype: torch.dtype, device: torch.device) -> Job:
    """The same numbers for every dtype."""
    drawn = torch.Generator().manual_seed(0)

    def draw(shape: Iterable[int], most: float) -> Tensor:
        numbers = (2 * torch.rand(*shape, generator=drawn, dtype=torch.float32) - 1) * most
        return numbers.to(device, dtype).requires_grad_()

    H = cell.hidden_size
    return Job(
        cell,
        {name: draw(tensor.shape, H**-0.5) for name, tensor in cell.values().items()},
        draw((STEPS, SEQUENCES, cell.input_size), 1.0),
        State(**{part: draw((SEQUENCES, H), 0.5) for part in cell.parts}),
        inside=False,  # as modules ask
    )


def _answers(job: Job, run: Callable[[Job], Unrolled]) -> dict[str, Tensor]:
    """Output, final state, and the gradients of a sum that weighs each of their numbers differently."""
    done = run(job)
    answers = {f"states {part}": value for part, value in done.states.items()}
    answers |= {f"final {part}": value for part, value in done.final.items()}
    loss = torch.zeros((), dtype=job.x.dtype, device=job.x.device)
    for value in answers.values():
        loss = loss + (value * torch.linspace(-1, 1, value.numel()).to(value).view_as(value)).sum()
    leaves = {"x": job.x, **{f"initial {part}": value for part, value in job.state.items()}, **job.parameters}
    found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return answers | {f"dL/d {name}": gradient for name, gradient in zip(leaves, found, strict=True)}


def _near(mine: Tensor, expected: Tensor, tolerance: float) -> bool:
    allowed = tolerance * max(float(expected.detach().abs().nan_to_num(0.0, 0.0).max()), 1e-30)
    return torch.allclose(mine.double(), expected, rtol=0.0, atol=allowed, equal_nan=True)
