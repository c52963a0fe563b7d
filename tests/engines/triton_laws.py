"""The Triton kernels against the step in a loop, in float64.

Not collected by itself: `test_triton.py` runs it in a process of its own, in Triton's interpreter (TRITON_INTERPRET=1,
which Triton reads when it is imported) or on a GPU. Where the interpreter is on, tensors stay on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from tests.engines.cells import Levels
from tests.engines.comparing import DTYPES, EARLY, KINDS, Case, agrees, case, run
from tests.tolerances import close
from throughtime.cells import Cell, State
from throughtime.engines.compiled.rows import Rows
from throughtime.engines.trace import traced
from throughtime.engines.trace.program import MASKS, OPERATORS, Node, Program
from throughtime.engines.triton import kernel as its_kernel
from throughtime.engines.triton import kernels
from throughtime.engines.triton.kernel import TritonKernel
from throughtime.engines.triton.trial import complaint

# The interpreter computes with numpy, which warns of what a GPU does without a word.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

DEVICE = torch.device("cpu" if kernels.INTERPRETED else "cuda")
STEPS, BATCHES, UNITS = (1, 2, 9), (1, 3), (1, 7, 33)


def given(kind: str | Callable[..., Cell], steps: int, batch: int, units: int, *args: torch.dtype, **kwargs) -> Case:
    """A case on the device; skips cells that cannot be traced."""
    made = case(kind, steps, batch, units, *args, **kwargs)
    ends = None if made.lengths is None else made.lengths.to(DEVICE)
    x, *parts = (leaf.detach().to(DEVICE).requires_grad_() for leaf in (made.x, *made.state.values()))
    found = Case(made.cell.to(DEVICE), x, State(**dict(zip(made.state, parts, strict=True))), ends)
    trace = traced(found.cell, found.x.dtype)
    if isinstance(trace, str):
        pytest.skip(trace)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_reference(kind: str) -> None:
    """Two of the T and H, both B and both dtypes for every cell; over all cells every combination comes up."""
    index = list(KINDS).index(kind)
    for k in range(2):
        sizes = STEPS[(index // 3 + k) % 3], BATCHES[(index // 3 + k) % 2], UNITS[(index + k) % 3]
        agrees(given(kind, *sizes, DTYPES[(index // 6 + k) % 2]), "triton")


@pytest.mark.parametrize("kind", EARLY)
def test_sequences_that_end_early(kind: str) -> None:
    """Lengths of 0 and 1 among them, in any order."""
    agrees(given(kind, 4, 5, 3, lengths=[1, 0, 4, 2, 4]), "triton")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("lstm-peephole=True", torch.float32),
        ("gru-reset=before", torch.float64),
        ("Levels", torch.float32),
        ("own", torch.float64),
    ],
)
def test_tiles_of_units_and_slices_of_depth(kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells with more units than a tile, as large ones have: three tiles, three slices, two blocks of sequences."""
    monkeypatch.setattr(its_kernel, "MOST_UNITS", 16)
    monkeypatch.setattr(its_kernel, "DEPTHS", dict.fromkeys(DTYPES, 16))
    agrees(given(kind, 3, 19, 33, dtype, lengths=[b % 4 for b in range(19)]), "triton")


@pytest.mark.parametrize(("packed", "dtype"), [(False, torch.float32), (True, torch.float64)])
def test_layers_and_directions(packed: bool, dtype: torch.dtype) -> None:
    """The second direction runs from the last step to the first, in packed rows too."""
    results = []
    for engine in ("triton", "reference"):
        torch.manual_seed(2)
        module = tt.LSTM(3, 4, 2, bidirectional=True, peephole=True, engine=engine, dtype=dtype, device=DEVICE)
        torch.manual_seed(3)
        x = torch.randn(4, 3, 3, dtype=dtype).to(DEVICE).requires_grad_()
        batch = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2, 1])) if packed else x
        output, (h, c) = module(batch)
        assert module.served == engine
        rows = output.data if packed else output
        loss = (rows.square().sum() + (h * c).sum()).sqrt()
        results.append([rows, h, c, *torch.autograd.grad(loss, [x, *module.parameters()])])
    for mine, expected in zip(*results, strict=True):
        close(mine, expected)


def test_nothing_is_kept_where_no_gradient_is_asked_for() -> None:
    asked = given("lstm", 3, 2, 5)
    expected = run(asked, "reference")
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            done = run(asked, "triton")
            output = run(asked, "triton", inside=False).output
        assert not done.output.requires_grad
        close(done.states["s"].clone(), expected.states["s"])
        close(output.clone(), expected.output)


def test_gradients_of_some_leaves_and_of_one_place() -> None:
    """Where only the final state of one part is heard, and only the weights ask for a gradient."""
    results = []
    for engine in ("triton", "reference"):
        asked = given("lstm", 3, 2, 5)
        for name, leaf in asked.leaves.items():
            leaf.requires_grad_(name == "weight_hh")
        done = run(asked, engine)
        results.append(torch.autograd.grad(done.final.s.square().sum(), asked.cell.weight_hh)[0])
    close(*results)


