"""The first time in real JupyterLab: an empty home, what it says, and doing it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.models]

# Models inside of Python packages that happen to be installed would not be a first time.
CELL = """from ravenxterm_lab.discovery import PackagesSource
PackagesSource.discover = lambda *_: iter(())
from ravenxterm_lab import ModelManager
from ravenxterm_lab.widgets import Dashboard
manager = ModelManager(seed=0)
dashboard = Dashboard(manager)
dashboard"""

#: What each view of the history says without one, by its name in the list.
EMPTY = {
    "success over time": "No executions yet",
    "distribution": "No executions yet",
    "speed × quality × memory": "No models yet",
    "prediction against outcome": "No prediction of throughput",
    "decisions over time": "No decisions yet",
}


def test_an_empty_home_says_what_to_do_and_doing_it_works(
    lab: Any, server: Any, demo_directory: Path, request: pytest.FixtureRequest
) -> None:
    """Every tab says what to run; models that come are found by Scan in the same kernel."""
    path = server.notebook(request.node.name, [CELL, "manager"])
    lab.open(path)
    lab.run_all()
    board = lab.page.locator(".jp-OutputArea-output .raven-lab").first
    home = server.root / Path(path).parent / "home"
    command = f"raven-lab demo --home {home}"

    def says(text: str | re.Pattern[str]) -> None:
        board.get_by_role("status").filter(has_text=text).locator("visible=true").first.wait_for()

    says(f"No models yet: run `{command}`")
    assert board.get_by_role("button", name="Run").is_disabled()
    board.get_by_role("tab", name="History").click()
    says("No executions yet: run `raven-lab demo")
    view = board.get_by_label("view").locator("visible=true")
    for label, empty in EMPTY.items():
        view.select_option(label=label)
        says(re.compile(f"^{empty}.*: run `raven-lab demo"))
    board.get_by_role("tab", name="Hardware").click()
    says("No hardware samples in the last 24 hours: press Live, or run monitor = manager.monitor()")
    board.get_by_role("button", name="Live").locator("visible=true").click()
    says("Live: a sample a second")
    board.get_by_role("button", name="Stop").locator("visible=true").click()
    says(re.compile(r"samples? in the last 10 minutes"))
    board.get_by_role("tab", name="Models").click()
    board.get_by_text("No models yet: run").locator("visible=true").first.wait_for()
    assert lab.barriers() == []

    # What the command does, without its download.
    (home / "models").mkdir(parents=True)
    (home / "models" / "demo").symlink_to(demo_directory, target_is_directory=True)
    board.get_by_role("button", name="Scan").locator("visible=true").click()
    board.get_by_text(re.compile(r"^\d+ models$")).locator("visible=true").first.wait_for()
    board.get_by_role("tab", name="Select").click()
    board.locator("table.raven", has_text="score and its parts").wait_for()
    board.get_by_label("max tokens").fill("8")
    board.get_by_role("button", name="Run").click()
    says(re.compile(r"\d+ tokens .* tok/s"))
    board.get_by_role("tab", name="History").click()
    view.select_option(label="over time")
    says("1 execution of 1 model")


def test_a_scan_in_a_cell_is_followed(
    lab: Any, server: Any, demo_directory: Path, request: pytest.FixtureRequest
) -> None:
    """manager.scan(), as the text says, fills the dashboard of another cell."""
    path = server.notebook(request.node.name, [CELL])
    lab.open(path)
    lab.run_all()
    board = lab.page.locator(".jp-OutputArea-output .raven-lab").first
    board.get_by_role("status").filter(has_text="No models yet").first.wait_for()
    home = server.root / Path(path).parent / "home"
    (home / "models").mkdir(parents=True)
    (home / "models" / "demo").symlink_to(demo_directory, target_is_directory=True)
    assert lab.execute("print(manager.scan().models > 5)") == "True\n"
    board.locator("table.raven", has_text="score and its parts").wait_for()
    board.get_by_text(re.compile(r"\d+ models · ")).first.wait_for()
