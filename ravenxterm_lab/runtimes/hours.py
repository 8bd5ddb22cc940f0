"""At which hours of the day each model is used, as counted on earlier days."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ravenxterm_lab.runtimes.eviction import Key

__all__ = ["HoursOfUse", "hour_now"]

_DAY = 24
#: Days of use spread evenly over the day that every model is taken to have had: what a few days
#: show is no habit yet.
_EVEN_DAYS = 10.0
#: What a day of use counts for its own hour and for each hour beside it: nobody keeps to the
#: minute, and the hours are UTC, against which the clocks of many places move twice a year.
_OWN, _BESIDE = 0.5, 0.25


class HoursOfUse:
    """On how many days each model was used in each hour of the day.

    Days are counted, not runs: a hundred runs in one hour are one load. A model's share of the
    day, smoothed over neighbouring hours and drawn to an even day while little is known, is
    ``(d(h)/2 + d(h−1)/4 + d(h+1)/4 + a/24) / (Σd + a)`` with the days d and a = 10.

    Parameters
    ----------
    days : iterable of (Key, int, float)
        A model, an hour of the day (0–23, UTC), and the days on which it was used in that hour;
        older ones may count less.

    Examples
    --------
    >>> early, late = ("fake", "early", ""), ("fake", "late", "")
    >>> hours = HoursOfUse([(early, 8, 20.0), (late, 20, 20.0)])
    >>> hours.odds(8)[early] > 5 > 0.5 > hours.odds(8)[late]
    True
    """

    def __init__(self, days: Iterable[tuple[Key, int, float]] = ()) -> None:
        self._days: dict[Key, list[float]] = {}
        for key, hour, count in days:
            self._days.setdefault(key, [0.0] * _DAY)[hour % _DAY] += count

    def odds(self, hour: int) -> dict[Key, float]:
        """Return how many times as likely as on the mean of the day each model is used.

        What is not named was never counted: 1.

        Parameters
        ----------
        hour : int
            Of the day (0–23, UTC), or hours since any midnight.
        """
        return {key: _DAY * self._share(days, hour) for key, days in self._days.items()}

    def usual(self, hour: int) -> dict[Key, float]:
        """Return which part of all that is used at an hour each model is; they add up to 1.

        Empty where nothing was ever counted.

        Parameters
        ----------
        hour : int
            As for `odds`.
        """
        used = {key: sum(days) * self._share(days, hour) for key, days in self._days.items()}
        total = sum(used.values())
        return {key: count / total for key, count in used.items()} if total else {}

    def _share(self, days: list[float], hour: int) -> float:
        beside = days[(hour - 1) % _DAY] + days[(hour + 1) % _DAY]
        near = _OWN * days[hour % _DAY] + _BESIDE * beside
        return (near + _EVEN_DAYS / _DAY) / (sum(days) + _EVEN_DAYS)


def hour_now() -> int:
    """Return the hours since 1970 began (UTC)."""
    return int(time.time() // 3600)