def test_differentiates_twice() -> None:
    """By the reference, which takes the way back over."""
    results = []
    for engine in ("triton", "reference"):
        asked = given("gru", 3, 2, 4)
        (first,) = torch.autograd.grad(run(asked, engine).output.square().sum(), asked.x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), [asked.x, asked.cell.weight_hh]))
    for mine, expected in zip(*results, strict=True):
        close(mine, expected)


@pytest.mark.parametrize("kind", ["lstm", "elman-nonlinearity=relu", "Oddments"])
def test_nan_stays_nan_and_stays_with_its_sequence(kind: str) -> None:
    asked = given(kind, 4, 3, 5)
    with torch.no_grad():
        asked.x[2, 1] = math.nan
    mine, expected = (run(asked, engine).output for engine in ("triton", "reference"))
    assert torch.equal(mine.isnan(), expected.isnan())
    assert bool(mine[2:, 1].isnan().all())
    assert not bool(mine[:, [0, 2]].isnan().any())


# -- operators, one at a time

SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-3, -1e-3, 3.0, -3.0, 20.0, -100.0, math.inf, -math.inf, math.nan)


def _alone(op: str, arguments: int) -> Program:
    """h = op(u₀, u₁, u₂); a mask is asked for as a number."""
    nodes = [Node("u", (), at) for at in range(max(arguments, 1))]
    if op == "where":
        nodes.append(Node("gt", (0, 1)))
        nodes.append(Node("where", (3, 1, 2)))
    elif op in ("and", "or"):
        nodes += [Node("gt", (0, 1)), Node("lt", (0, 1)), Node(op, (2, 3)), Node("number", (4,))]
    elif op in ("not", "number"):
        nodes.append(Node("gt", (0, 1)))
        nodes += [Node("not", (2,)), Node("number", (3,))] if op == "not" else [Node("number", (2,))]
    else:
        nodes.append(Node(op, tuple(range(arguments))))
        if op in MASKS:
            nodes.append(Node("number", (len(nodes) - 1,)))
    last = len(nodes) - 1
    nodes.append(Node("grad", (), 0))
    blocks = max(arguments, 1)
    back = (None,) * blocks
    return Program(("h",), (), blocks, 0, tuple(nodes), last + 1, (), (), (last,), (), (), back, (), (), (None,))


def _step(program: Program, u: Tensor, start: Tensor) -> Tensor:
    """The state after one step of one sequence."""
    asked = {"reverse": False, "keep": [True], "gates": False, "save": False}
    return TritonKernel(program).forward(Rows.whole(1, 1), u, None, None, None, None, [], [start], **asked).states[0]


def _arguments(op: str) -> int:
    if op == "where":
        return 3
    two = {"add", "sub", "mul", "div", "pow", "minimum", "maximum", "and", "or", "not", "number"} | MASKS
    return 2 if op in two else 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPERATORS)
def test_operators_are_torchs(op: str, dtype: torch.dtype) -> None:
    """Also of zeros with a sign, infinities and NaN."""
    count = _arguments(op)
    one = torch.tensor(SPECIAL, dtype=dtype, device=DEVICE)
    units = len(SPECIAL) ** 2
    given = [one.repeat(len(SPECIAL)), one.repeat_interleave(len(SPECIAL)), one.flip(0).repeat(len(SPECIAL))][:count]
    masks = [given[0] > given[1], given[0] < given[1]] if count > 1 else []
    arguments: Sequence[Tensor] = given
    if op in ("and", "or"):
        arguments = masks
    elif op in ("not", "number"):
        arguments = masks[:1]
    elif op == "where":
        arguments = [masks[0], *given[1:]]
    expected = OPERATORS[op](*arguments).to(dtype)
    made = _step(_alone(op, count), torch.cat(given)[None], one.new_zeros(1, units))
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-14}[dtype]  # of each number, a few roundings
    torch.testing.assert_close(made[0], expected, rtol=tolerance, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("number", [0.1, 1e-40, -math.inf, math.inf, math.nan, 1e300])
def test_constants_are_exact(number: float) -> None:
    program = replace(_alone("neg", 1), nodes=(Node("u", (), 0), Node("constant", (), number), Node("grad", (), 0)))
    program = replace(program, forward=2, states=(1,))
    start = torch.zeros(1, 1, dtype=torch.float64, device=DEVICE)
    torch.testing.assert_close(float(_step(program, start, start)), number, rtol=0, atol=0, equal_nan=True)


# -- the trial


def test_the_trial_trusts_what_is_right() -> None:
    asked = given(Levels, 1, 1, 5)
    assert complaint(asked.cell, torch.float64, DEVICE, _served("triton")) is None


def test_the_trial_finds_what_is_wrong() -> None:
    cell = given("lstm", 1, 1, 5).cell

    def wrong(job):
        done = _served("triton")(job)
        return replace(done, final=done.final.map(lambda part: part * 1.01))

    def broken(job):
        raise RuntimeError("out of resource")

    for bad, said in ((wrong, "disagree with the reference in final s, final h"), (broken, "RuntimeError: out of")):
        with pytest.warns(tt.errors.EngineWarning, match=said):
            assert said in str(complaint(cell, torch.float64, DEVICE, bad))


def _served(engine: str):
    from throughtime.engines import choose

    return lambda job: choose(job, engine).run(job)
