"""The engine of Triton kernels: on a GPU, for cells that no library has a kernel for."""

from __future__ import annotations

import os
from functools import cache
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters
from throughtime.engines.compiled.kernel import Kernel
from throughtime.engines.compiled.serve import Kept, dtype_of, run_job, run_stack, why_not
from throughtime.engines.seam import Engine, Job, Stack, Stacked, StackEngine, Unrolled
from throughtime.engines.triton.kernel import TritonKernel
from throughtime.engines.triton.trial import complaint


class Triton(Engine):
    """One cell in one direction through its own Triton kernel.

    Computes in the parameters' dtype, without TF32. Beside the output it keeps every part of the state at every step.
    """

    name: ClassVar = "triton"

    def why_not(self, job: Job) -> str | None:
        """Cells whose step cannot be traced, other devices and dtypes, torch.func; Triton itself is not there."""
        batch, plain = job.state[job.cell.parts[0]].shape[0], job.lengths is None
        return _why_not(job.cell, job.parameters, job.x, batch, job.damping, plain=plain)

    def run(self, job: Job) -> Unrolled:
        """Run the cell's kernel; Triton compiles it at the first call, for seconds, and keeps it in its own cache."""
        return run_job(job, self.name, _kept)


class TritonStack(StackEngine):
    """Layers and directions through Triton kernels; packed sequences stay packed from the first to the last."""

    name = "triton"

    def why_not(self, stack: Stack) -> str | None:
        """As for each of its layers."""
        batch = stack.state[stack.cells[0].parts[0]].shape[1]
        plain = stack.batch_sizes is None and stack.directions == 1
        for cell, parameters in zip(stack.cells, stack.parameters[:: stack.directions], strict=True):
            reason = _why_not(cell, parameters, stack.x, batch, stack.damping, plain=plain)
            if reason is not None:
                return reason
        return None

    def run(self, stack: Stack) -> Stacked:
        """The loop over layers and directions."""
        return run_stack(stack, self.name, _kept)


def _why_not(
    cell: Cell, parameters: Parameters, x: Tensor, batch: int, damping: float | None, *, plain: bool
) -> str | None:
    reason = _of_device(x.device) or why_not(parameters, x, batch, damping)
    dtype = dtype_of(parameters, x)
    reason = reason or _kept.why_not(cell, parameters, dtype, plain=plain)
    if reason is not None:
        return reason
    found = _kept.held(cell, dtype)
    if len(found.traced.program.products) * cell.hidden_size**2 > MOST_WEIGHTS:
        return f"products of {cell.hidden_size} units are too large for one program instance; torch's own are faster."
    return _complaint(cell, found.kernel, dtype, x.device) if x.is_cuda else None


OLDEST = (8, 0)  # compute capability of the oldest GPUs that Triton supports
# Past four products of 512 units, the multiplications of one instance alone take longer than torch's operators a step.
MOST_WEIGHTS = 4 * 512**2


def _of_device(device: torch.device) -> str | None:
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"Triton's kernels run on a GPU, and x is on {device}."
    if not _installed():
        return "Triton is not installed; torch's builds for GPUs bring it, and else there is pip install triton."
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) < OLDEST:
        return f"Triton's kernels need a GPU of compute capability {OLDEST[0]}.{OLDEST[1]} or newer."
    return None


@cache
def _installed() -> bool:
    try:
        import throughtime.engines.triton.kernels  # noqa: F401
    except ImportError:
        return False
    return True


_kept = Kept(lambda trace, cell, dtype: TritonKernel(trace.program))
_TRIED: WeakKeyDictionary[Kernel, dict[torch.device, str | None]] = WeakKeyDictionary()


def _complaint(cell: Cell, kernel: Kernel, dtype: torch.dtype, device: torch.device) -> str | None:
    """The trial's, held for as long as the kernel is the cell's."""
    held = _TRIED.setdefault(kernel, {})
    if device not in held:
        held[device] = complaint(cell, dtype, device, lambda job: run_job(job, Triton.name, _kept))
    return held[device]
