"""Executions over time: latency, throughput and memory by model, failures marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RequirementError, did_you_mean
from ravenxterm_lab.plots.theme import AXIS, Figure, layout, style
from ravenxterm_lab.plots.view import View, empty_figure
from ravenxterm_lab.units import format_rate, format_seconds

if TYPE_CHECKING:
    import polars as pl

    from ravenxterm_lab.models import ModelManager

__all__ = ["history"]

#: Metric: (column, axis title with its unit, factor).
_METRICS = {
    "throughput": ("throughput", "throughput (tokens/s or items/s)", 1.0),
    "latency": ("latency", "latency (s)", 1.0),
    "time_to_first_token": ("time_to_first_token", "time to first token (s)", 1.0),
    "peak_memory": ("peak_memory", "peak memory (MiB)", 1 / 2**20),
}
_SQL = """
SELECT ts, model, task, success, latency, throughput, time_to_first_token, peak_memory, error
FROM executions
WHERE ts >= now()::TIMESTAMP - to_days(CAST($days AS INTEGER))
  AND ($model IS NULL OR model = $model)
  AND ($task IS NULL OR task = $task)
ORDER BY ts
"""


def history(
    manager: ModelManager,
    *,
    metric: str = "throughput",
    model: str | None = None,
    task: str | None = None,
    days: int | None = None,
) -> View:
    """Draw a metric of every execution over time, one series a model.

    Parameters
    ----------
    manager : ModelManager
        Whose store is read.
    metric : str
        ``"throughput"`` (tokens or items per second), ``"latency"`` (s),
        ``"time_to_first_token"`` (s) or ``"peak_memory"`` (bytes, drawn in MiB).
    model, task : str, optional
        Restrict to one.
    days : int, optional
        How far back; by default the preferences' ``history_window_days``.

    Raises
    ------
    RequirementError
        On an unknown metric.
    """
    if metric not in _METRICS:
        raise RequirementError(f"Unknown metric {metric!r}.{did_you_mean(metric, _METRICS)}")
    window = days or manager.preferences.history_window_days
    frame = manager.sql(_SQL, {"days": window, "model": model, "task": task}).pl()
    if frame.is_empty():
        reason = "No executions yet: run manager.run(…)"
        return View(empty_figure("History", reason), reason, _SQL, frame)
    return View(_draw(frame, metric, window), _summarise(frame, window), _SQL, frame)


def _draw(frame: pl.DataFrame, metric: str, days: int) -> Figure:
    column, axis, factor = _METRICS[metric]
    figure = Figure()
    failed_shown = False
    for index, name in enumerate(sorted(frame["model"].unique())):
        own = frame.filter(frame["model"] == name)
        worked = own.filter(own["success"] & own[column].is_not_null())
        figure.add_scatter(
            x=worked["ts"].to_list(),
            y=[value * factor for value in worked[column].to_list()],
            name=f"{name} (n = {len(worked)})",
            # No line: between two runs that are hours apart nothing was measured.
            mode="markers",
            marker=style(index)["marker"],
        )
        failed = own.filter(~own["success"])
        if len(failed):
            figure.add_scatter(
                x=failed["ts"].to_list(),
                y=[0] * len(failed),
                name="failed",
                legendgroup="failed",
                showlegend=not failed_shown,
                mode="markers",
                marker={"symbol": "x", "size": 10, "color": "#D55E00"},
                text=[f"{name}: {text}" for text in failed["error"].to_list()],
                hoverinfo="text+x",
            )
            failed_shown = True
    subtitle = f"n = {len(frame)} executions, last {days} days, times in UTC"
    figure.update_layout(**layout(axis.capitalize(), subtitle), height=440)
    figure.update_xaxes(title="time (UTC)", **AXIS)
    figure.update_yaxes(title=axis, rangemode="tozero", **AXIS)
    return figure


def _summarise(frame: pl.DataFrame, days: int) -> str:
    worked = frame.filter(frame["success"])
    latency: Any = worked["latency"].median()
    throughput: Any = worked["throughput"].median()
    runs, models = len(frame), frame["model"].n_unique()
    return (
        f"{runs} execution{'s' * (runs != 1)} of {models} model{'s' * (models != 1)} "
        f"in the last {days} days, "
        f"{len(worked)} successful; median latency {format_seconds(latency)}, "
        f"median throughput {format_rate(throughput, 'tok or items')}."
    )
