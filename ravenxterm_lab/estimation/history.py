"""What became of earlier predictions: the cells that the law learns from, and the scores.

A `History` is a snapshot; `History.add` takes in one more outcome, so that a replay runs the
code that the product runs. Reading it from the store is next door, in `recall`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ravenxterm_lab.estimation.conformal import DEFAULT_LEVEL, Calibrator, Group, Score
from ravenxterm_lab.estimation.learning import Cell, Law, Learned, Subject

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["LAWS", "RATES", "History", "Outcome", "Truth"]

# Standard deviations in ln. Those of the throughput are the best of eight sets by interval score
# on the community runs (`bench_speed.py --replay` prints it); the others follow them, with wider
# priors where less is known.
LAWS: Mapping[str, Law] = {
    "throughput": Law(
        {"steps": 0.7, "bytes": 0.5}, machine=0.3, family=0.3, model=0.3, settings=0.2, noise=0.1
    ),
    "time_to_first_token": Law(
        {"start": 0.7, "bytes": 0.5, "operations": 0.8},
        machine=0.2, family=0.15, model=0.2, settings=0.15, noise=0.2,
    ),
    "load_seconds": Law(
        {"start": 0.5, "bytes": 0.7, "disk": 1.0},
        machine=0.2, family=0.1, model=0.15, settings=0.1, noise=0.25,
    ),
}  # fmt: skip
#: Quantities that are recorded as rates: their seconds are the inverse.
RATES = frozenset({"throughput"})

#: Days, and further runs of the cell, after which a run counts half. On the community runs five
#: did better than 8, 20 or 100 (median error of what was measured before: 5.0, 5.0, 5.9, 5.9%).
_HALF_LIFE_DAYS = 14.0
_HALF_LIFE_RUNS = 5.0
_MOST_RUNS = 60
# The prior of the noise weighs as much as this many steps; steps count half after so many. With
# the noise learned, the interval score of the community runs falls from 1.55 to 1.45.
_NOISE_RUNS = 5.0
_NOISE_HALF_LIFE = 20.0
_WILDEST = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One prediction, and what was measured.

    Attributes
    ----------
    quantity, tier, engine, device : str
        As in the table ``predictions``.
    subject : Subject
        What it was about.
    predicted, actual : float
        In the unit of the quantity.
    low, high : float or None
        The issued interval.
    level : float
        Its level.
    spread : float or None
        Standard deviation of ln that the predictor stated.
    here : bool
        Whether it was measured on this machine; elsewhere it serves for calibration only.
    age_days : float
        How old it is.
    """

    quantity: str
    tier: str
    engine: str
    device: str
    subject: Subject
    predicted: float
    actual: float
    low: float | None = None
    high: float | None = None
    level: float = DEFAULT_LEVEL
    spread: float | None = None
    here: bool = True
    age_days: float = 0.0

    def score(self) -> Score | None:
        """Return its score, or None when it cannot have one."""
        if not (self.predicted > 0 and self.actual > 0 and self.spread and self.spread > 0):
            return None
        centre = math.log(self.predicted)

        def scaled(value: float | None, missing: float) -> float:
            if value is None or value <= 0:
                return missing
            return (math.log(value) - centre) / (self.spread or 1.0)

        return Score(
            Group(self.quantity, self.tier, self.engine, self.device),
            scaled(self.actual, 0.0),
            scaled(self.low, -math.inf),
            scaled(self.high, math.inf),
            self.level,
        )


@dataclass(frozen=True, slots=True)
class Truth:
    """What a load of one model with one set of settings took here.

    Attributes
    ----------
    peak_bytes : int
        The largest peak of its runs, or what the load took where it was never run (bytes).
    runs : int
        Loads and runs that it was measured in.
    """

    peak_bytes: int
    runs: int


@dataclass(frozen=True, slots=True)
class _Summary:
    """The cell of some runs, and by how much one differs from the next: squares, and weight."""

    cell: Cell
    squares: float
    weight: float


@dataclass(slots=True)
class _Runs:
    subject: Subject
    # Residuals of ln seconds against the prior, with the weight of their age.
    residuals: list[tuple[float, float]] = field(default_factory=list)
    # Until a run is added: of many cells, a run changes one.
    summary: _Summary | None = None

    def add(self, subject: Subject, residual: float, weight: float) -> None:
        self.subject = subject
        self.residuals.append((residual, weight))
        self.summary = None

    def copy(self) -> _Runs:
        return _Runs(self.subject, list(self.residuals), self.summary)

    def sum_up(self) -> _Summary:
        if self.summary is None:
            self.summary = _Summary(self._cell(), *self._scatter())
        return self.summary

    def _cell(self) -> Cell:
        kept = self.residuals[-_MOST_RUNS:]
        weights = [
            weight * 0.5 ** ((len(kept) - 1 - place) / _HALF_LIFE_RUNS)
            for place, (_, weight) in enumerate(kept)
        ]
        typical = _median([residual for residual, _ in kept], weights)
        ln_seconds = math.log(self.subject.seconds) + typical
        return Cell(self.subject, ln_seconds, sum(weights), len(self.residuals))

    def _scatter(self) -> tuple[float, float]:
        kept = [residual for residual, _ in self.residuals[-_MOST_RUNS:]]
        squares = weight = 0.0
        for age, place in enumerate(range(len(kept) - 1, 0, -1)):
            step = min(abs(kept[place] - kept[place - 1]), _WILDEST)
            recent = 0.5 ** (age / _NOISE_HALF_LIFE)
            squares += recent * step**2 / 2
            weight += recent
        return squares, weight


