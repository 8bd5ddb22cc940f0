"""History kept in memory: the same statistics as the query over the store, one run at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ravenxterm_lab.selection.change import Change, Detector, window_test
from ravenxterm_lab.selection.evidence import (
    OUTCOME_HALF_LIFE_DAYS,
    SPEED_HALF_LIFE_DAYS,
    CellEvidence,
    Evidence,
)

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Tally"]


@dataclass(slots=True)
class _Sum:
    n: float = 0.0
    total: float = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        self.n += weight
        self.total += weight * value

    def scale(self, factor: float) -> None:
        self.n *= factor
        self.total *= factor

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n > 0 else None


@dataclass(slots=True)
class _Cell:
    task: str
    runs: int = 0
    succeeded: int = 0
    recent: _Sum = field(default_factory=_Sum)
    recent_at: datetime | None = None
    quality: _Sum = field(default_factory=_Sum)
    speed: _Sum = field(default_factory=_Sum)
    speed_at: datetime | None = None
    work: _Sum = field(default_factory=_Sum)
    first_token: _Sum = field(default_factory=_Sum)
    # Those of the runs that a change of speed may turn out to have begun with.
    firsts: list[tuple[datetime, float]] = field(default_factory=list)
    watch_quality: Detector = field(init=False)
    watch_speed: Detector = field(init=False)

    def __post_init__(self) -> None:
        self.watch_quality = Detector(window_test("quality", self.task))
        self.watch_speed = Detector(window_test("speed", self.task))

    def add_outcome(self, at: datetime, succeeded: bool) -> None:
        if self.recent_at is not None:
            self.recent.scale(_weight(self.recent_at, at, OUTCOME_HALF_LIFE_DAYS))
        self.recent_at = at
        self.recent.add(float(succeeded))

    def add_speed(self, at: datetime, value: float) -> None:
        if self.speed_at is None or at > self.speed_at:
            if self.speed_at is not None:
                self.speed.scale(_weight(self.speed_at, at))
            self.speed_at = at
        self.speed.add(value, _weight(at, self.speed_at))

    def grade(self, at: datetime, value: float) -> list[Change]:
        self.quality.add(value)
        change = self.watch_quality.observe(at, value)
        if change is None:
            return []
        self.quality = _Sum(change.n, change.n * change.after)
        return [change]

    def evidence(self, now: datetime) -> CellEvidence:
        weight = 1.0 if self.speed_at is None else _weight(self.speed_at, now)
        fade = 1.0
        if self.recent_at is not None:
            fade = _weight(self.recent_at, now, OUTCOME_HALF_LIFE_DAYS)
        return CellEvidence(
            runs=self.runs,
            succeeded=self.succeeded,
            failed=self.runs - self.succeeded,
            recent_runs=self.recent.n * fade,
            recent_succeeded=self.recent.total * fade,
            quality_n=self.quality.n,
            quality_mean=self.quality.mean,
            speed_n=self.speed.n * weight,
            speed_mean=self.speed.mean,
            work_n=self.work.n,
            work_mean=self.work.mean,
            first_token_mean=self.first_token.mean,
        )


class Tally:
    """Counts executions as they end, and watches each cell for changes.

    Statistics follow the store's query: quality, output length and time to first token count
    in full, speed with a half-life of 14 days, recent outcomes with one of two; after a detected
    change only the window that showed it. A change of speed also restarts the time to first
    token, since whatever slows a model down (load, heat, another build of its runtime) slows both.
    """

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], _Cell] = {}

    def observe(
        self,
        model_key: str,
        task: str,
        at: datetime,
        quality: float | None = None,
        ln_speed: float | None = None,
        ln_work: float | None = None,
        first_token: float | None = None,
        succeeded: bool = True,
        here: bool = True,
    ) -> list[Change]:
        """Count one execution.

        Parameters
        ----------
        model_key : str
            Fingerprint of the model, or its name without one.
        task : str
            Normalised task name.
        at : datetime
            When it ended; executions come in order of time.
        quality : float, optional
            0–1, when it was graded.
        ln_speed, ln_work : float, optional
            ln of output tokens (items) per second, and of their number.
        first_token : float, optional
            Seconds to the first token.
        succeeded : bool
            Whether it ended without an error; of a failure only the quality counts,
            if someone graded it.
        here : bool
            Whether it ran on this hardware; elsewhere only its quality and the length of its
            output count.

        Returns
        -------
        list of Change
            What this execution makes certain to have changed; mostly nothing.
        """
        cell = self._cells.setdefault((model_key, task), _Cell(task))
        cell.runs += here
        if here:
            cell.add_outcome(at, succeeded)
        changes = [] if quality is None else cell.grade(at, quality)
        if not succeeded:
            return changes
        cell.succeeded += here
        if not here:
            ln_speed = first_token = None
        if ln_speed is not None:
            cell.add_speed(at, ln_speed)
        if ln_work is not None:
            cell.work.add(ln_work)
        if first_token is not None:
            cell.first_token.add(first_token)
            cell.firsts.append((at, first_token))
        if ln_speed is not None:
            change = cell.watch_speed.observe(at, ln_speed)
            if change is not None:
                changes.append(change)
                cell.speed, cell.speed_at = _Sum(), None
                for when, value in cell.watch_speed.recent:
                    cell.add_speed(when, value)
                cell.first_token = _Sum()
                for when, seconds in cell.firsts:
                    if when >= change.at:
                        cell.first_token.add(seconds)
            oldest = cell.watch_speed.recent[0][0]
            cell.firsts = [one for one in cell.firsts if one[0] >= oldest]
        return changes

    def judge(
        self,
        model_key: str,
        task: str,
        at: datetime,
        quality: float,
        replaced: float | None = None,
    ) -> list[Change]:
        """Count a judgement of an execution that was counted before.

        Parameters
        ----------
        model_key, task : str
            As that execution was counted.
        at : datetime
            When it was judged.
        quality : float
            0–1.
        replaced : float, optional
            Its quality until now, if it had one.

        Returns
        -------
        list of Change
            As for `observe`; a judgement that replaces another shifts the sum and shows nothing.
        """
        cell = self._cells.setdefault((model_key, task), _Cell(task))
        if replaced is None:
            return cell.grade(at, quality)
        # What it replaces may lie before a change, and count no more.
        total = cell.quality.total + quality - replaced
        cell.quality.total = min(max(total, 0.0), cell.quality.n)
        return []

    def evidence(self, now: datetime) -> Evidence:
        """Return the statistics as the policy reads them.

        Parameters
        ----------
        now : datetime
            The moment from which the half-life of speed counts back.
        """
        return Evidence({key: cell.evidence(now) for key, cell in self._cells.items()})


def _weight(then: datetime, now: datetime, half_life: float = SPEED_HALF_LIFE_DAYS) -> float:
    days = max((now - then).total_seconds(), 0.0) / 86400
    weight: float = 0.5 ** (days / half_life)
    return weight
