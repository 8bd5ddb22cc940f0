"""What another policy would have been worth on past decisions, with an interval.

Two estimates stand side by side, since they fail in different ways.

*Re-scored arm means* (the "direct method" of Dudík, Langford & Li 2011, "Doubly robust policy
evaluation and learning"): what was ever measured of each model on each task becomes a joint
posterior, as in the policy, and every candidate of every past decision is scored with it under
the preferences that are evaluated. The interval holds 95% of the posterior of the mean over all
decisions. A posterior stays valid although the log was made by a policy that learned from it;
how much a single run scatters is not assumed but estimated from the log.

*SNIPS* (Swaminathan & Joachims 2015, "The self-normalized estimator for counterfactual
learning"): the outcomes that were seen, re-scored, each weighed by how much more likely the other
policy was to choose what was chosen. It needs no model of what was not chosen, and is of little
use where the two policies rarely agree. Its interval is a percentile bootstrap over decisions
(Efron & Tibshirani 1993, ch. 13), which holds the true value less often than it says while few
outcomes count: it is a check of the first estimate, and no replacement.

Both suppose that a model was the same all through the log.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ravenxterm_lab.selection.field import FieldPrior, Observation, condition
from ravenxterm_lab.selection.policy import (
    LN_SPEED,
    LN_WORK,
    QUALITY,
    QUALITY_MEAN,
    blend,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.intp]

__all__ = [
    "FEW_OUTCOMES",
    "LEVEL",
    "Belief",
    "CellPrior",
    "Estimate",
    "Menu",
    "Outcomes",
    "believe",
    "effective_size",
    "mean_of",
    "snips",
]

#: Share of intervals that shall hold the true value.
LEVEL = 0.95
#: Joint posterior draws behind an interval, and bootstrap resamples behind the other.
DRAWS = 500
RESAMPLES = 1000
#: How many observations the supposed noise counts for, beside the log's own.
NOISE_RUNS = 10
#: No value between 0 and 1 scatters more. The policy can afford to suppose less; a verdict cannot.
QUALITY_NOISE = 0.25
#: Standard deviation of what a model's ln speed and ln work on one task have of their own.
OWN_TASK = 0.25
#: Beta prior of the share of runs that succeed, before any outcome of any model is known.
OUTCOMES = (9, 1)
#: Below this many outcomes in effect, a weighted mean of them says little.
FEW_OUTCOMES = 10.0
#: A share of 0 among the policy's 256 draws is no proof that it never chooses an arm. Weights are
#: truncated at its inverse (Ionides 2008, "Truncated importance sampling").
LEAST_PROBABILITY = 1 / 257
#: Numbers that are worked on at a time.
_BLOCK = 400_000
#: Nodes and shares that average over a standard normal (Gauss-Hermite of order 5).
_NORMAL = (
    (-2.8569700138728056, 0.011257411327720689),
    (-1.3556261799742657, 0.22207592200561266),
    (0.0, 0.5333333333333333),
    (1.3556261799742657, 0.22207592200561266),
    (2.8569700138728056, 0.011257411327720689),
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over decisions.

    Attributes
    ----------
    value, low, high : float
        With the interval that holds `LEVEL` of what it may be.
    n : int
        Decisions (or outcomes) behind it.
    """

    value: float
    low: float
    high: float
    n: int

    def holds(self, truth: float) -> bool:
        """Say whether the interval holds a value."""
        return self.low <= truth <= self.high


@dataclass(frozen=True, slots=True)
class CellPrior:
    """What was predicted of one model on one task before any run: ln of its speed and work.

    Attributes
    ----------
    model, task : int
        Numbers of the model and the task; cells of one model share what is learned.
    ln_speed, ln_work : float
        ln tokens (items) per second, ln output tokens (items).
    """

    model: int
    task: int
    ln_speed: float
    ln_work: float


