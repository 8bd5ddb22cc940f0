"""The explorer of the history: its views, its filters, its zoom."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ravenxterm_lab.models import ModelManager
from ravenxterm_lab.widgets import HistoryExplorer

PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture
def explorer(manager: ModelManager) -> HistoryExplorer:
    """An explorer of four executions of two models and tasks."""
    for index, task in enumerate(("text_generation", "text_generation", "embedding", "embedding")):
        manager.record_execution_metrics(
            f"model-{index // 2}", {"latency": 0.1 * (index + 1)}, task_type=task
        )
    explorer = HistoryExplorer(manager)
    explorer.refresh()
    return explorer


def drawn(explorer: HistoryExplorer) -> dict[str, object]:
    (output,) = explorer._figure.outputs
    figure: dict[str, object] = output["data"][PLOTLY]
    return figure


@pytest.mark.parametrize("kind", ["history", "success", "distributions", "frontier", "decisions"])
def test_each_view_is_drawn_with_its_table(explorer: HistoryExplorer, kind: str) -> None:
    """Choosing a view draws it, says it, and lays it out as a table."""
    explorer.manager.optimize_model_selection("text_generation")
    explorer.metric.value = "latency"
    explorer.kind.value = kind
    assert explorer.view is not None
    assert explorer.summary == explorer.view.summary
    assert drawn(explorer)["data"]
    assert drawn(explorer)["config"]["showSendToCloud"] is False  # type: ignore[index]
    assert "<table" in explorer._table.value
    assert explorer.sql == explorer.view.sql
    assert explorer.data().equals(explorer.view.data())


def test_a_view_without_rows_says_what_to_run(explorer: HistoryExplorer) -> None:
    """Where no prediction has an outcome, the sentence says how there come to be some."""
    explorer.kind.value = "predictions"
    assert explorer._figure.outputs == ()
    assert "manager.run" in explorer._sentence.value
    assert "load_seconds" in [value for _, value in explorer.metric.options]


def test_the_metric_is_off_where_there_is_none(explorer: HistoryExplorer) -> None:
    """Success and decisions have no metric; coming back, the metrics are offered again."""
    explorer.kind.value = "success"
    assert explorer.metric.disabled
    explorer.kind.value = "distributions"
    assert not explorer.metric.disabled
    assert len(explorer.metric.options) == 4


def test_model_and_task_narrow_the_view(explorer: HistoryExplorer) -> None:
    """The drop-downs offer what was recorded, and restrict to it."""
    assert [value for _, value in explorer.model.options] == ["", "model-0", "model-1"]
    explorer.model.value = "model-1"
    assert explorer.summary.startswith("2 executions of 1 model")
    explorer.task.value = "text_generation"
    assert "choose a longer window or other filters" in explorer.summary


def test_the_window_of_the_preferences_is_offered(manager: ModelManager) -> None:
    """A window that is none of the usual ones is in the list, and chosen."""
    manager.update_preferences(history_window_days=45)
    explorer = HistoryExplorer(manager)
    assert explorer.window.value == 45
    assert ("last 45 days", 45) in explorer.window.options


def test_the_zoom_is_a_box_that_asks_the_store(explorer: HistoryExplorer) -> None:
    """Two times restrict the query, and are the range of the axis; an empty box goes back."""
    explorer.zoom.value = "2026-01-01 10:00 to 2026-01-01 11:00:00.5"
    assert explorer.view is not None
    assert "from 2026-01-01 10:00 to 2026-01-01 11:00:00" in explorer.summary
    explorer.zoom.value = "2020-01-01 00:00 to 2060-01-01 00:00"
    assert explorer.summary.startswith("4 executions")
    axis = drawn(explorer)["layout"]["xaxis"]  # type: ignore[index]
    assert axis["range"] == ["2020-01-01 00:00:00", "2060-01-01 00:00:00"]
    explorer.zoom.value = ""
    assert "range" not in drawn(explorer)["layout"]["xaxis"]  # type: ignore[index]


@pytest.mark.parametrize("text", ["yesterday", "2026-01-01 to soon", "2026-01-02 to 2026-01-01"])
def test_a_zoom_that_cannot_be_read_is_said(explorer: HistoryExplorer, text: str) -> None:
    """What is no window is an error in its place, and the next one is drawn again."""
    explorer.zoom.value = text
    assert "raven-error" in explorer._sentence.value
    assert explorer._figure.outputs == ()
    explorer.zoom.value = ""
    assert explorer._figure.outputs


def test_a_new_window_leaves_the_zoom(explorer: HistoryExplorer) -> None:
    """Choosing how far back to look empties the box."""
    explorer.zoom.value = "2020-01-01 to 2060-01-01"
    explorer.window.value = 7.0
    assert explorer.zoom.value == ""
    assert "in the last 7 days" in explorer.summary


def test_it_draws_itself_when_it_is_shown_and_follows(
    make_manager: Callable[..., ModelManager],
) -> None:
    """Nothing is read before it is shown; then each execution that ends is drawn."""
    manager = make_manager({"small": 2})
    explorer = HistoryExplorer(manager)
    assert explorer.view is None
    explorer._repr_mimebundle_()
    assert explorer.summary.startswith("No executions yet: run manager.run(")
    manager.record_execution_metrics("a", {"latency": 1.0})
    explorer._board.tell("executions")
    assert explorer.summary.startswith("1 execution of 1 model")
    explorer.close()
