"""The machine over time: load of CPU and GPUs, and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravenxterm_lab.plots.theme import AXIS, COLOURS, Figure, layout
from ravenxterm_lab.plots.view import View, empty_figure
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    import polars as pl

    from ravenxterm_lab.models import ModelManager

__all__ = ["hardware"]

_SQL = """
SELECT ts, cpu_percent, memory_used, process_memory, gpu, gpu_percent, gpu_memory_used
FROM hardware
WHERE ts >= now()::TIMESTAMP - to_hours(CAST($hours AS INTEGER))
ORDER BY ts
"""


def hardware(manager: ModelManager, *, hours: int = 24) -> View:
    """Draw the load of CPU and GPUs, and the memory, over time.

    Parameters
    ----------
    manager : ModelManager
        Whose store is read.
    hours : int
        How far back.
    """
    frame = manager.sql(_SQL, {"hours": hours}).pl()
    if frame.is_empty():
        reason = "No hardware samples yet: run manager.run(…) or start manager.monitor()"
        return View(empty_figure("Hardware", reason), reason, _SQL, frame)
    return View(_draw(frame, hours), _summarise(frame, hours), _SQL, frame)


def _draw(frame: pl.DataFrame, hours: int) -> Figure:
    machine = _machine(frame)
    times = machine["ts"].to_list()
    figure = Figure()
    figure.add_scatter(
        x=times,
        y=machine["cpu_percent"].to_list(),
        name="CPU load",
        mode="lines+markers",
        line={"color": COLOURS[0]},
    )
    told = frame.drop_nulls("gpu_percent")
    for index in sorted(told["gpu"].unique().to_list()):
        gpu = told.filter(told["gpu"] == index)
        figure.add_scatter(
            x=gpu["ts"].to_list(),
            y=gpu["gpu_percent"].to_list(),
            name=f"GPU {index} load",
            mode="lines+markers",
            line={"color": COLOURS[(3 + index) % len(COLOURS)], "dash": "dashdot"},
        )
    for column, name, colour, dash in (
        ("memory_used", "memory used", COLOURS[1], "dash"),
        ("process_memory", "memory of this process", COLOURS[2], "dot"),
    ):
        figure.add_scatter(
            x=times,
            y=[None if value is None else value / 2**30 for value in machine[column].to_list()],
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            yaxis="y2",
        )
    subtitle = f"n = {len(machine)} samples, last {hours} hours, times in UTC"
    figure.update_layout(
        **layout("Hardware", subtitle),
        height=420,
        yaxis2={
            "title": {"text": "memory (GiB)"},
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "tickformat": ".1f",
            "automargin": True,
            "showgrid": False,
        },
    )
    figure.update_xaxes(title="time (UTC)", **AXIS)
    figure.update_layout(
        yaxis={"title": {"text": "load (%)"}, "range": [0, 105], **AXIS},
    )
    return figure


def _machine(frame: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each sample, of the several that a machine with several GPUs has."""
    return frame.filter(frame["gpu"].is_null() | (frame["gpu"] == 0))


def _summarise(frame: pl.DataFrame, hours: int) -> str:
    frame = _machine(frame)
    cpu: Any = frame["cpu_percent"].mean()
    memory: Any = frame["memory_used"].max()
    load = "not measured" if cpu is None else f"{cpu:.0f}%"
    return (
        f"{len(frame)} sample{'s' * (len(frame) != 1)} in the last {hours} hours: "
        f"mean CPU load {load}, at most {format_bytes(memory)} of memory used."
    )
