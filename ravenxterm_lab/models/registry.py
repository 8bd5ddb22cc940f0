"""The registry: every model that was found, what can run it here, and a choice among them."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.discovery import ScanCache, discover, sources_for
from ravenxterm_lab.estimation import Estimator
from ravenxterm_lab.exceptions import UnknownModelError, did_you_mean
from ravenxterm_lab.metadata import total_bytes
from ravenxterm_lab.models.inventory import known_models, recall, record_changes, record_read
from ravenxterm_lab.models.next_step import first_models, first_run
from ravenxterm_lab.models.scan_report import Known, ScanReport, compare
from ravenxterm_lab.models.selector import AdaptiveModelSelector
from ravenxterm_lab.models.trashing import Housekeeping
from ravenxterm_lab.models.workbench import Workbench
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.runtimes import LoadOptions, ServerRuntime
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.trash import Comparison
from ravenxterm_lab.units import format_bytes, format_count, format_number

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ravenxterm_lab.hardware import HardwareProfile
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.messages import MessageLog
    from ravenxterm_lab.requirements import TaskRequirements

__all__ = ["ModelRegistry", "ScanReport"]

#: The smallest context that a text model is of use with; ``minimum_ram`` holds for it.
_SMALLEST_CONTEXT = 512


class ModelRegistry(Displayed, Housekeeping):
    """The models on this machine and their facts.

    Parameters
    ----------
    models_dir : path, sequence of paths, or None
        Where to look; None means the well-known stores (Hugging Face cache, Ollama,
        LM Studio, llama.cpp, ``$RAVENXTERM_HOME/models``). A directory that does not exist
        is an empty registry with a message; nothing is created.
    home : path, optional
        Overrides ``RAVENXTERM_HOME``.
    preferences : UserPreferences, optional
        Used by ``select_model``; by default the saved ones, else the defaults.
    workbench : Workbench, optional
        Shared tools; by default those of the home in this process.

    Notes
    -----
    The first look at the models scans; ``scan()`` looks again. Not safe for scans from
    several threads at once; reading is.
    """

    def __init__(
        self,
        models_dir: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        *,
        home: str | os.PathLike[str] | None = None,
        preferences: UserPreferences | None = None,
        workbench: Workbench | None = None,
    ) -> None:
        self._bench = workbench or Workbench.shared(home)
        self._sources = sources_for(models_dir, self._bench.paths)
        self._well_known = models_dir is None
        self._cache = ScanCache()
        self._comparison = Comparison()
        self._models: dict[str, ModelMetadata] | None = None
        self._served: dict[str, ModelMetadata] = {}
        self._preferences = preferences
        self._recalled = False
        self._done: dict[str, tuple[ModelMetadata, ModelMetadata]] = {}
        self.last_scan: ScanReport | None = None

    @property
    def hardware_profile(self) -> HardwareProfile:
        """The hardware of this machine, with the memory that is free now (bytes)."""
        return self._bench.hardware.refreshed()

    @property
    def messages(self) -> MessageLog:
        """Warnings and system messages of this process."""
        return self._bench.messages

    @property
    def available_models(self) -> Mapping[str, ModelMetadata]:
        """The models by name, sorted (read-only); the first look scans."""
        if self._models is None:
            self.scan()
        assert self._models is not None
        return MappingProxyType(self._models)

    @property
    def candidates(self) -> Mapping[str, ModelMetadata]:
        """``available_models``, and what enabled servers of this machine listed at the last scan.

        A server's model has no file that could be moved or counted, so it is only here; its
        name ends with the server, such as ``"llama3.2:1b@ollama:11434"``. Servers are off
        unless ``RAVENXTERM_SERVERS`` names them (see ``ravenxterm_lab.runtimes.served``).
        """
        return MappingProxyType({**self.available_models, **self._served})

    @property
    def next_step(self) -> str:
        """What to run next: how to come by a model, or where there are some, a first run.

        It follows "No models yet: " or "No executions yet: ", and names lines that can be copied.
        """
        models = self.candidates
        if models:
            return first_run(models.values())
        roots = None if self._well_known else self._roots()
        return first_models(self._bench.paths, roots)

    def __len__(self) -> int:
        return len(self.available_models)

    def __contains__(self, name: object) -> bool:
        return name in self.available_models

    def __getitem__(self, name: str) -> ModelMetadata:
        return self.get(name)

    def get(self, name: str) -> ModelMetadata:
        """Return a model by name.

        Raises
        ------
        UnknownModelError
            If there is none of that name; the message suggests the nearest.
        """
        models = self.candidates
        if name not in models:
            hint = did_you_mean(name, models)
            if not models:
                hint = f" No models yet: {self.next_step}."
            raise UnknownModelError(f"No model is called {name!r}.{hint}")
        return models[name]

    def scan(self, *, progress: bool = False) -> ScanReport:
        """Look at the directories again; files that did not change are not read again.

        Parameters
        ----------
        progress : bool
            Show a progress bar.

        Returns
        -------
        ScanReport
            Added, changed, moved and removed names, what was skipped and why, seconds.
        """
        roots = self._roots()
        if self._models is None and not self._recalled:
            recall(self._bench, self._cache, roots)
            self._recalled = True
        found = discover(self._sources, cache=self._cache, progress=progress)
        done: dict[str, tuple[ModelMetadata, ModelMetadata]] = {}
        for name, model in found.models.items():
            known = self._done.get(name)
            # The very same facts as in the last scan need no other estimate.
            if known is None or known[0] is not model:
                known = (model, self._completed(model))
            done[name] = known
        models = {name: completed for name, (_, completed) in done.items()}
        changes = compare(self._known(roots, models), models)
        report = ScanReport(
            added=changes.added,
            changed=changes.changed,
            removed=changes.removed,
            skipped=tuple(found.skipped),
            roots=tuple(found.roots),
            models=len(models),
            bytes=total_bytes(models.values()),
            seconds=found.seconds,
            moved=changes.moved,
            moved_from={
                name: f"{known.name} ({known.path})" for name, known in changes.moved_from.items()
            },
            read=found.read,
        )
        record_changes(self._bench, changes, models)
        record_read(self._bench, self._cache)
        # Only now: a scan that is interrupted leaves everything as it was.
        self._done = done
        self._models = models
        self._served = self._ask_servers()
        if not models:
            report = dataclasses.replace(report, next_step=self.next_step)
        self.last_scan = report
        self._tell(report)
        return report

    def select_model(
        self, requirements: Mapping[str, Any] | TaskRequirements | None = None
    ) -> ModelMetadata | None:
        """Choose the best model that meets the requirements.

        Parameters
        ----------
        requirements : mapping or TaskRequirements, optional
            Keys: the fields of ``TaskRequirements``.

        Returns
        -------
        ModelMetadata or None
            None comes with a message that names the binding constraint.

        Raises
        ------
        RequirementError
            On an unknown key or a bad value.
        """
        selector = AdaptiveModelSelector(self._current_preferences(), workbench=self._bench)
        ranked = selector.select(
            self.available_models, requirements=requirements, explore=False
        ).ranked
        if ranked:
            return ranked[0].model
        if ranked.rejected:
            # The constraint that most candidates fell to says more than the first one's.
            counts: dict[str, int] = {}
            for item in ranked.rejected:
                counts[item.constraint] = counts.get(item.constraint, 0) + 1
            binding = max(counts, key=lambda key: counts[key])
            example = next(item for item in ranked.rejected if item.constraint == binding)
            self.messages.add(
                "warning",
                "select_model",
                f"No model meets the requirements; {binding} rules out {counts[binding]} of "
                f"{len(ranked.rejected)} (such as {example.model.name}: {example}).",
            )
        return None

    def use_preferences(self, preferences: UserPreferences) -> None:
        """Use these preferences in ``select_model`` from now on; nothing is scanned again."""
        self._preferences = preferences

    def _current_preferences(self) -> UserPreferences:
        if self._preferences is not None:
            return self._preferences
        saved = self._bench.paths.preferences
        return UserPreferences.load(saved) if saved.exists() else UserPreferences.get_defaults()

    def _completed(self, model: ModelMetadata) -> ModelMetadata:
        gaps = {runtime: runtime.gap(model) for runtime in self._bench.runtimes}
        able = [runtime for runtime, gap in gaps.items() if gap is None]
        present = self._bench.hardware.devices
        reason = None
        if not able:
            own = [gap for runtime, gap in gaps.items() if model.model_type in runtime.model_types]
            reason = own[0] if own else next(iter(gaps.values()), "no runtime is installed")
        smallest = min(model.context_length or _SMALLEST_CONTEXT, _SMALLEST_CONTEXT)
        # The formula alone: a fact of the file and the machine, not of what was run so far.
        estimate = Estimator(self._bench.hardware).memory(
            model,
            LoadOptions(context_length=smallest),
            engine=able[0].name if able else None,
        )
        return dataclasses.replace(
            model,
            minimum_ram=estimate.total_bytes,
            runtimes=tuple(runtime.name for runtime in able),
            runtime_gap=reason,
            supports_batching=any(runtime.supports_batching for runtime in able[:1]),
            preferred_hardware=tuple(d for d in able[0].devices() if d in present) if able else (),
        )

    def _ask_servers(self) -> dict[str, ModelMetadata]:
        found: dict[str, ModelMetadata] = {}
        for runtime in self._bench.runtimes:
            if isinstance(runtime, ServerRuntime):
                models, notes = runtime.served()
                found.update((model.name, model) for model in models)
                # Of the usual ports one is enough.
                if notes and not models:
                    self.messages.add("warning", runtime.name, f"{'; '.join(notes)}.")
        return found

    def _known(self, roots: Sequence[Path], models: Mapping[str, ModelMetadata]) -> list[Known]:
        if self._models is None:
            return known_models(self._bench, roots, models)
        return [
            Known(name, str(model.path), model.fingerprint) for name, model in self._models.items()
        ]

    def _roots(self) -> tuple[Path, ...]:
        return tuple(root for source in self._sources for root in source.roots())

    def _none(self) -> str:
        """Say that there are no models, what was met instead, and what to run next."""
        if self._served:
            count = format_number(len(self._served), "model")
            return f"No models on disk; servers have {count}: {self.next_step}."
        skipped = () if self.last_scan is None else self.last_scan.skipped
        met = "; ".join(f"{item.path} {item.reason.rstrip('.')}" for item in skipped[:3])
        return f"No models yet{f' ({met})' if met else ''}: {self.next_step}."

    def _tell(self, report: ScanReport) -> None:
        if not report.models:
            # A directory that was named and cannot be used is worth a warning; a new home is not.
            level = "warning" if report.skipped else "info"
            self.messages.add(level, "registry", self._none())
        elif report.skipped:
            first = report.skipped[0]
            others = len(report.skipped) - 1
            more = ""
            if others:
                more = f", and {format_number(others, 'other')}; see last_scan.skipped"
            text = f"Skipped: {first.path} ({first.reason}){more}"
            self.messages.add("info", "registry", text)

    def _card(self) -> Card:
        models = self.available_models
        if not models:
            return Card("Models", self._none())
        rows = [
            [
                model.name,
                model.model_type.value,
                model.quantization or "unknown",
                format_count(model.parameter_count),
                format_bytes(model.size_bytes),
                ", ".join(task.replace("_", " ") for task in model.task_types) or "unknown",
                "; ".join(model.problems) or ", ".join(model.runtimes) or model.runtime_gap or "",
            ]
            for model in list(models.values())[:50]
        ]
        total = format_bytes(total_bytes(models.values()))
        shown = f"; the first {len(rows)} shown" if len(rows) < len(models) else ""
        header = ["model", "format", "quantization", "parameters", "size", "tasks", "runs on"]
        return Card(f"{len(models)} models", f"{total} on disk{shown}", [Table(header, rows)])

    def __repr__(self) -> str:
        count = "not scanned yet" if self._models is None else f"{len(self._models)} models"
        return f"<ModelRegistry: {count}>"
