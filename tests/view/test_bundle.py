"""The bundle that is shipped is what its source builds."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "src" / "throughtime" / "view" / "assets"
WEB = ROOT / "web"


@pytest.mark.slow
def test_the_shipped_bundle_is_what_the_source_builds(tmp_path):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm on this machine")
    web = tmp_path / "web"
    shutil.copytree(WEB, web, ignore=shutil.ignore_patterns("node_modules"))
    for command in (
        [npm, "ci", "--no-audit", "--no-fund"],
        [npm, "run", "build", "--", "--outDir", str(tmp_path / "built")],
    ):
        done = subprocess.run(command, cwd=web, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    built = {file.name: file.read_bytes() for file in (tmp_path / "built").iterdir()}
    assert built == {file.name: file.read_bytes() for file in ASSETS.iterdir()}, "run `npm run build` in web/"


def test_the_lock_names_no_registry():
    lock = json.loads((WEB / "package-lock.json").read_text(encoding="utf-8"))
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []
    assert all("integrity" in package for name, package in lock["packages"].items() if name)


def test_dependencies_are_pinned():
    package = json.loads((WEB / "package.json").read_text(encoding="utf-8"))
    for name, version in (package["dependencies"] | package["devDependencies"]).items():
        assert version[0].isdigit(), f"{name} {version}"


def test_the_bundle_is_small_and_can_stand_inside_a_page():
    script, style = ((ASSETS / name).read_text(encoding="utf-8") for name in ("figures.js", "figures.css"))
    assert len(script) + len(style) < 150_000
    assert "</script" not in script.lower()
    assert "</style" not in style.lower()
    assert "eval(" not in script
    assert "fetch(" not in script
    assert "XMLHttpRequest" not in script
