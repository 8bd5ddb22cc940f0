"""A metric of executions over time: every peak, the percentiles, and what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.plots.buckets import BUCKET_VALUE, HISTOGRAMS, counted_days, counted_runs
from ravenxterm_lab.plots.history_figure import draw, summarise, tabulate, totals
from ravenxterm_lab.plots.metrics import metric_of
from ravenxterm_lab.plots.sampling import NAMED, RUNS, extent_of, m4_points, no_executions
from ravenxterm_lab.plots.view import View, empty_view
from ravenxterm_lab.plots.window import window_of

if TYPE_CHECKING:
    from datetime import date, datetime

    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.plots.metrics import Metric

__all__ = ["history"]

#: Points of a figure in a saved notebook: 16 bytes each.
POINTS = 4000
#: Percentiles of more executions come from buckets that are 2 % wide.
_MOST_EXACT = 200_000
_DAY = 86_400

_EXACT_SHAPE = """
shape AS (
    SELECT series, part, runs, q[1] AS p50, q[2] AS tail
    FROM (
        SELECT series, epoch_us(ts) // $period AS part, count(value) AS runs,
            quantile_cont(value, [0.5, {tail}]) AS q
        FROM runs WHERE value IS NOT NULL
        GROUP BY GROUPING SETS ((series, part), (series))
    )
)"""
_COUNTED_SHAPE = f"""
levels AS (
    FROM counted
    UNION ALL
    SELECT series, NULL, bucket, exact, sum(runs) FROM counted GROUP BY series, bucket, exact
), ranked AS (
    SELECT *, sum(runs) OVER (PARTITION BY series, part) AS total,
        sum(runs) OVER (
            PARTITION BY series, part ORDER BY bucket, exact ROWS UNBOUNDED PRECEDING
        ) AS upto
    FROM levels
), shape AS (
    SELECT series, part, any_value(total) AS runs,
        min({BUCKET_VALUE}) FILTER (upto >= 0.5 * total) AS p50,
        min({BUCKET_VALUE}) FILTER (upto >= {{tail}} * total) AS tail
    FROM ranked GROUP BY series, part
)"""  # noqa: S608 - our own constants
# A line stands at the middle of what each of its values sums up, but not where nothing ran.
_ANSWER = """
SELECT series, what, ts, value::DOUBLE AS value, runs::BIGINT AS runs, text FROM points
UNION ALL
SELECT series, unnest(['p50', 'tail']),
    CASE WHEN part IS NOT NULL THEN
        least(greatest(make_timestamp((part * $period + $period // 2)::BIGINT), since), until)
    END,
    unnest([p50, tail])::DOUBLE, runs::BIGINT, NULL
FROM shape, (SELECT min(t1) AS since, max(t2) AS until FROM columns)
UNION ALL
SELECT series, unnest([what, 'least', 'greatest']), NULL,
    unnest([NULL, min(v3), max(v4)])::DOUBLE, sum(runs)::BIGINT, NULL
FROM columns WHERE what = 'run' GROUP BY series, what
UNION ALL
SELECT series, what, NULL, NULL, sum(runs)::BIGINT, NULL
FROM columns WHERE what <> 'run' GROUP BY series, what
ORDER BY series NULLS LAST, what, ts NULLS FIRST
"""


def history(
    manager: ModelManager,
    *,
    metric: str = "throughput",
    model: str | None = None,
    task: str | None = None,
    days: float | None = None,
    start: date | str | None = None,
    end: date | str | None = None,
    points: int = POINTS,
) -> View:
    """Draw a metric of executions over time, one series a model, failures apart.

    Up to ``points`` executions are drawn one by one; more are thinned in DuckDB so that of every
    column of pixels the first, last, least and greatest remain (M4): no peak is lost. Lines are
    the median and the bad percentile (p95; p5 of a throughput) of at least 10 executions. Over
    more than 200,000 executions they are within 2 %; from a day a value on, those of latency and
    throughput come from the store's daily histograms (within 2 %; of whole days).

    Parameters
    ----------
    manager : ModelManager
        Whose store is read.
    metric : str
        ``"throughput"`` (tokens or items per second), ``"latency"`` (s),
        ``"time_to_first_token"`` (s) or ``"peak_memory"`` (bytes, drawn in MiB).
    model, task : str, optional
        Restrict to one.
    days : float, optional
        How far back; by default the preferences' ``history_window_days``.
    start, end : datetime, date or str, optional
        Instead of ``days`` (UTC).
    points : int
        At most about so many are drawn.

    Raises
    ------
    RequirementError
        On an unknown metric, or a window that is none.
    """
    metric_of(metric)
    window = window_of(manager, days, start, end)

    def zoom(first: datetime, last: datetime) -> View:
        return history(
            manager, metric=metric, model=model, task=task, start=first, end=last,
            points=max(points, 4 * POINTS),
        )  # fmt: skip

    extent = extent_of(manager, window, model, task)
    chosen = metric_of(metric, extent.counts)
    daily = metric in HISTOGRAMS and extent.period >= _DAY
    sql = _query(chosen, metric, daily=daily, exact=extent.runs <= _MOST_EXACT)
    parameters = {
        **extent.parameters,
        **extent.sampling(points),
        "period": int(extent.period * 1e6),
    }
    frame = manager.sql(sql, parameters).pl()
    if frame.is_empty():
        title = chosen.heading
        reason = no_executions(manager, extent, window, model, task)
        return empty_view(title, reason, sql, frame, parameters, zoom)
    runs = totals(frame)
    figure = draw(frame, chosen, window, runs, thinned=extent.is_thinned(points))
    summary = summarise(frame, chosen, window, runs)
    return View(figure, summary, sql, frame, parameters, tabulate(frame, chosen), zoom)


def _query(metric: Metric, name: str, *, daily: bool, exact: bool) -> str:
    shape = (_EXACT_SHAPE if exact and not daily else _COUNTED_SHAPE).format(tail=metric.tail)
    if daily:
        shape = f"{counted_days(name, by_part=True)}, {shape}"
    elif not exact:
        shape = f"{counted_runs(by_part=True)}, {shape}"
    runs = RUNS.format(value=metric.column)
    return f"WITH {NAMED}, {runs}, {m4_points('runs')}, {shape}\n{_ANSWER}"
