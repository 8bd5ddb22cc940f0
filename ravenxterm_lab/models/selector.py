"""The adaptive selector: filters, ranks by the current preferences and history, and explains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.estimation import Estimator, MemoryForecast
from ravenxterm_lab.exceptions import RequirementError, StoreError
from ravenxterm_lab.metadata import HardwareType, ModelMetadata
from ravenxterm_lab.models.selection_log import Ranking, SelectionLog
from ravenxterm_lab.models.workbench import Workbench
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.runtimes.base import DEFAULT_CONTEXT
from ravenxterm_lab.selection import (
    Arm,
    Decision,
    Evidence,
    Machine,
    Recommendations,
    Rejection,
    WhyNot,
    decide,
    recommend,
    reject_by_facts,
    reject_by_measurement,
)

if TYPE_CHECKING:
    import os

__all__ = ["AdaptiveModelSelector", "Selection"]

# Where neither a bandwidth nor a run says anything: tokens/s, and seconds (a model that does
# not generate has no first token, only the overhead of a request).
_UNKNOWN_RATE = 10.0
_UNKNOWN_FIRST_TOKEN = 0.05


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
        explore = explore and self.preferences.enable_adaptive_selection
        ranking = self._rank(_models(available_models), wanted, explore=explore)
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
            return Evidence.from_store(
                self._bench.store,
                hardware=self._bench.hardware.fingerprint,
                now=self._bench.now(),
            )
        except StoreError as error:
            self._bench.messages.add(
                "warning", "store", f"Ranked from priors alone, history cannot be read: {error}"
            )
            return Evidence.none()

    def _estimator(self) -> Estimator:
        """Return one snapshot for the whole decision."""
        if not self.preferences.enable_adaptive_selection:
            return Estimator(self._bench.hardware)
        return self._bench.estimator.frozen()

    def _rank(
        self, models: Sequence[ModelMetadata], wanted: TaskRequirements, *, explore: bool
    ) -> Ranking:
        # A seed of its own for each decision makes it repeatable from its record. Only an
        # exploring one moves the generator on; a display is the same every time.
        seed = int(self._rng.integers(2**63)) if explore else None
        task = wanted.task_type or _common_task(models)
        evidence = self._evidence()
        loaded, reclaimable = self._bench.resident()
        machine = self._bench.machine(self.preferences, reclaimable=reclaimable)
        options = {model.name: self._options(model, wanted, machine) for model in models}
        estimator = self._estimator()
        memory = {
            model.name: estimator.memory(model, options[model.name], budget_bytes=machine.limit)
            for model in models
        }
        rejected: list[Rejection] = []
        arms: list[Arm] = []
        for model in models:
            reason = reject_by_facts(model, wanted, memory[model.name], machine)
            if reason is not None:
                rejected.append(reason)
            else:
                arms.append(_arm(estimator, model, memory[model.name], options[model.name], loaded))
        decision = self._decide(arms, task, evidence, machine, seed) if arms else None
        late = self._reject_late(decision, wanted) if decision else []
        if late:
            rejected += late
            gone = {item.model.name for item in late}
            arms = [arm for arm in arms if arm.model.name not in gone]
            decision = self._decide(arms, task, evidence, machine, seed) if arms else None
        memories = [memory[arm.model.name] for arm in arms]
        items = recommend(decision, memories) if decision else []
        return Ranking(
            Recommendations(items, rejected, task), options, memory, machine, decision, seed
        )

    def _decide(
        self,
        arms: list[Arm],
        task: str,
        evidence: Evidence,
        machine: Machine,
        seed: int | None,
    ) -> Decision:
        import numpy as np

        return decide(
            arms,
            task,
            evidence,
            self.preferences,
            budget_bytes=machine.budget,
            explore=seed is not None,
            rng=np.random.default_rng(seed or 0),
        )

    @staticmethod
    def _reject_late(decision: Decision, wanted: TaskRequirements) -> list[Rejection]:
        import numpy as np

        rejections = [
            reject_by_measurement(
                arm.model,
                wanted,
                latency=float(decision.latency[index]),
                rate=float(np.exp(decision.ln_speed.mean[index])),
                quality=decision.cells[index].quality_mean,
            )
            for index, arm in enumerate(decision.arms)
        ]
        return [rejection for rejection in rejections if rejection is not None]

    def _options(
        self, model: ModelMetadata, wanted: TaskRequirements, machine: Machine
    ) -> LoadOptions:
        usable = [device for device in machine.devices if device in model.preferred_hardware]
        if wanted.required_hardware:
            usable = [device for device in usable if device in wanted.required_hardware]
        asked = wanted.min_context_length
        if asked is not None and model.context_length:
            asked = min(asked, model.context_length)
        context = None if asked is None or asked <= DEFAULT_CONTEXT else asked
        device = usable[0] if usable else HardwareType.CPU
        options = LoadOptions(device=device, context_length=context)
        if not model.runtimes:
            return options
        # Resolved, so that a peak is found again under the settings that it was measured with.
        return self._bench.runtime(model.runtimes[0]).resolve(model, options)


def _arm(
    estimator: Estimator,
    model: ModelMetadata,
    memory: MemoryForecast,
    options: LoadOptions,
    loaded: frozenset[str],
) -> Arm:
    speed = estimator.speed(model, options)
    assert memory.total_bytes is not None  # the filter rejected what is unknown
    # A server that does not tell a model's size leaves nothing to predict its speed from.
    unknown = not model.size_bytes and not speed.decode.runs
    return Arm(
        model=model,
        memory_bytes=memory.total_bytes,
        decode_rate=(None if unknown else speed.decode_rate) or _UNKNOWN_RATE,
        first_token_seconds=speed.time_to_first_token or _UNKNOWN_FIRST_TOKEN,
        load_seconds=speed.load_seconds,
        resident=model.name in loaded,
        speed_source=speed.source,
    )


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
    return models


def _common_task(models: Sequence[ModelMetadata]) -> str:
    """Return the task that most candidates can do, for a ranking that names none."""
    counts: dict[str, int] = {}
    for model in models:
        for task in model.task_types:
            counts[task] = counts.get(task, 0) + 1
    return max(sorted(counts), key=lambda task: counts[task]) if counts else "text_generation"
