"""The adaptive selector: filters, ranks by the current preferences and history, and explains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RequirementError, StoreError
from ravenxterm_lab.metadata import ModelMetadata
from ravenxterm_lab.models.selection_log import Ranking, SelectionLog
from ravenxterm_lab.models.situation import Situation
from ravenxterm_lab.models.workbench import Workbench
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.selection import Evidence, Recommendations, WhyNot

if TYPE_CHECKING:
    import os

    from ravenxterm_lab.estimation import Estimator
    from ravenxterm_lab.runtimes import LoadOptions

__all__ = ["AdaptiveModelSelector", "Selection"]


@dataclass(frozen=True, slots=True)
class Selection:
    """A decision.

    Attributes
    ----------
    ranked : Recommendations
        In the order in which the candidates are to be tried.
    options : mapping of str to LoadOptions
        How each would be loaded, by model name.
    log : SelectionLog or None
        Records it; None where nothing is to be recorded.
    """

    ranked: Recommendations
    options: Mapping[str, LoadOptions]
    log: SelectionLog | None = None

    @property
    def id(self) -> str | None:
        """Its key in the tables ``selections`` and ``candidates``; None when nothing records it.

        Who asks first waits until it is recorded.
        """
        return None if self.log is None else self.log.record()


class AdaptiveModelSelector:
    """Ranks models for a task under a person's preferences, learning from their history.

    Parameters
    ----------
    preferences : UserPreferences, optional
        Read anew at every call, so that a change takes effect at once.
    seed : int, optional
        Seeds the exploration; without it the system's entropy does.
    home : path, optional
        Overrides ``RAVENXTERM_HOME``.
    workbench : Workbench, optional
        Shared tools; by default those of the home in this process.

    Notes
    -----
    Exploration happens only in ``select`` (an execution follows); what is merely shown is
    ranked at the posterior means, and is the same every time.
    """

    def __init__(
        self,
        preferences: UserPreferences | None = None,
        *,
        seed: int | None = None,
        home: str | os.PathLike[str] | None = None,
        workbench: Workbench | None = None,
    ) -> None:
        import numpy as np

        self.preferences = preferences or UserPreferences.get_defaults()
        self._bench = workbench or Workbench.shared(home)
        self._rng = np.random.default_rng(seed)
        self._last: Recommendations | None = None

    def get_recommended_models(
        self,
        available_models: Mapping[str, ModelMetadata] | Sequence[ModelMetadata],
        task_type: str | None = None,
        top_k: int | None = None,
        *,
        requirements: Mapping[str, Any] | TaskRequirements | None = None,
    ) -> Recommendations:
        """Rank models, best first, without exploring.

        Parameters
        ----------
        available_models : mapping or sequence of ModelMetadata
            The candidates.
        task_type : str, optional
            Such as ``"text_generation"``; Hugging Face spellings are accepted.
        top_k : int, optional
            Return at most this many (1 or more); the rejected ones are kept all the same.
        requirements : mapping or TaskRequirements, optional
            Hard constraints.

        Returns
        -------
        Recommendations
            A sequence; each item unpacks as ``model, score``.

        Raises
        ------
        RequirementError
            On an unknown task or requirement, a bad value, or a bad ``top_k``.
        """
        if top_k is not None and not _is_positive_whole(top_k):
            raise RequirementError(f"top_k must be a whole number of 1 or more, got {top_k!r}.")
        wanted = TaskRequirements.parse(requirements, task_type)
        ranked = self._rank(_models(available_models), wanted, explore=False).ranked
        self._last = ranked
        return ranked if top_k is None else ranked[:top_k]

    def select(
        self,
        available_models: Mapping[str, ModelMetadata] | Sequence[ModelMetadata],
        task_type: str | None = None,
        requirements: Mapping[str, Any] | TaskRequirements | None = None,
        *,
        explore: bool = True,
        record: bool = True,
    ) -> Selection:
        """Choose a model, and record the decision with all its candidates.

        Parameters
        ----------
        available_models, task_type, requirements
            As for ``get_recommended_models``.
        explore : bool
            Set it when an execution follows: a seeded posterior draw then orders the
            candidates (never across a constraint). Ignored when
            ``enable_adaptive_selection`` is off.
        record : bool
            Whether to record it now; otherwise `Selection.id` does, when it is first asked for.
        """
        wanted = TaskRequirements.parse(requirements, task_type)
        follows, explore = explore, explore and self.preferences.enable_adaptive_selection
        ranking = self._rank(_models(available_models), wanted, explore=explore)
        if follows:
            self._bench.lately.add(ranking.ranked.task, self._bench.now())
        self._last = ranking.ranked
        log = SelectionLog(self._bench, ranking, wanted, self.preferences)
        if record:
            log.record()
        return Selection(ranking.ranked, ranking.options, log)

    def candidates(
        self, models: Sequence[ModelMetadata], wanted: TaskRequirements
    ) -> tuple[Recommendations, dict[str, LoadOptions]]:
        """Rank models without exploring, and return the options to load each with.

        Nothing is recorded, and ``why_not`` still speaks of the last ranking.

        Parameters
        ----------
        models : sequence of ModelMetadata
            Which.
        wanted : TaskRequirements
            Task and hard constraints.
        """
        ranking = self._rank(models, wanted, explore=False)
        return ranking.ranked, dict(ranking.options)

    def why_not(self, name: str) -> WhyNot:
        """Say why a model is not first in the last ranking, and what would change that.

        Raises
        ------
        RequirementError
            If nothing was ranked yet.
        UnknownModelError
            If the model was not a candidate.
        """
        if self._last is None:
            raise RequirementError("Nothing was ranked yet; call get_recommended_models first.")
        return self._last.why_not(name)

    def _evidence(self) -> Evidence:
        if not self.preferences.enable_adaptive_selection:
            return Evidence.none()
        try:
            return self._bench.learning.evidence()
        except StoreError as error:
            self._bench.messages.add(
                "warning", "store", f"Ranked from priors alone, history cannot be read: {error}"
            )
            return Evidence.none()

    def _estimator(self) -> Estimator:
        """Return one snapshot for the whole decision."""
        known = self._bench.estimator.frozen()
        return known if self.preferences.enable_adaptive_selection else known.unlearned()

    def _rank(
        self, models: Sequence[ModelMetadata], wanted: TaskRequirements, *, explore: bool
    ) -> Ranking:
        # A seed of its own for each decision makes it repeatable from its record. Only an
        # exploring one moves the generator on; a display is the same every time.
        seed = int(self._rng.integers(2**63)) if explore else None
        loaded, reclaimable = self._bench.resident()
        task = wanted.task_type or _common_task(models)
        situation = Situation(
            bench=self._bench,
            models=tuple(models),
            task=task,
            wanted=wanted,
            preferences=self.preferences.model_copy(deep=True),
            machine=self._bench.machine(self.preferences, reclaimable=reclaimable),
            evidence=self._evidence(),
            estimator=self._estimator(),
            loaded=loaded,
            failing=self._bench.load_failures.now(),
            runs_per_load=1.0
            + self._bench.lately.count(
                task, self._bench.now(), self.preferences.keep_alive_seconds
            ),
        )
        return situation.rank(seed)


def _is_positive_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _models(given: object) -> list[ModelMetadata]:
    if not isinstance(given, Iterable):
        raise RequirementError(
            f"available_models must be a list or a mapping of ModelMetadata, such as "
            f"ModelRegistry.available_models, got {type(given).__name__}."
        )
    models = list(given.values()) if isinstance(given, Mapping) else list(given)
    for model in models:
        if not isinstance(model, ModelMetadata):
            raise RequirementError(
                f"available_models holds {model!r}; it must hold ModelMetadata, as "
                "ModelRegistry.available_models does."
            )
    named: dict[str, ModelMetadata] = {}
    for model in models:
        known = named.setdefault(model.name, model)
        if known is not model and known != model:
            raise RequirementError(
                f"available_models holds two different models called {model.name!r}; a name is "
                "what they are told apart by. Rename one (dataclasses.replace(model, name=…))."
            )
    return list(named.values())


def _common_task(models: Sequence[ModelMetadata]) -> str:
    """Return the task that most candidates can do, for a ranking that names none."""
    counts: dict[str, int] = {}
    for model in models:
        for task in model.task_types:
            counts[task] = counts.get(task, 0) + 1
    return max(sorted(counts), key=lambda task: counts[task]) if counts else "text_generation"
