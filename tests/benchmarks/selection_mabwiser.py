"""The players of MABWiser (Strong, Kleynhans & Kadioglu 2021), one for each task.

A package on PyPI that only this benchmark imports: ``pip install mabwiser`` in an environment
with the product.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from mabwiser.mab import MAB, LearningPolicy
from selection_policies import Scalar

if TYPE_CHECKING:
    from selection_environment import World

    from ravenxterm_lab.preferences import UserPreferences


class Wiser(Scalar):
    """A learner of MABWiser, after every model was tried once.

    Parameters
    ----------
    policy : LearningPolicy
        Which.
    seed : int
        Of its choices.
    """

    def __init__(self, policy: LearningPolicy, seed: int) -> None:
        super().__init__(seed)
        self._policy, self._seed = policy, seed
        self._bandits: dict[str, MAB] = {}
        self._fitted: set[str] = set()

    @property
    def _context(self) -> list[list[float]] | None:
        return [[1.0]] if isinstance(self._policy, LearningPolicy.LinUCB) else None

    def choose(self, world: World, preferences: UserPreferences) -> int:
        """Return one that was never tried, or what MABWiser predicts."""
        count = len(world.arms)
        self._bandits.setdefault(world.task, MAB(list(range(count)), self._policy, seed=self._seed))
        n = self._n.setdefault(world.task, np.zeros(count))
        self._sum.setdefault(world.task, np.zeros(count))
        new = np.flatnonzero(n == 0)
        if len(new):
            return int(self._rng.choice(new))
        return int(self._bandits[world.task].predict(self._context))

    def add(self, task: str, arm: int, reward: float) -> None:
        """Give it the reward; Thompson sampling's as a success with that probability."""
        if isinstance(self._policy, LearningPolicy.ThompsonSampling):
            reward = float(self._rng.random() < reward)
        bandit = self._bandits[task]
        take = bandit.partial_fit if task in self._fitted else bandit.fit
        take([arm], [reward], self._context)
        self._fitted.add(task)


MABWISER = {
    "MABWiser LinUCB (alpha .25)": partial(Wiser, LearningPolicy.LinUCB(alpha=0.25)),
    "MABWiser Thompson Beta": partial(Wiser, LearningPolicy.ThompsonSampling()),
    "MABWiser epsilon-greedy .1": partial(Wiser, LearningPolicy.EpsilonGreedy(epsilon=0.1)),
    "MABWiser UCB1 (alpha .1)": partial(Wiser, LearningPolicy.UCB1(alpha=0.1)),
}
