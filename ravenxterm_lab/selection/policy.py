"""Choose: Thompson sampling on a vector of posteriors, scalarised by the current preferences.

History is kept as statistics of quality, speed and output length, never as one reward, so a
change of preferences re-scores the past instead of learning it anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ravenxterm_lab.estimation import model_key
from ravenxterm_lab.preferences import AccuracyPreference, PerformancePreference
from ravenxterm_lab.selection.field import Cell, FieldPrior, Observation, Posterior, condition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.preferences import UserPreferences
    from ravenxterm_lab.selection.evidence import CellEvidence, Engine, Evidence

__all__ = ["Arm", "Decision", "Weights", "blend", "decide", "weights_for"]

#: Joint posterior draws behind P(best) and P(chosen); one more serves as the exploring draw.
DRAWS = 256
#: How far the exploring draw moves from the mean: utility of mean + κ·(draw − mean).
EXPLORATION = 0.5
#: Beta prior on success, as (successes, failures) seen before the first run.
RELIABILITY_PRIOR = (9, 1)

# Fitted leave-one-dataset-out in the design's prototype (design page on selection). Size is
# a bad prior for quality, so its slope starts at 0 and can be learned within ±.02 per doubling.
QUALITY = FieldPrior(task=0.2, model=0.12, cell=0.12, slope=0.02, noise=0.16)
QUALITY_MEAN = 0.5
LN_SPEED = FieldPrior(common=0.35, model=0.3, noise=0.05)
LN_WORK = FieldPrior(task=1.0, model=0.4, noise=0.25)
#: Output tokens of a generation, and items of anything else, before any were seen.
WORK_MEAN = {"text_generation": 200.0}
WORK_MEAN_OTHER = 8.0


@dataclass(frozen=True, slots=True)
class Weights:
    """What quality, latency and memory weigh (they sum to 1), and the patience.

    ``patience`` multiplies the median predicted latency of the candidates; at that latency
    the latency term is worth half.
    """

    quality: float
    latency: float
    memory: float
    patience: float


_MODE = {
    PerformancePreference.SPEED: Weights(0.35, 0.55, 0.10, 0.5),
    PerformancePreference.BALANCED: Weights(0.55, 0.35, 0.10, 1.5),
    PerformancePreference.MEMORY: Weights(0.40, 0.20, 0.40, 1.5),
}
# How accuracy scales the quality weight (before the weights are made to sum to 1 again) and
# the patience: balanced + high gives the prototype's quality-first (.80, .15, .05, 6).
_ACCURACY = {
    AccuracyPreference.LOW: (0.4, 1.0),
    AccuracyPreference.MEDIUM: (1.0, 1.0),
    AccuracyPreference.HIGH: (3.3, 4.0),
}


def weights_for(preferences: UserPreferences) -> Weights:
    """Return the weights that follow from the performance mode and the accuracy preference."""
    mode = _MODE[preferences.performance_mode]
    scale, patience = _ACCURACY[preferences.accuracy_preference]
    total = mode.quality * scale + mode.latency + mode.memory
    return Weights(
        mode.quality * scale / total,
        mode.latency / total,
        mode.memory / total,
        mode.patience * patience,
    )


def blend(
    weights: NDArray[np.float64],
    quality: NDArray[np.float64],
    seconds: NDArray[np.float64],
    scale: NDArray[np.float64] | float,
    memory: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the utility before the multipliers: the one place that says what is good.

    ``w_q·quality + w_l / (1 + seconds/scale) + w_m·(1 − memory)``.

    Parameters
    ----------
    weights : array (…, 3)
        Of quality, latency and memory.
    quality, seconds, scale, memory : array (…)
        0–1; of one execution; at which the latency term is worth half; share of the budget.
    """
    total: NDArray[np.float64] = (
        weights[..., 0] * np.clip(quality, 0.0, 1.0)
        + weights[..., 1] / (1 + seconds / scale)
        + weights[..., 2] * (1 - np.minimum(memory, 1.0))
    )
    return total


