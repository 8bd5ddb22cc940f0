"""Notice that a model became slower, faster, better or worse, so that only what is new counts.

A windowed generalised-likelihood-ratio test (Willsky & Jones 1976, "A generalized likelihood
ratio approach to the detection and estimation of jumps in linear systems"; the window: Lai 1995,
"Sequential changepoint detection in quality control and dynamical systems"): how much better two
means, one for the latest w observations and one for those before, explain the data than one mean
does. Quality lies in [0, 1], whose likelihood is bounded by the Bernoulli one (Besson, Kaufmann,
Maillard & Seznec 2022, "Efficient change-point detection for tackling piecewise-stationary
bandits"); ln speed is Gaussian with the noise of one run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

__all__ = ["QUALITY_TEST", "SPEED_TEST", "Change", "Detector", "WindowTest", "window_test"]


@dataclass(frozen=True, slots=True)
class WindowTest:
    """Which windows are compared with what came before them, and when that is a change.

    Attributes
    ----------
    metric : str
        ``"quality"`` or ``"speed"``.
    shortest, longest : int
        Lengths of the window of latest observations, both included.
    threshold : float
        In nats of likelihood ratio.
    variance : float or None
        Of one observation; None means values in [0, 1], judged by the Bernoulli likelihood.
    """

    metric: str
    shortest: int
    longest: int
    threshold: float
    variance: float | None = None

    def statistic(
        self,
        n: NDArray[np.float64],
        mean: NDArray[np.float64],
        older_n: NDArray[np.float64],
        older_mean: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the log likelihood ratio of two means to one mean.

        Parameters
        ----------
        n, mean : array
            Number and mean of the observations in each window.
        older_n, older_mean : array
            The same of those before it.
        """
        if self.variance is not None:
            ratio: NDArray[np.float64] = (mean - older_mean) ** 2 / (
                2 * self.variance * (1 / n + 1 / older_n)
            )
            return ratio
        pooled = (n * mean + older_n * older_mean) / (n + older_n)
        return n * _bernoulli_kl(mean, pooled) + older_n * _bernoulli_kl(older_mean, pooled)


#: A steady stream of answers raises fewer than one alarm in 10,000. Windows as on the design page
#: on selection; its threshold of 6 raises one in 200, and a false alarm on the best model costs
#: more than a true one that comes a few answers later. A run's ln speed has variance .05.
QUALITY_TEST = WindowTest("quality", shortest=5, longest=30, threshold=11.0)
SPEED_TEST = WindowTest("speed", shortest=2, longest=5, threshold=12.0, variance=0.05)
# Items per second depend on how many are given at once, and a run of a millisecond on whatever
# else the machine does at that moment.
_BY_ITEMS = frozenset({
    "embedding", "file_type", "language_identification", "text_classification",
    "voice_activity_detection",
})  # fmt: skip


def window_test(metric: str, task: str) -> WindowTest:
    """Return what is a change of a metric on a task.

    Parameters
    ----------
    metric : str
        ``"quality"`` or ``"speed"``.
    task : str
        Normalised task name. The speed of a task that is counted in items never changes.
    """
    if metric == "quality":
        return QUALITY_TEST
    return replace(SPEED_TEST, threshold=math.inf) if task in _BY_ITEMS else SPEED_TEST


@dataclass(frozen=True, slots=True)
class Change:
    """A detected change of one model's quality or speed on one task.

    Attributes
    ----------
    metric : str
        ``"quality"`` or ``"speed"``.
    at : datetime
        When the first observation after the change was made.
    before, after : float
        Means on both sides, in the metric's own unit (0–1; ln tokens or items per second).
    n : int
        Observations from ``at`` on; only these count from now on.
    statistic : float
        The log likelihood ratio, in nats, above the test's threshold.
    """

    metric: str
    at: datetime
    before: float
    after: float
    n: int
    statistic: float

    def message(self, model: str) -> str:
        """Say it in words, such as "SmolLM2 became 2.9× slower at 14:05; re-learning".

        Parameters
        ----------
        model : str
            The model's name.
        """
        when = f"at {self.at:%H:%M}; re-learning"
        if self.metric == "speed":
            factor = math.exp(abs(self.after - self.before))
            word = "faster" if self.after > self.before else "slower"
            return f"{model} became {factor:.1f}× {word} {when}"
        word = "rose" if self.after > self.before else "fell"
        return f"quality of {model} {word} from {self.before:.2f} to {self.after:.2f} {when}"


class Detector:
    """Watches one metric of one model on one task, observation by observation.

    Parameters
    ----------
    test : WindowTest
        What to look for.
    recent : sequence of (datetime, float)
        Observations that were looked at before, oldest first, to go on from.
    older_n, older_sum : float
        Number and sum of those before them.

    Notes
    -----
    Keeps the latest ``test.longest`` observations and the sum of those before; an observation
    costs the same however long the history is. After a change only the window that showed it
    is kept, so that the same change is reported once.
    """

    def __init__(
        self,
        test: WindowTest,
        recent: Sequence[tuple[datetime, float]] = (),
        older_n: float = 0,
        older_sum: float = 0.0,
    ) -> None:
        self.test = test
        cut = max(len(recent) - test.longest, 0)
        self._recent = list(recent[cut:])
        self._older_n = older_n + cut
        self._older_sum = older_sum + sum(value for _, value in recent[:cut])

    @property
    def recent(self) -> tuple[tuple[datetime, float], ...]:
        """The latest observations as (time, value), oldest first; just those after a change."""
        return tuple(self._recent)

    def observe(self, at: datetime, value: float) -> Change | None:
        """Take the next observation, in order of time.

        Parameters
        ----------
        at : datetime
            When it was made.
        value : float
            0–1 for quality, ln tokens (items) per second for speed.

        Returns
        -------
        Change or None
            What changed, when this observation makes it certain enough.
        """
        self._recent.append((at, value))
        if len(self._recent) > self.test.longest:
            _, oldest = self._recent.pop(0)
            self._older_n += 1
            self._older_sum += oldest
        # At least one observation must lie before the window.
        longest = len(self._recent) - (self._older_n == 0)
        if longest < self.test.shortest:
            return None
        values = np.array([one for _, one in self._recent])
        n = np.arange(1, longest + 1, dtype=np.float64)
        sums = np.cumsum(values[::-1])[:longest]
        older_n = self._older_n + len(values) - n
        means, older_means = sums / n, (self._older_sum + values.sum() - sums) / older_n
        statistic = self.test.statistic(n, means, older_n, older_means)
        if statistic[self.test.shortest - 1 :].max() < self.test.threshold:
            return None
        # Where it began is the likeliest place, which may be later than the shortest window.
        best = int(np.argmax(statistic))
        self._recent = self._recent[-int(n[best]) :]
        self._older_n, self._older_sum = 0, 0.0
        return Change(
            self.test.metric,
            self._recent[0][0],
            float(older_means[best]),
            float(means[best]),
            len(self._recent),
            float(statistic[best]),
        )


def _bernoulli_kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    # A pooled mean of exactly 0 or 1 means that both sides are the same.
    tiny = 1e-12
    p, q = np.clip(p, tiny, 1 - tiny), np.clip(q, tiny, 1 - tiny)
    distance: NDArray[np.float64] = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return np.maximum(distance, 0.0)
