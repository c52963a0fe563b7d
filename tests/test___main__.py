"""`python -m throughtime`, alone and as two processes of one `accelerate launch`."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.tolerances import IDENTITY
from throughtime import __version__
from throughtime.study.folder import Folder

_OPTIONS = (
    "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
)
LAUNCH = ("accelerate.commands.accelerate_cli", "launch", *_OPTIONS.split(" "))


def start(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_it_is_the_command(tmp_path):
    assert start(tmp_path, "throughtime", "--version").stdout == f"throughtime {__version__}\n"


@pytest.mark.slow
def test_two_processes_leave_one_folder_and_one_process_s_losses(tmp_path, rng):
    y = np.arange(60) % 2
    x = rng.normal(size=(60, 6, 2)).astype(np.float32)
    np.savez(tmp_path / "signs.npz", x=x, y=y)
    words = ("train", "signs.npz", "--device", "cpu", "--epochs", "2", "--hidden", "4", "--batch-size", "8")
    words = (*words, "--dropout", "0")
    alone = start(tmp_path, "throughtime", *words, "--out", "one")
    both = start(tmp_path, *LAUNCH, "-m", "throughtime", *words, "--out", "two")
    assert (alone.returncode, both.returncode) == (0, 0), both.stderr
    assert both.stdout.count("report: ") == 1
    assert both.stderr.count("lstm: done") == 1
    one, two = (Folder(tmp_path / name).read_study().runs[0] for name in ("one", "two"))
    for a, b in zip(one.updates, two.updates, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=IDENTITY[torch.float32])
    assert {flow.moment for flow in two.flows} == {"before", "during", "after"}
