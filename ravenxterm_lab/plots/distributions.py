"""How a metric is spread, model by model: the shape, the quartiles and the tails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ravenxterm_lab.plots.buckets import BUCKET_VALUE, HISTOGRAMS, counted_days, counted_runs
from ravenxterm_lab.plots.history_figure import series_of, shown_name
from ravenxterm_lab.plots.metrics import metric_of
from ravenxterm_lab.plots.sampling import NAMED, RUNS, extent_of, no_executions
from ravenxterm_lab.plots.theme import AXIS, Figure, band_of, layout, log_axis, safe, series_style
from ravenxterm_lab.plots.view import Rows, View, empty_view
from ravenxterm_lab.plots.window import window_of
from ravenxterm_lab.store.rollups import FEW, GAMMA, ZERO_BUCKET
from ravenxterm_lab.units import format_number

if TYPE_CHECKING:
    from datetime import date

    import polars as pl

    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.plots.metrics import Metric
    from ravenxterm_lab.plots.window import Window

__all__ = ["distributions"]

_SHARES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
#: Buckets of the store that are drawn as one: 1.02 to the fifth, about 10 % wide.
_WIDE = 5
_LONG_DAYS = 2

_ANSWER = f"""
, ranked AS (
    SELECT *, {BUCKET_VALUE} AS value,
        sum(runs) OVER (PARTITION BY series) AS total,
        sum(runs) OVER (
            PARTITION BY series ORDER BY bucket, exact ROWS UNBOUNDED PRECEDING
        ) AS upto
    FROM counted
)
SELECT series, 'shape' AS what, pow({GAMMA}, {_WIDE} * floor(bucket / {_WIDE}.0))::DOUBLE AS value,
    sum(runs)::BIGINT AS runs
FROM counted WHERE bucket <> {ZERO_BUCKET} GROUP BY ALL
UNION ALL
SELECT series, name, min(value) FILTER (upto >= share * total)::DOUBLE, any_value(total)::BIGINT
FROM ranked, (VALUES {", ".join(f"('{name}', {share})" for name, share in _SHARES.items())})
    AS shares(name, share)
GROUP BY series, name
UNION ALL
SELECT series, unnest(['least', 'greatest']), unnest([min(value), max(value)])::DOUBLE,
    any_value(total)::BIGINT
