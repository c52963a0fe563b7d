"""One-step Jacobians, whole and by port, and their products.

Dimensions: T steps, B sequences, I inputs, H units, S the whole state, parts in the order of `cell.parts`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from throughtime.cells.cell import Cell, Parameters, State
from throughtime.errors import FlowError
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.sweep import shift, sweep
from throughtime.flow.linear.trajectory import follow
from throughtime.modules import Recurrent


def jacobians(
    cell: Cell | Recurrent, x: Tensor, state: State | None = None, *, parameters: Parameters | None = None
) -> Tensor:
    """One-step Jacobians J_t = ∂z_t/∂z_{t-1} along a sequence x (T, B, I).

    Returns (T, B, S, S): rows new state, columns old; dimensionless. J_0 is that of the initial state.
    Costs T·B·S² numbers of memory, and S backward steps of the cell only if its step mixes units by itself.
    Raises FlowError if the cell draws random numbers (J_t would be random) or if its state is not finite.

    Source: Pascanu, Mikolov, Bengio 2013, section 2.

    >>> import torch, throughtime as tt
    >>> tt.flow.jacobians(tt.cells.make("lstm", 3, 4), torch.zeros(7, 2, 3)).shape
    torch.Size([7, 2, 8, 8])
    """
    along = follow(cell, x, state, parameters=parameters)
    return linearise(along).dense(0, along.T)


def ports(
    cell: Cell | Recurrent, x: Tensor, state: State | None = None, *, parameters: Parameters | None = None
) -> dict[str, Tensor]:
    """One-step Jacobians by port, J_t = Σ_p J_t^(p): what each named reading of the old state passes on.

    Returns port -> (T, B, S, S), zero outside the columns of the part that the port reads.
    Costs as much memory as `jacobians` for each port. Raises FlowError as `jacobians` does.
    """
    along = follow(cell, x, state, parameters=parameters)
    tangent = linearise(along)
    S = tangent.P * tangent.H
    found: dict[str, Tensor] = {}
    for port, matrix in tangent.matrices(0, along.T).items():
        found[port] = x.new_zeros(along.T, along.B, S, S)
        found[port][..., tangent.columns(port)] = matrix
    return found


def transport(
    cell: Cell | Recurrent,
    x: Tensor,
    t: int,
    k: int,
    state: State | None = None,
    *,
    parameters: Parameters | None = None,
) -> Tensor:
    """P(t, k) = ∂z_t/∂z_k = J_t J_{t-1} … J_{k+1}; P(t, t) = I.

    Returns (B, S, S). Powers of two are kept apart on the way; numbers under the dtype's range come out as 0
    (`bounds` gives the logarithm of the norm, which does not).
    Costs t − k products of S rows with the weights.
    Raises FlowError unless 0 <= k <= t < T, and as `jacobians` does.
    """
    if not 0 <= k <= t < x.shape[0]:
        raise FlowError(f"transport needs 0 <= k <= t < T, got t={t}, k={k}, T={x.shape[0]}.")
    along = follow(cell, x[: t + 1], state, parameters=parameters)
    tangent = linearise(along)
    seeds = tangent.identity()
    for carried in sweep(tangent, torch.full(seeds.shape[1:3], t, device=x.device), seeds, last=k):
        whole = shift(carried.rows, carried.exponents.int().unsqueeze(-1))
    return whole.permute(2, 1, 0, 3).flatten(2)
