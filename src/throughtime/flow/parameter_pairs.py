"""How much each pair of steps (t, k) gives to the recurrent weights, without a gradient of any pair.

What pair (t, k) gives a map a = W v of step k is Σ_b a_b v_bᵀ over the sequences b: a_b the row of source t at the
pre-activation, v_b what W multiplied. With vᵀ = Q R, (H, B) = (H, m)(m, B), its norm is that of R times the rows a:
m = min(H, B) by H numbers, never H by H. The Gram matrices of a and v would cost as much, but take half of the digits
where sequences cancel.

Dimensions: T steps, B sequences, H units, P parts, U uses of a map at one step, in all sequences together.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from throughtime.cells.cell import Cell, Linear, Parameters, State, Weights
from throughtime.errors import FlowError
from throughtime.flow.adjoint import checked
from throughtime.flow.linear.abreast import Abreast, abreast, cotangents
from throughtime.flow.linear.linearise import linearise
from throughtime.flow.linear.sweep import log10, shift, split
from throughtime.flow.linear.trajectory import Trajectory, follow
from throughtime.flow.parameters import no_powers
from throughtime.modules import Recurrent
from throughtime.records import Floats


def parameter_pairs(
    cell: Cell | Recurrent,
    x: Tensor,
    delta: Tensor,
    *,
    state: State | None = None,
    lengths: Tensor | None = None,
    most_lag: int | None = None,
    parameters: Parameters | None = None,
) -> dict[str, Floats]:
    """log10 ‖δ_t P(t, k) ∂⁺z_k/∂W‖_F for each recurrent map W of the cell and each pair t ≥ k: block -> (T, T).

    The sum over the sequences of the batch, as in dL/dW; rows t, columns k. The blocks lie below one another in
    `weight_hh`, so their squares add up to its own. Arguments as in `parameter_credit`. −inf is a true zero (all of
    k > t), NaN is "not measured" (lags over `most_lag`). A cell without recurrent maps has no block.

    Costs, at each lag, one product of (T − τ)·B rows with the recurrent weights, one backward pass of the step without
    its weights, and (T − τ)·min(B, H)·B·H multiplications; T² numbers for each block.
    Raises FlowError as `parameter_credit` does, and if the step uses `weight_hh` in other ways than through its maps.
    """
    if most_lag is not None and most_lag < 0:
        raise FlowError(f"most_lag is a number of steps, 0 or more, got {most_lag}.")
    along = follow(cell, x, state, lengths=lengths, parameters=parameters)
    tangent, given = linearise(along), checked(along, delta)
    maps = _Maps(along)
    lag = np.arange(along.T)[:, None] - np.arange(along.T)
    empty = np.where(lag > (along.T if most_lag is None else most_lag), np.nan, -np.inf)
    found = {block: empty.copy() for block in maps.blocks}
    for here in abreast(tangent, given, no_powers(given), most_lag=most_lag) if found else ():
        k = here.first + np.arange(here.rows.shape[1])
        for block, norms in maps.norms(here).items():
            found[block][k + here.lag, k] = norms.cpu().numpy()
    return found


class _Tap(Linear):
    """Stands in for a map: the product as it is, with a nought added at the pre-activation to be differentiated by."""

    uses: list[tuple[Tensor, Tensor]]  # v, and the zero

    @classmethod
    def of(cls, linear: Linear) -> _Tap:
        tap = cls(*linear)
        tap.uses = []
        return tap

    def __call__(self, v: Tensor) -> Tensor:
        a = F.linear(v, self.weight.detach(), self.bias)
        self.uses.append((v.detach(), torch.zeros_like(a).requires_grad_()))
        return a + self.uses[-1][1]


class _Maps:
    """The recurrent maps of a cell along a trajectory: their v, and how rows come to their pre-activations."""

    def __init__(self, along: Trajectory) -> None:
        self._along, cell = along, along.cell
        p = {**along.parameters}
        if "weight_hh" in p:
            p["weight_hh"] = p["weight_hh"].detach().requires_grad_()
        with torch.enable_grad():
            whole = cell.weights(p)
            self._taps = {block: _Tap.of(getattr(whole, block)) for block in whole}
            weights = Weights({**self._taps}, p)
            new, _ = cell.advance(along.share(0, along.T), along.before(0, along.T), weights)
        self._taps = {block: tap for block, tap in self._taps.items() if tap.uses}
        self._made = [new[part] for part in cell.parts]
        if "weight_hh" in p and _depends(self._made, p["weight_hh"]):
            raise FlowError(
                f'the step of "{cell.title}" uses weight_hh otherwise than by calling its maps '
                "(W.block(v)), so what a pair of steps gives it cannot be told; parameter_terms serves any step."
            )
        self._factors = {block: self._factor(tap) for block, tap in self._taps.items()}

    @property
    def blocks(self) -> tuple[str, ...]:
        """The maps that the step uses."""
        return tuple(self._taps)

    def _factor(self, tap: _Tap) -> tuple[Tensor, Tensor]:
        """R of each step's v, (T, m, U), and its powers of two (T,)."""
        v = torch.cat([self._by_step(v) for v, _ in tap.uses], dim=1)
        scaled, exponents = split(v, (1, 2))
        return torch.linalg.qr(scaled.mT, mode="r").R, exponents

    def _by_step(self, values: Tensor) -> Tensor:
        return values.reshape(self._along.T, -1, values.shape[-1])

    def norms(self, here: Abreast) -> dict[str, Tensor]:
        """log10 of each row's share of each map, over all sequences: (R,)."""
        top = torch.where(here.rows.any(-1).any(0), here.exponents, -torch.inf).amax(1)
        top = torch.where(torch.isfinite(top), top, 0.0)
        rows = shift(here.rows, (here.exponents - top.unsqueeze(1)).clamp(min=-8000.0).int().unsqueeze(-1))
        at = slice(here.first, here.first + rows.shape[1])
        given = cotangents(self._made, rows, here.first * self._along.B)
        noughts = [nought for tap in self._taps.values() for _, nought in tap.uses]
        made, rows_of = [z for z, _ in given], [g for _, g in given]
        pulled = iter(
            torch.autograd.grad(made, noughts, rows_of, retain_graph=True, allow_unused=True, materialize_grads=True)
        )
        found = {}
        for block, tap in self._taps.items():
            a, exponents = split(torch.cat([self._by_step(next(pulled))[at] for _ in tap.uses], dim=1), (1, 2))
            R, powers = self._factors[block]
            found[block] = log10(torch.linalg.matrix_norm(R[at] @ a), exponents + powers[at] + top)
        return found


def _depends(made: list[Tensor], on: Tensor) -> bool:
    there = [z for z in made if z.requires_grad]
    if not there:
        return False
    found = torch.autograd.grad(there, on, [torch.ones_like(z) for z in there], retain_graph=True, allow_unused=True)
    return found[0] is not None
