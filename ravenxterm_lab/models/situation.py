"""A decision and all that it follows from, so that it can be asked what a change would do."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.models.selection_log import Ranking
from ravenxterm_lab.models.sifting import Sieve
from ravenxterm_lab.selection import (
    Decision,
    Recommendations,
    decide,
    measurements_against,
    recommend,
    relaxed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ravenxterm_lab.estimation import Estimator
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.failing import Failing
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.preferences import UserPreferences
    from ravenxterm_lab.requirements import TaskRequirements
    from ravenxterm_lab.selection import Arm, Evidence, Machine, Violation

__all__ = ["Situation"]


@dataclass(frozen=True, slots=True)
class Situation:
    """What a ranking follows from; nothing in it changes, whatever is recorded meanwhile.

    Attributes
    ----------
    bench : Workbench
        For the runtimes.
    models : tuple of ModelMetadata
        The candidates, each name once.
    task : str
        Normalised name.
    wanted : TaskRequirements
        Hard constraints.
    preferences : UserPreferences
        A copy of those in force.
    machine : Machine
        Devices and memory (bytes).
    evidence : Evidence
        What was measured.
    estimator : Estimator
        A snapshot.
    loaded : frozenset of str
        Names of resident models.
    failing : Failing
        What speaks against loads that failed before.
    runs_per_load : float
        Executions of the task that a load is expected to serve.
    """

    bench: Workbench
    models: tuple[ModelMetadata, ...]
    task: str
    wanted: TaskRequirements
    preferences: UserPreferences
    machine: Machine
    evidence: Evidence
    estimator: Estimator
    loaded: frozenset[str]
    failing: Failing
    runs_per_load: float = 1.0

    def rank(self, seed: int | None = None) -> Ranking:
        """Filter, score and explain.

        Parameters
        ----------
        seed : int, optional
            Of the exploring draw; without it nothing is explored.
        """
        sieve = Sieve(
            self.bench,
            self.estimator,
            self.machine,
            self.wanted,
            self.evidence,
            self.loaded,
            self.failing,
            self.runs_per_load,
        )
        sifted = sieve.sift(self.models, self._measure)
        memory, decision = sifted.memory, None
        if sifted.arms:
            decision = self._decide(sifted.arms, sifted.beside, seed)
        memories = [memory[arm.model.name] for arm in sifted.arms]
        items = recommend(decision, memories, self.machine.budget) if decision else []
        ranked = Recommendations(items, sifted.rejected, self.task, self)
        return Ranking(
            ranked, sifted.options, memory, self.machine, decision, seed, self.runs_per_load
        )

    def after(self, change: Mapping[str, Any], evidence: Evidence | None = None) -> Recommendations:
        """Return the ranking as it would be after a change, without exploring.

        Parameters
        ----------
        change : mapping
            Requirements and preferences by name; None leaves a requirement out.
        evidence : Evidence, optional
            In place of what was measured.
        """
        fields = type(self.preferences).model_fields
        preferences = {key: value for key, value in change.items() if key in fields}
        wanted, machine = relaxed(
            self.wanted,
            self.machine,
            {key: value for key, value in change.items() if key in _MACHINE or key not in fields},
        )
        then = replace(
            self,
            wanted=wanted,
            machine=machine,
            preferences=self.preferences.updated(**preferences),
            evidence=self.evidence if evidence is None else evidence,
        )
        return then.rank().ranked

    def _measure(self, arms: list[Arm]) -> dict[str, tuple[Violation, ...]]:
        decision = self._decide(arms, [], None)
        return {
            arm.model.name: tuple(
                measurements_against(
                    self.wanted,
                    latency=float(decision.latency[index]),
                    rate=math.exp(decision.ln_speed.mean[index]),
                    quality=decision.cells[index].quality_mean,
                    unit="tok" if self.task == "text_generation" else "items",
                    learns=self.preferences.enable_adaptive_selection,
                )
            )
            for index, arm in enumerate(decision.arms)
        }

    def _decide(self, arms: Sequence[Arm], beside: Sequence[Arm], seed: int | None) -> Decision:
        import numpy as np

        return decide(
            arms,
            self.task,
            self.evidence,
            self.preferences,
            budget_bytes=self.machine.budget,
            explore=seed is not None,
            rng=np.random.default_rng(seed or 0),
            beside=beside,
        )


_MACHINE = frozenset({"max_memory_usage", "preferred_devices"})
