"""The history of executions: a metric over time, and what each model came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ravenxterm_lab import plots
from ravenxterm_lab.units import NOT_MEASURED, format_bytes, format_rate, format_seconds
from ravenxterm_lab.widgets.figures import FigurePanel
from ravenxterm_lab.widgets.look import escape, table

if TYPE_CHECKING:
    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.plots import View

__all__ = ["HistoryPanel"]

_METRICS = ("throughput", "latency", "time_to_first_token", "peak_memory")
_HEADER = ["model", "task", "runs", "success", "latency p50", "throughput p50", "peak memory"]


class HistoryPanel(FigurePanel):
    """Executions over time, with a drop-down for the metric and one for the task.

    Parameters
    ----------
    manager : ModelManager
        Whose store is read, as far back as ``history_window_days``.

    Attributes
    ----------
    metric, task : Dropdown
        What is drawn, of which task.
    """

    def __init__(self, manager: ModelManager) -> None:
        self.metric = widgets.Dropdown(
            options=[(metric.replace("_", " "), metric) for metric in _METRICS],
            description="metric",
            style={"description_width": "50px"},
            layout={"width": "240px"},
        )
        self.task = widgets.Dropdown(
            options=[("all tasks", "")],
            value="",
            description="task",
            style={"description_width": "40px"},
            layout={"width": "240px"},
        )
        super().__init__(manager, self._view, _per_model, [self.metric, self.task])
        self.metric.observe(self._redraw, "value")
        self.task.observe(self._redraw, "value")

    def _view(self) -> View:
        tasks = [
            row[0]
            for row in self.manager.sql(
                "SELECT DISTINCT task FROM execution_hours WHERE task IS NOT NULL ORDER BY 1"
            ).fetchall()
        ]
        options = (("all tasks", ""), *((task.replace("_", " "), task) for task in tasks))
        if options != self.task.options:
            chosen = self.task.value
            self.task.unobserve(self._redraw, "value")
            self.task.options = options
            self.task.value = chosen if chosen in tasks else ""
            self.task.observe(self._redraw, "value")
        return plots.history(self.manager, metric=self.metric.value, task=self.task.value or None)

    def _redraw(self, _change: object) -> None:
        self.refresh()


def _per_model(view: View) -> str:
    import polars as pl

    worked = pl.col("success")
    frame = (
        view.data()
        .group_by("model", "task")
        .agg(
            pl.len().alias("runs"),
            pl.col("success").mean(),
            pl.col("latency").filter(worked).median(),
            pl.col("throughput").filter(worked).median(),
            pl.col("peak_memory").max(),
        )
        .sort("task", "model")
    )
    rows = [_row(item) for item in frame.iter_rows(named=True)]
    return table("The same executions, by model", _HEADER, rows)


def _row(item: dict[str, Any]) -> list[str]:
    unit = "tok" if item["task"] == "text_generation" else "items"
    return [
        escape(item["model"]),
        escape((item["task"] or "not told").replace("_", " ")),
        f"{item['runs']:,}",
        NOT_MEASURED if item["success"] is None else f"{item['success']:.0%}",
        format_seconds(item["latency"]),
        format_rate(item["throughput"], unit),
        format_bytes(item["peak_memory"]),
    ]
