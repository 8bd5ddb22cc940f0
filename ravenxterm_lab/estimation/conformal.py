"""Intervals that hold as often as they say, from the errors of earlier predictions.

Split conformal prediction (V. Vovk, A. Gammerman and G. Shafer, "Algorithmic Learning in a
Random World", 2005; J. Lei et al., "Distribution-Free Predictive Inference for Regression",
JASA 2018), on scores ``ln(actual / predicted) / spread``, where ``spread`` is the standard
deviation that the predictor itself states (section 5.2 of Lei et al.: locally weighted). Both
ends have a quantile of their own, since loads are late more often than early. Three things
are added for a history that begins empty and drifts:

* a prior: ten pseudo-scores of a normal distribution, so that the first interval is the
  predictor's own and each score moves it a little;
* pooling: the scores of wider groups (all devices, all engines, all tiers of a quantity) count
  as at most ten further ones, so that a group with few of its own leans on its relatives;
* adaptation: the two miss rates are moved by what the last intervals missed (I. Gibbs and
  E. Candès, "Adaptive Conformal Inference Under Distribution Shift", NeurIPS 2021), and only
  the latest scores of a group count, so that the quantiles follow a change.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["DEFAULT_LEVEL", "Calibrator", "Group", "Score", "normal_interval"]

DEFAULT_LEVEL = 0.8
#: Weight of the prior, and the most that each wider group weighs, in scores.
PRIOR_WEIGHT = 10.0
POOL_WEIGHT = 10.0
#: The latest scores of a group that count.
WINDOW = 200
#: How far one miss moves a miss rate, and how far all of them together may.
STEP = 0.01
FURTHEST = 0.05

_GRID = 40
_PRIOR = np.array([NormalDist().inv_cdf((i + 0.5) / _GRID) for i in range(_GRID)])


@dataclass(frozen=True, slots=True)
class Group:
    """What predictions are judged together: from the narrowest to the widest by `wider`."""

    quantity: str
    tier: str = ""
    engine: str = ""
    device: str = ""

    def wider(self) -> tuple[Group, ...]:
        """Return this group and those that hold it, the narrowest first."""
        return (
            self,
            Group(self.quantity, self.tier, self.engine),
            Group(self.quantity, self.tier),
            Group(self.quantity),
        )


@dataclass(frozen=True, slots=True)
class Score:
    """How one prediction came out.

    Attributes
    ----------
    group : Group
        Quantity, tier, engine, device.
    value : float
        ``ln(actual / predicted) / spread``.
    low, high : float
        The issued interval on the same scale; infinite where none was issued.
    level : float
        Its level; scores of other levels than the asked one adapt no miss rate.
    """

    group: Group
    value: float
    low: float = -math.inf
    high: float = math.inf
    level: float = DEFAULT_LEVEL


class Calibrator:
    """Turns a prediction and its spread into an interval.

    Parameters
    ----------
    scores : iterable of Score
        Earlier predictions, oldest first.
    """

    def __init__(self, scores: Iterable[Score] = ()) -> None:
        self._scores: dict[Group, deque[Score]] = {}
        # Those of a group and of all that hold it, so that a score finds them in one look.
        self._pools: dict[Group, tuple[deque[Score], ...]] = {}
        self._known: dict[tuple[Group, float], tuple[float, float]] = {}
        for score in scores:
            self.add(score)

    def add(self, score: Score) -> None:
        """Take in how a further prediction came out."""
        pools = self._pools.get(score.group)
        if pools is None:
            pools = self._pools[score.group] = tuple(
                self._scores.setdefault(group, deque(maxlen=WINDOW))
                for group in dict.fromkeys(score.group.wider())
            )
        for pool in pools:
            pool.append(score)
        # No group of another quantity leans on it.
        for known in [one for one in self._known if one[0].quantity == score.group.quantity]:
            del self._known[known]

    def copy(self) -> Calibrator:
        """Return one that goes its own way from here on."""
        other = Calibrator()
        other._scores = {group: pool.copy() for group, pool in self._scores.items()}
        other._pools = {
            group: tuple(other._scores[wide] for wide in dict.fromkeys(group.wider()))
            for group in self._pools
        }
        other._known = dict(self._known)
        return other

    def count(self, group: Group) -> int:
        """Return how many scores a group holds (the latest 200 at most)."""
        return len(self._scores.get(group, ()))

    def quantiles(self, group: Group, level: float = DEFAULT_LEVEL) -> tuple[float, float]:
        """Return the ends of the interval, in spreads around ``ln predicted``.

        Parameters
        ----------
        group : Group
            Of the prediction.
        level : float
            Share of the outcomes that the interval shall hold, within 0–1.

        Raises
        ------
        ValueError
            If the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level!r}.")
        found = self._known.get((group, level))
        if found is None:
            found = self._known[group, level] = self._quantiles(group, level)
        return found

    def _quantiles(self, group: Group, level: float) -> tuple[float, float]:
        values, weights = [_PRIOR], [np.full(_GRID, PRIOR_WEIGHT / _GRID)]
        seen: set[int] = set()
        for place, pool in enumerate(dict.fromkeys(group.wider())):
            fresh = [score for score in self._scores.get(pool, ()) if id(score) not in seen]
            if not fresh:
                continue
            seen.update(id(score) for score in fresh)
            values.append(np.array([score.value for score in fresh]))
            each = 1.0 if place == 0 else min(1.0, POOL_WEIGHT / len(fresh))
            weights.append(np.full(len(fresh), each))
        below, above = self._miss_rates(group, level)
        all_values, all_weights = np.concatenate(values), np.concatenate(weights)
        # Vovk's (n + 1) makes up for what few scores do not show; the prior needs no such help.
        known = all_weights.sum() - PRIOR_WEIGHT
        unseen = known / (known + PRIOR_WEIGHT)
        low = _quantile(all_values, all_weights, below, unseen)
        high = -_quantile(-all_values, all_weights, above, unseen)
        return min(low, 0.0), max(high, 0.0)

    def _miss_rates(self, group: Group, level: float) -> tuple[float, float]:
        rate = (1 - level) / 2
        below = above = rate
        for score in self._scores.get(group, ()):
            if abs(score.level - level) < 1e-6 and score.low > -math.inf:
                below += STEP * (rate - (score.value < score.low))
                above += STEP * (rate - (score.value > score.high))
        bound = min(FURTHEST, rate / 2)
        return (
            min(max(below, rate - bound), rate + bound),
            min(max(above, rate - bound), rate + bound),
        )


def _quantile(
    values: NDArray[np.float64], weights: NDArray[np.float64], rate: float, unseen: float
) -> float:
    """Return the lower quantile of a weighted sample, with more weight below all of it."""
    order = np.argsort(values)
    ranks = unseen + np.cumsum(weights[order]) - weights[order] / 2
    total = unseen + weights.sum()
    return float(np.interp(rate * total, ranks, values[order]))


@cache
def normal_interval(level: float) -> tuple[float, float]:
    """Return the ends of a central interval of the standard normal distribution."""
    end = NormalDist().inv_cdf((1 + level) / 2)
    return -end, end
