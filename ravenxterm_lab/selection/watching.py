"""One speed or one quality: its sums since the last change, and the watch for the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ravenxterm_lab.selection.change import Change, Detector, WindowTest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ravenxterm_lab.selection.observed import Mark, Run

__all__ = ["Value", "Watched"]


class Value(NamedTuple):
    """What one execution says.

    Attributes
    ----------
    run : Run
        The execution.
    value : float or None
        Quality, or ln tokens (items) per second; None where only the first token is known.
    weight : float
        What it counts by its age.
    first : float or None
        Seconds to the first token.
    """

    run: Run
    value: float | None
    weight: float
    first: float | None = None


class Watched:
    """Sums since the last change, and the latest observations one by one.

    Parameters
    ----------
    series : tuple
        What it is of.
    test : WindowTest
        What is a change of it.

    Attributes
    ----------
    n, total : float
        Number and sum of the values.
    weighted_n, weighted : float
        The same, weighed by age.
    first_n, first : int, float
        Number and sum of the times to the first token (s).
    since, noticed : Mark or None
        The first execution since the last change, and the one that made it certain.
    """

    __slots__ = (
        "_detector", "_latest", "_test", "first", "first_n", "n", "noticed", "series", "since",
        "total", "weighted", "weighted_n",
    )  # fmt: skip

    def __init__(self, series: Any, test: WindowTest) -> None:
        self.series = series
        self._test = test
        self.n = self.total = self.weighted_n = self.weighted = self.first = 0.0
        self.first_n = 0
        self.since: Mark | None = None
        self.noticed: Mark | None = None
        # In order; of those of a detector none is missing that its windows may begin with.
        self._latest: list[Value] = []
        self._detector: Detector | None = None

    def remember(self, one: Value) -> None:
        """Know one by one what is in the sums already: the latest execution so far."""
        if self.since is None or one.run.mark >= self.since:
            self._latest.append(one)

    def begin(self) -> list[tuple[Change, Mark, Run]]:
        """Look at what is remembered, from the last change that was noticed on.

        Returns
        -------
        list of (Change, Mark, Run)
            What changed, the first execution since, and the one that makes it certain.
        """
        values = [one for one in self._latest if one.value is not None]
        older_n = max(self.n - len(values), 0.0)
        older = self.total - sum(_number(one) for one in values) if older_n else 0.0
        seen = 0
        if self.noticed is not None:
            seen = sum(one.run.mark <= self.noticed for one in values)
        if not self._may_change(values, older_n, older, seen):
            seen = len(values)
        known = [(one.run.mark.at, _number(one)) for one in values[:seen]]
        self._detector = Detector(self._test, known, older_n, older)
        found = [change for one in values[seen:] for change in self._observe(one)]
        self._forget()
        return found

    def add(self, one: Value) -> list[tuple[Change, Mark, Run]]:
        """Count a further execution, the latest so far; what it makes certain is as in `begin`."""
        found = [] if self._detector is not None else self.begin()
        self._count(one)
        self._latest.append(one)
        found += self._observe(one)
        self._forget()
        return found

    def _count(self, one: Value) -> None:
        if one.value is not None:
            self.n += 1
            self.total += one.value
            self.weighted_n += one.weight
            self.weighted += one.weight * one.value
        if one.first is not None:
            self.first_n += 1
            self.first += one.first

    def _observe(self, one: Value) -> list[tuple[Change, Mark, Run]]:
        if one.value is None:
            return []
        assert self._detector is not None
        change = self._detector.observe(one.run.mark.at, one.value)
        if change is None:
            return []
        until = [
            v.run.mark for v in self._latest if v.value is not None and v.run.mark <= one.run.mark
        ]
        self.since, self.noticed = until[-change.n], one.run.mark
        self._latest = [each for each in self._latest if each.run.mark >= self.since]
        self.n = self.total = self.weighted_n = self.weighted = self.first = 0.0
        self.first_n = 0
        for each in self._latest:
            self._count(each)
        return [(change, self.since, one.run)]

    def _may_change(self, values: list[Value], older_n: float, older: float, seen: int) -> bool:
        """Whether one of the observations shows a change, all looked at together."""
        if len(values) <= seen:
            return False
        numbers = np.array([_number(one) for one in values])
        sums = np.concatenate([[0.0], np.cumsum(numbers)])
        at = np.arange(seen + 1, len(numbers) + 1)[:, None]
        n = np.arange(self._test.shortest, self._test.longest + 1)[None, :]
        before = older_n + at - n
        possible = (at >= n) & (before >= 1)
        if not possible.any():
            return False
        window = sums[at] - sums[np.maximum(at - n, 0)]
        rest: NDArray[np.float64] = np.where(possible, before, 1.0).astype(np.float64)
        wide: NDArray[np.float64] = np.broadcast_to(n, window.shape).astype(np.float64)
        mean: NDArray[np.float64] = window / wide
        older_mean: NDArray[np.float64] = (older + sums[at] - window) / rest
        statistic = self._test.statistic(wide, mean, rest, older_mean)
        return bool((statistic[possible] >= self._test.threshold * (1 - 1e-9)).any())

    def _forget(self) -> None:
        """Drop what no window can begin with any more."""
        if len(self._latest) <= 4 * self._test.longest:
            return
        places = [place for place, one in enumerate(self._latest) if one.value is not None]
        if places:
            del self._latest[: places[-self._test.longest :][0]]
        else:
            del self._latest[: -self._test.longest]


def _number(one: Value) -> float:
    assert one.value is not None
    return one.value
