"""Traces are kept until what the step reads changes, and tracing leaves no mark on what is around it."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from threading import Thread

import torch
from torch import Tensor

from tests.engines.cells import Simple
from throughtime import cells
from throughtime.cells import Cell, Gates, State
from throughtime.engines.trace import Traced, trace, traced

DTYPE = torch.float64
SCALE = 2.0


def scaled(h: Tensor) -> Tensor:
    return SCALE * h


class Guarded(Simple):
    factor = 3.0

    def __init__(self, *args, **kwargs):
        self.slope, self.table, self.offset = 0.5, {"shift": [1.0]}, 0.25
        super().__init__(*args, **kwargs)

    def helped(self, h):
        return h * self.factor

    def made(self, a, h, W):
        return (
            self.helped(scaled(a)) * self.slope + h * self.table["shift"][0] + (1.0 if self.training else self.offset)
        )


def constants(cell: Cell) -> set[float]:
    found = traced(cell, DTYPE)
    assert isinstance(found, Traced)
    return {float(node.at) for node in found.program.nodes if node.op == "constant"}


def test_a_trace_is_kept_until_what_it_read_changes(monkeypatch):
    cell = Guarded(3, 4, dtype=DTYPE)
    first = traced(cell, DTYPE)
    assert traced(cell, DTYPE) is first
    assert traced(cell, torch.float32) is not first
    assert traced(cell, DTYPE) is first
    assert {2.0, 3.0, 0.5} <= constants(cell)
    cell.slope = 0.75
    assert 0.75 in constants(cell)
    cell.table["shift"][0] = 5.0
    assert 5.0 in constants(cell)
    cell.eval()
    assert 0.25 in constants(cell)
    cell.factor = 7.0  # hides the class's
    assert 7.0 in constants(cell)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 11.0)
    assert 11.0 in constants(cell)
    monkeypatch.setattr(sys.modules[__name__], "scaled", lambda h: 13.0 * h)
    assert 13.0 in constants(cell)
    monkeypatch.setattr(Guarded, "helped", lambda self, h: h * 17.0)
    assert 17.0 in constants(cell)
    monkeypatch.setattr(Guarded, "step", lambda self, u, read, W: (State(h=19.0 * u.a), Gates()))
    assert constants(cell) == {19.0}
    assert not first.holds(cell)


def test_a_refusal_is_kept_until_what_it_read_changes():
    class Perhaps(Simple):
        noisy = True

        def made(self, a, h, W):
            return h + torch.randn_like(h) if self.noisy else h + a

    cell = Perhaps(3, 4, dtype=DTYPE)
    reason = traced(cell, DTYPE)
    assert "random" in reason
    assert traced(cell, DTYPE) is reason
    cell.noisy = False
    assert isinstance(traced(cell, DTYPE), Traced)


def test_a_closure_is_watched():
    strength = 2.0

    class Closes(Simple):
        def made(self, a, h, W):
            return strength * h + a

    cell = Closes(3, 4, dtype=DTYPE)
    assert 2.0 in constants(cell)
    strength = 4.0
    assert 4.0 in constants(cell)


def test_a_trace_goes_with_its_cell():
    cell = cells.make("lstm", 3, 4)
    traced(cell, torch.float32)
    gone = weakref.ref(cell)
    del cell
    gc.collect()
    assert gone() is None


def test_threads_may_ask_at_once():
    cell, answers = cells.make("gru", 3, 4), []
    threads = [Thread(target=lambda: answers.append(traced(cell, torch.float32))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({repr(answer.program) for answer in answers}) == 1


def test_the_callers_modes_and_random_numbers_have_no_part_in_it():
    plain = trace(cells.make("lstm", 3, 4), torch.float32).program
    before = torch.get_rng_state()
    for mode in (torch.inference_mode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.device("meta")):
        with mode:
            assert traced(cells.make("lstm", 3, 4), torch.float32).program == plain
    torch.set_rng_state(before)
    cell = cells.make("lstm", 3, 4)
    before = torch.get_rng_state()
    trace(cell, torch.float32)
    assert torch.equal(before, torch.get_rng_state())


def test_tracing_a_known_cell_loads_nothing_large():
    code = (
        "import sys, torch, throughtime as tt\n"
        "from throughtime.engines.trace import trace\n"
        "before = set(sys.modules)\n"
        "for name in ('lstm', 'gru', 'elman'): trace(tt.cells.make(name, 3, 4), torch.float32)\n"
        "large = ('sympy', 'torch.fx.experimental', 'torch._inductor', 'torch._dynamo', 'torch._decomp')\n"
        "sys.exit(' '.join(m for m in set(sys.modules) - before if m.startswith(large)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
