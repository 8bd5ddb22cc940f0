"""The metrics of an execution that can be drawn, with their units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import RequirementError, did_you_mean
from ravenxterm_lab.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["METRICS", "Metric", "metric_of"]

_SHORT = 24


@dataclass(frozen=True, slots=True)
class Metric:
    """What can be drawn of an execution.

    Attributes
    ----------
    column : str
        Of the table ``executions``.
    title, unit : str
        Of the axis.
    factor : float
        From the unit of the column to that of the axis.
    tail : float
        The percentile at the bad end (0–1).
    show : callable
        Formats a value in the unit of the column.
    """

    column: str
    title: str
    unit: str
    factor: float
    tail: float
    show: Callable[[float | None], str]

    @property
    def axis(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})"

    @property
    def short_axis(self) -> str:
        """The axis where there is little room: the unit alone, if the title stands above it."""
        return self.axis if len(self.axis) <= _SHORT else self.unit

    @property
    def heading(self) -> str:
        """The same with a capital, which leaves the unit as it is."""
        return self.axis[:1].upper() + self.axis[1:]

    @property
    def tail_name(self) -> str:
        """Such as ``"p95"``."""
        return f"p{self.tail * 100:g}"


def _rate_of_either(per_second: float | None) -> str:
    """Format a rate of what may be tokens or items: the title says which two it may be."""
    return format_rate(per_second, "").replace(" /s", "/s")


#: By name.
METRICS = {
    "latency": Metric("latency", "latency", "s", 1.0, 0.95, format_seconds),
    "throughput": Metric(
        "throughput", "throughput", "tokens/s or items/s", 1.0, 0.05,
        _rate_of_either,
    ),
    "time_to_first_token": Metric(
        "time_to_first_token", "time to first token", "s", 1.0, 0.95, format_seconds
    ),
    "peak_memory": Metric("peak_memory", "peak memory", "MiB", 1 / 2**20, 0.95, format_bytes),
}  # fmt: skip


def metric_of(name: str, counts: str | None = None) -> Metric:
    """Return a metric by its name.

    Parameters
    ----------
    name : str
        One of `METRICS`.
    counts : str, optional
        What a throughput counts, ``"tok"`` or ``"items"``; either, if it is not given.

    Raises
    ------
    RequirementError
        If there is none; it suggests the nearest.
    """
    if name not in METRICS:
        raise RequirementError(f"Unknown metric {name!r}.{did_you_mean(name, METRICS)}")
    if name != "throughput" or counts is None:
        return METRICS[name]
    axis = "tokens/s" if counts == "tok" else "items/s"
    return replace(METRICS[name], unit=axis, show=partial(format_rate, unit=counts))
