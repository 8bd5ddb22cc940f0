"""How samples of the hardware are drawn: a band for each unit, and one for the executions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ravenxterm_lab.plots.gaps import with_gaps
from ravenxterm_lab.plots.theme import (
    AXIS,
    COLOURS,
    DASHES,
    OTHERS,
    Figure,
    floats,
    layout,
    milliseconds,
    safe,
    style,
    time_axis,
)
from ravenxterm_lab.units import NOT_MEASURED, format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl
    from numpy.typing import NDArray

    from ravenxterm_lab.plots.window import Window

__all__ = ["GPU", "MACHINE", "MEAN", "Line", "draw", "is_gpu", "key_of", "summarise"]

_MEMORY, _LOAD, _POWER, _HEAT = "memory (GiB)", "load (%)", "power (W)", "temp. (°C)"
#: Weight of each band in the height of the figure.
_BANDS = {_LOAD: 3.0, _MEMORY: 3.0, _POWER: 2.0, _HEAT: 2.0}
_PIXELS = 52
#: Points of a line up to which each has a mark of its own.
_MARKED = 200
_OTHERS = "other models"
#: What the name of a column begins with where its means over time are told.
MEAN = "mean "


@dataclass(frozen=True, slots=True)
class Line:
    """A quantity that is sampled.

    Attributes
    ----------
    label : str
        In words.
    band : str
        The axis that it belongs to, with its unit.
    colour, dash : str
        Of its line; GPUs have their own.
    factor : float
        From the unit of the store to that of the axis.
    """

    label: str
    band: str
    colour: str = ""
    dash: str = "solid"
    factor: float = 1.0

    def show(self, value: Any) -> str:
        """Format a value in the unit of the store."""
        if value is None:
            return NOT_MEASURED
        if self.band == _MEMORY:
            return format_bytes(value)
        unit = {_LOAD: "%", _POWER: " W", _HEAT: " °C"}[self.band]
        return f"{value:.0f}{unit}"


#: Of the machine, by column of ``hardware_samples``.
MACHINE = {
    "cpu_percent": Line("CPU load", _LOAD, COLOURS[0]),
    "memory_used": Line("memory used", _MEMORY, COLOURS[0], "longdash", 2**-30),
    "process_memory": Line(
        "memory of this process and its models", _MEMORY, COLOURS[3], "longdashdot", 2**-30
    ),
    "cpu_power": Line("CPU power", _POWER, COLOURS[0]),
}
#: Of each GPU.
GPU = {
    "gpu_percent": Line("load", _LOAD),
    "gpu_memory_used": Line("memory used", _MEMORY, factor=2**-30),
    "gpu_power": Line("power", _POWER),
    "gpu_temperature": Line("temperature", _HEAT),
}


def is_gpu(name: str) -> bool:
    """Say whether a column is one of GPUs."""
    return name in GPU


def key_of(name: str, gpu: int | None) -> str:
    """Return what the line of a column is told by."""
    return name if gpu is None else f"{name} {gpu}"


def _look(name: str, gpu: int | None) -> tuple[str, dict[str, Any]]:
    if gpu is None:
        line = MACHINE[name]
        return line.label, {"color": line.colour, "dash": line.dash}
    place = gpu % 3
    dash = DASHES[1:][(gpu // 3 + place) % 3]
    return f"GPU {gpu} {GPU[name].label}", {"color": COLOURS[1:][place], "dash": dash}


def draw(frame: pl.DataFrame, window: Window) -> Figure:
    """Draw a band for each unit that something was measured in, and the executions below.

    Parameters
    ----------
    frame : polars.DataFrame
        Columns ``what``, ``gpu``, ``ts``, ``value``, ``samples``, ``model``, ``until``, ``failed``.
    window : Window
        Of time.
    """
    import polars as pl

    timed = frame.filter(pl.col("ts").is_not_null() & (pl.col("what") != "execution"))
    is_mean = pl.col("what").str.starts_with(MEAN)
    points, means = timed.filter(~is_mean), timed.filter(is_mean)
    runs = frame.filter(pl.col("what") == "execution")
    lines = {**MACHINE, **GPU}
    told = set(points["what"].to_list())
    used = [band for band in _BANDS if any(lines[what].band == band for what in told)]
    models = sorted(runs["model"].unique().to_list(), key=lambda name: (name is None, name))
    weights = {band: _BANDS[band] for band in used}
    if models:
        weights["executions"] = 0.6 + 0.45 * len(models)
    figure = Figure()
    axes = _axes(weights)
    thinned = not means.is_empty()
    _add_lines(figure, points, axes, thinned=thinned)
    _add_means(figure, means, axes)
    _add_runs(figure, runs, models, axes.get("executions"))
    samples = frame.filter((pl.col("what") == "memory_used") & pl.col("ts").is_null())["samples"]
    subtitle = (
        f"n = {format_number(int(samples.sum()), 'sample')}, "
        f"{format_number(int(runs['samples'].sum()), 'execution')}, {window.label}, times in UTC"
    )
    if thinned:
        subtitle += "<br>lines: means; behind them first, last, least and greatest of each column"
    height = 190 + 20 * thinned + _PIXELS * sum(weights.values())
    last = list(axes.values())[-1]
    figure.update_layout(
        **layout("Hardware", subtitle),
        height=int(height),
        hovermode="x unified",
        xaxis=time_axis(anchor=last),
    )
    top = 1.0
    gap = 0.05
    free = 1.0 - gap * (len(weights) - 1)
    for band, weight in weights.items():
        low = max(top - free * weight / sum(weights.values()), 0.0)
        axis: dict[str, Any] = {"domain": [low, top], "automargin": True, **AXIS}
        if band == "executions":
            axis |= {
                "type": "category",
                "categoryorder": "array",
                "categoryarray": [_shown(model) for model in reversed(models)],
                "range": [-0.6, len(models) - 0.4],
                "fixedrange": True,
            }
        else:
            axis |= {"title": {"text": band}, "rangemode": "tozero"}
        if band == _LOAD:
            axis["range"] = [0, 105]
        figure.update_layout({axes[band].replace("y", "yaxis"): axis})
        top = low - gap
    return figure


@dataclass(frozen=True, slots=True)
class _Series:
    """A line to draw: its key, its axis, its label, its look, its points."""

    key: str
    axis: str
    label: str
    look: dict[str, Any]
    unit: str
    x: NDArray[np.float64]
    y: NDArray[np.float32]
    points: int


def _series(points: pl.DataFrame, axes: dict[str, str]) -> Iterator[_Series]:
    """Return the lines of each band, in the order in which they are told."""
    import polars as pl

    lines = {**MACHINE, **GPU}
    order = {name: place for place, name in enumerate(lines)}
    pairs = sorted(
        set(points.select("what", "gpu").iter_rows()),
        key=lambda pair: (-1 if pair[1] is None else pair[1], order[pair[0]]),
    )
    for band, axis in axes.items():
        for name, gpu in pairs:
            if lines[name].band != band:
                continue
            own = points.filter((pl.col("what") == name) & pl.col("gpu").eq_missing(gpu))
            own = own.sort("ts")
            x, y = with_gaps(milliseconds(own["ts"]), floats(own["value"], lines[name].factor))
            yield _Series(key_of(name, gpu), axis, *_look(name, gpu), _unit(band), x, y, len(own))


def _add_lines(
    figure: Figure, points: pl.DataFrame, axes: dict[str, str], *, thinned: bool
) -> None:
    # Up to two GPUs, colour alone tells the lines of a band apart.
    few = points["gpu"].drop_nulls().n_unique() <= 2
    for one in _series(points, axes):
        look = one.look
        if thinned or (few and one.points > _MARKED):
            # A peak could fall between two dashes.
            look = {**look, "dash": "solid"}
        figure.add_scatter(
            meta=one.key,
            x=one.x,
            y=one.y,
            name=one.label,
            legendgroup=one.label,
            showlegend=not thinned,
            opacity=0.45 if thinned else 1.0,
            yaxis=one.axis,
            mode="lines+markers" if one.points <= _MARKED else "lines",
            line={**look, "width": 1.0 if thinned else 1.8},
            marker={"size": 4, "color": look["color"]},
            hovertemplate=f"%{{y:,.4~g}} {one.unit}",
        )


def _add_means(figure: Figure, means: pl.DataFrame, axes: dict[str, str]) -> None:
    import polars as pl

    means = means.with_columns(pl.col("what").str.strip_prefix(MEAN))
    for one in _series(means, axes):
        figure.add_scatter(
            meta=MEAN + one.key,
            x=one.x,
            y=one.y,
            name=one.label,
            legendgroup=one.label,
            yaxis=one.axis,
            mode="lines",
            line={**one.look, "width": 2.5},
            hovertemplate=f"mean %{{y:,.4~g}} {one.unit}",
        )


def _unit(band: str) -> str:
    return band.partition("(")[2].rstrip(")")


def _axes(weights: dict[str, float]) -> dict[str, str]:
    return {band: "y" if at == 0 else f"y{at + 1}" for at, band in enumerate(weights)}


def _shown(model: str | None) -> str:
    return _OTHERS if model is None else safe(model)


def _add_runs(
    figure: Figure, runs: pl.DataFrame, models: list[str | None], axis: str | None
) -> None:
    import polars as pl

    for index, model in enumerate(models):
        own = runs.filter(pl.col("model").eq_missing(model)).sort("ts")
        begin, until = milliseconds(own["ts"]), milliseconds(own["until"])
        gaps = np.full(len(own), np.nan)
        told = [
            f"{format_number(row['samples'], 'run')}, {format_seconds(row['seconds'])}"
            + (f", {row['failed']:,} failed" if row["failed"] else "")
            for row in own.with_columns(
                seconds=(pl.col("until") - pl.col("ts")).dt.total_microseconds() / 1e6
            ).iter_rows(named=True)
        ]
        colour = OTHERS if model is None else style(index)["line"]["color"]
        figure.add_scatter(
            meta=f"run of {_shown(model)}",
            x=np.column_stack([begin, until, gaps]).ravel(),
            y=[_shown(model)] * (3 * len(own)),
            text=[text for one in told for text in (one, one, "")],
            yaxis=axis,
            mode="lines+markers",
            line={"width": 9, "color": colour},
            marker={"size": 5, "symbol": style(index)["marker"]["symbol"], "color": colour},
            showlegend=False,
            name="execution",
            hovertemplate="%{y}: %{text}<extra></extra>",
        )


def summarise(frame: pl.DataFrame, window: Window) -> str:
    """Say how busy the machine was, and what was not measured.

    Parameters
    ----------
    frame, window
        As for `draw`.
    """
    import polars as pl

    means = frame.filter(pl.col("ts").is_null() & (pl.col("what") != "execution"))
    peaks = frame.filter(pl.col("ts").is_not_null()).group_by("what").agg(pl.col("value").max())
    peak = dict(peaks.iter_rows())
    mean = dict(means.filter(pl.col("gpu").is_null()).select("what", "value").iter_rows())
    samples = int(means.filter(pl.col("what") == "memory_used")["samples"].sum())
    gpus = frame.filter(pl.col("gpu").is_not_null())["gpu"].n_unique()
    missing = [MACHINE["cpu_power"].label] if "cpu_power" not in mean else []
    if not gpus:
        missing.append("GPU")
    elif hidden := [GPU[n].label for n in ("gpu_power", "gpu_temperature") if n not in peak]:
        missing += [f"GPU {label}" for label in hidden]
    absent = f"; {NOT_MEASURED}: {', '.join(missing)}" if missing else ""
    return (
        f"{format_number(samples, 'sample')} {window.when}: mean CPU load "
        f"{MACHINE['cpu_percent'].show(mean.get('cpu_percent'))}, at most "
        f"{format_bytes(peak.get('memory_used'))} of memory used"
        f"{absent}."
    )