class _State:
    """Stands for some outcomes; equal to itself alone."""

    __slots__ = ("__weakref__",)


class History:
    """Outcomes, arranged for those who predict.

    Parameters
    ----------
    outcomes : iterable of Outcome
        Oldest first.
    truths : mapping of (model key, engine, device, settings) to Truth
        Measured loads of this machine.
    """

    def __init__(
        self,
        outcomes: Iterable[Outcome] = (),
        truths: Mapping[tuple[str, str, str, str], Truth] | None = None,
    ) -> None:
        #: In the order in which they came.
        self.outcomes: list[Outcome] = []
        #: Another with each outcome, so that what was derived before is known to be old. Histories
        #: that differ in the truths alone share it.
        self.state = _State()
        #: The same, of outcomes on memory alone: how fast a model was says nothing of that.
        self.memory_state = _State()
        self.calibrator = Calibrator()
        self.truths = dict(truths or {})
        self._runs: dict[tuple[str, str, str], dict[tuple[str, str], _Runs]] = {}
        self._learned: dict[tuple[str, str, str], Learned] = {}
        # What the law was asked for before it learned more: it is likely to be asked again.
        self._asked: dict[tuple[str, str, str], tuple[Subject, ...]] = {}
        self._by_model: dict[str, list[tuple[tuple[str, str, str, str], Truth]]] = {}
        for key, truth in self.truths.items():
            self._by_model.setdefault(key[0], []).append((key, truth))
        for outcome in outcomes:
            self.add(outcome)

    def add(self, outcome: Outcome) -> None:
        """Take in a further outcome, the latest so far."""
        self.state = _State()
        if outcome.quantity == "peak_memory":
            self.memory_state = _State()
        self.outcomes.append(outcome)
        score = outcome.score()
        if score is not None:
            self.calibrator.add(score)
        if not outcome.here or outcome.quantity not in LAWS or outcome.actual <= 0:
            return
        if outcome.subject.seconds <= 0:
            return
        seconds = 1 / outcome.actual if outcome.quantity in RATES else outcome.actual
        group = (outcome.quantity, outcome.engine, outcome.device)
        subject = outcome.subject
        runs = self._runs.setdefault(group, {})
        cell = runs.setdefault((subject.model, subject.settings), _Runs(subject))
        cell.add(
            subject,
            math.log(seconds) - math.log(subject.seconds),
            0.5 ** (max(outcome.age_days, 0.0) / _HALF_LIFE_DAYS),
        )
        former = self._learned.pop(group, None)
        if former is not None:
            self._asked[group] = tuple(former.asked.values())

    def extended(
        self,
        outcomes: Iterable[Outcome],
        truths: Mapping[tuple[str, str, str, str], Truth] | None = None,
    ) -> History:
        """Return a further history: this one, which stays as it is, and later outcomes.

        Parameters
        ----------
        outcomes : iterable of Outcome
            Oldest first.
        truths : mapping, optional
            In place of those of this history.
        """
        further = History((), self.truths if truths is None else truths)
        further.state, further.memory_state = self.state, self.memory_state
        further.outcomes = list(self.outcomes)
        further.calibrator = self.calibrator.copy()
        further._runs = {
            group: {key: one.copy() for key, one in runs.items()}
            for group, runs in self._runs.items()
        }
        further._learned, further._asked = dict(self._learned), dict(self._asked)
        for outcome in outcomes:
            further.add(outcome)
        return further

    def learned(self, quantity: str, engine: str, device: str) -> Learned:
        """Return the law of one quantity as this machine's runs have shaped it.

        Parameters
        ----------
        quantity : str
            One of ``throughput``, ``time_to_first_token``, ``load_seconds``.
        engine, device : str
            What runs it, and where.
        """
        group = (quantity, engine, device)
        known = self._learned.get(group)
        if known is None:
            runs = list(self._runs.get(group, {}).values())
            law = LAWS[quantity]
            law = replace(law, noise=_noise(runs, law.noise))
            cells = [one.sum_up().cell for one in runs]
            known = self._learned[group] = Learned(law, cells, self._asked.pop(group, ()))
        return known

    def loads_of(self, model: str) -> list[tuple[tuple[str, str, str, str], Truth]]:
        """Return the measured loads of one model, by (model, engine, device, settings)."""
        return self._by_model.get(model, [])


def _noise(runs: list[_Runs], prior: float) -> float:
    """Return by how much repeated runs differ here, in ln: half the variance of their steps.

    A machine that is busy with other things scatters more than the prior says. Steps from one
    run to the next are not moved by a drift; a single wild one counts as `_WILDEST`.
    """
    found = [one.sum_up() for one in runs]
    squares = _NOISE_RUNS * prior**2 + sum(one.squares for one in found)
    weight = _NOISE_RUNS + sum(one.weight for one in found)
    return math.sqrt(squares / weight)


def _median(values: list[float], weights: list[float]) -> float:
    """Return the weighted median, between two values where the weight is even."""
    order = sorted(range(len(values)), key=values.__getitem__)
    half, below = sum(weights) / 2, 0.0
    for place, index in enumerate(order):
        below += weights[index]
        if math.isclose(below, half) and place + 1 < len(order):
            return (values[index] + values[order[place + 1]]) / 2
        if below > half:
            return values[index]
    return values[order[-1]]
