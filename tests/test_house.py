"""The architecture, held: floors, what loads torch, and what may not be in the tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tree import ROOT, kept

PACKAGE = ROOT / "src" / "throughtime"

# From the ground up. A module imports from floors under its own; those that share a floor do not know each other,
# unless one is inside the other's folder.
FLOORS = (
    ("errors",),
    ("disk", "shell"),
    ("records",),
    ("history",),
    ("cells", "data"),
    ("engines",),
    ("unrolling",),
    ("modules",),
    ("models",),
    ("training", "flow"),
    ("microscope",),
    ("integrations",),
    ("diagnosis",),
    ("view",),
    ("lab",),
    ("study",),
    ("inspection",),
    ("cli",),
    ("__main__",),
)
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
# Stricter than the floors: what stands above the measures sees records only, so that a report can be drawn again
# without the model, years later.
SEES_ONLY = {"diagnosis": {"errors", "records"}, "view": {"errors", "disk", "records", "diagnosis"}}
NO_TORCH = ("errors", "disk", "shell", "records", "history", "diagnosis", "view")

MOST_LINES = 500
SOURCES = {".py", ".ts", ".tsx"}
# Written so that none of these patterns finds itself.
FORBIDDEN_TEXT = {
    "a path of one machine": re.compile(r"(?<![\w.:/$])/(?:work|root|home|tmp|Users|opt|mnt)/\w"),
    "a registry's host": re.compile(r"pypi[.]org|npmjs[.]org|pythonhosted[.]org|download[.]pytorch[.]org"),
}
NETWORK = {"socket", "urllib", "http", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "webbrowser"}
PICKLES = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}


def modules() -> list[str]:
    """Every module of the package, dotted, without the package's own name: `cells.lstm`."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        dotted = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if dotted:
            found.append(dotted)
    return found


def source(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def tree(module: str) -> ast.Module:
    return ast.parse(source(module).read_text(encoding="utf-8"), filename=str(source(module)))


def floor_of(module: str) -> str:
    first = module.partition(".")[0]
    return "cli" if first == "__main__" else first  # `python -m throughtime` is the command under another name


MODULES = modules()


def imports(module: str) -> set[str]:
    """Every module that `module` names in an import anywhere, also inside functions and for type checkers."""
    named: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module if source(module).name == "__init__.py" else module.rpartition(".")[0]
                for _ in range(node.level - 1):
                    package = package.rpartition(".")[0]
                base = ".".join(filter(None, ("throughtime", package, base)))
            named |= {f"{base}.{alias.name}" for alias in node.names}
    return named


def own(module: str) -> set[str]:
    """The floors of the package that `module` imports from; "" stands for the package's root."""
    inside = {name for name in imports(module) if name.split(".")[0] == "throughtime"}
    floors = set()
    for name in inside:
        first = name.split(".")[1] if "." in name else ""
        if first != "__version__":
            floors.add(first if first in FLOOR else "")
    return floors


def complaint(here: str, there: str) -> str | None:
    """Why a module on one floor may not import from the other, or None."""
    if not there:
        return "imports from the package's root; name the module that holds it, so that the floors can be read"
    if here != there and FLOOR[there] >= FLOOR[here]:
        return f"imports from {there}, which is not under {here}"
    if here != there and there not in SEES_ONLY.get(here, FLOOR):
        return f"imports from {there}, but {here} sees records only"
    return None


def test_every_module_is_on_a_floor() -> None:
    homeless = [str(source(module).relative_to(ROOT)) for module in MODULES if floor_of(module) not in FLOOR]
    assert not homeless, (
        f"{homeless}: on no floor; move them into a folder, or name a floor here and in CONTRIBUTING.md"
    )


def test_imports_go_downward() -> None:
    complaints = [
        f"{module} {reason}"
        for module in MODULES
        if floor_of(module) in FLOOR
        for there in sorted(own(module))
        if (reason := complaint(floor_of(module), there))
    ]
    assert not complaints, f"{complaints}; from the ground up: {', '.join('/'.join(names) for names in FLOORS)}"


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("cells", "data"),
        ("data", "cells"),
        ("training", "flow"),
        ("flow", "training"),
        ("cells", "engines"),
        ("view", "flow"),
        ("view", "history"),
        ("diagnosis", "models"),
        ("study", "cli"),
        ("flow", ""),
    ],
)
def test_the_walls_stand(here: str, there: str) -> None:
    assert complaint(here, there)


