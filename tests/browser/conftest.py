"""Real JupyterLab and real Chromium for the journeys; skipped where one of them is absent."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(scope="session")
def pages() -> ModuleType:
    """The driver of JupyterLab's pages; a test is skipped where what it needs is absent."""
    needed = {"jupyterlab": "lab", "playwright": "test", "axe_playwright_python": "test"}
    for package, extra in needed.items():
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'{package} is absent: pip install "ravenxterm-lab[{extra}]"')
    import jupyter_pages as module

    if not module.CHROMIUM.exists():
        pytest.skip(f"{module.CHROMIUM} is absent: install Debian's chromium")
    return module


@pytest.fixture(scope="session")
def server(pages: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One JupyterLab for all journeys; each notebook in it has a home of its own."""
    with pages.JupyterServer(tmp_path_factory.mktemp("jupyter")) as running:
        yield running


@pytest.fixture(scope="session")
def browser(pages: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Chromium for all journeys."""
    with pages.chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def open_lab(pages: ModuleType, server: Any, browser: Any) -> Iterator[Callable[[], Any]]:
    """Return an opener of pages; none may have asked other machines for anything, or had an error.

    The kernels of a test end with it, so that none works beside the next.
    """
    opened: list[Any] = []

    def open_page() -> Any:
        opened.append(pages.LabPage(browser, server))
        return opened[-1]

    yield open_page
    for page in opened:
        page.close()
    server.end_kernels()
    assert [page.outside for page in opened] == [[] for _ in opened]
    assert [page.errors for page in opened] == [[] for _ in opened]


@pytest.fixture
def lab(open_lab: Callable[[], Any]) -> Any:
    """A fresh page."""
    return open_lab()


@pytest.fixture
def make_notebook(
    server: Any, demo_directory: Path, request: pytest.FixtureRequest
) -> Callable[..., str]:
    """Return a maker of notebooks whose home holds the real demo models.

    Those of one test, told apart by ``file``, share that home.
    """

    def make(source: Path | list[str], **options: str) -> str:
        path: str = server.notebook(request.node.name, source, demo_directory, **options)
        return path

    return make
