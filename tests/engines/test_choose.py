"""Who serves, and why another does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import vmap

import throughtime as tt
from throughtime.cells import Elman, State
from throughtime.engines import Job, Stack, choose, choose_stack
from throughtime.errors import EngineError


def job(name: str = "elman", *, dtype: torch.dtype = torch.float32, steps: int = 4, **keywords: Any) -> Job:
    options = keywords.pop("options", {})
    cell = tt.cells.make(name, 3, 5, dtype=dtype, **options)
    x = torch.zeros(steps, 2, 3, dtype=dtype)
    return Job(cell, cell.values(), x, cell.zero_state(2, x), **keywords)


def stack(name: str, *, batch: int = 2, **keywords: Any) -> Stack:
    cell = tt.cells.make(name, 3, 5)
    x = torch.zeros(4, 2, 3)
    state = State(**{part: torch.zeros(1, batch, 5) for part in cell.parts})
    return Stack((cell,), (cell.values(),), keywords.pop("x", x), state, **keywords)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (job("lstm"), "do not show the gates and states"),
        (job("gru"), "do not show the gates and states"),
        (job(damping=1.0), "clipping while backpropagating"),
        (job(steps=0), "length 0"),
        (job(options={"nonlinearity": "sigmoid"}), "no kernel"),
        (job("gru", inside=False, options={"reset": "before"}), "no kernel"),
        (job("gru", inside=False, options={"candidate": "sigmoid"}), "no kernel"),
        (job("lstm", inside=False, options={"squash": "identity"}), "no kernel"),
        (job("lstm", inside=False, options={"forget_gate": False}), "no kernel"),
        (job("lstm", inside=False, options={"coupled": True}), "no kernel"),
        (job("lstm", inside=False, options={"peephole": True}), "no kernel"),
        (job("carousel"), "no kernel"),
        (job(dtype=torch.complex64), "complex64"),
    ],
)
def test_native_says_why_not(asked: Job, reason: str) -> None:
    with pytest.raises(EngineError, match=f'engine "native" cannot serve here.*{reason}.*engine="auto"'):
        choose(asked, "native")
    assert choose(asked, "reference").name == "reference"


@pytest.mark.parametrize(
    "asked", [job(), job(options={"nonlinearity": "relu"}), job("lstm", inside=False), job("gru", inside=False)]
)
def test_native_serves_torchs_own_cells(asked: Job) -> None:
    assert choose(asked, "native").name == "native"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (job(damping=1.0), "clipping while backpropagating"),
        (job(steps=0), "length 0"),
        (job("gru", dtype=torch.bfloat16), "float32 and float64, not for torch.bfloat16"),
        (job("feedforward"), "share"),
    ],
)
def test_cpu_says_why_not(asked: Job, reason: str) -> None:
    with pytest.raises(EngineError, match=f'engine "cpu" cannot serve here.*{reason}.*engine="auto"'):
        choose(asked, "cpu")
    assert choose(asked).name in ("native", "reference")


@pytest.mark.compiler
@pytest.mark.parametrize("asked", [job(), job("lstm"), job("carousel"), job(options={"nonlinearity": "sigmoid"})])
def test_auto_asks_for_a_compiled_kernel(asked: Job) -> None:
    assert choose(asked).name == "cpu"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (stack("lstm", damping=1.0), "clipping while backpropagating"),
        (stack("lstm", x=torch.zeros(0, 3), batch_sizes=torch.zeros(0, dtype=torch.int64)), "length 0"),
        (stack("taps"), "no kernel"),
    ],
)
def test_native_says_why_not_for_stacks(asked: Stack, reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        choose_stack(asked, "native")


def test_a_subclass_may_step_differently() -> None:
    class Mine(Elman):
        pass

    cell, x = Mine(3, 5), torch.zeros(4, 2, 3)
    with pytest.raises(EngineError, match="no kernel"):
        choose(Job(cell, cell.values(), x, cell.zero_state(2, x)), "native")


def test_transforms_go_to_the_reference() -> None:
    served = []
    asked = job()
    vmap(lambda x: served.append(choose(asked).name) or x)(torch.zeros(2))
    assert served == ["reference"]


def test_torchs_lstm_does_not_serve_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(EngineError, match="under autocast"):
            choose(job("lstm", inside=False), "native")
        assert choose(job("gru", inside=False), "native").name == "native"


def test_unknown_engine() -> None:
    with pytest.raises(EngineError, match='no engine is named "tpu"; there is auto, cpu, native, triton, reference'):
        choose(job(), "tpu")
    with pytest.raises(EngineError, match='no engine is named "tpu"'):
        choose_stack(stack("lstm"), "tpu")
