"""The success of executions over time, with the interval that few executions leave."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.plots.history_figure import height_for, series_of, shown_name
from ravenxterm_lab.plots.sampling import NAMED, RUNS, extent_of, no_executions
from ravenxterm_lab.plots.theme import (
    AXIS,
    Figure,
    band_of,
    floats,
    layout,
    milliseconds,
    safe,
    series_style,
    time_axis,
)
from ravenxterm_lab.plots.view import Rows, View, empty_view
from ravenxterm_lab.plots.window import window_of
from ravenxterm_lab.quality import wilson
from ravenxterm_lab.units import format_number

if TYPE_CHECKING:
    from datetime import date

    import polars as pl

    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.plots.window import Window
    from ravenxterm_lab.quality import Interval

__all__ = ["success"]

_LEVEL = 0.95
_MOST_BANDS = 4
#: Larger marks of more points than this would touch on a narrow page.
_SPARSE = 25
#: How far down from 100% the axis may reach (percent).
_DEPTHS = (1, 2, 5, 10, 20, 40, 60, 80)

# Both yield one row a series and period, in the middle of what it counts; the rollups are exact,
# and a thousand times smaller.
_FROM_HOURS = """
SELECT
    CASE WHEN model IN (SELECT model FROM named) THEN model END AS series,
    make_timestamp((epoch_us(min(hour)) + epoch_us(max(last_run))) // 2) AS ts,
    sum(runs - interrupted)::BIGINT AS runs, sum(succeeded)::BIGINT AS succeeded,
    sum(interrupted)::BIGINT AS stopped
FROM execution_hours
WHERE hour >= date_trunc('hour', $start) AND hour <= $end
  AND ($model IS NULL OR model = $model) AND ($task IS NULL OR task = $task)
GROUP BY series, epoch_us(hour) // $period ORDER BY series NULLS LAST, ts
"""
_FROM_RUNS = """
SELECT
    series, make_timestamp((epoch_us(min(ts)) + epoch_us(max(ts))) // 2) AS ts,
    count(*) FILTER (what <> 'stopped') AS runs, count(*) FILTER (what = 'run') AS succeeded,
    count(*) FILTER (what = 'stopped') AS stopped
FROM runs GROUP BY series, epoch_us(ts) // $period ORDER BY series NULLS LAST, ts
"""


def success(
    manager: ModelManager,
    *,
    model: str | None = None,
    task: str | None = None,
    days: float | None = None,
    start: date | str | None = None,
    end: date | str | None = None,
) -> View:
    """Draw the share of executions that succeeded over time, one series a model.

    The band is Wilson's 95% interval: a share of three executions says little. Runs that the
    person stopped count neither way. From an hour a value on, the counts come from the hourly
    rollups, of whole hours.

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
        return success(manager, model=model, task=task, start=first, end=last)

    extent = extent_of(manager, window, model, task)
    hourly = extent.period >= 3600
    runs = f"{NAMED}" if hourly else f"{NAMED}, {RUNS.format(value='NULL')}"
    sql = f"WITH {runs}{_FROM_HOURS if hourly else _FROM_RUNS}"
    parameters = {**extent.parameters, "period": int(extent.period * 1e6)}
    frame = manager.sql(sql, parameters).pl()
    if frame.is_empty():
        reason = no_executions(manager, extent, window, model, task)
        return empty_view("Success (% of executions)", reason, sql, frame, parameters, zoom)
    figure = _draw(_with_intervals(frame), window)
    return View(figure, _summarise(frame, window), sql, frame, parameters, _rows(frame), zoom)


def _with_intervals(frame: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    tried = frame.filter(pl.col("runs") > 0)
    found = [wilson(good, runs, _LEVEL) for good, runs in tried["succeeded", "runs"].iter_rows()]
    shares = [share for share in found if share is not None]
    return tried.with_columns(
        value=pl.Series([share.value for share in shares], dtype=pl.Float64),
        low=pl.Series([share.low for share in shares], dtype=pl.Float64),
        high=pl.Series([share.high for share in shares], dtype=pl.Float64),
    )


def _draw(frame: pl.DataFrame, window: Window) -> Figure:
    import polars as pl

    figure = Figure()
    names = series_of(frame)
    for index, name in enumerate(names):
        own = frame.filter(pl.col("series").eq_missing(name))
        look, label = series_style(index, name), safe(shown_name(name))
        times = milliseconds(own["ts"])
        if len(names) <= _MOST_BANDS:
            for edge, fill in (("high", None), ("low", "tonexty")):
                figure.add_scatter(
                    meta=f"{label} {edge}",
                    x=times,
                    y=floats(own[edge], 100),
                    mode="lines",
                    line={"width": 0},
                    fill=fill,
                    fillcolor=band_of(index),
                    legendgroup=label,
                    showlegend=False,
                    hoverinfo="skip",
                )
        figure.add_scatter(
            meta=f"{label} points",
            x=times,
            y=floats(own["value"], 100),
            name=f"{label} (n = {own['runs'].sum():,})",
            legendgroup=label,
            mode="lines+markers",
            line=look["line"],
            marker={**look["marker"], "size": 8 if len(own) <= _SPARSE else 5},
            # A band between two moments shows nothing of one.
            error_y=_whiskers(own) if len(own) == 1 else None,
            customdata=[
                f"{good:,} of {runs:,}, {low:.0%} to {high:.0%}"
                for good, runs, low, high in own["succeeded", "runs", "low", "high"].iter_rows()
            ],
            hovertemplate=(
                "%{y:.1f}% (%{customdata})<br>around %{x|%Y-%m-%d %H:%M}"
                f"<extra>{label}</extra>"
            ),
        )
    # From 0, many executions that hardly ever fail would be one line at the top.
    least = float(frame["low" if len(names) <= _MOST_BANDS else "value"].min() or 0.0)  # type: ignore[arg-type]
    depth = next((depth for depth in _DEPTHS if depth >= 105 * (1 - least)), 100)
    count = format_number(int(frame["runs"].sum()), "execution")
    alone = [len(frame.filter(pl.col("series").eq_missing(name))) == 1 for name in names]
    marks = " and ".join(["bands"] * (not all(alone)) + ["bars"] * any(alone))
    interval = f"{marks}: 95% interval" if len(names) <= _MOST_BANDS else "95% interval on hover"
    subtitle = f"n = {count}, {window.label}, times in UTC<br>{interval}"
    figure.update_layout(
        **layout("Success (% of executions)", subtitle),
        height=height_for(len(names)),
        xaxis=time_axis(**_around(frame["ts"])),
        yaxis={
            "title": {"text": "success (%)"},
            "range": [100 - 1.03 * depth, 100 + 0.03 * depth],
            "automargin": True,
            **AXIS,
        },
    )
    return figure


def _whiskers(own: pl.DataFrame) -> dict[str, Any]:
    up, down = own["high"] - own["value"], own["value"] - own["low"]
    return {
        "type": "data",
        "symmetric": False,
        "array": floats(up, 100),
        "arrayminus": floats(down, 100),
        "thickness": 1,
        "width": 4,
    }


def _around(times: pl.Series) -> dict[str, Any]:
    """Return a range for a single moment, of which plotly would make a millisecond."""
    first, last = times.min(), times.max()
    if first != last or not isinstance(first, datetime):
        return {}
    return {"range": [first - timedelta(minutes=30), first + timedelta(minutes=30)]}


def _summarise(frame: pl.DataFrame, window: Window) -> str:
    runs, good = int(frame["runs"].sum()), int(frame["succeeded"].sum())
    stopped = int(frame["stopped"].sum())
    share = wilson(good, runs, _LEVEL)
    said = "none was carried through"
    if share is not None:
        low, high = _interval(share)
        said = f"{share.value:.1%} succeeded (95% interval {low} to {high})"
    by_you = f"; {stopped:,} more {'was' if stopped == 1 else 'were'} stopped by you"
    by_you *= bool(stopped)
    return f"Of {format_number(runs, 'execution')} {window.when}, {said}{by_you}."


def _interval(share: Interval) -> tuple[str, str]:
    """Format both ends of an interval, as finely as it takes to tell them apart."""
    for digits in (1, 2, 3):
        low, high = f"{share.low:.{digits}%}", f"{share.high:.{digits}%}"
        if low != high:
            break
    return low, high


def _rows(frame: pl.DataFrame) -> Rows:
    import polars as pl

    cells = []
    for name in series_of(frame):
        own = frame.filter(pl.col("series").eq_missing(name))
        runs, good = int(own["runs"].sum()), int(own["succeeded"].sum())
        share = wilson(good, runs, _LEVEL)
        said = "none tried" if share is None else f"{share.value:.1%}"
        interval = "" if share is None else " to ".join(_interval(share))
        stopped = f"{own['stopped'].sum():,}"
        cells.append([shown_name(name), f"{runs:,}", f"{runs - good:,}", said, interval, stopped])
    header = ["model", "runs", "failed", "success", "95% interval", "stopped by you"]
    return Rows("The same executions: success by model", header, cells)
