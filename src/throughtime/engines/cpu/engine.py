"""The engine of kernels that are compiled for the processor from a cell's own step."""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters
from throughtime.engines.compiled.kernel import Kernel
from throughtime.engines.compiled.serve import Kept, dtype_of, run_job, run_stack, why_not
from throughtime.engines.cpu import library
from throughtime.engines.cpu.kernel import kernel
from throughtime.engines.seam import Engine, Job, Stack, Stacked, StackEngine, Unrolled
from throughtime.engines.trace import Traced
from throughtime.errors import EngineError, EngineWarning


class Cpu(Engine):
    """One cell in one direction through its own compiled kernel."""

    name: ClassVar = "cpu"

    def why_not(self, job: Job) -> str | None:
        """Cells whose step cannot be traced or compiled, other devices and dtypes, torch.func."""
        batch, plain = job.state[job.cell.parts[0]].shape[0], job.lengths is None
        return _why_not(job.cell, job.parameters, job.x, batch, job.damping, plain=plain)

    def run(self, job: Job) -> Unrolled:
        """Compile the cell's kernel, unless that was done before, and run it."""
        return run_job(job, self.name, _kept)


class CpuStack(StackEngine):
    """Layers and directions through compiled kernels; packed sequences stay packed from the first to the last."""

    name = "cpu"

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
    if not x.is_cpu:
        return f"compiled kernels run on the processor, and x is on {x.device}."
    reason = why_not(parameters, x, batch, damping)
    return reason or _kept.why_not(cell, parameters, dtype_of(parameters, x), plain=plain)


def _compiled(trace: Traced, cell: Cell, dtype: torch.dtype) -> Kernel | str:
    reason = library.why_not()
    if reason is None:
        try:
            return kernel(trace.program, dtype, cell.title)
        except EngineError as error:
            reason = str(error)
    _notice(reason)
    return reason


_kept = Kept(_compiled)
_noticed = False


def _notice(reason: str) -> None:
    """Once a process: what could be faster is not, and why."""
    global _noticed
    if not _noticed:
        _noticed = True
        warnings.warn(f'with engine="auto" slower engines serve: {reason}', EngineWarning, stacklevel=2)
