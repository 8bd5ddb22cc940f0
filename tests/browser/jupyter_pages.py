"""Real JupyterLab on this machine, and pages of it in headless Chromium, for tests and pictures."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.request
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route, WebSocket

CHROMIUM = Path("/usr/bin/chromium")
AXE = Path(str(files("axe_playwright_python"))) / "axe.min.js"
ARGUMENTS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: A page does not draw cells that are out of sight, asks for news, saves, and gives a completion a
#: second to come, however slow the machine, unless told not to.
_SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
    "@jupyterlab/completer-extension/manager": {"providerTimeout": 120_000},
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
}
# Each notebook's directory is the home of its own kernel, so that no journey sees another's.
_STARTUP = """
import os
from pathlib import Path
os.environ["RAVENXTERM_HOME"] = str(Path.cwd() / "home")
"""
_SESSION = "window.jupyterapp?.shell?.currentWidget?.sessionContext"
_NOTEBOOK = "window.jupyterapp.shell.currentWidget.content"
_CELLS = f"{_NOTEBOOK}.model.cells"


class JupyterServer:
    """JupyterLab on 127.0.0.1 with directories of its own; use it as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "work"
        self.token = secrets.token_hex(16)
        self.url = ""
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        places = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
            "HOME": "user",
        }
        for name in (*places.values(), "work"):
            (self._directory / name).mkdir(parents=True)
        for plugin, settings in _SETTINGS.items():
            file = self._directory / "settings" / f"{plugin}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(settings), encoding="utf-8")
        startup = self._directory / "ipython" / "profile_default" / "startup" / "00-home.py"
        startup.parent.mkdir(parents=True)
        startup.write_text(_STARTUP, encoding="utf-8")
        environment = {**os.environ, "PYTHONWARNINGS": "default"}
        environment |= {name: str(self._directory / place) for name, place in places.items()}
        with (self._directory / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "jupyterlab",
                    "--no-browser",
                    "--allow-root",
                    "--ServerApp.ip=127.0.0.1",
                    "--ServerApp.port=0",
                    f"--IdentityProvider.token={self.token}",
                    f"--ServerApp.root_dir={self.root}",
                    "--LabApp.expose_app_in_browser=True",
                ],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        # Asked to end, it ends its kernels, and they their workers.
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            for file in (self._directory / "runtime").glob("jpserver-*.json"):
                with contextlib.suppress(ValueError, KeyError):
                    self.url = json.loads(file.read_text(encoding="utf-8"))["url"]
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        self._process.kill()
        log = (self._directory / "log.txt").read_text(encoding="utf-8")
        raise RuntimeError(f"JupyterLab did not start:\n{log[-4000:]}")

    def end_kernels(self) -> None:
        """End all kernels, as the list of running kernels does."""
        for kernel in json.loads(self._ask("GET", "api/kernels")):
            self._ask("DELETE", f"api/kernels/{kernel['id']}")

    def _ask(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(
            self.url + path, method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content

    def notebook(
        self, name: str, source: Path | list[str], models: Path | None = None, *, file: str = "page"
    ) -> str:
        """Make a notebook; return its path below the root.

        Parameters
        ----------
        name : str
            Of the directory, which is the home of all kernels of its notebooks.
        source : Path or list of str
            A notebook to copy, or the code of its cells.
        models : Path, optional
            Put into that home as ``models/demo``.
        file : str
            The notebook's own name.
        """
        directory = self.root / name
        directory.mkdir(exist_ok=True)
        if models is not None and not (directory / "home").exists():
            (directory / "home" / "models").mkdir(parents=True)
            (directory / "home" / "models" / "demo").symlink_to(models, target_is_directory=True)
        if isinstance(source, Path):
            text = source.read_text(encoding="utf-8")
        else:
            text = json.dumps(_as_notebook(source))
        with (directory / f"{file}.ipynb").open("x", encoding="utf-8") as place:
            place.write(text)
        return f"{name}/{file}.ipynb"


def _as_notebook(cells: list[str]) -> dict[str, Any]:
    return {
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell-{index}",
                "execution_count": None,
                "metadata": {},
                "outputs": [],
                "source": code,
            }
            for index, code in enumerate(cells)
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


class LabPage:
    """A page of JupyterLab. What it asked of other machines, and its errors, are kept."""

    def __init__(
        self, browser: Browser, server: JupyterServer, *, width: int = 1400, height: int = 1000
    ) -> None:
        self.outside: list[str] = []
        self.errors: list[str] = []
        self._server = server
        self._context = browser.new_context(viewport={"width": width, "height": height})
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(120_000)
        self.page.route("**/*", self._guard)
        self.page.on("websocket", self._guard_socket)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._hear)

    def _guard(self, route: Route) -> None:
        url = route.request.url
        if url.startswith((self._server.url, "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(url)
            route.abort()

    def _guard_socket(self, socket: WebSocket) -> None:
        if not socket.url.startswith(self._server.url.replace("http", "ws", 1)):
            self.outside.append(socket.url)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error" and "ravenxterm" in message.text.lower():
            self.errors.append(message.text)

    def open(self, path: str) -> None:
        """Open a notebook and wait until its kernel is ready."""
        self.page.goto(f"{self._server.url}lab/tree/{path}?token={self._server.token}&reset")
        # The indicator says "idle" before there is a session, so the session itself is asked.
        self.page.wait_for_function(
            f"{_SESSION}?.isReady && {_SESSION}.session?.kernel?.status === 'idle'",
            timeout=180_000,
        )

    def restart_kernel(self) -> None:
        """Restart the kernel and clear the outputs, as the menu does."""
        self.page.evaluate(
            "void window.jupyterapp.commands.execute('notebook:restart-clear-output')"
        )
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.page.wait_for_function(
            f"""Array.from({_CELLS}).every(cell => cell.type !== 'code' ||
                cell.executionCount === null) && {_SESSION}.session?.kernel?.status === 'idle'"""
        )

    def end_kernel(self) -> None:
        """End the kernel of the notebook that is open; nothing starts another."""
        self.page.evaluate(f"{_SESSION}.shutdown()")
        self.page.wait_for_function(f"!{_SESSION}.session?.kernel")

    def run_notebook(self, path: str) -> Locator:
        """Open a notebook, run all of it without an error, and return its first panel."""
        self.open(path)
        self.run_all()
        assert self.failures() == []
        return self.panel

    @property
    def panel(self) -> Locator:
        """The first panel of ours in an output."""
        return self.page.locator(".jp-OutputArea-output .raven-lab").first

    def says(self, text: str | re.Pattern[str]) -> str:
        """Wait until a status that can be seen says something; return the whole of it."""
        said = self.page.locator(".raven-lab").get_by_role("status").filter(has_text=text)
        found = said.locator("visible=true").first
        found.wait_for()
        return found.inner_text()

    def failures(self) -> list[str]:
        """Return the errors in the outputs of the cells."""
        return [
            f"{output['ename']}: {output['evalue']}"
            for cell in self.cells()
            for output in cell.get("outputs", [])
            if output["output_type"] == "error"
        ]

    def execute(self, code: str) -> str:
        """Run code in the notebook's kernel, outside of its cells; return what it printed."""
        self.begin(code)
        return self.ended()

    def begin(self, code: str) -> None:
        """Run code in the notebook's kernel, outside of its cells, and go on at once."""
        self.page.evaluate(
            f"""code => {{
                const future = {_SESSION}.session.kernel.requestExecute(
                    {{code, store_history: false}});
                let text = '';
                future.onIOPub = message => {{
                    if (message.header.msg_type === 'stream') text += message.content.text;
                    if (message.header.msg_type === 'error') text += message.content.evalue;
                }};
                window.ravenEnded = future.done.then(() => text);
            }}""",
            code,
        )

    def ended(self) -> str:
        """Wait for the end of what was begun; return what it printed."""
        printed: str = self.page.evaluate("window.ravenEnded")
        return printed

    def edit_last_cell(self) -> None:
        """Put the cursor into the last cell, by keyboard."""
        self.page.evaluate(
            "window.jupyterapp.shell.activateById(window.jupyterapp.shell.currentWidget.id)"
        )
        last = f"{_NOTEBOOK}.activeCellIndex === {_NOTEBOOK}.widgets.length - 1"
        self.page.keyboard.press("Escape")
        while not self.page.evaluate(last):
            self.page.keyboard.press("ArrowDown")
        self.page.keyboard.press("Enter")
        self.page.wait_for_function(f"{_NOTEBOOK}.mode === 'edit'")

    def run_cell(self) -> dict[str, Any]:
        """Run the cell that has the cursor, by keyboard; return it with its output."""
        cell = f"{_NOTEBOOK}.activeCell.model"
        before = self.page.evaluate(f"{cell}.executionCount")
        self.page.keyboard.press("Control+Enter")
        self.page.wait_for_function(
            f"""before => ![null, before].includes({cell}.executionCount)
                && {_SESSION}.session.kernel.status === 'idle'""",
            arg=before,
        )
        run: dict[str, Any] = self.page.evaluate(f"{cell}.toJSON()")
        return run

    def run_all(self, *, timeout: float = 240) -> None:
        """Run all cells and wait until each has its number and the kernel is idle."""
        self.page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.page.wait_for_function(
            f"""Array.from({_CELLS}).filter(cell => cell.type === 'code')
                .every(cell => cell.executionCount !== null)
                && {_SESSION}.session.kernel.status === 'idle'""",
            timeout=timeout * 1000,
        )

    def cells(self) -> list[dict[str, Any]]:
        """Return the cells with their outputs, as they would be saved."""
        cells: list[dict[str, Any]] = self.page.evaluate(
            f"Array.from({_CELLS}).map(cell => cell.toJSON())"
        )
        return cells

    def theme(self, name: str) -> None:
        """Switch the theme, as the menu does."""
        self.page.evaluate(
            f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: {name!r}}})"
        )
        light = str("Light" in name).lower()
        self.page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")

    def save(self) -> None:
        """Save the notebook, as the menu does."""
        self.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")

    def uploads(self) -> list[str]:
        """Return the buttons of figures that lead elsewhere; figures and buttons must be there."""
        titles: list[str] = self.page.locator(".js-plotly-plot [data-title]").evaluate_all(
            "buttons => buttons.map(button => button.dataset.title)"
        )
        if not any("PNG" in title for title in titles):
            raise AssertionError("The page shows no figure with its buttons.")
        return [title for title in titles if re.search("share|cloud|plotly", title, re.IGNORECASE)]

    def barriers(self) -> list[str]:
        """Return what axe-core finds serious or critical in the outputs of the cells.

        https://github.com/dequelabs/axe-core; what JupyterLab draws around the outputs is left out.
        """
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found: list[dict[str, Any]] = self.page.evaluate(
            """async () => (await axe.run({include: [['.jp-OutputArea-output']]},
                {resultTypes: ['violations']})).violations"""
        )
        return [
            f"{rule['impact']}: {rule['help']} ({rule['id']}): {node['html'][:200]}"
            f" {node['failureSummary'][:300]}"
            for rule in found
            if rule["impact"] in {"serious", "critical"}
            for node in rule["nodes"]
        ]

    def close(self) -> None:
        """Close the page."""
        self._context.close()


@contextlib.contextmanager
def chromium(directory: Path) -> Iterator[Browser]:
    """Start Debian's Chromium; what it writes goes below ``directory``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=ARGUMENTS,
            env={**os.environ, "HOME": str(directory)},
        )
        try:
            yield browser
        finally:
            browser.close()
