"""The dashboard: its tabs, its empty states, and its size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ipywidgets import Widget

from ravenxterm_lab import widgets
from ravenxterm_lab.models import ModelManager
from ravenxterm_lab.widgets import Dashboard
from ravenxterm_lab.widgets.board import Board
from ravenxterm_lab.widgets.look import escape, printable

SELECT, HISTORY, HARDWARE, MODELS, MESSAGES = range(5)
PLOTLY = "application/vnd.plotly.v1+json"


def test_public_names_are_sorted() -> None:
    """What is exported is listed in order, and is there."""
    assert (
        widgets.__all__
        == sorted(widgets.__all__)
        == [
            "Dashboard",
            "HardwareMonitor",
            "HistoryExplorer",
            "PreferencesPanel",
            "SelectionPanel",
        ]
    )
    assert all(hasattr(widgets, name) for name in widgets.__all__)


@pytest.mark.parametrize("name", widgets.__all__)
def test_each_shows_itself_and_a_sentence(manager: ModelManager, name: str) -> None:
    """At the end of a cell each is a widget, and one sentence where widgets are not shown."""
    panel = getattr(widgets, name)(manager)
    bundle = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == panel.summary
    assert "\n" not in panel.summary
    assert name in repr(panel)
    panel.close()
    assert name in repr(panel)


def test_the_header_counts_models_and_memory(manager: ModelManager) -> None:
    """The header line has models, bytes on disk, processor, memory and GPUs."""
    board = Dashboard(manager)
    assert board.summary.startswith("2 models · ")
    for fact in ("on disk", "made up, 8 cores", "12.0 GiB of 16.0 GiB memory free", "GPU"):
        assert fact in board.summary
        assert fact in board._header.value


def test_empty_views_say_what_to_run(make_manager: Callable[..., ModelManager]) -> None:
    """Before any execution each view says why it is empty, and what to run."""
    board = Dashboard(make_manager({}))
    board.tabs.selected_index = HISTORY
    step = board.manager.registry.next_step
    assert step.startswith("put models into")
    assert f"No executions yet: {step}" in board.history.summary
    assert board.history.summary in board.history._sentence.value
    assert board.history._figure.outputs == ()
    board.tabs.selected_index = HARDWARE
    assert "manager.monitor()" in board.hardware.summary
    board.tabs.selected_index = MODELS
    assert step in board._models.value
    board.tabs.selected_index = MESSAGES
    assert f"No models yet: {step}" in board._messages.value
    assert board.tabs.titles[MESSAGES] == "Messages"


def test_history_follows_an_execution(manager: ModelManager) -> None:
    """The open history draws an execution of the first tab, without a cloud button."""
    board = Dashboard(manager)
    board.tabs.selected_index = HISTORY
    board.selection.runner.run()
    assert board.selection.runner.wait(60)
    assert board.history.summary.startswith("1 execution")
    (output,) = board.history._figure.outputs
    figure = output["data"][PLOTLY]
    assert figure["config"]["showSendToCloud"] is False
    assert any(trace.get("name", "").endswith("(n = 1)") for trace in figure["data"])
    assert set(output["data"]) == {PLOTLY, "text/plain"}
    assert board.selection.runner.report is not None
    assert board.selection.runner.report.model.name in board.history._table.value
    board.tabs.selected_index = HARDWARE
    assert board.hardware._figure.outputs
    # Of a machine that does little it is less than a GiB.
    assert "iB</td>" in board.hardware._table.value


def test_history_of_one_task_and_another_metric(manager: ModelManager) -> None:
    """The drop-downs choose the metric and the task, and offer the tasks that were recorded."""
    manager.record_execution_metrics("a", {"latency": 1.0}, task_type="text_generation")
    manager.record_execution_metrics("b", {"latency": 2.0}, task_type="embedding")
    board = Dashboard(manager)
    board.tabs.selected_index = HISTORY
    assert [value for _, value in board.history.task.options] == [
        "",
        "embedding",
        "text_generation",
    ]
    board.history.task.value = "embedding"
    board.history.metric.value = "latency"
    assert board.history.view is not None
    assert board.history.view.data()["series"].unique().to_list() == ["b"]
    assert "latency" in json.dumps(board.history._figure.outputs[0]["data"][PLOTLY]["layout"])
    assert board.history.task.value == "embedding"


def test_recorded_names_are_escaped(manager: ModelManager) -> None:
    """The name of an external model, which may be anything, is shown as text."""
    manager.record_execution_metrics("<img src=x onerror=alert(1)>", {"latency": 1.0})
    board = Dashboard(manager)
    board.tabs.selected_index = HISTORY
    assert "<img" not in board.history._table.value
    assert "&lt;img" in board.history._table.value


def test_a_store_that_cannot_be_read_is_said(manager: ModelManager, home: Path) -> None:
    """A view whose store cannot be read says so in its place, and ranking goes on."""
    (home / "store").mkdir(parents=True)
    (home / "store" / "main.duckdb").write_bytes(b"not a database" * 1000)
    board = Dashboard(manager)
    board.tabs.selected_index = HISTORY
    assert "raven-error" in board.history._sentence.value
    assert board.history.view is None
    assert "main.duckdb" in board.history.summary
    assert escape(board.history.summary) in board.history._sentence.value
    assert board.selection.selected is not None


def test_the_saved_state_is_small(manager: ModelManager) -> None:
    """With every tab open once and a figure drawn, what a notebook saves stays below 200 kB."""
    before = set(Widget.get_manager_state()["state"])
    board = Dashboard(manager)
    board.selection.runner.run()
    assert board.selection.runner.wait(60)
    for index in range(5):
        board.tabs.selected_index = index
    state = Widget.get_manager_state(drop_defaults=True)["state"]
    own = {key: value for key, value in state.items() if key not in before}
    assert board.history._figure.outputs
    assert len(json.dumps(own)) < 200_000
    board.close()
    assert set(Widget.get_manager_state()["state"]) == before


def test_preferences_that_a_cell_changed_are_found(manager: ModelManager) -> None:
    """Once a cell has changed preferences through the manager, open panels follow."""
    board = Dashboard(manager)
    manager.update_preferences(performance_mode="memory")
    Board.of(manager).look(manager)
    assert board.preferences.controls["performance_mode"].value == "memory"


def test_in_a_kernel_panels_follow_each_cell(tmp_path: Path) -> None:
    """In a real IPython shell an open panel shows what the last cell changed."""
    code = f"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
def cell(source):
    shell.run_cell(source, store_history=False).raise_error()
cell("from ravenxterm_lab import ModelManager, widgets")
cell("manager = ModelManager(home={str(tmp_path / "home")!r}, models_dir={str(tmp_path)!r})")
cell("panel = widgets.PreferencesPanel(manager)")
cell("manager.update_preferences(performance_mode='speed')")
cell("print('shown:', panel.controls['performance_mode'].value)")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path / "i")},
        check=False,
    )
    assert "shown: speed" in done.stdout, done.stdout + done.stderr


def test_text_is_made_safe() -> None:
    """Markup is escaped in text and attributes, and marks that turn writing are replaced."""
    assert escape('<a href="x">') == "&lt;a href=&quot;x&quot;&gt;"
    assert printable("a\u202eb\x1b[1m") == "a\ufffdb\ufffd[1m"
    assert escape("a\nb", lines=True) == "a\nb"
    assert escape("a\nb") == "a\ufffdb"
