"""Pages of the synthetic studies, and a browser to open them in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import throughtime as tt
from tests.view import studies


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The page of a study by its name, drawn once."""
    folder = tmp_path_factory.mktemp("pages")
    known: dict[str, Path] = {}

    def draw(name: str) -> Path:
        if name not in known:
            known[name] = tt.report(studies.ALL[name](), folder / f"{name}.html")
        return known[name]

    return draw


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()
