"""How the history of a metric is drawn, told in a sentence, and laid out as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ravenxterm_lab.plots.gaps import with_gaps
from ravenxterm_lab.plots.theme import (
    AXIS,
    COLOURS,
    Figure,
    floats,
    layout,
    log_axis,
    milliseconds,
    safe,
    series_style,
    time_axis,
)
from ravenxterm_lab.plots.view import Rows
from ravenxterm_lab.plots.window import microseconds
from ravenxterm_lab.units import NOT_MEASURED, format_number

if TYPE_CHECKING:
    import polars as pl

    from ravenxterm_lab.plots.metrics import Metric
    from ravenxterm_lab.plots.window import Window

__all__ = ["draw", "height_for", "series_of", "shown_name", "summarise", "tabulate", "totals"]

#: A percentile of fewer executions says nothing of the next one.
FEWEST = 10
#: With more series than this, the bad percentile of each would hide the medians.
_MOST_TAILS = 4
#: Peaks of so many medians are drawn on a logarithmic axis.
_STEEP = 20
#: Marks in the strip of failures; more are drawn together.
_MOST_FAILURES = 200
_KINDS = ("run", "failed", "stopped")


def totals(frame: pl.DataFrame) -> dict[str, int]:
    """Return how many executions of each kind there are in the window."""
    whole = frame.filter(frame["ts"].is_null())
    return {what: int(whole.filter(whole["what"] == what)["runs"].sum()) for what in _KINDS}


def series_of(frame: pl.DataFrame) -> list[str | None]:
    """Return the series in order; None, which stands for all other models, is the last."""
    names = set(frame["series"].to_list())
    return [*sorted(name for name in names if name is not None), *([None] if None in names else [])]


def shown_name(name: str | None) -> str:
    """Return the name of a series for people."""
    return "other models" if name is None else name


def _part(frame: pl.DataFrame, what: str, name: str | None, *, whole: bool = False) -> pl.DataFrame:
    import polars as pl

    null = pl.col("ts").is_null()
    found = frame.filter(
        (pl.col("what") == what) & pl.col("series").eq_missing(name) & (null if whole else ~null)
    )
    return found.sort("ts")


def height_for(series: int) -> int:
    """Return the height of a figure whose legend may have a line for each series (pixels)."""
    return 370 + 22 * max(series, 3)


def _count(frame: pl.DataFrame, name: str | None) -> int:
    return int(_part(frame, "run", name, whole=True)["runs"].sum())


def draw(
    frame: pl.DataFrame, metric: Metric, window: Window, runs: dict[str, int], *, thinned: bool
) -> Figure:
    """Draw points (or envelopes, where thinned), percentiles, and failures in a strip below.

    Parameters
    ----------
    frame : polars.DataFrame
        Columns ``series``, ``what``, ``ts``, ``value``, ``runs``, ``text``.
    metric : Metric
        What the values are.
    window : Window
        Of time.
    runs : dict of str to int
        As `totals` returns it.
    thinned : bool
        Whether not every execution is among the points.
    """
    figure = Figure()
    names = series_of(frame)
    for index, name in enumerate(names):
        opacity = 1.0 if not thinned else 0.45 if len(names) <= _MOST_TAILS else 0.25
        _add_points(figure, frame, metric, index, name, thinned=thinned, opacity=opacity)
    # No envelope of another series may cover a line.
    for index, name in enumerate(names):
        _add_line(figure, frame, metric, index, name, "p50", in_legend=thinned)
        if len(names) <= _MOST_TAILS:
            _add_line(figure, frame, metric, index, name, "tail")
    strip = sum(runs[what] for what in ("failed", "stopped"))
    if strip:
        _add_strip(figure, frame, runs)
    subtitle = f"n = {format_number(sum(runs.values()), 'execution')}, {window.label}, times in UTC"
    if thinned:
        lines = "p50" if len(names) > _MOST_TAILS else f"p50, dotted {metric.tail_name}"
        subtitle += f"<br>lines: {lines}; behind them first, last, least, greatest of each column"
    figure.update_layout(
        **layout(metric.heading, subtitle),
        height=height_for(len(names)),
        xaxis=time_axis(anchor="y2" if strip else "y"),
        yaxis={
            **_value_axis(frame, metric),
            "automargin": True,
            "domain": [0.12 if strip else 0.0, 1.0],
            **AXIS,
        },
    )
    if strip:
        figure.update_layout(
            yaxis2={
                "domain": [0.0, 0.08],
                "range": [-1, 1],
                "tickvals": [0],
                "ticktext": ["failed"],
                "fixedrange": True,
                **AXIS,
            }
        )
    return figure


def _value_axis(frame: pl.DataFrame, metric: Metric) -> dict[str, Any]:
    """Return an axis from 0; a logarithmic one where a peak would press all else to the ground."""
    import polars as pl

    whole = frame.filter(pl.col("ts").is_null())
    ends = {
        what: whole.filter(pl.col("what") == what)["value"] * metric.factor
        for what in ("least", "p50", "greatest")
    }
    least, median, greatest = ends["least"].min(), ends["p50"].median(), ends["greatest"].max()
    known = all(isinstance(value, float) for value in (least, median, greatest))
    if known and least > 0 and greatest > _STEEP * median:  # type: ignore[operator]
        return log_axis(metric.short_axis, least, greatest)  # type: ignore[arg-type]
    return {
        "title": {"text": metric.short_axis},
        "rangemode": "tozero",
        # Not "10k" for ten thousand.
        "tickformat": ",.6~g",
    }


def _add_points(
    figure: Figure,
    frame: pl.DataFrame,
    metric: Metric,
    index: int,
    name: str | None,
    *,
    thinned: bool,
    opacity: float,
) -> None:
    points = _part(frame, "run", name).drop_nulls("value")
    look = series_style(index, name)
    label = safe(shown_name(name))
    unit = metric.unit
    # No line between single runs: between two that are hours apart nothing was measured.
    drawn: dict[str, Any] = {"mode": "markers", "marker": look["marker"]}
    x, y = milliseconds(points["ts"]), floats(points["value"], metric.factor)
    if thinned:
        x, y = with_gaps(x, y, of_column=4)
        drawn = {
            "mode": "lines",
            "line": {**look["line"], "dash": "solid", "width": 1},
            "opacity": opacity,
        }
    figure.add_scatter(
        meta=f"{label} points",
        x=x,
        y=y,
        name=f"{label} (n = {_count(frame, name):,})",
        legendgroup=label,
        showlegend=not thinned,
        hovertemplate=(f"%{{x|%Y-%m-%d %H:%M:%S}}<br>%{{y:,.4~g}} {unit}<extra>{label}</extra>"),
        **drawn,
    )


def _add_line(
    figure: Figure,
    frame: pl.DataFrame,
    metric: Metric,
    index: int,
    name: str | None,
    what: str,
    *,
    in_legend: bool = False,
) -> None:
    line = _part(frame, what, name)
    line = line.filter((line["runs"] >= FEWEST) & line["value"].is_not_null())
    label, said = safe(shown_name(name)), "p50" if what == "p50" else metric.tail_name
    look = series_style(index, name)["line"]
    x, y = with_gaps(milliseconds(line["ts"]), floats(line["value"], metric.factor))
    counts = np.zeros(len(x), int)
    counts[~np.isnan(y)] = line["runs"].to_numpy()
    width = 2.5 if what == "p50" else 1.5
    dash = look["dash"] if what == "p50" else "dot"
    figure.add_scatter(
        meta=f"{label} {what}",
        x=x,
        y=y,
        name=f"{label} (n = {_count(frame, name):,})" + ("" if in_legend else f", {said}"),
        legendgroup=label,
        showlegend=in_legend,
        mode="lines" if len(line) > 1 else "markers",
        line={**look, "width": width, "dash": dash},
        marker={"color": look["color"], "symbol": "line-ew-open", "size": 14},
        customdata=counts.tolist(),
        hovertemplate=(
            f"{said} %{{y:,.4~g}} {metric.unit} of %{{customdata:,}} executions<br>"
            f"around %{{x|%Y-%m-%d %H:%M}}<extra>{label}</extra>"
        ),
    )


def _add_strip(figure: Figure, frame: pl.DataFrame, runs: dict[str, int]) -> None:
    looks = (("failed", COLOURS[2], "x"), ("stopped", COLOURS[3], "line-ns-open"))
    for what, colour, symbol in looks:
        own = _strip(frame, what)
        said = "stopped by you" if what == "stopped" else "failed"
        # Of many, crosses would run into one another.
        mark = "line-ns-open" if len(own) > _MOST_FAILURES / 2 else symbol
        figure.add_scatter(
            meta=what,
            x=milliseconds(own["ts"]),
            y=[0] * len(own),
            yaxis="y2",
            name=f"{said} (n = {runs[what]:,})",
            showlegend=bool(len(own)),
            mode="markers",
            marker={"symbol": mark, "size": 9, "color": colour},
            text=[safe(text) for text in own["told"]],
            hovertemplate="%{x|%Y-%m-%d %H:%M:%S}<br>%{text}<extra></extra>",
        )


def _strip(frame: pl.DataFrame, what: str) -> pl.DataFrame:
    """Return ``ts`` and ``told`` of each failure, or of each of some columns of failures."""
    import polars as pl

    own = frame.filter((pl.col("what") == what) & pl.col("ts").is_not_null()).sort("ts")
    about = pl.col("series").fill_null("other models")
    why = pl.col("text").fill_null("no reason recorded")
    if len(own) <= _MOST_FAILURES:
        return own.select("ts", told=about + ": " + why)
    time = pl.col("ts").dt.epoch("us")
    width = microseconds(own["ts"][-1]) - microseconds(own["ts"][0])
    column = (time - time.min()) * _MOST_FAILURES // max(width, 1)
    return (
        # First and last of a column of pixels each tell how many there are between them.
        own.unique(["series", "runs", "text", "ts"])
        .group_by(column.alias("column"))
        .agg(
            pl.col("ts").min(),
            told=about.unique().sort().str.join(", ") + ": " + why.first(),
        )
        .sort("ts")
    )


def summarise(frame: pl.DataFrame, metric: Metric, window: Window, runs: dict[str, int]) -> str:
    """Say how many executions there are, and where the metric lies.

    Parameters
    ----------
    frame, metric, window, runs
        As for `draw`.
    """
    names = series_of(frame)
    models = format_number(len([name for name in names if name is not None]), "model")
    if None in names:
        models += " and others"
    count = sum(runs.values())
    measured = {
        name: whole["value"][0]
        for name in names
        if len(whole := _part(frame, "p50", name, whole=True)) and whole["value"][0] is not None
    }
    said = f"{metric.title} was not measured"
    if measured:
        low, high = min(measured.values()), max(measured.values())
        said = f"median {metric.title} {metric.show(low)}"
        if len(measured) > 1:
            said += f" to {metric.show(high)} by model"
    return (
        f"{format_number(count, 'execution')} of {models} {window.when}, "
        f"{runs['run']:,} successful; {said}."
    )


def tabulate(frame: pl.DataFrame, metric: Metric) -> Rows:
    """Return a row for each series: executions, success, and the spread of the metric.

    Parameters
    ----------
    frame, metric
        As for `draw`.
    """
    cells = []
    for name in series_of(frame):
        whole = {what: _part(frame, what, name, whole=True) for what in (*_KINDS, *_SPREAD)}
        done, failed, stopped = (int(whole[what]["runs"].sum()) for what in _KINDS)
        tried = done + failed
        values = [whole[what]["value"][0] if len(whole[what]) else None for what in _SPREAD]
        cells.append(
            [
                shown_name(name),
                f"{tried + stopped:,}",
                f"{done / tried:.1%}" if tried else NOT_MEASURED,
                *(metric.show(value) for value in values),
            ]
        )
    header = ["model", "runs", "success", "least", "p50", metric.tail_name, "greatest"]
    return Rows(f"The same executions: {metric.title} by model", header, cells)


_SPREAD = ("least", "p50", "tail", "greatest")