@dataclass(frozen=True, slots=True)
class Arm:
    """One feasible candidate with what the estimator says of it.

    Attributes
    ----------
    model : ModelMetadata
        The candidate.
    memory_bytes : int
        Predicted or measured bytes when loaded.
    decode_rate : float
        Predicted tokens (items) per second.
    first_token_seconds : float
        Predicted seconds to the first token when resident.
    load_seconds : float
        Seconds that a load takes; counted only when it is not resident.
    resident : bool
        Whether it is loaded now.
    speed_source : str
        Where the decode rate comes from, in words.
    engine : Engine or None
        How it would run; what was measured otherwise is then no evidence of its speed.
    """

    model: ModelMetadata
    memory_bytes: int
    decode_rate: float
    first_token_seconds: float
    load_seconds: float
    resident: bool = False
    speed_source: str = "bytes and operations ÷ speed of the device"
    engine: Engine | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The scored candidates, in the order of the arms that were given.

    Attributes
    ----------
    arms : tuple of Arm
        The candidates.
    cells : tuple of CellEvidence
        What was measured of each on this task.
    score : array (m,)
        Utility at the posterior means.
    explored : array (m,)
        Utility at the exploring draw; equal to ``score`` when nothing was explored.
    probability_best, probability_chosen : array (m,)
        Shares of the joint draws in which it wins, at full and at exploration width.
    quality, ln_speed, ln_work : Posterior
        The posteriors behind them.
    latency : array (m,)
        Predicted seconds of one execution, load included when not resident.
    latency_scale : float
        Seconds at which the latency term is worth half.
    reliability, person_weight : array (m,)
        The two multipliers.
    weights : Weights
        In force.
    beside : tuple of Arm
        Models that were no candidates, but whose history counts.
    """

    arms: tuple[Arm, ...]
    cells: tuple[CellEvidence, ...]
    score: NDArray[np.float64]
    explored: NDArray[np.float64]
    probability_best: NDArray[np.float64]
    probability_chosen: NDArray[np.float64]
    quality: Posterior
    ln_speed: Posterior
    ln_work: Posterior
    latency: NDArray[np.float64]
    latency_scale: float
    reliability: NDArray[np.float64]
    person_weight: NDArray[np.float64]
    weights: Weights
    beside: tuple[Arm, ...] = ()

    def order(self) -> list[int]:
        """Return the arms' indices, best first; equal ones by size and then by name."""
        return sorted(
            range(len(self.arms)),
            key=lambda i: (-self.explored[i], self.arms[i].memory_bytes, self.arms[i].model.name),
        )


