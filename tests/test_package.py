"""What is shipped: the wheel's files, the declared dependencies, the pins, the notes beside the code."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import throughtime
from tests.tree import ROOT, kept

SOURCE = ROOT / "src"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def plain(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(*requirements: str) -> set[str]:
    return {plain(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


RUNS_WITH = wanted(*PROJECT["dependencies"])
EXTRAS = {extra: wanted(*names) for extra, names in PROJECT["optional-dependencies"].items()}
FOR_WORK = ("dev", "bench")  # extras for working on the package, which nothing in it may import
# Files in an extra's own language, which are loaded only where that extra is used: they may import it at their top.
WRITTEN_FOR = {"engines/triton/kernels.py": "triton"}


def test_the_tree_that_is_tested_is_this_one() -> None:
    """An install that points elsewhere (a copied tree) would test other code."""
    assert Path(throughtime.__file__).is_relative_to(SOURCE), (
        f"{throughtime.__file__}: run `make test`, or delete .venv"
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel that is built from a copy of the tree."""
    copy = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(SOURCE, copy / "src", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    run = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    with zipfile.ZipFile(copy / run.stdout.splitlines()[-1]) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_package(wheel: set[str]) -> None:
    files = {str(path.relative_to(SOURCE)) for path in kept("src")}
    assert "throughtime/py.typed" in files
    assert files <= wheel, f"not in the wheel: {sorted(files - wheel)}; see package-data in pyproject.toml"


def test_the_wheel_holds_the_built_pictures_and_nothing_else(wheel: set[str]) -> None:
    assert [name for name in wheel if name.startswith("throughtime/view/assets/")], "the bundle is not in the wheel"
    strange = {name for name in wheel if not name.startswith(("throughtime/", "throughtime-"))}
    assert not strange
    assert [name for name in wheel if name.endswith("licenses/LICENSE")]


def test_every_import_is_declared() -> None:
    """At a file's top only what every install has; an extra's package is loaded where it is used."""
    homes = packages_distributions()
    undeclared = []
    for file in sorted((SOURCE / "throughtime").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
        here = str(file.relative_to(SOURCE / "throughtime"))
        first = RUNS_WITH | (EXTRAS[WRITTEN_FOR[here]] if here in WRITTEN_FOR else set())
        for node in ast.walk(tree):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                named = [node.module or ""]
            for top in {name.partition(".")[0] for name in named} - set(sys.stdlib_module_names) - {"throughtime"}:
                inside = node not in tree.body
                allowed = first.union(*(EXTRAS[e] for e in EXTRAS if inside and e not in FOR_WORK))
                if not allowed & {plain(name) for name in homes.get(top, [top])}:
                    undeclared.append(f"{file.relative_to(ROOT)}:{node.lineno}: {top}")
    assert not undeclared, undeclared


def test_everything_development_needs_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    loose = [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    assert not loose, f"not a plain pin: {loose}"
    missing = RUNS_WITH.union(*(EXTRAS[extra] for extra in FOR_WORK)) - {
        plain(line.partition("==")[0]) for line in pins
    }
    assert not missing, f"no pin in constraints.txt for {sorted(missing)}"


def test_one_version_everywhere() -> None:
    version = throughtime.__version__
    assert PROJECT["version"] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", changelog, flags=re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0] == version
    assert version in headings or headings == ["Unreleased"]


def test_the_licence_is_the_one_that_is_named() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_help_names_every_target_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "bench", "format"):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"make {target} is gone"
        assert f'@echo "make {target} ' in makefile, f"make help does not name {target}"