FROM ranked GROUP BY series
ORDER BY series NULLS LAST, what, value
"""  # noqa: S608 - our own constants


def distributions(
    manager: ModelManager,
    *,
    metric: str = "latency",
    model: str | None = None,
    task: str | None = None,
    days: float | None = None,
    start: date | str | None = None,
    end: date | str | None = None,
) -> View:
    """Draw how a metric of the successful executions is spread, a ridge for each model.

    A ridge counts the executions in steps of 10%, as a share of its highest step; below it are
    the median, the quartiles (thick), 5% to 95% (thin), and the greatest value. From two days on
    latency and throughput come from the store's daily histograms (within 2%; of whole days).

    Parameters
    ----------
    manager : ModelManager
        Whose store is read.
    metric : str
        As of `history`.
    model, task : str, optional
        Restrict to one.
    days : float, optional
        How far back; by default the preferences' ``history_window_days``.
    start, end : datetime, date or str, optional
        Instead of ``days`` (UTC).

    Raises
    ------
    RequirementError
        On an unknown metric, or a window that is none.
    """
    metric_of(metric)
    window = window_of(manager, days, start, end)
    extent = extent_of(manager, window, model, task)
    chosen = metric_of(metric, extent.counts)
    daily = metric in HISTOGRAMS and window.seconds >= _LONG_DAYS * 86_400
    if daily:
        counted = counted_days(metric)
    else:
        each = counted_runs(exact="CASE WHEN $exact THEN value END")
        counted = f"{RUNS.format(value=chosen.column)}, {each}"
    sql = f"WITH {NAMED}, {counted}{_ANSWER}"
    parameters = dict(extent.parameters)
    if not daily:
        parameters["exact"] = extent.runs < FEW
    frame = manager.sql(sql, parameters).pl()
    title = f"Distribution of {chosen.axis}"
    if frame.is_empty():
        reason = no_executions(manager, extent, window, model, task)
        if extent.runs:
            reason = (
                f"{chosen.title.capitalize()} was not measured {window.when}: choose another metric"
            )
        return empty_view(title, reason, sql, frame, parameters)
    figure = _draw(frame, chosen, window, title)
    return View(
        figure, _summarise(frame, chosen, window), sql, frame, parameters, _rows(frame, chosen)
    )


def _points(frame: pl.DataFrame, name: str | None) -> dict[str, float]:
    import polars as pl

    own = frame.filter(pl.col("series").eq_missing(name) & (pl.col("what") != "shape"))
    return dict(own["what", "value"].iter_rows())


def _count(frame: pl.DataFrame, name: str | None = None, *, every: bool = False) -> int:
    import polars as pl

    median = frame.filter(pl.col("what") == "p50")
    own = median if every else median.filter(pl.col("series").eq_missing(name))
    return int(own["runs"].sum())


def _draw(frame: pl.DataFrame, metric: Metric, window: Window, title: str) -> Figure:
    figure = Figure()
    names = series_of(frame)
    for index, name in enumerate(names):
        look, label = series_style(index, name), safe(shown_name(name))
        _add_ridge(figure, frame, metric, index, name, len(names) - 1 - index)
        at = _points(frame, name)
        base = len(names) - 1 - index - 0.12
        for low, high, width in (("p5", "p95", 2), ("p25", "p75", 6)):
            figure.add_scatter(
                x=[at[low] * metric.factor, at[high] * metric.factor],
                y=[base, base],
                mode="lines",
                line={"color": look["line"]["color"], "width": width},
                legendgroup=label,
                showlegend=False,
                hoverinfo="skip",
            )
        told = {"p50": "median", "p95": "p95", "p99": "p99", "greatest": "greatest"}
        figure.add_scatter(
            x=[at[what] * metric.factor for what in told],
            y=[base] * len(told),
            mode="markers",
            marker={
                "color": look["line"]["color"],
                "symbol": [look["marker"]["symbol"], *["line-ns-open"] * 2, "x-thin-open"],
                "size": [11, 8, 8, 8],
                # Unless it is told, plotly lets marks of several sizes fade.
                "opacity": 1,
            },
            name=f"{label} (n = {_count(frame, name):,})",
            legendgroup=label,
            text=[f"{said} {safe(metric.show(at[what]))}" for what, said in told.items()],
            hovertemplate=f"%{{text}}<extra>{label}</extra>",
        )
    count = format_number(_count(frame, every=True), "successful execution")
    subtitle = (
        f"n = {count}, {window.label}<br>ridge: executions in steps of 10%, each to its own peak"
        "<br>below it: median, p25 to p75, p5 to p95, p99, greatest"
    )
    placed = layout(title, subtitle)
    placed["margin"]["b"] = 60
    figure.update_layout(
        **placed,
        height=210 + 70 * len(names),
        xaxis=log_axis(metric.axis, *_ends(frame, metric)),
        yaxis={
            "tickvals": list(range(len(names))),
            "ticktext": [
                f"{safe(shown_name(name))}<br>n = {_count(frame, name):,}"
                for name in reversed(names)
            ],
            "range": [-0.35, len(names) - 0.05],
            "automargin": True,
            **AXIS,
            "zeroline": False,
        },
        showlegend=False,
    )
    return figure


def _ends(frame: pl.DataFrame, metric: Metric) -> tuple[float, float]:
    shape = frame.filter((frame["what"] == "shape") | (frame["what"] == "greatest"))["value"]
    above = shape.filter(shape > 0) * metric.factor
    least, greatest = (float(end) for end in (above.min() or 1.0, above.max() or 1.0))  # type: ignore[arg-type]
    return least, greatest * GAMMA**_WIDE


def _add_ridge(
    figure: Figure, frame: pl.DataFrame, metric: Metric, index: int, name: str | None, base: int
) -> None:
    import polars as pl

    shape = frame.filter(pl.col("series").eq_missing(name) & (pl.col("what") == "shape"))
    if shape.is_empty():
        return
    step = GAMMA**_WIDE
    count = np.rint(np.log(shape["value"].to_numpy()) / np.log(step)).astype(int)
    heights = np.zeros(count[-1] - count[0] + 1)
    heights[count - count[0]] = shape["runs"].to_numpy()
    edges = step ** np.arange(count[0], count[-1] + 2) * metric.factor
    share = 0.8 * heights / heights.max()
    figure.add_scatter(
        x=np.repeat(edges, 2).astype(np.float32),
        y=(base + np.concatenate([[0], np.repeat(share, 2), [0]])).astype(np.float32),
        mode="lines",
        line={**series_style(index, name)["line"], "width": 1.5},
        fill="toself",
        fillcolor=band_of(index, 0.25) if name is not None else "rgba(123,123,123,0.25)",
        legendgroup=safe(shown_name(name)),
        showlegend=False,
        hoverinfo="skip",
    )


def _summarise(frame: pl.DataFrame, metric: Metric, window: Window) -> str:
    import polars as pl

    tail = "p5" if metric.tail < 0.5 else "p95"
    medians = frame.filter(pl.col("what") == "p50").sort("value", descending=metric.tail < 0.5)
    best = medians["series"][0]
    at = _points(frame, best)
    count = format_number(_count(frame, every=True), "successful execution")
    if " or " in metric.unit:
        found = sorted(float(value) for value in medians["value"])
        ends = [metric.show(found[0]), metric.show(found[-1])]
        return (
            f"{count} {window.when}: median {metric.title} {' to '.join(ends)} by model, of "
            "tokens or of items, which do not compare."
        )
    return (
        f"{count} {window.when}: {shown_name(best)} has the best median {metric.title}, "
        f"{metric.show(at['p50'])} ({tail} {metric.show(at[tail])})."
    )


def _rows(frame: pl.DataFrame, metric: Metric) -> Rows:
    wanted = ("least", "p5", "p25", "p50", "p75", "p95", "p99", "greatest")
    cells = []
    for name in series_of(frame):
        at = _points(frame, name)
        cells.append(
            [
                shown_name(name),
                f"{_count(frame, name):,}",
                *(metric.show(at[key]) for key in wanted),
            ]
        )
    return Rows(f"{metric.title.capitalize()} by model", ["model", "runs", *wanted], cells)
