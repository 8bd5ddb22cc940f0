"""What was predicted against what came: how far the estimates can be trusted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RequirementError, did_you_mean
from ravenxterm_lab.plots.metrics import metric_of
from ravenxterm_lab.plots.sampling import extent_of
from ravenxterm_lab.plots.theme import (
    OTHERS,
    Figure,
    floats,
    layout,
    log_axis,
    safe,
    see_through,
    style,
)
from ravenxterm_lab.plots.view import Rows, View, empty_view
from ravenxterm_lab.plots.window import window_of
from ravenxterm_lab.units import NOT_MEASURED, format_number

if TYPE_CHECKING:
    from datetime import date

    import polars as pl

    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.plots.window import Window

__all__ = ["predictions"]

#: Quantity: (its name, unit, factor).
_QUANTITIES = {
    "throughput": ("throughput", "tokens/s or items/s", 1.0),
    "peak_memory": ("peak memory", "MiB", 1 / 2**20),
    "time_to_first_token": ("time to first token", "s", 1.0),
    "load_seconds": ("load time", "s", 1.0),
}

#: Up to so many predictions have marks of one size; beyond, a mark's area counts them.
_FEW = 1000
#: The diameter of the mark that stands for the most predictions, and of the least one (pixels).
_LARGEST, _SMALLEST = 9.0, 2.0

# Of the predictions that fall on one place of the figure the latest stands for all. 0.01 in ln is
# about a pixel of two decades; of many, a place is 5 % wide, so that a million stay drawable and
# where most of them lie is seen.
_SQL = f"""
WITH told AS (
    SELECT *, actual BETWEEN low AND high AS within FROM predictions
    WHERE quantity = $quantity AND ts BETWEEN $start AND $end AND actual > 0 AND predicted > 0
      AND ($model IS NULL OR model = $model) AND ($task IS NULL OR task = $task)
), places AS (
    SELECT CASE WHEN count(*) <= {_FEW} THEN 0.01 ELSE 0.05 END AS wide FROM told
)
SELECT
    tier, 'point' AS what, arg_max(model, ts) AS model, max(ts) AS ts,
    arg_max(predicted, ts) AS predicted, arg_max(actual, ts) AS actual,
    arg_max(low, ts) AS low, arg_max(high, ts) AS high, count(*) AS runs,
    NULL AS coverage, NULL AS level, NULL AS median_error, NULL AS bias
FROM told, places GROUP BY tier, round(ln(predicted) / wide), round(ln(actual) / wide)
UNION ALL
SELECT tier, 'tier', NULL, max(ts), NULL, NULL, NULL, NULL, count(*),
    avg(within::INTEGER), CASE WHEN min(level) = max(level) THEN min(level) END,
    exp(median(abs(ln(actual / predicted)))) - 1,
    exp(median(ln(actual / predicted))) - 1
