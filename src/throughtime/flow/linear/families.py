"""Families of paths: what a gradient becomes along some ports alone, or along paths counted by the port they leave.

A path from z_k to z_t crosses one port at each step, so a set of paths is told by which ports it may take next. A
`Family` says so for one set; several are carried back together, in one sweep, each with powers of two of its own.

Dimensions: as in tangent.py; F families, N sources.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.flow.linear.sweep import NEVER, log10, outgrown, shift, split, window
from throughtime.flow.linear.tangent import Tangent


@dataclass(frozen=True)
class Family:
    """g_f(t, k−1) = Σ_p g_takes[p](t, k) J_k^(p): the gradient along one set of paths."""

    takes: Mapping[str, int]  # port -> number of the family whose rows it carries into this one; others carry nothing
    begins: bool = True  # whether paths begin in it; else they only come over from another family


def through(number: int, ports: Collection[str]) -> Family:
    """Family `number`: the paths that take these ports and no others."""
    return Family(dict.fromkeys(ports, number))


def leaving(number: int, ports: Collection[str], carousel: str, most: int) -> list[Family]:
    """Families `number` to `number + most`: the paths that leave one of the ports exactly 0, 1, … `most` times."""
    rest = [port for port in ports if port != carousel]
    return [
        Family({carousel: number + m} | (dict.fromkeys(rest, number + m - 1) if m else {}), begins=m == 0)
        for m in range(most + 1)
    ]


def farthest(starts: Tensor, longest: int) -> int:
    """The earliest step that is so many lags behind any start (R, B)."""
    return max(0, int(starts[starts != NEVER].min()) - longest)


@dataclass(frozen=True)
class Traced:
    """Rows g_f(t, k) at one step k: `rows · 2**exponents`. Views, valid until the next step is asked for."""

    k: int
    which: slice  # the rows that are on their way, of all R
    rows: Tensor  # (P, r, F, B, H); 0 where a row has not started, or is truly zero
    exponents: Tensor  # (r, F, B)

    def log10(self) -> Tensor:
        """log10 of the norm of each row over the whole state, (r, F, B); −inf is a true zero."""
        return log10(torch.linalg.vector_norm(self.rows, dim=(0, -1)), self.exponents)


def trace(
    tangent: Tangent,
    families: Sequence[Family],
    starts: Tensor,
    seeds: Tensor,
    *,
    last: int = 0,
    most_lag: int | None = None,
) -> Iterator[Traced]:
    """Carry rows back along every family at once, one step of the linearised cell at a time, down to step `last`.

    Starts (R, B), seeds (P, R, B, H) and `most_lag` are those of `sweep`, and so is what is lost: each row of each
    family has one power of two, so a unit that is 10^300 times smaller than the largest of its row is lost against it.
    Costs one product with the weights of R·F·B rows a step.
    Raises FlowError if a single step leaves the range of the dtype.
    """
    R, B = starts.shape
    ways = _Ways(families, seeds.device)
    scaled, powers = split(seeds)
    rows = seeds.new_zeros(tangent.P, R, len(families), B, tangent.H)
    spare = torch.zeros_like(rows)
    exponents = torch.zeros(R, len(families), B, dtype=torch.float64, device=seeds.device)
    latest, earliest = starts.amax(1).tolist(), starts.amin(1).tolist()
    first, end = R, R
    for k in range(max(latest, default=NEVER), last - 1, -1):
        while first > 0 and latest[first - 1] >= k:
            first -= 1
        while most_lag is not None and end > first and earliest[end - 1] > k + most_lag:
            end -= 1
        here = slice(first, end)
        with torch.no_grad():
            begin = (starts[here] == k).unsqueeze(1) & ways.begins.unsqueeze(-1)  # (r, F, B)
            if bool(begin.any()):
                rows[:, here] = torch.where(begin.unsqueeze(-1), scaled[:, here].unsqueeze(2), rows[:, here])
                exponents[here] = torch.where(begin, powers[here].unsqueeze(1), exponents[here])
            _keep_in_range(rows[:, here], exponents[here], k)
        yield Traced(k, here, rows[:, here], exponents[here])
        if k > last:
            with torch.no_grad():
                exponents[here] = ways.carry(tangent, rows[:, here], exponents[here], k, spare[:, here])
            rows, spare = spare, rows


def left_by_lag(tangent: Tangent, families: Sequence[Family], starts: Tensor, seeds: Tensor, longest: int) -> Tensor:
    """log10 of what is left of each seed's norm at lag τ along each family: (F, L, R, B), L = `longest` + 1 lags.

    −inf is a true zero; NaN where there is no source, or no step so far back.
    """
    begun = log10(torch.linalg.vector_norm(split(seeds)[0], dim=(0, -1)), split(seeds)[1])
    found = begun.new_full((len(families), longest + 1, *starts.shape), torch.nan)
    for traced in trace(tangent, families, starts, seeds, last=farthest(starts, longest), most_lag=longest):
        lags = starts[traced.which] - traced.k
        r, b = ((lags >= 0) & (lags <= longest)).nonzero(as_tuple=True)
        at = r + traced.which.start
        found[:, lags[r, b], at, b] = (traced.log10()[r, :, b] - begun[at, b].unsqueeze(1)).T
    return found


def _keep_in_range(rows: Tensor, exponents: Tensor, k: int) -> None:
    """Rescale the rows (P, r, F, B, H), and count it, if any of them comes near the end of the dtype's range."""
    if outgrown(rows.abs().amax((0, -1)), window(rows.dtype), f"at step {k}"):
        rows[:], moved = split(rows)
        exponents += moved


class _Ways:
    """The families turned round: for each port, which families' rows it carries into which."""

    def __init__(self, families: Sequence[Family], device: torch.device) -> None:
        self.begins = torch.tensor([family.begins for family in families], device=device)
        ports = dict.fromkeys(port for family in families for port in family.takes)
        self._plan: dict[str, tuple[Tensor, Tensor]] = {}  # port -> into which families, from which
        for port in ports:
            moves = [(into, family.takes[port]) for into, family in enumerate(families) if port in family.takes]
            into, source = torch.tensor(moves, device=device).unbind(1)
            self._plan[port] = (into, source)
        heard = [sorted({number, *family.takes.values()}) for number, family in enumerate(families)]
        most = max(len(each) for each in heard)
        self._heard = torch.tensor([each + each[-1:] * (most - len(each)) for each in heard], device=device).T

    def carry(self, tangent: Tangent, rows: Tensor, exponents: Tensor, k: int, out: Tensor) -> Tensor:
        """One step back, from rows (P, r, F, B, H) into `out`; the new exponents (r, F, B)."""
        pulled = tangent.pull_ports(rows.flatten(1, 2), k)
        same = not bool(exponents.any())
        new = exponents if same else self._largest(rows, exponents)
        out.zero_()
        for port, (into, source) in self._plan.items():
            carried = pulled[port].reshape(rows.shape[1:])[:, source]
            if not same:
                moved = (exponents[:, source] - new[:, into]).clamp(-8000, 8000)  # beyond, nothing is left or was there
                carried = shift(carried, moved.int().unsqueeze(-1)) if bool(moved.any()) else carried
            out[tangent.parts.index(tangent.cell.reads[port])].index_add_(1, into, carried)
        return new

    def _largest(self, rows: Tensor, exponents: Tensor) -> Tensor:
        """For each family the largest power of two of what flows into it, zeros left out."""
        there = rows.any(-1).any(0)
        level = exponents.masked_fill(~there, -torch.inf)[:, self._heard].amax(1)
        return level.masked_fill(level == -torch.inf, 0.0)
