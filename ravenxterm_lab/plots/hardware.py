"""The machine over time: load, memory, power and temperature, and what ran meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.plots.hardware_figure import GPU, MACHINE, MEAN, draw, is_gpu, summarise
from ravenxterm_lab.plots.sampling import m4_points
from ravenxterm_lab.plots.view import Rows, View, empty_view
from ravenxterm_lab.plots.window import clip, microseconds, period_of, window_of
from ravenxterm_lab.units import NOT_MEASURED

if TYPE_CHECKING:
    from datetime import date, datetime

    import polars as pl

    from ravenxterm_lab.models import ModelManager

__all__ = ["hardware"]

#: Points of a figure in a saved notebook, of all lines together.
POINTS = 4000
_LINES = 6
_MODELS = 8

_EXTENT = """
SELECT count(*), min(ts), max(ts) FROM (
    SELECT ts FROM hardware WHERE ts BETWEEN $start AND $end
    UNION ALL
    SELECT ts FROM executions WHERE ts BETWEEN $start AND $end
)
"""
_BASE = f"""
WITH told AS NOT MATERIALIZED (
    SELECT ts, NULL::INTEGER AS gpu, unnest([{", ".join(f"'{name}'" for name in MACHINE)}]) AS what,
        unnest([{", ".join(f"{name}::DOUBLE" for name in MACHINE)}]) AS value
    FROM hardware
    -- A sample of a machine with several GPUs is several rows, which repeat what is of it all.
    WHERE ts BETWEEN $start AND $end AND coalesce(gpu, 0) = 0
    UNION ALL
    SELECT ts, gpu, unnest([{", ".join(f"'{name}'" for name in GPU)}]),
        unnest([{", ".join(f"{name}::DOUBLE" for name in GPU)}])
    FROM hardware WHERE ts BETWEEN $start AND $end AND gpu IS NOT NULL
), measured AS NOT MATERIALIZED (
    FROM told WHERE value IS NOT NULL
), {m4_points("measured", "what, gpu", "NULL")}, named AS (
    SELECT model FROM execution_hours
    WHERE hour >= date_trunc('hour', $start) AND hour <= $end
    GROUP BY model ORDER BY sum(runs) DESC, model LIMIT $named
), spans AS (
    SELECT
        CASE WHEN model IN (SELECT model FROM named) THEN model END AS model,
        (epoch_us(ts) - $first) // $width AS place,
        min(ts - to_microseconds((1e6 * coalesce(latency, 0))::BIGINT)) AS begin,
        max(ts) AS until, count(*) AS runs, count(*) FILTER (NOT success) AS failed
    FROM executions WHERE ts BETWEEN $start AND $end GROUP BY ALL
)
SELECT what, gpu, ts, value, runs::BIGINT AS samples, NULL AS model, NULL AS until,
    NULL::BIGINT AS failed
FROM points
UNION ALL
SELECT what, gpu, NULL, avg(value), count(*), NULL, max(ts), NULL FROM measured GROUP BY what, gpu
UNION ALL
SELECT '{MEAN}' || what, gpu, make_timestamp((epoch_us(min(ts)) + epoch_us(max(ts))) // 2),
    avg(value), count(*), NULL, NULL, NULL
FROM measured WHERE $width > 1 GROUP BY what, gpu, (epoch_us(ts) - $first) // $period
UNION ALL
SELECT 'execution', NULL, begin, NULL, runs, model, until, failed FROM spans
ORDER BY what, gpu NULLS FIRST, ts NULLS FIRST
"""  # noqa: S608 - our own constants


def hardware(
    manager: ModelManager,
    *,
    hours: float = 24,
    start: date | str | None = None,
    end: date | str | None = None,
    points: int = POINTS,
) -> View:
    """Draw load, memory, power and temperature, and the executions on the same axis of time.

    What this machine does not tell has no line, and the sentence says so. Lines break where
    nothing was sampled. Long windows are thinned in DuckDB so that no peak is lost (M4), and the
    means over time are drawn upon what is thinned.

    Parameters
    ----------
    manager : ModelManager
        Whose store is read.
    hours : float
        How far back from now.
    start, end : datetime, date or str, optional
        Instead of ``hours`` (UTC).
    points : int
        At most about so many are drawn.

    Raises
    ------
    RequirementError
        On a window that is none.
    """
    window = window_of(manager, None if start is not None else hours / 24, start, end)

    def zoom(first: datetime, last: datetime) -> View:
        return hardware(manager, start=first, end=last, points=max(points, 4 * POINTS))

    count, first, last = manager.sql(_EXTENT, window.parameters).fetchall()[0]
    part = clip(window, first, last)
    columns = points // (4 * _LINES)
    few = count * _LINES <= points
    parameters = {
        **window.parameters,
        "first": microseconds(part.start),
        "width": 1 if few else max(int(part.seconds * 1e6) // columns, 1),
        "period": int(period_of(part.seconds) * 1e6),
        "named": _MODELS,
    }
    frame = manager.sql(_BASE, parameters).pl()
    if not (frame["what"] != "execution").any():
        reason = (
            f"No hardware samples {window.when}: run monitor = manager.monitor(), which takes one "
            "a second until monitor.stop()"
        )
        return empty_view("Hardware", reason, _BASE, frame.clear(), parameters, zoom)
    figure = draw(frame, window)
    return View(figure, summarise(frame, window), _BASE, frame, parameters, _rows(frame), zoom)


def _rows(frame: pl.DataFrame) -> Rows:
    import polars as pl

    cells = []
    points = frame.filter(pl.col("ts").is_not_null())
    for name, line in {**MACHINE, **GPU}.items():
        for gpu in points.filter(pl.col("what") == name)["gpu"].unique().sort().to_list():
            chosen = (pl.col("what") == name) & pl.col("gpu").eq_missing(gpu)
            own = points.filter(chosen).sort("ts")
            whole = frame.filter(chosen & pl.col("ts").is_null())
            values = [
                own["value"].min(), whole["value"][0], own["value"].max(), own["value"][-1]
            ]  # fmt: skip
            label = line.label if gpu is None else f"GPU {gpu} {line.label}"
            count = f"{int(whole['samples'][0]):,}"
            cells.append([label, count, *(line.show(value) for value in values)])
    told = set(points["what"].to_list())
    for name, line in {**MACHINE, **GPU}.items():
        if name not in told and not is_gpu(name):
            cells.append([line.label, "0", *[NOT_MEASURED] * 4])
    header = ["what", "samples", "least", "mean", "greatest", "latest"]
    return Rows("The same samples, by what was measured", header, cells)