FROM told GROUP BY GROUPING SETS ((tier), ()) HAVING count(*) > 0
ORDER BY what, tier NULLS LAST, ts
"""  # noqa: S608 - our own constants


def predictions(
    manager: ModelManager,
    *,
    quantity: str = "throughput",
    model: str | None = None,
    task: str | None = None,
    days: float | None = None,
    start: date | str | None = None,
    end: date | str | None = None,
) -> View:
    """Draw each prediction against its outcome, by the evidence that it rested on.

    On the diagonal a prediction came true. The error is exp(median |ln(actual / predicted)|) − 1:
    half of the predictions were off by less. The coverage is the share of outcomes within the
    interval that was told beforehand; the sentence says what share it was made to hold.

    Parameters
    ----------
    manager : ModelManager
        Whose store is read.
    quantity : str
        ``"throughput"``, ``"peak_memory"`` (bytes, drawn in MiB), ``"time_to_first_token"`` or
        ``"load_seconds"`` (s).
    model, task : str, optional
        Restrict to one.
    days : float, optional
        How far back; by default the preferences' ``history_window_days``.
    start, end : datetime, date or str, optional
        Instead of ``days`` (UTC).

    Raises
    ------
    RequirementError
        On an unknown quantity, or a window that is none.
    """
    if quantity not in _QUANTITIES:
        hint = did_you_mean(quantity, _QUANTITIES)
        raise RequirementError(f"Unknown quantity {quantity!r}.{hint}")
    window = window_of(manager, days, start, end)
    parameters = {**window.parameters, "quantity": quantity, "model": model, "task": task}
    frame = manager.sql(_SQL, parameters).pl()
    name, unit, _ = _QUANTITIES[quantity]
    if quantity == "throughput":
        # Of one kind of task alone it is known what it counts.
        unit = metric_of(quantity, extent_of(manager, window, model, task).counts).unit
    title = f"Prediction against outcome: {name} ({unit})"
    if frame.is_empty():
        reason = (
            f"No prediction of {name} has an outcome {window.when}: {manager.registry.next_step}"
        )
        return empty_view(title, reason, _SQL, frame, parameters)
    figure = _draw(frame, unit, _QUANTITIES[quantity][2], window, title)
    return View(figure, _summarise(frame, name, window), _SQL, frame, parameters, _rows(frame))


def _draw(frame: pl.DataFrame, unit: str, factor: float, window: Window, title: str) -> Figure:
    import polars as pl

    points = frame.filter(pl.col("what") == "point")
    low, high = (
        factor * float(function(points["predicted"].to_list() + points["actual"].to_list()))
        for function in (min, max)
    )
    low, high = low / 1.3, high * 1.3
    figure = Figure()
    figure.add_scatter(
        x=[low, high], y=[low, high], mode="lines", name="came true",
        line={"color": OTHERS, "dash": "dot"}, hoverinfo="skip", zorder=1,
    )  # fmt: skip
    total, most = int(points["runs"].sum()), int(points["runs"].max())  # type: ignore[arg-type]
    counts = dict(points.group_by("tier").agg(pl.col("runs").sum()).iter_rows())
    # The few of a rare tier lie on top.
    for index, tier in enumerate(sorted(_tiers(points), key=lambda tier: -counts[tier])):
        own = points.filter(pl.col("tier").eq_missing(tier))
        marker = style(index)["marker"]
        if total > _FEW:
            # Unless it is told, plotly gives marks of several sizes an outline and lets them fade.
            marker |= {"size": _sizes(own["runs"], most), "opacity": 1, "line": {"width": 0}}
        else:
            marker = see_through(marker)
        figure.add_scatter(
            x=floats(own["predicted"], factor),
            y=floats(own["actual"], factor),
            name=f"{safe(_said(tier))} (n = {int(own['runs'].sum()):,})",
            mode="markers",
            marker=marker,
            text=[_told(row, unit, factor) for row in own.iter_rows(named=True)],
            hovertemplate=(
                f"%{{text}}<br>predicted %{{x:,.4~g}}, came %{{y:,.4~g}} {unit}<extra></extra>"
            ),
        )
    count = format_number(total, "prediction")
    subtitle = f"n = {count} with an outcome, {window.label}<br>series: evidence behind it"
    if total > _FEW:
        subtitle += f"; area of a mark: predictions within 5%, at most {most:,}"
    figure.update_layout(
        **layout(title, subtitle),
        height=480,
        xaxis=log_axis(f"predicted ({unit})", low, high),
        yaxis=log_axis(f"measured ({unit})", low, high),
    )  # fmt: skip
    figure.update_layout(legend={"itemsizing": "constant"})
    return figure


def _sizes(runs: pl.Series, most: int) -> list[float]:
    return [
        round(max(_LARGEST * math.sqrt(count / most), _SMALLEST), 1) for count in runs.to_list()
    ]


def _tiers(points: pl.DataFrame) -> list[str | None]:
    tiers = set(points["tier"].to_list())
    return [
        *sorted(tier for tier in tiers if tier),
        *[tier for tier in (None, "") if tier in tiers],
    ]


def _said(tier: str | None) -> str:
    return tier or "tier not recorded"


def _told(row: dict[str, Any], unit: str, factor: float) -> str:
    text = safe(str(row["model"]))
    if row["low"] is not None and row["high"] is not None:
        text += f": {row['low'] * factor:,.4g} to {row['high'] * factor:,.4g} {unit} was told"
    return text + (f" ({row['runs']:,} here)" if row["runs"] > 1 else "")


def _summarise(frame: pl.DataFrame, name: str, window: Window) -> str:
    total = frame.filter(frame["what"] == "tier").sort("runs")[-1]
    error, bias, coverage = (total[key][0] for key in ("median_error", "bias", "coverage"))
    within = "intervals were not told"
    if coverage is not None:
        within = f"{coverage:.0%} came within their interval"
        if total["level"][0] is not None:
            within += f", which was made to hold {total['level'][0]:.0%}"
    return (
        f"Half of {format_number(int(total['runs'][0]), 'prediction')} of {name} {window.when} "
        f"were off by less than {error:.0%}, with a bias of {_signed(bias, 0)}; {within}."
    )


def _signed(share: float, digits: int) -> str:
    return f"{share:+.{digits}%}".replace("-", "\N{MINUS SIGN}")


def _rows(frame: pl.DataFrame) -> Rows:
    cells = []
    tiers = frame.filter(frame["what"] == "tier").sort("runs")
    for row in tiers.iter_rows(named=True):
        coverage = NOT_MEASURED if row["coverage"] is None else f"{row['coverage']:.0%}"
        told = [f"{row['runs']:,}", f"{row['median_error']:.1%}", _signed(row["bias"], 1), coverage]
        cells.append([_said(row["tier"]), *told])
    cells[-1][0] = "all"
    header = ["evidence", "predictions", "median error", "bias", "within the interval"]
    return Rows("The same predictions, by the evidence behind them", header, cells)
