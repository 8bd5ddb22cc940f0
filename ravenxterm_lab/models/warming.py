"""Models made resident beforehand, so that no run has to wait, and let go again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RequirementError, RuntimeFailureError
from ravenxterm_lab.metadata import ModelMetadata
from ravenxterm_lab.models.fallback import Walk
from ravenxterm_lab.models.planning import task_requirements
from ravenxterm_lab.models.progress import tell
from ravenxterm_lab.models.recording import check_model
from ravenxterm_lab.models.run_report import Attempt, no_suitable_model
from ravenxterm_lab.models.running import Request, go_on, make_planner, not_tried
from ravenxterm_lab.models.selector import Selection
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.models.fallback import Step
    from ravenxterm_lab.models.progress import OnProgress
    from ravenxterm_lab.models.registry import ModelRegistry
    from ravenxterm_lab.models.selector import AdaptiveModelSelector
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.requirements import TaskRequirements
    from ravenxterm_lab.runtimes import MemoryUse
    from ravenxterm_lab.selection import Recommendations

__all__ = ["LoadedReport", "Warming"]


@dataclass(frozen=True, slots=True)
class LoadedReport(Displayed):
    """A model that is resident now, and how it came to be.

    Attributes
    ----------
    model : ModelMetadata
        What is resident.
    task : str
        Normalised name.
    settings : str
        How it was loaded; see `LoadOptions.settings`.
    cold : bool
        Whether it had to be loaded; False when it was resident already.
    load_seconds : float
        What its load took, now or then (s).
    memory : MemoryUse
        What it holds (bytes).
    ranked : Recommendations
        All candidates, in the order in which they were to be tried.
    attempts : tuple of Attempt
        Everything that was tried, the last one successful.
    """

    model: ModelMetadata
    task: str
    settings: str
    cold: bool
    load_seconds: float
    memory: MemoryUse
    ranked: Recommendations
    attempts: tuple[Attempt, ...]

    @property
    def summary(self) -> str:
        """What is resident, what it holds and what its load took, in one sentence."""
        held = format_bytes(self.memory.total)
        if not self.cold:
            return f"{self.model.name} is loaded already: {held}."
        return f"{self.model.name} is loaded: {held}, {format_seconds(self.load_seconds)}."

    def _card(self) -> Card:
        failed = [attempt for attempt in self.attempts if attempt.failure]
        rows = [[item.model, item.step, str(item.failure), item.message] for item in failed]
        header = ["tried before", "step", "failure", "what happened"]
        tables = [Table(header, rows)] if rows else []
        return Card(f"{self.model.name} · {self.task}", self.summary, tables)


class Warming:
    """The part of `ModelManager` that makes models resident, and lets them go."""

    _bench: Workbench
    registry: ModelRegistry
    selector: AdaptiveModelSelector

    def load(
        self,
        task_type: str,
        requirements: Mapping[str, Any] | TaskRequirements | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> LoadedReport:
        """Load the first choice for a task without running it, so that no run has to wait.

        What fails is recorded as a load, becomes a message, and the next step of the plan is
        tried, as `run` does. No decision and no execution is recorded.

        Parameters
        ----------
        task_type : str
            Such as ``"text_generation"``.
        requirements : mapping or TaskRequirements, optional
            Hard constraints.
        on_progress : callable, optional
            Told of each `Progress`; what it raises ends this before the next load. One that is
            under way cannot be interrupted from another thread.

        Returns
        -------
        LoadedReport
            It stays resident until ``keep_alive_seconds`` have passed without a run, another
            load needs its memory, or `unload` is called.

        Raises
        ------
        NoSuitableModelError
            If no candidate is left; it lists what happened to each.
        RequirementError
            On an unknown task or requirement, or where ``keep_alive_seconds`` is 0.

        Examples
        --------
        >>> import tempfile
        >>> from ravenxterm_lab.models import ModelManager
        >>> manager = ModelManager(home=tempfile.mkdtemp(), models_dir=tempfile.mkdtemp())
        >>> manager.load("text_generation")
        Traceback (most recent call last):
        ravenxterm_lab.exceptions.NoSuitableModelError: No models yet: ...
        """
        wanted = task_requirements(task_type, requirements, "load")
        if self._bench.preferences.keep_alive_seconds <= 0:
            raise RequirementError(
                "keep_alive_seconds is 0, so that a model is unloaded at once when nothing runs "
                "on it: there is nothing to load beforehand. Raise it with "
                "manager.update_preferences(keep_alive_seconds=300)."
            )
        models = list(self.registry.candidates.values())
        ranked, options = self.selector.candidates(models, wanted)
        if not ranked and not ranked.rejected:
            ranked.hint = f"No models yet: {self.registry.next_step}."
        return _load(self._bench, Selection(ranked, options), wanted, on_progress)

    def unload(self, model: ModelMetadata | str) -> int:
        """Unload a model that nothing runs on.

        Parameters
        ----------
        model : ModelMetadata or str
            Which, however it was loaded.

        Returns
        -------
        int
            Bytes of resident memory that came back; 0 when it was not loaded.

        Raises
        ------
        UnknownModelError
            If no registered model has that name; it suggests the nearest.
        RequirementError
            If something runs on it now.
        """
        check_model(model)
        found = model if isinstance(model, ModelMetadata) else self.registry.get(model)
        freed = self._bench.pool.unload_idle(model=found)
        if not freed and any(item.model.name == found.name for item in self._bench.pool.resident()):
            raise RequirementError(
                f"{found.name} is in use: wait for its run to end, or stop it, and unload it then."
            )
        return freed


def _load(
    bench: Workbench,
    selection: Selection,
    wanted: TaskRequirements,
    on_progress: OnProgress | None,
) -> LoadedReport:
    """Go through the plan until a step has loaded."""
    attempts: list[Attempt] = []
    ranked = selection.ranked
    walk = Walk(make_planner(bench, selection, wanted, Request(None)), iter(ranked))
    while (step := walk.next()) is not None:
        runtime = bench.runtime(step.item.model.runtimes[0])
        tell(on_progress, "load", step, bench.estimator.frozen())
        asked = time.perf_counter()
        try:
            with bench.pool.acquire(runtime, step.item.model, step.options) as (loaded, cold):
                return LoadedReport(
                    model=step.item.model,
                    task=ranked.task,
                    settings=loaded.options.settings,
                    cold=cold,
                    load_seconds=loaded.report.seconds,
                    memory=loaded.memory(),
                    ranked=ranked,
                    attempts=(*attempts, _attempt(step, asked)),
                )
        except RuntimeFailureError as error:
            attempts.append(_attempt(step, asked, error))
            go_on(bench, walk, step, error, died=False)
    raise no_suitable_model(ranked, [*attempts, *not_tried(walk)])


def _attempt(step: Step, asked: float, error: RuntimeFailureError | None = None) -> Attempt:
    return Attempt(
        step.item.model.name,
        None if error is None else error.kind,
        "" if error is None else str(error),
        step.change,
        step.options.settings,
        time.perf_counter() - asked,
    )