def loaded_by(*statements: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after these statements."""
    code = "\n".join((*statements, "import sys", "print(*sorted({name.partition('.')[0] for name in sys.modules}))"))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("floor", NO_TORCH)
def test_the_floor_loads_without_torch(floor: str) -> None:
    there = [module for module in MODULES if floor_of(module) == floor]
    assert there, f"there is no throughtime.{floor}"
    heavy = loaded_by(*(f"import throughtime.{module}" for module in there)) & {"torch", "accelerate"}
    assert not heavy, f"importing throughtime.{floor} loads {', '.join(sorted(heavy))}"


def test_help_loads_no_torch() -> None:
    heavy = {"torch", "accelerate", "polars", "sklearn", "numpy"} & loaded_by("import throughtime.cli")
    assert not heavy, f"`throughtime --help` would wait for {', '.join(sorted(heavy))}"


def test_every_floor_has_its_tests() -> None:
    """The tests' tree is the package's; `errors` alone does nothing that could be tested."""
    here = {floor_of(module) for module in MODULES} - {"errors"}
    tests = ROOT / "tests"
    tested = {path.name for path in tests.iterdir() if path.is_dir() and any(path.rglob("test_*.py"))}
    tested |= {path.stem.removeprefix("test_") for path in tests.glob("test_*.py")}
    assert here <= tested, f"without tests/NAME/ or tests/test_NAME.py: {sorted(here - tested)}"


# -- what may not be in the source


def names(module: str) -> set[str]:
    """Dotted names that are called or read: `torch.load`, `eval`."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
    return found


def lets_pickles_in(module: str) -> bool:
    """Whether numpy is told to read pickles anywhere."""
    calls = (node for node in ast.walk(tree(module)) if isinstance(node, ast.Call))
    values = (keyword.value for call in calls for keyword in call.keywords if keyword.arg == "allow_pickle")
    return any(not (isinstance(value, ast.Constant) and value.value is False) for value in values)


def test_nothing_runs_what_it_reads() -> None:
    """No pickle in any clothing, no eval, no exec: safetensors, JSON and npz hold what is saved."""
    used = {
        module: found
        for module in MODULES
        if (
            found := ((names(module) | imports(module)) & {"eval", "exec", "torch.load", "torch.save"})
            | {name for name in imports(module) if name.partition(".")[0] in PICKLES}
            | ({"allow_pickle"} if lets_pickles_in(module) else set())
        )
    }
    assert not used, used


def test_nothing_reaches_for_a_network() -> None:
    used = {
        module: found
        for module in MODULES
        if (found := {name for name in imports(module) if name.partition(".")[0] in NETWORK})
    }
    assert not used, used


def test_no_file_holds_too_much() -> None:
    long = {
        str(file.relative_to(ROOT)): count
        for file in kept()
        if file.suffix in SOURCES and (count := len(file.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert not long, f"more than {MOST_LINES} lines, so it probably holds two ideas: {long}"


@pytest.mark.parametrize("what", FORBIDDEN_TEXT)
def test_no_machine_is_named(what: str) -> None:
    found = []
    for file in kept():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if match := FORBIDDEN_TEXT[what].search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {match.group()}")
    assert not found, f"{what} is named: {found}"


# -- a new cell is one file


def cell_classes() -> dict[str, set[str]]:
    """The modules of `cells` that make cells known, with the classes: `class …(…, name="…")`."""
    found: dict[str, set[str]] = {}
    for module in MODULES:
        for node in tree(module).body if module.startswith("cells.") else ():
            if isinstance(node, ast.ClassDef) and any(keyword.arg == "name" for keyword in node.keywords):
                found.setdefault(module, set()).add(node.name)
    return found


# The engines that hand a cell to somebody else's kernel have to know which cell it is.
KNOWS_CELLS = {"engines.native"}


def test_no_other_file_knows_a_cell() -> None:
    """Outside `cells`, code asks the contract; it never names one cell's file or class."""
    files = {f"throughtime.{file}" for file in cell_classes()}
    classes = {f"throughtime.cells.{name}" for names in cell_classes().values() for name in names}
    knowing = {
        module: found
        for module in MODULES
        if not module.startswith("cells") and module not in KNOWS_CELLS
        if (found := {name for name in imports(module) if {name, name.rpartition(".")[0]} & (files | classes)})
    }
    assert not knowing, knowing


def test_every_cell_file_is_known() -> None:
    script = "from throughtime import cells\nprint(*{cells.find(name).__module__ for name in cells.known()})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    known = set(run.stdout.split())
    forgotten = {f"throughtime.{file}" for file in cell_classes()} - known
    assert not forgotten, f"{forgotten} define cells that are not loaded; add them to cells/__init__.py"


ONE_NEW_CELL = """
import torch, throughtime as tt
from throughtime.cells import Cell, Gates, State
from throughtime.models import Net
from throughtime.modules import Recurrent

class Leaky(Cell, name="leaky"):
    parts = ("h",)
    reads = {"keep": "h", "hidden": "h"}
    inputs = ("hidden",)

    def step(self, u, read, W):
        h = 0.9 * read.keep + 0.1 * torch.tanh(u.hidden + W.hidden(read.hidden))
        return State(h=h), Gates()

torch.manual_seed(0)
x = torch.randn(5, 2, 3, dtype=torch.float64)
cell = tt.cells.make("leaky", 3, 4, dtype=torch.float64)
assert tt.unroll(cell, x).output.shape == (5, 2, 4)

jacobians = tt.flow.jacobians(cell, x)
assert jacobians.shape == (5, 2, 4, 4)
assert torch.allclose(sum(tt.flow.ports(cell, x).values()), jacobians, rtol=0, atol=1e-12)
tt.flow.credit(cell, x, torch.ones(5, 2, 4, dtype=torch.float64))

layer = Recurrent("leaky", 3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
output, state = layer(x)
assert output.shape == (5, 2, 8)
output.sum().backward()
assert all(p.grad is not None for p in layer.parameters())

data = tt.data.load("adding", lag=5, samples=64)
net = Net.build(data.card, "leaky", hidden=4)
for update in tt.train(net, data):
    break
print("leaky" in tt.cells.known())
"""


def test_a_new_cell_is_one_definition(tmp_path: Path) -> None:
    """A cell that only this test knows is unrolled, measured, stacked and trained."""
    run = subprocess.run(
        [sys.executable, "-c", ONE_NEW_CELL], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["True"]
