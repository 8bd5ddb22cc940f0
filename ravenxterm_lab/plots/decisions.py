"""The decisions of the selector over time: which model was chosen, for what, and why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.plots.theme import (
    AXIS,
    Figure,
    layout,
    milliseconds,
    safe,
    see_through,
    style,
    time_axis,
)
from ravenxterm_lab.plots.view import Rows, View, empty_view
from ravenxterm_lab.plots.window import clip, microseconds, window_of
from ravenxterm_lab.units import NOT_MEASURED, format_number

if TYPE_CHECKING:
    from datetime import date, datetime

    import polars as pl

    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.plots.window import Window

__all__ = ["decisions"]

#: Up to so many decisions each is drawn; beyond, those of a column are one mark.
_FEW = 1500
_COLUMNS = 60
#: The diameter of the mark that stands for the most decisions, and of the least one (pixels).
_LARGEST, _SMALLEST = 13.0, 2.0
_NONE = "none was feasible"

_EXTENT = """
SELECT count(*), min(ts), max(ts), count(DISTINCT coalesce(task, '')) > 1,
       (SELECT count(*) > 0 FROM selections)
FROM selections
WHERE ts BETWEEN $start AND $end AND ($task IS NULL OR task = $task)
  AND ($model IS NULL OR chosen = $model)
"""
_SQL = """
SELECT
    chosen, CASE WHEN $apart THEN task END AS task, (epoch_us(ts) - $first) // $width AS place,
    max(ts) AS ts, count(*) AS decisions, arg_max(probability, ts) AS probability,
    arg_max(policy, ts) AS policy, arg_max(reason, ts) AS reason
FROM selections
WHERE ts BETWEEN $start AND $end AND ($task IS NULL OR task = $task)
  AND ($model IS NULL OR chosen = $model)
