"""Whether a cell's share of a step's input depends on that step's input alone.

Every run that cuts a sequence (lengths, chunks, windows, recomputation, packed rows, one step at a time) and every
measure, which runs the steps of a sequence side by side, takes that for granted. A cell that makes its share itself
(`Cell.share`) is tried on random numbers: inputs of some steps and some sequences are exchanged, and the share of the
others must stay the same to the last bit.

Dimensions: T steps, B sequences, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from throughtime.errors import CellError

if TYPE_CHECKING:
    from throughtime.cells.cell import Cell, Share

_STEPS = 64  # tried at least, so that a layer which is called one step at a time is tried on more
_NUMBERS = 1 << 22  # of the input that is tried, at most
_SEQUENCES = 3
_TOLERANCE = 1e-9  # relative, float64: what another order of summation may change

# For each cell, by training mode: the steps that were tried, and what was found.
_TRIED: WeakKeyDictionary[Cell, dict[bool, tuple[int, str | None]]] = WeakKeyDictionary()


def require_share_of_one_step(cell: Cell, steps: int, where: str) -> None:
    """Refuse a cell whose share looks at other steps or sequences, or draws random numbers.

    `where` ends the sentence "… cannot be used": what is done here with a sequence of `steps` steps.

    Raises CellError.
    """
    found = _fault(cell, steps)
    if found is None:
        return
    raise CellError(
        f'the share of "{cell.title}" {found}, so it cannot be used {where}: a step would get another input than on '
        "the whole sequence. Give the step what it needs beside x, as further inputs; tt.unroll runs such a cell on "
        "whole sequences."
    )


def refuse_drawing(cell: Cell, steps: int) -> None:
    """Refuse a cell whose share draws random numbers, whatever is done with it.

    Raises CellError.
    """
    if _fault(cell, steps) == _DRAWS:
        raise CellError(
            f'the share of "{cell.title}" {_DRAWS}, so no two runs of it agree. Drop out inputs before the layer, as '
            "in F.dropout(x), and leave `share` without random numbers."
        )


_DRAWS = "draws random numbers"
_LOOKS = "looks along time (at inputs of other steps)"
_MIXES = "mixes the sequences of a batch"
_COUNTS = "depends on where in the sequence a step lies"


def _fault(cell: Cell, steps: int) -> str | None:
    """What is wrong with a cell's share on a sequence of so many steps; None where nothing is."""
    if not cell.own_share:
        return None
    tried = _TRIED.setdefault(cell, {})
    before, found = tried.get(cell.training, (0, None))
    steps = max(_STEPS, min(steps, _NUMBERS // (_SEQUENCES * cell.input_size)))
    if found is None and steps > before:
        # In a thread of its own, where no mode of torch's is on that the caller may be under.
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(_try, cell, steps).result()
        tried[cell.training] = steps, found
    return found


def _try(cell: Cell, T: int) -> str | None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # In float64 on the CPU, whatever the cell itself runs in: that changes no dependence.
    parameters = {name: draw(*shape) for name, shape in cell.shapes().items()}
    x = draw(T, _SEQUENCES, cell.input_size)
    with torch.no_grad(), _generators() as drawn:
        u = cell.share(x, parameters)
        again = cell.share(x, parameters)
        if drawn() or not _same(u, again):
            return _DRAWS
        if {share.shape[:2] for share in u.values()} != {x.shape[:2]}:
            return f"is not one for each step and sequence (T, B, …), for x {tuple(x.shape)}"
        middle = T // 2
        early, late = (slice(0, middle), slice(None)), (slice(middle, T), slice(None))
        first, others = (slice(None), slice(0, 1)), (slice(None), slice(1, None))
        for other in (draw(*x.shape), -x):
            for changed, kept, fault in ((early, late, _LOOKS), (late, early, _LOOKS), (first, others, _MIXES)):
                exchanged = x.clone()
                exchanged[changed] = other[changed]
                if not _same(_at(u, kept), _at(cell.share(exchanged, parameters), kept)):
                    return fault
        if not _near(cell.share(x[middle:], parameters), _at(u, late)):
            return _COUNTS
        if not _near(cell.share(x.flatten(0, 1), parameters), u.map(lambda share: share.flatten(0, 1))):
            return _COUNTS
    return None


def _at(u: Share, where: tuple[slice, slice]) -> Share:
    return u.map(lambda share: share[where])


def _same(one: Share, other: Share) -> bool:
    return list(one) == list(other) and all(
        one[name].shape == other[name].shape
        and bool(((one[name] == other[name]) | (one[name].isnan() & other[name].isnan())).all())
        for name in one
    )


def _near(one: Share, other: Share) -> bool:
    return list(one) == list(other) and all(
        one[name].shape == other[name].shape
        and torch.allclose(one[name], other[name], rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
        for name in one
    )


@contextmanager
def _generators() -> Iterator[Callable[[], bool]]:
    """Tell whether torch's generator on the CPU was drawn from, and put it back."""
    before = torch.get_rng_state()
    try:
        yield lambda: not torch.equal(before, torch.get_rng_state())
    finally:
        torch.set_rng_state(before)
