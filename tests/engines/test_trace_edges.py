"""Steps at NaN, at infinity and at both zeros: a compiled step answers as torch's vectorized kernels do."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import throughtime as tt
from tests.tolerances import close
from throughtime.cells import Cell, Gates, State
from throughtime.cells.cell import Share

pytestmark = pytest.mark.compiler

NUMBERS = [math.nan, 0.0, -0.0, math.inf, -math.inf, 3.0, -3.0, 0.5, -0.5, 1.0, -1.0, 6.0, 2.0, -2.0, 7.0, -9.0]
DTYPE = torch.float64
H = 4 * len(NUMBERS)  # torch computes the last few of a number that its vectors do not divide otherwise


def _one(bend) -> type[Cell]:
    class Bent(Cell):
        """h_t = bend(x_t)."""

        parts = ("h",)
        reads = {"h": "h"}  # noqa: RUF012
        inputs = ("a",)
        recurrent = ()

        def share(self, x, parameters=None):
            return Share(a=x)

        def step(self, u, read, W):
            return State(h=bend(u.a)), Gates()

    return Bent


BENT = {
    "elu": F.elu,
    "celu": lambda a: F.celu(a, 0.7),
    "selu": F.selu,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "hardsigmoid": F.hardsigmoid,
    "leaky relu": F.leaky_relu,
    "relu": F.relu,
    "clamp": lambda a: a.clamp(-1, 1),
    "softplus": F.softplus,
    "smooth l1": lambda a: F.smooth_l1_loss(a, torch.zeros_like(a), reduction="none"),
    "smooth l1, narrow": lambda a: F.smooth_l1_loss(a, 0.25 * a, reduction="none", beta=0.5),
    "huber": lambda a: F.huber_loss(a, torch.zeros_like(a), reduction="none"),
    "plus zero": lambda a: 1 / (a + 0.0),
    "plus minus zero": lambda a: 1 / (a + -0.0),
    "less zero": lambda a: 1 / (a - 0.0),
    "less minus zero": lambda a: 1 / (a - -0.0),
    "zero less": lambda a: 1 / (0.0 - a),
    "minus zero less": lambda a: 1 / (-0.0 - a),
    "negative": lambda a: 1 / -a,
    "times minus one": lambda a: 1 / (-1 * a),
    "zero less what is negative": lambda a: 1 / (0.0 - -a),
}


@pytest.mark.parametrize("name", BENT)
def test_as_torch_where_numbers_are_not_ordinary(name):
    cell = _one(BENT[name])(H, H, dtype=DTYPE)
    given = torch.tensor(NUMBERS, dtype=DTYPE).repeat(H // len(NUMBERS)).view(1, 1, H)
    answers = []
    for engine in ("cpu", "reference"):
        x = given.clone().requires_grad_()
        output = tt.unroll(cell, x, engine=engine).output
        answers.append((output.detach(), torch.autograd.grad((0.75 * output).sum(), x)[0]))
    for mine, expected in zip(*answers, strict=True):
        assert torch.equal(mine.isnan(), expected.isnan())
        assert torch.equal(mine.isinf() * mine.sign(), expected.isinf() * expected.sign())
        close(mine.nan_to_num(0.0, 0.0, 0.0), expected.nan_to_num(0.0, 0.0, 0.0))
