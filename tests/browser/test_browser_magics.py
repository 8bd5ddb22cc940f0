"""The magics in real cells: typed, completed with the Tab key, and run, without a mouse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.models]

Make = Callable[..., str]
SETUP = """%load_ext ravenxterm_lab
from ravenxterm_lab import ModelManager
manager = ModelManager(seed=0)
report = manager.run("embedding", ["a raven"])
manager.record_execution_metrics("mine", {"latency": 0.5})
wanted_model = report.model.name"""
EDITOR = "window.jupyterapp.shell.currentWidget.content.activeCell.model.sharedModel.source"
OFFERED = ".jp-Completer:not(.jp-mod-hidden) .jp-Completer-item"


def complete(lab: Any, typed: str, wanted: str) -> list[str]:
    """Type, press Tab, and choose what is wanted; return all that was offered."""
    page = lab.page
    page.keyboard.type(typed)
    page.wait_for_function(f"typed => {EDITOR}.endsWith(typed)", arg=typed)
    page.keyboard.press("Tab")
    items = page.locator(OFFERED)
    items.first.wait_for()
    offered: list[str] = items.evaluate_all("all => all.map(one => one.dataset.value)")
    for _ in range(offered.index(wanted)):
        page.keyboard.press("ArrowDown")
    page.locator(f"{OFFERED}.jp-mod-active[data-value='{wanted}']").wait_for()
    page.keyboard.press("Enter")
    page.wait_for_function(f"wanted => {EDITOR}.endsWith(wanted)", arg=wanted)
    items.first.wait_for(state="hidden")
    return offered


def test_a_query_is_written_with_the_tab_key(lab: Any, make_notebook: Make) -> None:
    """Tables, columns and $variables are completed in a real cell; the query runs with them."""
    lab.run_notebook(make_notebook([SETUP, "1"]))
    keyboard = lab.page.keyboard
    lab.edit_last_cell()
    keyboard.press("Control+a")
    keyboard.type("%%raven_sql -o found\nSELECT model, latency\n")
    tables = complete(lab, "FROM executi", "executions")
    assert "execution_hours" in tables
    keyboard.type("\n")
    variables = complete(lab, "WHERE model = $wanted", "$wanted_model")
    assert variables == ["$wanted_model"]
    keyboard.type("\n")
    columns = complete(lab, "ORDER BY executions.l", "latency")
    assert all(column.startswith("l") for column in columns)
    lab.run_cell()
    got = lab.execute("print(found.fetchall() == [(wanted_model, report.result.latency)])")
    assert got.strip() == "True"


def test_a_mistake_is_one_line_and_a_word_of_raven_is_completed(
    lab: Any, make_notebook: Make
) -> None:
    """%raven's words and the models' names come with Tab; a query that fails says why in a line."""
    lab.run_notebook(make_notebook([SETUP, "1"]))
    keyboard = lab.page.keyboard
    lab.edit_last_cell()
    keyboard.press("Control+a")
    complete(lab, "%raven w", "why")
    keyboard.type(" ")
    model = lab.execute("print(wanted_model)").strip()
    complete(lab, model[:4], model)
    shown = lab.run_cell()["outputs"][0]["data"]
    assert "it is the first choice" in "".join(shown["text/plain"])
    lab.edit_last_cell()
    keyboard.press("Control+a")
    keyboard.type("%%raven_sql\nDELETE FROM executions")
    assert "read-only" in str(lab.run_cell()["outputs"])
    assert lab.execute("print(manager.sql('FROM executions').pl().height)").strip() == "2"
