"""Two processes under `accelerate launch` are one training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tolerances import MEASURE
from tests.training import launched
from throughtime import history

ROOT = Path(__file__).parents[2]
NEAR = MEASURE[torch.float64]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(two processes', one process's) runs of every kind; two are launched once for all tests, it takes seconds."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    launch = (
        "accelerate.commands.accelerate_cli launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
        "--dynamo_backend no --main_process_port 0 -m tests.training.launched"
    )
    answer = subprocess.run(
        [sys.executable, "-m", *launch.split(), str(two)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == ""
    assert "arning" not in answer.stderr, answer.stderr
    for kind in launched.KINDS:
        launched.run(kind, one)
    return two, one


def compare(two: Path, one: Path) -> None:
    """Losses, norms and scores agree; so do the weights that were kept."""
    ours, theirs = (history.read(folder / "events.jsonl") for folder in (two, one))
    assert len(ours.updates) == len(theirs.updates) > 0
    for a, b in zip(ours.updates, theirs.updates, strict=True):
        assert (a.update, a.epoch, a.samples, a.rate) == (b.update, b.epoch, b.samples, b.rate)
        assert a.loss == pytest.approx(b.loss, rel=NEAR)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=NEAR)
    for a, b in zip(ours.evaluations, theirs.evaluations, strict=True):
        assert (a.loss, a.score) == (pytest.approx(b.loss, rel=NEAR), pytest.approx(b.score, rel=NEAR))
    for name in ("best", "last"):
        mine, other = (load_file(folder / f"{name}.safetensors") for folder in (two, one))
        for key in other:
            assert torch.allclose(mine[key], other[key], rtol=0, atol=NEAR * float(other[key].abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in launched.KINDS if kind not in launched.STOP])
def test_two_processes_lose_what_one_does(kind: str, folders: tuple[Path, Path]) -> None:
    two, one = (folder / kind for folder in folders)
    compare(two, one)
    saw = [json.loads((two / f"process{process}.json").read_text()) for process in (0, 1)]
    alone = json.loads((one / "process0.json").read_text())
    assert saw[0]["test"] == saw[1]["test"] == pytest.approx(alone["test"], rel=NEAR)


@pytest.mark.slow
def test_each_sample_is_seen_once_an_epoch(folders: tuple[Path, Path]) -> None:
    saw = [json.loads((folders[0] / "digits" / f"process{process}.json").read_text())["asked"] for process in (0, 1)]
    samples = len(launched.data_of("digits").train)
    assert not set(saw[0]) & set(saw[1])
    assert Counter(saw[0] + saw[1]) == dict.fromkeys(range(samples), 1)


@pytest.mark.slow
def test_what_two_began_one_goes_on_with(folders: tuple[Path, Path]) -> None:
    two, one = folders
    stopped = history.read(two / "lanes" / "events.jsonl").updates
    assert len(stopped) == launched.STOP["lanes"]
    launched.run("lanes", two)
    compare(two / "lanes", one / "lanes")