GROUP BY ALL ORDER BY ts
"""


def decisions(
    manager: ModelManager,
    *,
    model: str | None = None,
    task: str | None = None,
    days: float | None = None,
    start: date | str | None = None,
    end: date | str | None = None,
) -> View:
    """Draw which model was chosen when, a series for each task; hovering tells the reason.

    Of more than 1,500 decisions a mark is what a model was chosen for in one of 60 columns, for
    whatever task unless one is given: its area counts them, and hovering tells the latest reason.

    Parameters
    ----------
    manager : ModelManager
        Whose store is read.
    model, task : str, optional
        Restrict to one.
    days : float, optional
        How far back; by default the preferences' ``history_window_days``.
    start, end : datetime, date or str, optional
        Instead of ``days`` (UTC).

    Raises
    ------
    RequirementError
        On a window that is none.
    """
    window = window_of(manager, days, start, end)

    def zoom(first: datetime, last: datetime) -> View:
        return decisions(manager, model=model, task=task, start=first, end=last)

    chosen = {**window.parameters, "model": model, "task": task}
    count, first, last, differ, recorded = manager.sql(_EXTENT, chosen).fetchall()[0]
    part = clip(window, first, last)
    width = 1 if count <= _FEW else max(int(part.seconds * 1e6) // _COLUMNS, 1)
    few = count <= _FEW
    parameters = {
        **chosen, "first": microseconds(part.start), "width": width, "apart": few or not differ,
    }  # fmt: skip
    frame = manager.sql(_SQL, parameters).pl()
    title = "Decisions of the selector"
    if frame.is_empty():
        reason = (
            f"No decision {window.when}: choose a longer window or other filters"
            if recorded
            else f"No decisions yet: {manager.registry.next_step}"
        )
        return empty_view(title, reason, _SQL, frame, parameters, zoom)
    return View(
        _draw(frame, window, title, each=few), _summarise(frame, window), _SQL, frame,
        parameters, _rows(frame), zoom,
    )  # fmt: skip


def _draw(frame: pl.DataFrame, window: Window, title: str, *, each: bool) -> Figure:
    import polars as pl

    figure = Figure()
    models = _by_count(frame)
    most = int(frame["decisions"].max())  # type: ignore[arg-type]
    for index, task in enumerate(frame["task"].unique().sort().to_list()):
        own = frame.filter(pl.col("task").eq_missing(task))
        name = _task_name(task, each=each)
        marker = see_through(style(index)["marker"])
        figure.add_scatter(
            meta=name if each else f"{name}, counted",
            x=milliseconds(own["ts"]),
            y=[safe(_shown(model)) for model in own["chosen"]],
            name=f"{safe(name)} (n = {int(own['decisions'].sum()):,})",
            mode="markers",
            marker={
                **marker,
                "size": 10 if each else _sizes(own["decisions"], most),
                "opacity": 1,
            },
            text=[_why(row) for row in own.iter_rows(named=True)],
            hovertemplate=(
                f"%{{x|%Y-%m-%d %H:%M:%S}} %{{y}}<br>%{{text}}<extra>{safe(name)}</extra>"
            ),
        )
    count = format_number(int(frame["decisions"].sum()), "decision")
    subtitle = f"n = {count}, {window.label}, times in UTC"
    subtitle += (
        "; hover for the reason"
        if each
        else f"<br>area of a mark: decisions of a column, at most {most:,}; hover for the latest"
    )
    figure.update_layout(
        **layout(title, subtitle),
        height=220 + 30 * len(models) + 20 * (not each),
        xaxis=time_axis(),
        yaxis={
            "title": {"text": "chosen model"},
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [safe(_shown(model)) for model in reversed(models)],
            "automargin": True,
            **AXIS,
        },
    )
    figure.update_layout(showlegend=True, legend={"itemsizing": "constant"})
    return figure


def _task_name(task: str | None, *, each: bool) -> str:
    if task is not None:
        return task.replace("_", " ")
    return "task not told" if each else "all tasks"


def _sizes(decisions: pl.Series, most: int) -> list[float]:
    return [
        round(max(_LARGEST * math.sqrt(count / most), _SMALLEST), 1)
        for count in decisions.to_list()
    ]


def _by_count(frame: pl.DataFrame) -> list[str | None]:
    import polars as pl

    counted = frame.group_by("chosen").agg(pl.col("decisions").sum())
    return counted.sort(["decisions", "chosen"], descending=[True, False])["chosen"].to_list()


def _shown(model: str | None) -> str:
    return _NONE if model is None else model


def _why(row: dict[str, Any]) -> str:
    words = (row["reason"] or "no reason recorded").split()
    lines, line = [], ""
    for word in words:
        if line and len(line) + len(word) > 70:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    chance = NOT_MEASURED if row["probability"] is None else f"{row['probability']:.0%}"
    more = f"chosen with probability {chance}"
    if row["policy"]:
        more += f" by {row['policy']}"
    if row["decisions"] > 1:
        more += f"; the latest of {row['decisions']:,} here"
    return "<br>".join(safe(text) for text in [*lines, line, more])


def _summarise(frame: pl.DataFrame, window: Window) -> str:
    models = _by_count(frame)
    most = int(frame.filter(frame["chosen"].eq_missing(models[0]))["decisions"].sum())
    total = int(frame["decisions"].sum())
    first = "for most no model was feasible" if models[0] is None else f"{models[0]} was chosen"
    return (
        f"{format_number(total, 'decision')} {window.when}; {first} in "
        f"{most:,} of them ({most / total:.0%})."
    )


def _rows(frame: pl.DataFrame) -> Rows:
    cells = []
    for model in _by_count(frame):
        own = frame.filter(frame["chosen"].eq_missing(model)).sort("ts")
        row = own.row(-1, named=True)
        count = f"{int(own['decisions'].sum()):,}"
        when = f"{row['ts']:%Y-%m-%d %H:%M:%S}"
        cells.append([_shown(model), count, when, row["reason"] or "no reason recorded"])
    header = ["chosen", "decisions", "last (UTC)", "the latest reason"]
    return Rows("The same decisions, by model", header, cells)