@dataclass(frozen=True, slots=True)
class Menu:
    """The candidates of all decisions, one below the other (``lines`` of them).

    Attributes
    ----------
    decision, cell : array (lines,)
        Which decision the candidate belongs to, and which cell it is.
    then, now : array (lines,)
        Probability with which the recorded policy chose it, and the other one would.
    waiting, loading : array (lines,)
        Seconds to the first token, and of the load before it, if it was not resident.
    waits : array (lines,)
        Share of the executions that a load serves which wait for it (see `latency_worth`).
    memory : array (lines,)
        Share of the budget that it takes, 0–1.
    person : array (lines,)
        The person's weight for the model.
    weights : array (decisions × 3)
        What quality, latency and memory weigh.
    scale : array (decisions,)
        Seconds at which the latency term is worth half.
    """

    decision: Whole
    cell: Whole
    then: Floats
    now: Floats
    waiting: Floats
    loading: Floats
    waits: Floats
    memory: Floats
    person: Floats
    weights: Floats
    scale: Floats

    def worth(
        self, lines: Whole, quality: Floats, seconds: Floats, *, loads: bool = False
    ) -> Floats:
        """Score candidates as the policy does, should they succeed.

        Parameters
        ----------
        lines : array (k,)
            Which.
        quality, seconds : array (…, k)
            0–1; of the whole execution, with the load or without it.
        loads : bool
            Whether the load is still to be counted, by the share that waits for it.

        Returns
        -------
        array (…, k)
            Utility, no unit.
        """
        row = self.decision[lines]
        blended = blend(
            self.weights[row],
            quality,
            seconds,
            self.scale[row],
            self.memory[lines],
            self.loading[lines] if loads else 0.0,
            self.waits[lines] if loads else 1.0,
        )
        blended *= self.person[lines]
        return blended


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Executions, of past decisions and others; what was not measured is NaN.

    Attributes
    ----------
    cell : array (runs,)
        What ran.
    line : array (runs,)
        The candidate of the decision that it followed from; −1 where it followed from none, or
        what ran is no candidate now.
    quality : array (runs,)
        0–1.
    ln_speed, ln_work : array (runs,)
        ln tokens (items) per second, ln output tokens (items).
    seconds : array (runs,)
        Of the whole execution, with the load if there was one.
    succeeded : array (runs,) of bool
        Whether it did.
    """

    cell: Whole
    line: Whole
    quality: Floats
    ln_speed: Floats
    ln_work: Floats
    seconds: Floats
    succeeded: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Belief:
    """Joint posterior of every cell, after all of the log. Row 0 is the mean, others are draws.

    Attributes
    ----------
    quality, ln_speed, ln_work, reliability : array (1 + draws × cells)
        0–1, ln 1/s, ln tokens (items), 0–1.
    scatter : float
        Variance of ln(work/speed) from run to run.
    """

    quality: Floats
    ln_speed: Floats
    ln_work: Floats
    reliability: Floats
    scatter: float

    def metrics(self, menu: Menu, rows: slice) -> dict[str, Floats]:
        """Return utility, quality, seconds and memory of every candidate in some of the draws.

        Parameters
        ----------
        menu : Menu
            The candidates.
        rows : slice
            Which; 0 is the mean.

        Returns
        -------
        dict of str to array (rows × lines)
            By ``"utility"``, ``"quality"``, ``"latency"`` and ``"memory"``, on the mean of the
            executions that a load serves.
        """
        cell = menu.cell
        typical = np.exp(self.ln_work[rows, cell] - self.ln_speed[rows, cell])
        quality = np.clip(self.quality[rows, cell], 0.0, 1.0)
        worth, seconds = np.zeros_like(typical), np.zeros_like(typical)
        lines = np.arange(len(cell))
        # A run takes more or less than is typical, and utility is no straight line in seconds.
        for node, share in _NORMAL:
            taken = menu.waiting + typical * math.exp(node * math.sqrt(self.scatter))
            worth += share * menu.worth(lines, quality, taken, loads=True)
            seconds += share * (taken + menu.loading * menu.waits)
        worth *= self.reliability[rows, cell]
        memory = np.broadcast_to(menu.memory, worth.shape)
        return {"utility": worth, "quality": quality, "latency": seconds, "memory": memory}


def believe(
    cells: Sequence[CellPrior], seen: Outcomes, rng: np.random.Generator, draws: int = DRAWS
) -> Belief:
    """Condition the policy's priors on everything that was measured.

    Parameters
    ----------
    cells : sequence of CellPrior
        All cells, by number.
    seen : Outcomes
        What was measured.
    rng : numpy.random.Generator
        Source of the draws.
    draws : int
        How many.
    """
    models = np.array([cell.model for cell in cells], dtype=np.intp)
    flat = np.zeros(int(models.max(initial=0)) + 1)
    keys = [(cell.model, cell.task) for cell in cells]

    def posterior(
        prior: FieldPrior, means: Sequence[float], values: Floats
    ) -> tuple[Floats, float]:
        known = np.isfinite(values)
        at, value = seen.cell[known], values[known]
        n = np.bincount(at, minlength=len(cells))
        mean = np.bincount(at, weights=value, minlength=len(cells)) / np.maximum(n, 1)
        fitted = replace(prior, slope=0.0, noise=_noise(prior.noise, value - mean[at], n))
        observed = [Observation(keys[k], float(n[k]), float(mean[k])) for k in np.flatnonzero(n)]
        prior_mean = dict(zip(keys, means, strict=True))
        found = condition(fitted, prior_mean, keys, observed, flat, rng, draws)
        return np.vstack([found.mean, found.draws]), fitted.noise

    worked = seen.succeeded
    runs = np.bincount(models[seen.cell], minlength=len(flat))
    successes = np.bincount(models[seen.cell], weights=worked, minlength=len(flat))
    # Every model is expected to fail as often as all of them did.
    usual = (successes.sum() + OUTCOMES[0]) / (runs.sum() + sum(OUTCOMES))
    strength = sum(OUTCOMES)
    ok, bad = successes + strength * usual, runs - successes + strength * (1 - usual)
    reliability = np.vstack([ok / (ok + bad), rng.beta(ok, bad, (draws, len(flat)))])
    noisy = replace(QUALITY, noise=max(QUALITY.noise, QUALITY_NOISE))
    quality, _ = posterior(noisy, [QUALITY_MEAN] * len(cells), seen.quality)
    speed, speed_noise = posterior(
        replace(LN_SPEED, cell=max(LN_SPEED.cell, OWN_TASK)),
        [cell.ln_speed for cell in cells],
        np.where(worked, seen.ln_speed, np.nan),
    )
    work, work_noise = posterior(
        replace(LN_WORK, cell=max(LN_WORK.cell, OWN_TASK)),
        [cell.ln_work for cell in cells],
        np.where(worked, seen.ln_work, np.nan),
    )
    return Belief(quality, speed, work, reliability[:, models], speed_noise + work_noise)


def _noise(supposed: float, residuals: Floats, n: NDArray[np.intp]) -> float:
    """Return the variance of one observation around its cell, pooled over the cells."""
    freedom = len(residuals) - np.count_nonzero(n)
    return float((NOISE_RUNS * supposed + residuals @ residuals) / (NOISE_RUNS + freedom))


def mean_of(menu: Menu, belief: Belief) -> dict[str, tuple[Estimate, Estimate, Estimate]]:
    """Estimate what both policies are worth on the mean of all decisions.

    Parameters
    ----------
    menu : Menu
        The candidates.
    belief : Belief
        From `believe`.

    Returns
    -------
    dict of str to (Estimate, Estimate, Estimate)
        By ``"utility"``, ``"quality"``, ``"latency"`` (s) and ``"memory"`` (share of the
        budget): then, now, and the difference.
    """
    n = len(menu.scale)
    shares = np.stack([menu.then, menu.now, menu.now - menu.then]).T / n
    found: dict[str, list[Floats]] = {}
    block = max(_BLOCK // max(len(menu.cell), 1), 1)
    for begin in range(1, len(belief.quality), block):
        for name, values in belief.metrics(menu, slice(begin, begin + block)).items():
            found.setdefault(name, []).append(values @ shares)
    made = {}
    for name, rows in found.items():
        table = np.vstack(rows)
        mean = table.mean(axis=0)
        low, high = np.quantile(table, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        made[name] = tuple(
            Estimate(float(mean[k]), float(low[k]), float(high[k]), n) for k in range(3)
        )
    return made  # type: ignore[return-value]  # three each, which a comprehension does not tell


def effective_size(weights: Floats) -> float:
    """Return how many unweighted outcomes weighted ones are worth (Kish 1965).

    Parameters
    ----------
    weights : array
        At least 0.
    """
    total = float(weights.sum())
    return total * total / float(weights @ weights) if total > 0 else 0.0


def snips(
    menu: Menu, seen: Outcomes, belief: Belief, rng: np.random.Generator
) -> tuple[Estimate | None, float]:
    """Weigh the outcomes that were seen by how likely the other policy was to see them.

    A run that nobody graded counts with the quality that is believed of its cell, drawn anew for
    each resample. A failure is worth 0.

    Parameters
    ----------
    menu : Menu
        The candidates.
    seen : Outcomes
        Those with a ``line`` and a duration (or a failure) count.
    belief : Belief
        For the quality of runs that nobody graded.
    rng : numpy.random.Generator
        For the bootstrap.

    Returns
    -------
    (Estimate or None, float)
        None where the policies never agreed; and the effective number of outcomes.
    """
    used = (seen.line >= 0) & (np.isfinite(seen.seconds) | ~seen.succeeded)
    line, cell, quality = seen.line[used], seen.cell[used], seen.quality[used]
    worked = seen.succeeded[used]
    weights = menu.now[line] / np.maximum(menu.then[line], LEAST_PROBABILITY)
    effective = effective_size(weights)
    if not effective:
        return None, 0.0
    graded = np.isfinite(quality)
    seconds = np.where(worked, seen.seconds[used], math.inf)
    # Utility is a straight line in quality, so a mean stands for what is not known.
    at_zero = menu.worth(line, np.zeros(len(line)), seconds) * worked
    slope = menu.worth(line, np.ones(len(line)), seconds) * worked - at_zero
    known = at_zero + slope * np.where(graded, quality, 0.0)
    unknown = np.eye(len(belief.quality[0]))[cell] * (weights * slope * ~graded)[:, None]

    def estimate(times: Floats, mean: Floats) -> Floats:
        """Return the mean with each outcome taken so many times (… × outcomes)."""
        total = times @ (weights * known) + np.sum(mean * (times @ unknown), axis=-1)
        weight = times @ weights
        value: Floats = np.where(weight > 0, total / np.maximum(weight, 1e-300), np.nan)
        return value

    size = len(line)
    resampled = rng.multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(np.float64)
    drawn = belief.quality[1 + np.arange(RESAMPLES) % (len(belief.quality) - 1)]
    found = estimate(resampled, drawn)
    low, high = np.nanquantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = float(estimate(np.ones(size), belief.quality[0]))
    return Estimate(value, float(low), float(high), size), effective
