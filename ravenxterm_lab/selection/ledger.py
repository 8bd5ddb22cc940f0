"""What is known of every model, kept in memory and brought up to date run by run.

It begins with the sums that the store adds up (`read_whole`) and goes on with the executions
that come; both give the same evidence. Each speed and each quality is watched for a change, from
which on only what came since counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ravenxterm_lab.selection.change import Change, window_test
from ravenxterm_lab.selection.evidence import (
    OUTCOME_HALF_LIFE_DAYS,
    SPEED_HALF_LIFE_DAYS,
    CellEvidence,
    Evidence,
    Qualities,
    Speeds,
    engine_settings,
    kv_type,
)
from ravenxterm_lab.selection.observed import Mark, Noticed
from ravenxterm_lab.selection.watching import Value, Watched

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from ravenxterm_lab.selection.observed import Run, Sums, Whole

__all__ = ["Found", "Ledger"]

_HOUR = 3600.0


class Found(NamedTuple):
    """A change that was found.

    Attributes
    ----------
    change : Change
        What changed, by how much.
    noticed : Noticed
        Of what, and which executions bound it.
    model : str
        Name of the model, as the execution that made it certain says.
    fingerprint : str or None
        Its fingerprint.
    """

    change: Change
    noticed: Noticed
    model: str
    fingerprint: str | None


class _Series(NamedTuple):
    """What is watched as one: a model's speed as one engine runs it, or its quality."""

    metric: str
    key: str
    task: str
    runtime: str | None = None
    device: str | None = None
    settings: str | None = None


@dataclass(slots=True)
class _Counts:
    """What is counted of a model on a task, however it ran."""

    everywhere: int = 0
    runs: int = 0
    succeeded: int = 0
    recent_runs: float = 0.0
    recent_succeeded: float = 0.0
    work_n: int = 0
    work: float = 0.0
    series: list[_Series] = field(default_factory=list)


