"""The Triton engine: its laws run in Triton's interpreter and on a GPU; its kernels are compiled without one, too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

import throughtime as tt
from tests.engines.cells import Levels
from tests.engines.comparing import KINDS, case
from tests.tolerances import MEASURE, close
from tests.tree import ROOT
from throughtime.engines.triton import engine as its_engine
from throughtime.engines.triton.engine import Triton
from throughtime.errors import EngineError

with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
LAWS = "tests/engines/triton_laws.py"


def _laws(**environment: str) -> None:
    """Run the laws in a process of their own: Triton decides when it is imported whether it interprets."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", LAWS],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


@with_triton
@pytest.mark.slow
def test_the_laws_hold_in_the_interpreter() -> None:
    _laws(TRITON_INTERPRET="1")


@with_triton
@pytest.mark.gpu
def test_the_laws_hold_on_a_gpu() -> None:
    _laws(TRITON_INTERPRET="0", CUBLAS_WORKSPACE_CONFIG=":4096:8")


# -- compiled without a GPU: Triton's compiler and its assembler need none


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path) -> list[str]:
    """Every launch compiles for an H100 or H200, all the way to its machine code, and runs nothing."""
    import triton

    from throughtime.engines.triton import kernels

    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    driver = SimpleNamespace(
        get_current_device=lambda: 0, get_current_stream=lambda device: 0, get_current_target=lambda: target
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found: list[str] = []

    def compiling(function) -> SimpleNamespace:
        def launch(*args, grid, **kwargs) -> None:
            found.append(function.warmup(*args, grid=grid, **kwargs).asm["ptx"])

        return _Launcher(launch)

    for name in ("forward", "backward"):
        monkeypatch.setattr(kernels, name, compiling(getattr(kernels, name)))
    return found


class _Launcher:
    def __init__(self, launch: Callable[..., None]) -> None:
        self._launch = launch

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **kwargs: self._launch(*args, grid=grid, **kwargs)


@with_triton
@pytest.mark.parametrize(
    ("kind", "dtype", "size", "lengths"),
    [
        ("lstm-peephole=True", torch.float32, (2, 4, 80), None),
        ("Levels", torch.float64, (2, 3, 130), [2, 0, 1]),
        ("Smooth", torch.float32, (1, 1, 33), None),
    ],
)
def test_compiles_for_a_gpu(
    kind: str,
    dtype: torch.dtype,
    size: tuple[int, int, int],
    lengths: list[int] | None,
    compiled: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With several tiles and with one; sums are the dtype's own, and every step's writes are waited for."""
    monkeypatch.setattr(its_engine, "_of_device", lambda device: None)
    given = case(kind, *size, dtype, lengths=lengths)
    done = Triton().run(given.job())
    sum(value.sum() for value in (*done.states.values(), *done.final.values())).backward()
    assert len(compiled) == 2
    for text in compiled:
        assert ".target sm_90" in text
        assert "bar.sync" in text
        assert "tf32" not in text
        assert "ld.global.nc" not in text  # a cache that does not see the writes of other threads


# -- when it serves


def test_says_why_it_cannot_serve() -> None:
    job = case("lstm", 2, 3, 5).job()
    assert Triton().why_not(job) == "Triton's kernels run on a GPU, and x is on cpu."
    with pytest.raises(EngineError, match=r'engine "triton" cannot serve here: .* run on a GPU'):
        tt.unroll(job.cell, job.x.detach(), engine="triton")


def test_says_that_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(its_engine, "_installed", lambda: False)
    assert "not installed" in str(Triton().why_not(case("lstm", 2, 3, 5).job()))


def test_refuses_what_it_would_run_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(its_engine, "_of_device", lambda device: None)
    assert Triton().why_not(case("lstm", 1, 1, 512).job()) is None
    assert "too large" in str(Triton().why_not(case("lstm", 1, 1, 513).job()))


def test_importing_the_package_does_not_load_triton() -> None:
    code = "import sys, torch, throughtime; sys.exit('throughtime.engines.triton.kernels' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- on a GPU


@pytest.mark.gpu
@with_triton
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("hidden", [33, 200])
def test_agrees_with_cudnn(name: str, hidden: int) -> None:
    results = []
    for engine in ("triton", "native"):
        torch.manual_seed(0)
        module = getattr(tt, name)(5, hidden, 2, bidirectional=True, engine=engine, dtype=torch.float64).cuda()
        torch.manual_seed(1)
        x = torch.randn(40, 20, 5, dtype=torch.float64, device="cuda", requires_grad=True)
        output, _ = module(x)
        assert module.served == engine
        results.append([output, *torch.autograd.grad(output.square().sum(), [x, *module.parameters()])])
    for mine, theirs in zip(*results, strict=True):
        close(mine, theirs)


@pytest.mark.gpu
@with_triton
def test_is_chosen_where_cudnn_has_no_kernel() -> None:
    own = Levels(3, 40).cuda()
    x = torch.randn(6, 4, 3, device="cuda")
    assert tt.unroll(own, x).engine == "triton"
    layer = tt.LSTM(3, 40).cuda()
    layer(x)
    assert layer.served == "native"
    layer = tt.LSTM(3, 40, peephole=True).cuda()
    layer(x)
    assert layer.served == "triton"
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert layer(x)[0].dtype == torch.float32


@pytest.mark.gpu
@with_triton
def test_more_numbers_than_32_bits_count() -> None:
    cell = tt.cells.make("lstm", 1, 64, peephole=True, device="cuda")
    x = torch.randn(9000, 1024, 1, device="cuda")
    with torch.no_grad():
        output = tt.unroll(cell, x, engine="triton").output
        expected = tt.unroll(cell, x[:, -3:], engine="reference").output
    close(output[:, -3:], expected, MEASURE)


@pytest.mark.gpu
@with_triton
@pytest.mark.parametrize("kind", list(KINDS)[:3])
def test_on_a_stream_of_its_own(kind: str) -> None:
    given = case(kind, 5, 3, 16, torch.float32)
    cell, x = given.cell.cuda(), given.x.detach().cuda()
    expected = tt.unroll(cell, x, engine="reference").output
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        output = tt.unroll(cell, x, engine="triton").output
    torch.cuda.current_stream().wait_stream(stream)
    close(output, expected)