def decide(
    arms: Sequence[Arm],
    task: str,
    evidence: Evidence,
    preferences: UserPreferences,
    *,
    budget_bytes: int,
    explore: bool,
    rng: np.random.Generator,
    beside: Sequence[Arm] = (),
) -> Decision:
    """Score feasible candidates for a task.

    Utility: ``w_q·quality + w_l / (1 + latency/τ) + w_m·(1 − memory/budget)``, times the
    person's weight for the model, times the mean of Beta(successes + 9, failures + 1), with
    ``latency = load (if not resident) + first token + work/speed`` and τ the patience times
    the candidates' median latency.

    Parameters
    ----------
    arms : sequence of Arm
        At least one.
    task : str
        Normalised task name.
    evidence : Evidence
        History, over all tasks (it is shared between them).
    preferences : UserPreferences
        In force now.
    budget_bytes : int
        Memory budget.
    explore : bool
        Whether an execution follows, so that an exploring draw may order the candidates.
    rng : numpy.random.Generator
        Seeded by the caller.
    beside : sequence of Arm
        Models that are no candidates; what was measured of them counts all the same, so that a
        belief does not move when a constraint lets one more in.
    """
    keys = [model_key(arm.model) for arm in arms]
    known = [*arms, *beside]
    evidence = evidence.under({model_key(a.model): a.engine for a in known if a.engine})
    tasks = sorted({task} | {seen for _, seen in evidence.cells})
    rows = {
        key: index for index, key in enumerate(dict.fromkeys(model_key(a.model) for a in known))
    }
    wanted = [(rows[key], tasks.index(task)) for key in keys]
    seen = {
        (rows[key], tasks.index(name)): cell
        for (key, name), cell in evidence.cells.items()
        if key in rows
    }
    first_arm: dict[int, Arm] = {}
    for arm in known:
        first_arm.setdefault(rows[model_key(arm.model)], arm)
    everywhere = dict.fromkeys([*wanted, *seen])
    doublings = _doublings([first_arm[row].model for row in range(len(rows))])

    def belief(
        metric: str,
        prior: FieldPrior,
        mean: Callable[[Cell], float],
        covariate: NDArray[np.float64],
    ) -> Posterior:
        observed = [
            Observation(cell, n, average)
            for cell, item in seen.items()
            for n, average in [item.statistic(metric)]
            if average is not None and n > 0
        ]
        means = {cell: mean(cell) for cell in everywhere}
        return condition(prior, means, wanted, observed, covariate, rng, DRAWS + 1)

    flat = np.zeros_like(doublings)
    quality = belief("quality", QUALITY, lambda _: QUALITY_MEAN, doublings)
    ln_speed = belief(
        "speed", LN_SPEED, lambda cell: math.log(first_arm[cell[0]].decode_rate), flat
    )
    ln_work = belief(
        "work", LN_WORK, lambda cell: math.log(WORK_MEAN.get(tasks[cell[1]], WORK_MEAN_OTHER)), flat
    )

    cells = tuple(evidence.cell(key, task) for key in keys)
    waiting = np.array(
        [
            (0.0 if arm.resident else arm.load_seconds)
            + (arm.first_token_seconds if cell.first_token_mean is None else cell.first_token_mean)
            for arm, key, cell in zip(arms, keys, cells, strict=True)
        ]
    )
    latency = waiting + np.exp(ln_work.mean - ln_speed.mean)
    weights = weights_for(preferences)
    scale = max(weights.patience * float(np.median(latency)), 1e-9)
    reliability = np.array(
        [
            (sum(c.succeeded for c in evidence.of_model(key)) + RELIABILITY_PRIOR[0])
            / (sum(c.runs for c in evidence.of_model(key)) + sum(RELIABILITY_PRIOR))
            for key in keys
        ]
    )
    person = np.array([preferences.model_weights.get(arm.model.name, 1.0) for arm in arms])
    share = np.array([arm.memory_bytes for arm in arms]) / max(budget_bytes, 1)
    parts = np.array([weights.quality, weights.latency, weights.memory])

    def utility(
        q: NDArray[np.float64], speed: NDArray[np.float64], work: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        seconds = waiting + np.exp(work - speed)
        multiplied: NDArray[np.float64] = blend(parts, q, seconds, scale, share)
        multiplied *= reliability * person
        return multiplied

    def at(width: float) -> NDArray[np.float64]:
        moved = [p.mean + width * (p.draws - p.mean) for p in (quality, ln_speed, ln_work)]
        return utility(moved[0], moved[1], moved[2])

    score = utility(quality.mean, ln_speed.mean, ln_work.mean)
    full, narrow = at(1.0), at(EXPLORATION)
    return Decision(
        arms=tuple(arms),
        cells=cells,
        score=score,
        explored=narrow[DRAWS] if explore else score,
        probability_best=_wins(full[:DRAWS]),
        probability_chosen=_wins(narrow[:DRAWS]) if explore else _wins(score[None, :]),
        quality=quality,
        ln_speed=ln_speed,
        ln_work=ln_work,
        latency=latency,
        latency_scale=scale,
        reliability=reliability,
        person_weight=person,
        weights=weights,
        beside=tuple(beside),
    )


def _wins(utilities: NDArray[np.float64]) -> NDArray[np.float64]:
    winners = np.argmax(utilities, axis=1)
    shares: NDArray[np.float64] = np.bincount(winners, minlength=utilities.shape[1]) / len(winners)
    return shares


def _doublings(models: Sequence[ModelMetadata]) -> NDArray[np.float64]:
    known = [math.log2(m.parameter_count) for m in models if m.parameter_count]
    centre = float(np.mean(known)) if known else 0.0
    return np.array(
        [math.log2(m.parameter_count) - centre if m.parameter_count else 0.0 for m in models]
    )
