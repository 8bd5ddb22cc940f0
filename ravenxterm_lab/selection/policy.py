"""Choose: a vector of posteriors, scalarised by the current preferences.

History is kept as statistics of quality, speed and output length, never as one reward, so a
change of preferences re-scores the past instead of learning it anew. Where an execution follows,
what that would teach is added to a candidate's score (its Gittins index, see `gittins`); one
such choice in ten is left to Thompson sampling, so that every model that may be best has a known
probability of being run, without which a log is no evidence for another policy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ravenxterm_lab.estimation import model_key
from ravenxterm_lab.preferences import AccuracyPreference, PerformancePreference
from ravenxterm_lab.selection.field import Cell, FieldPrior, Observation, Posterior, condition
from ravenxterm_lab.selection.gittins import learning_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.preferences import UserPreferences
    from ravenxterm_lab.selection.evidence import CellEvidence, Engine, Evidence

__all__ = ["Arm", "Decision", "Weights", "blend", "decide", "weights_for"]

#: Joint posterior draws behind P(best) and P(chosen); one more serves as the exploring draw.
DRAWS = 256
#: How many further executions a choice should serve, before any were seen (the tasks that are
#: known share them), and how many more for each one seen on the task.
HORIZON, HORIZON_GROWTH = 30.0, 0.5
#: Share of the exploring choices that Thompson sampling makes, and how far its draw moves from
#: the mean: utility of mean + κ·(draw − mean).
THOMPSON, EXPLORATION = 0.1, 0.5
#: κ of all other exploring choices, so that chance decides between candidates that are alike.
TREMBLE = 0.01
#: As many successes are taken to have been seen of a model before its first run.
TRUST = 10.0

# Chosen by simulation on both datasets of `tests/benchmarks/selection.py`, near the values of the
# design page on selection; its option ``--fit`` shows what either alone would choose. What
# a model has on all tasks is larger than what it has on one in the first, and alike in the other.
# Size is a bad prior for quality: its slope starts at 0 and can be learned within ±.05.
QUALITY = FieldPrior(task=0.2, model=0.18, cell=0.13, slope=0.05, noise=0.16)
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


def latency_worth(
    seconds: NDArray[np.float64],
    scale: NDArray[np.float64] | float,
    loading: NDArray[np.float64] | float = 0.0,
    waits: NDArray[np.float64] | float = 1.0,
) -> NDArray[np.float64]:
    """Return what latency is worth (0–1): ``1 / (1 + seconds/scale)``.

    A load is waited for once, and all executions that it serves gain by it: where it serves n, it
    is the mean of one that waits and n − 1 that do not.

    Parameters
    ----------
    seconds, scale, loading, waits : array (…)
        Of one execution without a load; at which it is worth half; of the load, 0 where there is
        none; share of the executions that wait for it (1/n).
    """
    worth: NDArray[np.float64] = 1 / (1 + (seconds + loading) / scale)
    if np.any(loading) and np.any(np.asarray(waits) < 1.0):
        worth = waits * worth + (1 - waits) / (1 + seconds / scale)
    return worth


def blend(
    weights: NDArray[np.float64],
    quality: NDArray[np.float64],
    seconds: NDArray[np.float64],
    scale: NDArray[np.float64] | float,
    memory: NDArray[np.float64],
    loading: NDArray[np.float64] | float = 0.0,
    waits: NDArray[np.float64] | float = 1.0,
) -> NDArray[np.float64]:
    """Return the utility before the multipliers: the one place that says what is good.

    ``w_q·quality + w_l·latency_worth + w_m·(1 − memory)``, see `latency_worth`.

    Parameters
    ----------
    weights : array (…, 3)
        Of quality, latency and memory.
    quality, seconds, scale, memory : array (…)
        0–1; of one execution; at which the latency term is worth half; share of the budget.
    loading, waits : array (…)
        As for `latency_worth`.
    """
    total: NDArray[np.float64] = (
        weights[..., 0] * np.clip(quality, 0.0, 1.0)
        + weights[..., 1] * latency_worth(seconds, scale, loading, waits)
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
    runs_per_load : float
        Executions of the task that one load is expected to serve: 1 or more.
    """

    model: ModelMetadata
    memory_bytes: int
    decode_rate: float
    first_token_seconds: float
    load_seconds: float
    resident: bool = False
    speed_source: str = "bytes and operations ÷ speed of the device"
    engine: Engine | None = None
    runs_per_load: float = 1.0


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
        What ordered the candidates: the index, or utility at the exploring draw; equal to
        ``score`` when nothing was explored.
    probability_best : array (m,)
        Share of the joint draws in which it wins.
    probability_chosen : array (m,)
        With which probability this decision puts it first.
    quality, ln_speed, ln_work : Posterior
        The posteriors behind them.
    latency : array (m,)
        Predicted seconds of one execution, load included when not resident.
    latency_worth : array (m,)
        What that is worth (0–1) on the mean of the executions that the load serves.
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
    latency_worth: NDArray[np.float64]
    latency_scale: float
    reliability: NDArray[np.float64]
    person_weight: NDArray[np.float64]
    weights: Weights
    beside: tuple[Arm, ...] = ()

    def order(self) -> list[int]:
        """Return the arms' indices, best first; equal ones by size and then by name."""
        explored, arms = self.explored.tolist(), self.arms
        return sorted(
            range(len(arms)),
            key=lambda i: (-explored[i], arms[i].memory_bytes, arms[i].model.name),
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
    draws: int = DRAWS,
) -> Decision:
    """Score feasible candidates for a task.

    Utility: ``w_q·quality + w_l / (1 + latency/τ) + w_m·(1 − memory/budget)``, times the
    person's weight for the model, times the share of its runs that is expected to succeed, with
    ``latency = load (if not resident) + first token + work/speed`` and τ the patience times
    the candidates' median latency. A load that is expected to serve n executions counts for one
    of n: the latency term is the mean over them, and in the median the load is divided by n.

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
        Whether an execution follows, so that what it would teach counts too.
    rng : numpy.random.Generator
        Seeded by the caller.
    beside : sequence of Arm
        Models that are no candidates; what was measured of them counts all the same, so that a
        belief does not move when a constraint lets one more in.
    draws : int
        Joint draws behind the probabilities; 1 or more.
    """
    known = [*arms, *beside]
    every = [model_key(arm.model) for arm in known]
    keys = every[: len(arms)]
    evidence = evidence.under(
        {key: arm.engine for key, arm in zip(every, known, strict=True) if arm.engine}
    )
    tasks = sorted({task} | {seen for _, seen in evidence.cells})
    rows = {key: index for index, key in enumerate(dict.fromkeys(every))}
    column = tasks.index(task)
    wanted = [(rows[key], column) for key in keys]
    # In one order, however the evidence came together: a draw goes by it.
    seen = {
        (rows[key], tasks.index(name)): cell
        for (key, name), cell in sorted(evidence.cells.items(), key=lambda item: item[0])
        if key in rows
    }
    first_arm: dict[int, Arm] = {}
    for key, arm in zip(every, known, strict=True):
        first_arm.setdefault(rows[key], arm)
    everywhere = dict.fromkeys([*wanted, *seen])
    doublings = _doublings([first_arm[row].model for row in range(len(rows))])

    def belief(
        metric: str,
        prior: FieldPrior,
        means: dict[Cell, float],
        covariate: NDArray[np.float64],
    ) -> Posterior:
        observed = [
            Observation(cell, n, average)
            for cell, item in seen.items()
            for n, average in [item.statistic(metric)]
            if average is not None and n > 0
        ]
        return condition(prior, means, wanted, observed, covariate, rng, draws + 1)

    flat = np.zeros_like(doublings)
    rates = [math.log(first_arm[row].decode_rate) for row in range(len(rows))]
    lengths = [math.log(WORK_MEAN.get(name, WORK_MEAN_OTHER)) for name in tasks]
    quality = belief("quality", QUALITY, dict.fromkeys(everywhere, QUALITY_MEAN), doublings)
    ln_speed = belief("speed", LN_SPEED, {cell: rates[cell[0]] for cell in everywhere}, flat)
    ln_work = belief("work", LN_WORK, {cell: lengths[cell[1]] for cell in everywhere}, flat)

    cells = tuple(evidence.cell(key, task) for key in keys)
    waiting = np.array(
        [
            arm.first_token_seconds if cell.first_token_mean is None else cell.first_token_mean
            for arm, cell in zip(arms, cells, strict=True)
        ]
    )
    loading = np.array([0.0 if arm.resident else arm.load_seconds for arm in arms])
    waits = np.array([1 / max(arm.runs_per_load, 1.0) for arm in arms])
    loaded = waiting + np.exp(ln_work.mean - ln_speed.mean)
    latency = loaded + loading
    weights = weights_for(preferences)
    scale = max(weights.patience * float(np.median(loaded + loading * waits)), 1e-9)
    reliability = _reliability(keys, evidence)
    person = np.array([preferences.model_weights.get(arm.model.name, 1.0) for arm in arms])
    share = np.array([arm.memory_bytes for arm in arms]) / max(budget_bytes, 1)
    parts = np.array([weights.quality, weights.latency, weights.memory])

    def utility(
        q: NDArray[np.float64], speed: NDArray[np.float64], work: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        # In place, here and below: a thousand candidates' draws are megabytes.
        seconds = work - speed
        np.exp(seconds, out=seconds)
        seconds += waiting
        multiplied: NDArray[np.float64] = blend(parts, q, seconds, scale, share, loading, waits)
        multiplied *= reliability * person
        return multiplied

    def at(width: float) -> NDArray[np.float64]:
        moved = []
        for posterior in (quality, ln_speed, ln_work):
            draw = posterior.draws - posterior.mean
            draw *= width
            draw += posterior.mean
            moved.append(draw)
        return utility(*moved)

    score = utility(quality.mean, ln_speed.mean, ln_work.mean)
    full = utility(quality.draws, ln_speed.draws, ln_work.draws)[:draws]
    explored, chosen = score, _wins(score[None, :])
    if explore:
        # How utility moves with quality and with ln seconds, at the means.
        working = np.exp(ln_work.mean - ln_speed.mean)
        by_quality = weights.quality * reliability * person
        by_time = weights.latency * working / scale
        by_time *= waits / (1 + latency / scale) ** 2 + (1 - waits) / (1 + loaded / scale) ** 2
        by_time *= reliability * person
        index = at(TREMBLE) + learning_value(
            by_quality**2 * quality.own**2 + by_time**2 * (ln_speed.own**2 + ln_work.own**2),
            by_quality**2 * QUALITY.noise + by_time**2 * (LN_SPEED.noise + LN_WORK.noise),
            HORIZON / len(tasks) + HORIZON_GROWTH * sum(cell.runs for cell in cells),
        )
        thompson = at(EXPLORATION)
        explored = (thompson if rng.random() < THOMPSON else index)[draws]
        chosen = (1 - THOMPSON) * _wins(index[:draws]) + THOMPSON * _wins(thompson[:draws])
    return Decision(
        arms=tuple(arms),
        cells=cells,
        score=score,
        explored=explored,
        probability_best=_wins(full),
        probability_chosen=chosen,
        quality=quality,
        ln_speed=ln_speed,
        ln_work=ln_work,
        latency=latency,
        latency_worth=latency_worth(loaded, scale, loading, waits),
        latency_scale=scale,
        reliability=reliability,
        person_weight=person,
        weights=weights,
        beside=tuple(beside),
    )


def _reliability(keys: Sequence[str], evidence: Evidence) -> NDArray[np.float64]:
    """Return the expected share of successes of each model.

    Before its first run a model is taken to be as reliable as models are here, and where none
    ever failed that is 1: or else merely having run without an error would be a merit, and what
    was run most would stay ahead for no other reason. Each model's say is at most as much as the
    prior's, so that one broken model casts no doubt on the others.
    """
    outcomes = dict.fromkeys(keys, (0.0, 0.0))
    for (key, _), cell in evidence.cells.items():
        before, now = outcomes.get(key, (0.0, 0.0)), cell.outcomes
        outcomes[key] = before[0] + now[0], before[1] + now[1]
    each = np.array(list(outcomes.values()))
    voices = each * TRUST / np.maximum(each[:, 1:], TRUST)
    succeeded, runs = np.vstack([(TRUST, TRUST), voices]).sum(axis=0)
    own = np.array([outcomes[key] for key in keys])
    expected: NDArray[np.float64] = (own[:, 0] + TRUST * succeeded / runs) / (own[:, 1] + TRUST)
    # Sums of weights are rounded: a share a hair above 1 could not be recorded.
    return np.minimum(expected, 1.0)


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
