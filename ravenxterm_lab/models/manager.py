"""The manager: a thin façade over registry, selector, pool and store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import PreferenceError
from ravenxterm_lab.metadata import ModelMetadata
from ravenxterm_lab.models.cleaning import clean
from ravenxterm_lab.models.estimating import Estimating
from ravenxterm_lab.models.history import PerformanceHistory, read_history
from ravenxterm_lab.models.keeping import latest_preferences, saved_preferences
from ravenxterm_lab.models.measuring import Measuring
from ravenxterm_lab.models.planning import Planning, task_requirements
from ravenxterm_lab.models.recording import check_model, record_feedback
from ravenxterm_lab.models.registry import ModelRegistry, ScanReport
from ravenxterm_lab.models.replaying import Replaying
from ravenxterm_lab.models.run_report import RunReport, no_suitable_model
from ravenxterm_lab.models.running import Request, run_selection
from ravenxterm_lab.models.selector import AdaptiveModelSelector
from ravenxterm_lab.models.status import (
    ResourceUsage,
    SystemStatus,
    read_status,
    read_usage,
)
from ravenxterm_lab.models.tracking import Tracking
from ravenxterm_lab.models.warming import Warming
from ravenxterm_lab.models.workbench import Workbench
from ravenxterm_lab.tables import Card, Displayed

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from ravenxterm_lab.models.messages import MessageLog
    from ravenxterm_lab.models.monitoring import RecordingMonitor
    from ravenxterm_lab.models.progress import OnProgress
    from ravenxterm_lab.models.sample import SampleManager
    from ravenxterm_lab.preferences import UserPreferences
    from ravenxterm_lab.requirements import TaskRequirements
    from ravenxterm_lab.runtimes import ModelPool
    from ravenxterm_lab.selection import Recommendations, WhyNot
    from ravenxterm_lab.store import ExecutionId, QueryResult, Store

__all__ = ["ModelManager"]

_ANY_EXECUTION = "SELECT 1 FROM execution_hours LIMIT 1"
_NO_EXECUTIONS = (
    'No executions yet: run manager.run("text_generation", "Why is the sky blue?"), or '
    "`raven-lab demo` in a terminal."
)


class ModelManager(Displayed, Estimating, Measuring, Planning, Replaying, Tracking, Warming):
    """Everything in one place: models, preferences, selection, execution, history.

    Parameters
    ----------
    models_dir : path, sequence of paths, or None
        As for ``ModelRegistry``; None means the well-known stores.
    home : path, optional
        Overrides ``RAVENXTERM_HOME``.
    preferences : UserPreferences, optional
        Instead of the saved ones; they are saved when they are next updated.
    seed : int, optional
        Seeds the exploration of ``run``.
    workbench : Workbench, optional
        Shared tools; by default those of the home in this process.

    Examples
    --------
    >>> import tempfile
    >>> manager = ModelManager(home=tempfile.mkdtemp(), models_dir=tempfile.mkdtemp())
    >>> manager.update_preferences(performance_mode="speed").performance_mode
    <PerformancePreference.SPEED: 'speed'>
    """

    def __init__(
        self,
        models_dir: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        *,
        home: str | os.PathLike[str] | None = None,
        preferences: UserPreferences | None = None,
        seed: int | None = None,
        workbench: Workbench | None = None,
    ) -> None:
        self._bench = workbench or Workbench.shared(home)
        self._preferences = preferences or saved_preferences(self._bench)
        # Off while what is in force is not what the file holds.
        self._follows_file = preferences is None
        self.registry = ModelRegistry(
            models_dir, preferences=self._preferences, workbench=self._bench
        )
        self.selector = AdaptiveModelSelector(self._preferences, seed=seed, workbench=self._bench)
        self._bench.preferences = self._preferences

    @classmethod
    def sample(cls) -> SampleManager:
        """Return a manager over the sample history that comes with this package.

        It was recorded by the project on real models, on another machine: every view has
        something to show before the first run here. All that is shown of it says so, nothing
        can be added to it, and it lies in a temporary directory, apart from your own history.

        Raises
        ------
        ConfigurationError
            If this installation holds no sample history.
        """
        from ravenxterm_lab.models.sample import SampleManager

        return SampleManager()

    @property
    def pool(self) -> ModelPool:
        """The loaded models; one pool, and one budget, for all managers of this home here."""
        return self._bench.pool

    # -- preferences -------------------------------------------------------------------------

    @property
    def preferences(self) -> UserPreferences:
        """The preferences in force (change them with ``update_preferences``)."""
        return self._preferences

    def update_preferences(self, **changes: Any) -> UserPreferences:
        """Change preferences: validated together, saved, and in force at once.

        Parameters
        ----------
        **changes
            Fields of ``UserPreferences``.

        Raises
        ------
        PreferenceError
            On an unknown field or a bad value; nothing changes then. A home that cannot be
            written is a message: the change holds for this process.
        """
        # Another manager may have saved since: its changes are kept, not written over.
        base = self._preferences
        if self._follows_file:
            base = latest_preferences(self._bench, base)
        updated = base.updated(**changes)
        difference = base.diff(updated)
        self._preferences = updated
        self.registry.use_preferences(updated)
        self.selector.preferences = self._bench.preferences = updated
        for name, (old, new) in difference.items():
            self._bench.record("preference_changes", field=name, old=old, new=new)
        try:
            updated.save(self._bench.paths.preferences)
            self._follows_file = True
        except PreferenceError as error:
            self._follows_file = False
            self.messages.add("warning", "preferences", f"In force, but not saved: {error}")
        return updated

    # -- models and selection ----------------------------------------------------------------

    @property
    def messages(self) -> MessageLog:
        """Warnings and system messages of this process."""
        return self._bench.messages

    @property
    def store(self) -> Store:
        """The metric store."""
        return self._bench.store

    def scan(self, *, progress: bool = False) -> ScanReport:
        """Look at the model directories again (see ``ModelRegistry.scan``)."""
        return self.registry.scan(progress=progress)

    def get_model_recommendations(
        self,
        task_type: str,
        requirements: Mapping[str, Any] | TaskRequirements | None = None,
        top_k: int | None = None,
    ) -> Recommendations:
        """Rank the models for a task, best first, with reasons; nothing is run or recorded.

        Parameters
        ----------
        task_type : str
            Such as ``"text_generation"``; Hugging Face spellings are accepted.
        requirements : mapping or TaskRequirements, optional
            Hard constraints.
        top_k : int, optional
            At most this many; the rejected ones are kept all the same.

        Raises
        ------
        RequirementError
            On an unknown task or requirement.
        """
        return self._told(
            self.selector.get_recommended_models(
                self.registry.candidates, task_type, top_k, requirements=requirements
            )
        )

    def optimize_model_selection(
        self,
        task_type: str,
        requirements: Mapping[str, Any] | TaskRequirements | None = None,
    ) -> ModelMetadata:
        """Choose the best model for a task, and record the decision.

        Parameters
        ----------
        task_type : str
            Such as ``"text_generation"``.
        requirements : mapping or TaskRequirements, optional
            Hard constraints.

        Raises
        ------
        NoSuitableModelError
            (A ``LookupError``.) It lists every candidate and why it fell out.
        RequirementError
            On an unknown task or requirement.
        """
        ranked = self.selector.select(
            self.registry.candidates, task_type, requirements, explore=False
        ).ranked
        if not ranked:
            raise no_suitable_model(self._told(ranked), [])
        return ranked[0].model

    def why_not(self, name: str) -> WhyNot:
        """Say why a model was not first in the last ranking (see ``AdaptiveModelSelector``)."""
        return self.selector.why_not(name)

    # -- execution ---------------------------------------------------------------------------

    def run(
        self,
        task_type: str,
        inputs: Any,
        requirements: Mapping[str, Any] | TaskRequirements | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        on_token: Callable[[str], None] | None = None,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> RunReport:
        """Select a model, load it, run it, and record the execution.

        A load or a run that fails is recorded, becomes a message, and the next step of the
        plan is tried: the same model with smaller settings, or the next one (see `plan`).

        Parameters
        ----------
        task_type : str
            Such as ``"text_generation"`` or ``"embedding"``.
        inputs : object
            What the task takes: a prompt, chat messages, a list of texts, arrays by name.
        requirements : mapping or TaskRequirements, optional
            Hard constraints.
        parameters : mapping, optional
            For the engine, such as ``{"max_tokens": 64}``.
        on_token : callable, optional
            Called with each piece of text as it comes.
        timeout : float, optional
            Seconds for the run itself.
        on_progress : callable, optional
            Told of each `Progress`: a load begins, the run begins. What it raises ends this, as
            what ``on_token`` raises does.

        Returns
        -------
        RunReport
            With ``output``, the counters, the reasons and the attempts.

        Raises
        ------
        NoSuitableModelError
            If no candidate is left.
        RequirementError
            On an unknown task, requirement or parameter, or input of the wrong kind.
        """
        wanted = task_requirements(task_type, requirements, "run")
        # Recorded once the answer has begun: nothing is to wait for that.
        selection = self.selector.select(
            self.registry.candidates, requirements=wanted, record=False
        )
        self._told(selection.ranked)
        request = Request(inputs, parameters, on_token, timeout, on_progress)
        return run_selection(self._bench, self.pool, selection, wanted, request)

    def feedback(self, run: RunReport | ExecutionId | str, quality: float, note: str = "") -> None:
        """Judge an execution, now or later; the latest judgement counts.

        Parameters
        ----------
        run : RunReport, ExecutionId or str
            The execution.
        quality : float
            0 (useless) to 1 (perfect).
        note : str
            Kept beside it.

        Raises
        ------
        RequirementError
            If the run was not recorded, or the quality is not within 0–1.
        """
        identity = run.execution if isinstance(run, RunReport) else run
        record_feedback(self._bench, identity, quality, note)

    # -- history and state -------------------------------------------------------------------

    def get_model_performance_history(self, name: str | ModelMetadata) -> PerformanceHistory:
        """Return what was recorded of a model within ``history_window_days``.

        Raises
        ------
        UnknownModelError
            If the name is neither registered nor recorded; it suggests the nearest.
        RequirementError
            If it is neither a name nor a model.
        """
        check_model(name)
        if isinstance(name, ModelMetadata):
            name = name.name
        return read_history(
            self.store,
            name,
            self.registry.candidates.get(name),
            known=self.registry.candidates,
            days=self._preferences.history_window_days,
            now=self._bench.now(),
            next_step=self.registry.next_step,
        )

    def sql(
        self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> QueryResult:
        """Run one read-only query over everything recorded so far by every process.

        Parameters
        ----------
        query : str
            One SELECT (or FROM, WITH, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN) in DuckDB's SQL.
        params : sequence or mapping, optional
            For ``?`` or ``$name``.

        Returns
        -------
        QueryResult
            ``.pl()``, ``.df()``, ``.to_arrow_table()``, ``.fetchall()``; holds no connection.

        Raises
        ------
        QueryError
            If it is not one read-only statement, or DuckDB refuses it.
        """
        result = self.store.sql(query, params)
        if not result.rows and not self.store.sql(_ANY_EXECUTION).rows:
            # Nothing is scanned for this: whoever asks for rows may know of no models.
            result.hint = _NO_EXECUTIONS
        return result

    def monitor(self, interval: float = 1.0) -> RecordingMonitor:
        """Sample CPU, memory and GPUs in the background, into the store.

        Parameters
        ----------
        interval : float
            Seconds between samples, 0.1 to 10.

        Returns
        -------
        RecordingMonitor
            Running. It ends with ``.stop()``, at the end of a ``with`` block, and when nothing
            refers to it any more: keep it in a variable.

        Raises
        ------
        HardwareError
            (A ``ValueError``.) If the interval is not allowed.
        """
        return self._bench.monitoring.start(interval)

    def get_resource_usage(self) -> ResourceUsage:
        """Return what is loaded, the bytes that each really holds, budget, headroom, live load."""
        return read_usage(self._bench)

    def get_system_status(self) -> SystemStatus:
        """Return the state of models, runtimes, hardware, memory, store and messages."""
        models = self.registry.available_models
        return read_status(self._bench, models, self.get_resource_usage(), self.registry.next_step)

    def cleanup_resources(self) -> int:
        """Unload idle models, prune caches above the threshold, and compact the store.

        What waits is moved into the database, which is compacted where that frees much.

        Returns
        -------
        int
            Bytes freed, in memory and on disk together, as measured; a message itemises them.
        """
        return clean(self._bench, self._preferences)

    def close(self) -> None:
        """Unload every model, and end the thread of the store.

        The manager can be used again afterwards, and others of this home at any time.
        """
        self.pool.unload_idle()
        self.store.rest()

    def _told(self, ranked: Recommendations) -> Recommendations:
        """Let a ranking of nothing say what to do."""
        if not ranked and not ranked.rejected:
            ranked.hint = f"No models yet: {self.registry.next_step}."
        return ranked

    def _card(self) -> Card:
        return self.get_system_status()._card()

    def __repr__(self) -> str:
        return f"<ModelManager: {self.registry!r}, home {self._bench.paths.home}>"
