"""Windows of time that a view looks at, and how finely it divides them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.units import format_number

if TYPE_CHECKING:
    from datetime import date

    from ravenxterm_lab.models import ModelManager

__all__ = ["Window", "clip", "microseconds", "moment_of", "period_of", "window_of"]

_DAY = 86_400.0
#: Widths that people count in (s); none is finer than a second.
_PERIODS = (
    1,
    5,
    10,
    30,
    60,
    300,
    600,
    1800,
    3600,
    10_800,
    21_600,
    43_200,
    _DAY,
    7 * _DAY,
    28 * _DAY,
)
_MOST_PERIODS = 60
#: Back to a time before everything that may be recorded (days), and in words.
_ALL_DAYS, _ALWAYS = 36_500.0, "so far"


@dataclass(frozen=True, slots=True)
class Window:
    """From one moment to another, both included.

    Attributes
    ----------
    start, end : datetime
        UTC without a zone, as the store keeps times.
    label : str
        In words, such as ``"last 30 days"``.
    """

    start: datetime
    end: datetime
    label: str

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end - self.start).total_seconds()

    @property
    def when(self) -> str:
        """The label within a sentence, such as ``"in the last 30 days"``."""
        if self.label.startswith(_ALWAYS):
            return self.label
        return f"in the {self.label}" if self.label.startswith("last") else f"from {self.label}"

    @property
    def parameters(self) -> dict[str, Any]:
        """``start`` and ``end``, for a query."""
        return {"start": self.start, "end": self.end}


def window_of(
    manager: ModelManager,
    days: float | None = None,
    start: date | str | None = None,
    end: date | str | None = None,
) -> Window:
    """Return the window that a person asked for.

    Parameters
    ----------
    manager : ModelManager
        Its ``history_window_days`` hold where nothing was asked for; what is drawn of a history
        that is not of this machine says so.
    days : float, optional
        How far back from now; a fraction is allowed.
    start, end : datetime, date or str, optional
        Instead of ``days``; ISO 8601, UTC unless a zone is given. The end is now by default.

    Raises
    ------
    RequirementError
        If days and a start are both given, or the window does not begin before its end.
    """
    now = datetime.fromisoformat(manager._bench.now())
    last = now if end is None else moment_of(end, "end")
    if start is not None:
        if days is not None:
            raise RequirementError("Give days or start, not both: each says where to begin.")
        first = moment_of(start, "start")
        label = f"{_minute(first)} to {_minute(last)}"
    else:
        back = float(manager.preferences.history_window_days if days is None else days)
        if not 0 < back <= 36_525:
            raise RequirementError(f"days is {days!r}; allowed is more than 0, up to 36525.")
        first = last - timedelta(days=back)
        if end is not None:
            label = f"{_minute(first)} to {_minute(last)}"
        else:
            label = _ALWAYS if back >= _ALL_DAYS else f"last {_length(back)}"
    if first >= last:
        raise RequirementError(f"start ({_minute(first)}) must come before end ({_minute(last)}).")
    return Window(first, last, label + manager._bench.origin)


def clip(window: Window, first: datetime | None, last: datetime | None) -> Window:
    """Return the part of a window that holds something, at least a second long."""
    start = window.start if first is None else max(window.start, first)
    end = window.end if last is None else min(window.end, last)
    return Window(start, max(end, start + timedelta(seconds=1)), window.label)


def period_of(seconds: float) -> float:
    """Return a period that people count in, of which a length holds at most 60 (s)."""
    wanted = seconds / _MOST_PERIODS
    return next((float(period) for period in _PERIODS if period >= wanted), _PERIODS[-1])


def microseconds(moment: datetime) -> int:
    """Return microseconds since the epoch."""
    return round((moment - datetime(1970, 1, 1)) / timedelta(microseconds=1))  # noqa: DTZ001 - UTC


def moment_of(value: date | str, name: str) -> datetime:
    """Return a moment as UTC without a zone, as the store keeps times.

    Parameters
    ----------
    value : datetime, date or str
        A text is read as ISO 8601, UTC unless it has a zone.
    name : str
        What it is called in an error.

    Raises
    ------
    RequirementError
        If a text is no time.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise RequirementError(
                f"{name} is {value!r}; it must be a time as in '2026-05-01 14:30' (UTC)."
            ) from None
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - UTC
    return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value


def _length(days: float) -> str:
    if days >= 2 or days == 1:
        return f"{days:g} days" if days >= 2 else "24 hours"
    hours = days * 24
    if hours >= 1:
        return "hour" if math.isclose(hours, 1) else f"{hours:g} hours"
    minutes = max(round(hours * 60), 1)
    return "minute" if minutes == 1 else format_number(minutes, "minute")


def _minute(moment: datetime) -> str:
    if moment.second or moment.microsecond:
        return f"{moment:%Y-%m-%d %H:%M:%S}"
    return f"{moment:%Y-%m-%d %H:%M}" if moment.hour or moment.minute else f"{moment:%Y-%m-%d}"
