"""Runs a cell through an engine and through the reference in float64, and compares all that comes out.

Dimensions: T steps, B sequences, I inputs, H units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from unittest import mock

import torch
from torch import Tensor

from tests.engines.cells import MADE
from tests.laws.variants import VARIANTS
from tests.tolerances import close
from throughtime.cells import Cell, State
from throughtime.cells.feedforward import FeedForward
from throughtime.engines import Job, Unrolled, choose
from throughtime.engines.compiled import sequence

INPUTS = 3
DTYPES = (torch.float64, torch.float32)


def _known() -> dict[str, Callable[..., Cell]]:
    """Every known cell, less the one whose input's share is a matrix for each sequence."""
    matrices = [variant for variant in VARIANTS if variant.name == "feedforward" and "diagonal" not in variant.options]
    return {str(variant): variant.make for variant in VARIANTS if variant not in matrices}


KINDS: dict[str, Callable[..., Cell]] = {**_known(), **{kind.__name__: kind for kind in MADE}}
EARLY = [kind for kind in KINDS if not kind.startswith("feedforward")]  # whose sequences may end early


@dataclass(frozen=True)
class Case:
    """A cell and what it is given; leaves that require gradients."""

    cell: Cell
    x: Tensor  # (T, B, I)
    state: State
    lengths: Tensor | None = None

    @property
    def leaves(self) -> dict[str, Tensor]:
        return {"x": self.x, **{f"initial {part}": t for part, t in self.state.items()}, **self.cell.values()}

    def job(self, *, inside: bool = True) -> Job:
        return Job(self.cell, self.cell.values(), self.x, self.state, self.lengths, inside)

    def exact(self) -> Case:
        """The same numbers in float64."""
        cell, x, state = deepcopy((self.cell, self.x.detach(), self.state.map(Tensor.detach)))
        return Case(cell.double(), *_leaves(x.double(), state.map(Tensor.double)), self.lengths)


def case(
    kind: str | Callable[..., Cell],
    steps: int,
    batch: int,
    units: int,
    dtype: torch.dtype = torch.float64,
    *,
    lengths: Sequence[int] | None = None,
    inputs: int = INPUTS,
) -> Case:
    """A cell by its name in KINDS (or a class) and random numbers for it.

    The weights are half of what a cell starts with, so that float32's rounding does not grow over many steps.
    """
    torch.manual_seed(1)
    cell = (KINDS[kind] if isinstance(kind, str) else kind)(inputs, units, dtype=torch.float64)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.mul_(0.5)
    cell = cell.to(dtype)
    x = torch.randn(steps, batch, inputs, dtype=torch.float64).to(dtype)
    if isinstance(cell, FeedForward):  # picks its layers one by one
        x = torch.eye(inputs, dtype=dtype)[torch.randint(inputs, (steps, batch))]
    state = State(**{part: (torch.randn(batch, units, dtype=torch.float64) / 2).to(dtype) for part in cell.parts})
    return Case(cell, *_leaves(x, state), None if lengths is None else torch.tensor(lengths))


def _leaves(x: Tensor, state: State) -> tuple[Tensor, State]:
    return x.requires_grad_(), state.map(Tensor.requires_grad_)


def run(given: Case, engine: str, *, inside: bool = True) -> Unrolled:
    """The case through the engine of this name."""
    asked = given.job(inside=inside)
    done = choose(asked, engine).run(asked)
    assert done.engine == engine
    return done


def seen(done: Unrolled, lengths: Tensor | None) -> dict[str, Tensor]:
    """All that a run answers, by name; gates only while the sequence runs, as nothing is said of them after it."""
    gates = dict(done.gates)
    if lengths is not None:
        for name, gate in gates.items():
            running = torch.arange(len(gate), device=gate.device).unsqueeze(-1) < lengths
            gates[name] = torch.where(running.unsqueeze(-1), gate, torch.zeros(()).to(gate))
    return {
        **{f"state {name}": value for name, value in done.states.items()},
        **{f"gate {name}": value for name, value in gates.items()},
        **{f"final {name}": value for name, value in done.final.items()},
    }


def gradients(given: Case, answers: dict[str, Tensor], heard: Callable[[str], bool]) -> dict[str, Tensor]:
    """dL/d(each leaf), where L weighs every number of the answers that are heard."""
    drawn = torch.Generator().manual_seed(3)
    parts = []
    for name, value in answers.items():
        weights = torch.randn(value.shape, generator=drawn, dtype=torch.float64).to(value)
        if heard(name) and value.requires_grad:
            parts.append((weights * value).sum())
    leaves = given.leaves
    if not parts:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(torch.stack(parts).sum(), list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def agrees(
    given: Case, engine: str = "cpu", *, heard: Callable[[str], bool] | None = None, inside: bool = True
) -> None:
    """Assert that the engine answers as the reference does in float64, and sends back the same gradients.

    `heard` says which answers the loss hears; by default all but the gates, as those make the engine go back by the
    cell's own step. Then the way back must be the kernel's.
    """
    exact = given.exact()
    expected = seen(run(exact, "reference", inside=inside), exact.lengths)
    own = AssertionError("the way back is the kernel's")
    by_steps = nullcontext() if heard else mock.patch.object(sequence, "_by_steps", side_effect=own)
    heard = heard or _no_gate
    with poisoned(), by_steps:
        mine = seen(run(given, engine, inside=inside), given.lengths)
        sent = gradients(given, mine, heard)
    assert list(mine) == list(expected)
    for name, value in expected.items():
        _close(name, mine[name], value)
    for name, value in gradients(exact, expected, heard).items():
        _close(f"dL/d {name}", sent[name], value)


def _no_gate(name: str) -> bool:
    return not name.startswith("gate ")


def _close(name: str, mine: Tensor, expected: Tensor) -> None:
    try:
        close(mine, expected.to(mine.dtype))
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from None


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that torch hands out without filling it holds NaN."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def with_lengths(given: Case, lengths: Sequence[int]) -> Case:
    """The same case, its sequences ending early."""
    return replace(given, lengths=torch.tensor(lengths))