class Ledger:
    """The evidence in memory. Not for several threads at once.

    Parameters
    ----------
    whole : Whole
        What the store knew at one moment.
    now : datetime
        That moment (UTC, without a zone), by which its sums are weighed.
    """

    def __init__(self, whole: Whole, now: datetime) -> None:
        self._begin = now
        self._counts: dict[tuple[str, str], _Counts] = {}
        self._watched: dict[_Series, Watched] = {}
        for sums in whole.sums:
            counts = self._counts.setdefault(sums[:2], _Counts())
            counts.everywhere += sums.everywhere
            counts.runs += sums.runs
            counts.succeeded += sums.succeeded
            counts.recent_runs += sums.recent_runs
            counts.recent_succeeded += sums.recent_succeeded
            counts.work_n += sums.work_n
            counts.work += sums.work_sum
            fast = self._of(_speed(sums))
            fast.n += sums.speed_n
            fast.total += sums.speed_sum
            fast.weighted_n += sums.weighted_n
            fast.weighted += sums.weighted_sum
            fast.first_n += sums.first_n
            fast.first += sums.first_sum
            good = self._of(_quality(sums))
            good.n += sums.quality_n
            good.total += sums.quality_sum
        for change in whole.noticed:
            series = self._of(_Series(*change[:6]))
            if series.since is None or change.first > series.since:
                series.since, series.noticed = change.first, change.noticed
        for run in whole.runs:
            for watched, value in self._values(run, now):
                watched.remember(value)

    def watch(self) -> list[Found]:
        """Look for changes among the latest executions that were read one by one."""
        return [
            _found(series, *one)
            for series, watched in self._watched.items()
            for one in watched.begin()
        ]

    def add(self, run: Run, now: datetime | None = None) -> list[Found]:
        """Count one more execution, the latest so far.

        Parameters
        ----------
        run : Run
            Which.
        now : datetime, optional
            The moment at which it is counted (UTC, without a zone), by default that of the
            sums. What a wrong clock says to be later counts as of now.

        Returns
        -------
        list of Found
            What it makes certain to have changed.
        """
        if run.task is None or run.interrupted:
            return []
        counts = self._counts.setdefault((run.key, run.task), _Counts())
        counts.everywhere += 1
        counts.runs += run.here
        counts.succeeded += run.here and run.success
        now = now or self._begin
        if run.here:
            recent = self._weight(run.mark.at, now, OUTCOME_HALF_LIFE_DAYS)
            counts.recent_runs += recent
            counts.recent_succeeded += recent * run.success
        if run.success and run.work is not None and run.work > 0:
            counts.work_n += 1
            counts.work += math.log(run.work)
        return [
            _found(watched.series, *one)
            for watched, value in self._values(run, now)
            for one in watched.add(value)
        ]

    def grade(self, run: Run) -> None:
        """Count the quality of an execution that was counted without one, the latest graded.

        Parameters
        ----------
        run : Run
            With its quality.
        """
        if run.quality is not None and not run.interrupted:
            self._of(_quality(run)).add(Value(run, run.quality, 1.0))

    def regrade(self, key: str, task: str, runs: Iterable[Run]) -> None:
        """Count the qualities of one model on one task anew, since some were judged otherwise.

        Parameters
        ----------
        key, task : str
            Which.
        runs : iterable of Run
            All of its executions so far, in order, with the qualities that count now.
        """
        for series in self._counts.get((key, task), _Counts()).series:
            if series.metric == "quality":
                self._watched[series] = Watched(series, window_test("quality", task))
        for run in runs:
            self.grade(run)

    def evidence(self, now: datetime) -> Evidence:
        """Return the statistics.

        Parameters
        ----------
        now : datetime
            From which the half-life counts back (UTC, without a zone).
        """
        age = (now - self._begin).total_seconds()
        fade = 0.5 ** (age / (SPEED_HALF_LIFE_DAYS * 24 * _HOUR))
        recent = 0.5 ** (age / (OUTCOME_HALF_LIFE_DAYS * 24 * _HOUR))
        cells, parts = {}, {}
        for place, counts in self._counts.items():
            if not counts.everywhere:
                continue
            fast, good = [], []
            for series in counts.series:
                one = self._watched[series]
                if not one.n and not one.first_n:
                    continue
                if series.metric == "quality":
                    good.append(Qualities(series.settings, one.n, one.total))
                else:
                    fast.append(
                        Speeds(
                            series.runtime, series.device, series.settings,
                            one.weighted_n * fade, one.weighted * fade, one.first_n, one.first,
                        )
                    )  # fmt: skip
            cells[place] = CellEvidence(
                runs=counts.runs,
                succeeded=counts.succeeded,
                failed=counts.runs - counts.succeeded,
                recent_runs=counts.recent_runs * recent,
                recent_succeeded=counts.recent_succeeded * recent,
                work_n=float(counts.work_n),
                work_mean=counts.work / counts.work_n if counts.work_n else None,
            ).measured(fast, good)
            parts[place] = (fast, good)
        return Evidence(cells, parts)

    def _of(self, series: _Series) -> Watched:
        watched = self._watched.get(series)
        if watched is None:
            watched = self._watched[series] = Watched(
                series, window_test(series.metric, series.task)
            )
            place = (series.key, series.task)
            self._counts.setdefault(place, _Counts()).series.append(series)
        return watched

    def _values(self, run: Run, now: datetime) -> list[tuple[Watched, Value]]:
        """Return what an execution says, and of what."""
        if run.task is None or run.interrupted:
            return []
        found = []
        if run.quality is not None:
            found.append((self._of(_quality(run)), Value(run, run.quality, 1.0)))
        if run.here and run.success:
            fast = run.throughput is not None and run.throughput > 0
            if fast or run.first_token is not None:
                value = math.log(run.throughput or 1.0) if fast else None
                weight = self._weight(run.mark.at, now, SPEED_HALF_LIFE_DAYS)
                found.append((self._of(_speed(run)), Value(run, value, weight, run.first_token)))
        return found

    def _weight(self, at: datetime, now: datetime, half_life_days: float) -> float:
        """Return what a speed or an outcome counts: as in the sums, by the middle of its hour.

        All weights are those of one moment, from which `evidence` lets them fade: what came after
        that moment counts more than 1.
        """
        hour = at.replace(minute=0, second=0, microsecond=0)
        age = max((now - hour).total_seconds() - _HOUR / 2, -_HOUR / 2)
        age -= (now - self._begin).total_seconds()
        weight: float = 0.5 ** (age / (half_life_days * 24 * _HOUR))
        return weight


def _speed(run: Run | Sums) -> _Series:
    assert run.task is not None
    settings = engine_settings(run.settings)
    return _Series("speed", run.key, run.task, run.runtime, run.device, settings)


def _quality(run: Run | Sums) -> _Series:
    assert run.task is not None
    return _Series("quality", run.key, run.task, settings=kv_type(run.settings))


def _found(series: _Series, change: Change, since: Mark, run: Run) -> Found:
    noticed = Noticed(*series, since, run.mark)
    return Found(change, noticed, run.model, run.fingerprint)
