"""A cell run over a batch, with what a linearisation needs: the state before every step and the inputs' shares.

Dimensions: T steps, B sequences, I inputs, H units, N = T·B.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, Share, State
from throughtime.cells.contract import require_tensor
from throughtime.cells.share_check import require_share_of_one_step
from throughtime.engines import Unrolled
from throughtime.errors import FlowError
from throughtime.modules import Recurrent
from throughtime.unrolling import unroll


@dataclass(frozen=True)
class Trajectory:
    """One run of a cell. Nothing here carries a gradient."""

    cell: Cell
    parameters: Parameters
    x: Tensor  # (T, B, I)
    run: Unrolled
    lengths: Tensor  # (B,) int64, at least 1: the steps of each sequence
    rounding: float = 0.0  # of the dtype in which its states were made, where that is another than theirs

    @property
    def T(self) -> int:
        """Steps of the longest sequence."""
        return int(self.x.shape[0])

    @property
    def B(self) -> int:
        """Sequences."""
        return int(self.x.shape[1])

    def before(self, start: int, stop: int) -> State:
        """z_{t-1} for t in start..stop, as one batch: each part ((stop − start)·B, H)."""
        run = self.run
        if start:
            return State(**{part: run.states[part][start - 1 : stop - 1].flatten(0, 1) for part in self.cell.parts})
        first = run.initial.map(lambda part: part.unsqueeze(0))
        return State(
            **{part: torch.cat([first[part], run.states[part][: stop - 1]]).flatten(0, 1) for part in self.cell.parts}
        )

    def share(self, start: int, stop: int) -> Share:
        """u_t for t in start..stop, as one batch of (stop − start)·B."""
        return self.cell.share(self.x[start:stop].flatten(0, 1), self.parameters)

    def ends(self) -> Tensor:
        """The last step of each sequence, (B,)."""
        return self.lengths - 1

    def running(self) -> Tensor:
        """Whether sequence b still runs at step t: (T, B) bool."""
        return torch.arange(self.T, device=self.x.device).unsqueeze(1) < self.lengths


def follow(
    cell: Cell | Recurrent,
    x: Tensor,
    state: State | None = None,
    *,
    lengths: Tensor | None = None,
    parameters: Parameters | None = None,
) -> Trajectory:
    """Run a cell over x (T, B, I) with the first engine that serves, without a gradient.

    A module (`tt.RNN`, `tt.LSTM`, `tt.GRU`) of one layer and one direction stands for its cell and parameters; x is
    (T, B, I) whatever its `batch_first`.

    Raises FlowError if there is no cell or no step, if a length is not in 1..T, if the module has several layers or
    directions, or if a state is not finite: nothing can be said of the gradient then.
    """
    if isinstance(cell, Recurrent):
        if cell.num_layers != 1 or cell.bidirectional:
            raise FlowError(
                "this measure is of one layer in one direction; give it the layer's cell, module.cells[l], with "
                "parameters=module.parameters_of(l) and that layer's input, or measure a whole net by tt.flow.probe."
            )
        parameters = cell.parameters_of(0) if parameters is None else parameters
        cell = cell.cells[0]
    if not isinstance(cell, Cell):
        raise FlowError(f"there is no cell to measure in {type(cell).__name__}; make one by tt.from_torch(module).")
    values = {name: p.detach() for name, p in (cell.values() if parameters is None else parameters).items()}
    require_tensor(x, "x")
    if x.ndim != 3 or x.shape[0] < 1 or x.shape[1] < 1:
        raise FlowError(f"x must be (T, B, I) with at least one step and one sequence, got {tuple(x.shape)}.")
    require_share_of_one_step(cell, len(x), "where gradients through time are measured")
    if lengths is not None:
        lengths = torch.as_tensor(lengths)
    steps = torch.full((x.shape[1],), x.shape[0], device=x.device) if lengths is None else lengths.to(x.device)
    if tuple(steps.shape) != (x.shape[1],) or int(steps.min()) < 1 or int(steps.max()) > x.shape[0]:
        raise FlowError(f"lengths must be {x.shape[1]} whole numbers in 1..{x.shape[0]}, got {steps.tolist()}.")
    with torch.no_grad():
        start = None if state is None else state.map(lambda part: part.detach())
        run = unroll(cell, x.detach(), start, lengths=lengths, parameters=values)
    for part, values_of in run.states.items():
        finite = torch.isfinite(values_of).flatten(1).all(dim=1)
        if not bool(finite.all()):
            step = int((~finite).nonzero()[0])
            instead = f", or measure the first {step} steps alone" if step else ""
            raise FlowError(
                f'the state "{part}" is not finite at step {step}, so no gradient through it is defined; look at the '
                f"weights and the input{instead}."
            )
    return Trajectory(cell, values, x.detach(), run, steps)


def excerpt(
    along: Trajectory,
    sequences: Sequence[int],
    start: int = 0,
    stop: int | None = None,
    dtype: torch.dtype | None = None,
) -> Trajectory:
    """Some sequences of a run, and of them the steps start..stop, run again from the state before them.

    `stop` None is the end, `dtype` None the run's own. Each of these sequences must have a step from `start` on.
    Raises FlowError as `follow` does.
    """
    some = list(sequences)
    stop = along.T if stop is None else stop
    initial = along.run.initial
    if start:
        initial = State(**{part: along.run.states[part][start - 1] for part in along.cell.parts})
    cell, parameters = along.cell, along.parameters
    dtype = along.x.dtype if dtype is None else dtype
    if dtype != along.x.dtype:
        cell = copy.deepcopy(cell).to(dtype)
        parameters = {name: value.to(dtype) for name, value in parameters.items()}
    return follow(
        cell,
        along.x[start:stop, some].to(dtype),
        initial.map(lambda part: part[some].to(dtype)),
        lengths=along.lengths[some].clamp(max=stop) - start,
        parameters=parameters,
    )
