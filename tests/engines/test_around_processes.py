"""Compiled kernels in several threads and processes: the same numbers, and nothing that waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

import throughtime as tt
from tests.tolerances import close
from tests.tree import ROOT

pytestmark = pytest.mark.compiler


def loss_of(final: Tensor | tuple[Tensor, ...]) -> Tensor:
    return sum(part.sin().sum() for part in ((final,) if isinstance(final, Tensor) else final))


def test_several_threads_at_once() -> None:
    """One module, many callers; a cell that nobody has compiled before."""
    module = tt.LSTM(3, 16, 2, candidate="sigmoid", peephole=True, dtype=torch.float64)
    x = torch.randn(20, 4, 3, dtype=torch.float64)
    found: list[list[Tensor]] = []
    begin = threading.Barrier(6)

    def work() -> None:
        begin.wait()
        for _ in range(5):
            given = x.clone().requires_grad_()
            output, final = module(given)
            found.append(
                [output, *torch.autograd.grad(output.square().sum() + loss_of(final), [given, *module.parameters()])]
            )

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 30
    for each in found[1:]:
        assert all(map(torch.equal, each, found[0]))


def test_as_many_threads_as_one_likes() -> None:
    module, x = tt.GRU(3, 64, engine="cpu"), torch.randn(40, 16, 3)
    found = []
    try:
        for count in (1, 2, 3, 2, 1):
            torch.set_num_threads(count)
            output, final = module(x)
            found.append(
                [output, *torch.autograd.grad(output.square().sum() + loss_of(final), list(module.parameters()))]
            )
    finally:
        torch.set_num_threads(1)
    for each in found[1:]:
        for mine, expected in zip(each, found[0], strict=True):
            close(mine, expected)


FORKED = """
import os, signal, sys, warnings
import multiprocessing
import torch
import throughtime as tt

def numbers():
    torch.manual_seed(0)
    module, x = tt.GRU(3, 64, engine="cpu"), torch.randn(40, 16, 3)
    output, final = module(x)
    (output.square().sum() + final.sum()).backward()
    assert module.served == "cpu"
    return [float(output.detach().sum()), *(float(parameter.grad.sum()) for parameter in module.parameters())]

def child(way, before, queue):
    torch.set_num_threads(1 if way == "parent" else 2)
    if way == "child":  # and compile
        module = tt.LSTM(3, 32, peephole=True, coupled=True, engine="cpu")
        module(torch.randn(40, 16, 3))[0].sum().backward()
    queue.put(same(numbers(), before))

def same(mine, before):
    return all(abs(a - b) <= 1e-4 * (1 + abs(b)) for a, b in zip(mine, before))

if __name__ == "__main__":
    way = sys.argv[1]
    torch.set_num_threads(2 if way == "parent" else 1)
    before = numbers()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(way, before, queue))
    process.start()
    assert queue.get(timeout=60), "other numbers in the child"
    process.join(60)
    assert process.exitcode == 0
    assert numbers() == before  # and the parent goes on
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        torch.set_num_threads(1)
        os._exit(0 if same(numbers(), before) else 1)
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("way", ["parent", "child"])
def test_after_a_fork(way: str) -> None:
    """Several threads before the fork, one after it, as torch itself needs it; or one before it and several after."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, way], capture_output=True, text=True, timeout=200, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr


PARALLEL = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import throughtime as tt

rank, place = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + place, rank=rank, world_size=2)
torch.manual_seed(0)
module = tt.LSTM(3, 5, 2, engine="cpu", dtype=torch.float64)
x = torch.randn(7, 4, 3, dtype=torch.float64)
alone = torch.autograd.grad(module(x)[0].square().mean(), list(module.parameters()))
shared = DistributedDataParallel(module)
for _ in range(2):
    shared.zero_grad()
    shared(x[:, 2 * rank : 2 * rank + 2])[0].square().mean().backward()
assert module.served == "cpu"
for parameter, expected in zip(module.parameters(), alone):
    assert float((parameter.grad - expected).abs().max()) < 1e-12 * max(1.0, float(expected.abs().max()))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without it")
def test_two_processes_get_the_gradients_of_one(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", PARALLEL]
    both = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
