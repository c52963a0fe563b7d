"""What holds for every test: known random numbers, one thread, and no silent skip where nothing may be missing.

Under CI=true a skipped test is a failed one. Three kinds may skip, each under its mark: `gpu` (needs a CUDA device),
`compiler` (needs a C++ compiler) and `realdata` (needs files that are not part of the repository; a test that takes
the fixture `real_data` is of this kind by itself).
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before torch or a hub library is loaded: nothing here may reach for a network, and workers do not share cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
import torch

from tests.tree import ROOT
from throughtime.engines.cpu import cache
from throughtime.engines.cpu.compiler import compiler

MAY_SKIP = ("gpu", "compiler", "realdata")
NOTHING_MAY_BE_MISSING = os.environ.get("CI") == "true"

torch.set_num_threads(1)
# The same examples in every run; how long one takes says nothing on a shared machine.
hypothesis.settings.register_profile("throughtime", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("throughtime")


def _kernels() -> tempfile.TemporaryDirectory[str] | None:
    """Keep compiled kernels beside the tests, for the next run and for every worker, never in the user's own cache.

    Where the tree belongs to somebody else they are kept in a folder for this session.
    """
    os.environ["THROUGHTIME_CACHE"] = str(ROOT / ".pytest_cache" / "throughtime")
    try:
        cache.place()
    except OSError:
        own = tempfile.TemporaryDirectory()
        os.environ["THROUGHTIME_CACHE"] = own.name
        return own
    return None


_own_kernels = _kernels()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker("realdata")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("compiler") and compiler() is None:
            item.add_marker(pytest.mark.skip(reason="needs a C++ compiler"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes do not name a test: a compressed file holds the time, and each worker would know other tests."""
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    expected = hasattr(report, "wasxfail") or any(item.get_closest_marker(mark) for mark in MAY_SKIP)
    if NOTHING_MAY_BE_MISSING and report.skipped and not expected:
        report.outcome, report.longrepr = "failed", f"skipped under CI=true, where it may not be: {_why(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    report = yield
    if NOTHING_MAY_BE_MISSING and report.skipped:
        report.outcome, report.longrepr = "failed", f"a file skipped under CI=true: {_why(report)}"
    return report


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    place = report.longrepr
    return place[2] if isinstance(place, tuple) else str(place)


@pytest.fixture(autouse=True)
def _known_state() -> Iterator[None]:
    """Each test starts from the same random numbers and leaves torch's defaults as they were."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    assert torch.get_default_dtype() == torch.float32, "the test left another default dtype behind"
    assert torch.get_num_threads() == 1, "the test left another number of threads behind"
    assert not torch.are_deterministic_algorithms_enabled(), "the test left deterministic algorithms switched on"


@pytest.fixture
def rng() -> np.random.Generator:
    """numpy's generator, the same numbers in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: THROUGHTIME_DATA, or `shared/data` beside the repository."""
    named = os.environ.get("THROUGHTIME_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("there is no folder of real data; name one in THROUGHTIME_DATA")
    return folder
