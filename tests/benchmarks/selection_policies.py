"""Who selects: the product, and the policies that it is compared with.

The baselines are a few lines each, so that a million pulls take minutes; MABWiser's own
epsilon-greedy, UCB1, LinUCB and Thompson Beta (`selection_mabwiser`) can be played beside them. It
has no static rule, no last-10 and no Gaussian Thompson sampler.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import numpy as np
from selection_environment import BUDGET, Outcome, World

from ravenxterm_lab.estimation import model_key
from ravenxterm_lab.selection import Decision, decide, weights_for
from ravenxterm_lab.selection.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ravenxterm_lab.preferences import UserPreferences

_START = datetime(2027, 1, 1, tzinfo=UTC)
#: Ten executions a day.
_BETWEEN = timedelta(hours=2.4)


class Policy(Protocol):
    """One learner on one machine; the same one sees all tasks that are played on it."""

    def choose(self, world: World, preferences: UserPreferences) -> int:
        """Return which model to run next."""

    def learn(
        self, world: World, preferences: UserPreferences, arm: int, seen: Outcome, labelled: bool
    ) -> None:
        """Take what the execution showed; its quality only where it was labelled."""


def play(
    world: World,
    policy: Policy,
    preferences: UserPreferences,
    pulls: Iterable[int],
    labelled: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Let a policy run models; return the regret of each pull, and a random one's of each."""
    truth = world.mean_utility(preferences)
    regrets = []
    for pull in pulls:
        arm = policy.choose(world, preferences)
        seen = world.outcome(arm, pull)
        policy.learn(world, preferences, arm, seen, labelled is None or bool(labelled[pull]))
        regrets.append(truth.max() - truth[arm])
    return np.array(regrets), float(truth.max() - truth.mean())


class Product:
    """The code that the product runs: `decide` on the evidence of a `Tally`.

    Parameters
    ----------
    seed : int
        Of the exploration.
    """

    def __init__(self, seed: int) -> None:
        self.tally = Tally()
        self._rng = np.random.default_rng([seed, 3])
        self._at = _START

    def decide(
        self, world: World, preferences: UserPreferences, *, explore: bool, draws: int = 1
    ) -> Decision:
        """Return the decision among all models of a world."""
        return decide(
            world.arms,
            world.task,
            self.tally.evidence(self._at),
            preferences,
            budget_bytes=BUDGET,
            explore=explore,
            rng=self._rng if explore else np.random.default_rng(0),
            draws=draws,
        )

    def choose(self, world: World, preferences: UserPreferences) -> int:
        """Return the first of an exploring decision."""
        return int(np.argmax(self.decide(world, preferences, explore=True).explored))

    def learn(
        self, world: World, preferences: UserPreferences, arm: int, seen: Outcome, labelled: bool
    ) -> None:
        """Record it as an execution is recorded."""
        self._at += _BETWEEN
        self.tally.observe(
            model_key(world.arms[arm].model),
            world.task,
            self._at,
            quality=seen.quality if labelled else None,
            ln_speed=math.log(seen.rate),
            ln_work=math.log(seen.tokens),
            first_token=seen.first_token,
        )


class Random:
    """Any model, with equal probability."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 4])

    def choose(self, world: World, preferences: UserPreferences) -> int:
        """Return any."""
        return int(self._rng.integers(len(world.arms)))

    def learn(
        self, world: World, preferences: UserPreferences, arm: int, seen: Outcome, labelled: bool
    ) -> None:
        """Learn nothing."""


class Static(Random):
    """The best by metadata: quality by the logarithm of the size, latency by predicted speed."""

    def choose(self, world: World, preferences: UserPreferences) -> int:
        """Return the same model every time."""
        w = weights_for(preferences)
        size = np.log([arm.model.parameter_count or 1 for arm in world.arms])
        latency = np.array([a.first_token_seconds + 200 / a.decode_rate for a in world.arms])
        memory = np.array([arm.memory_bytes for arm in world.arms])
        quality = (size - size.min()) / max(float(np.ptp(size)), 1e-9)
        scale = w.patience * np.median(latency)
        worth = w.quality * quality + w.latency / (1 + latency / scale)
        return int(np.argmax(worth + w.memory * (1 - memory / BUDGET)))


class Scalar:
    """Learners of one reward per model and task: each tries every model once, in random order.

    Parameters
    ----------
    seed : int
        Of the order and of the learner's own choices.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 5])
        self._n: dict[str, np.ndarray] = {}
        self._sum: dict[str, np.ndarray] = {}

    def choose(self, world: World, preferences: UserPreferences) -> int:
        """Return one that was never tried, or what the learner says."""
        n = self._n.setdefault(world.task, np.zeros(len(world.arms)))
        total = self._sum.setdefault(world.task, np.zeros(len(world.arms)))
        new = np.flatnonzero(n == 0)
        if len(new):
            return int(self._rng.choice(new))
        return int(np.argmax(self.index(world.task, n, total / n)))

    def learn(
        self, world: World, preferences: UserPreferences, arm: int, seen: Outcome, labelled: bool
    ) -> None:
        """Add the reward; without a label there is none."""
        if labelled:
            self._n[world.task][arm] += 1
            reward = world.utility(arm, seen, preferences)
            self._sum[world.task][arm] += reward
            self.add(world.task, arm, reward)

    def index(self, task: str, n: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Return what to choose the highest of."""
        raise NotImplementedError

    def add(self, task: str, arm: int, reward: float) -> None:
        """Keep what else the learner needs."""


class EpsilonGreedy(Scalar):
    """ε-greedy, ε = .1."""

    def index(self, task: str, n: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Return the means, or with probability .1 anything."""
        return self._rng.random(len(n)) if self._rng.random() < 0.1 else mean


class Ucb1(Scalar):
    """UCB1 with alpha = .1: mean + alpha·√(2 ln t / n)."""

    def index(self, task: str, n: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Return the upper bounds."""
        bound: np.ndarray = mean + 0.1 * np.sqrt(2 * np.log(n.sum()) / n)
        return bound


class LinUcb(Scalar):
    """LinUCB (disjoint, alpha .25, ridge 1); with no features of a question, its context is 1.

    As published it tries no model first, and then never leaves the first one that earns more
    than .25; each model is tried once here, which it is the better for.
    """

    def index(self, task: str, n: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Return the upper bounds of ridge regression."""
        bound: np.ndarray = (n * mean + 0.25 * np.sqrt(n + 1)) / (n + 1)
        return bound


class ThompsonBeta(Scalar):
    """Thompson sampling with Beta(1, 1) priors; a reward counts as that share of a success."""

    def choose(self, world: World, preferences: UserPreferences) -> int:
        """Return the highest draw."""
        n = self._n.setdefault(world.task, np.zeros(len(world.arms)))
        total = self._sum.setdefault(world.task, np.zeros(len(world.arms)))
        return int(np.argmax(self._rng.beta(1 + total, 1 + np.maximum(n - total, 0))))


class ThompsonGaussian(Scalar):
    """Thompson sampling with a Gaussian of sd .1/√n around each mean."""

    def index(self, task: str, n: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Return a draw."""
        draw: np.ndarray = mean + 0.1 / np.sqrt(n) * self._rng.standard_normal(len(n))
        return draw


class LastTen(Scalar):
    """The best average of the last ten rewards."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._last: dict[tuple[str, int], deque[float]] = {}

    def add(self, task: str, arm: int, reward: float) -> None:
        """Keep ten."""
        self._last.setdefault((task, arm), deque(maxlen=10)).append(reward)

    def index(self, task: str, n: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Return the averages."""
        return np.array([np.mean(self._last[task, arm]) for arm in range(len(n))])


BASELINES: dict[str, type[Random | Scalar]] = {
    "random": Random,
    "static metadata rule": Static,
    "LinUCB (alpha .25)": LinUcb,
    "Thompson Beta": ThompsonBeta,
    "last-10 average": LastTen,
    "epsilon-greedy .1": EpsilonGreedy,
    "UCB1 (alpha .1)": Ucb1,
    "Thompson Gaussian (sd .1)": ThompsonGaussian,
}
