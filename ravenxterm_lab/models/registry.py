"""The registry: every model that was found, what can run it here, and a choice among them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.discovery import ScanCache, discover, sources_for
from ravenxterm_lab.estimation import estimate_memory
from ravenxterm_lab.exceptions import StoreError, UnknownModelError, did_you_mean
from ravenxterm_lab.models.selector import AdaptiveModelSelector
from ravenxterm_lab.models.workbench import Workbench
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from ravenxterm_lab.discovery import Skipped
    from ravenxterm_lab.hardware import HardwareProfile
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.messages import MessageLog
    from ravenxterm_lab.requirements import TaskRequirements

__all__ = ["ModelRegistry", "ScanReport"]

#: The smallest context that a text model is of use with; ``minimum_ram`` holds for it.
_SMALLEST_CONTEXT = 512


@dataclass(frozen=True, slots=True)
class ScanReport(Displayed):
    """What a scan found.

    Attributes
    ----------
    added, changed, removed : tuple of str
        Names, against the scan before (or the catalogue in the store for the first one).
    skipped : tuple of Skipped
        Files and directories that are not listed, each with the reason.
    roots : tuple of Path
        Where it looked.
    models, bytes : int
        All that is known now; each byte counted once.
    seconds : float
        How long it took.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    roots: tuple[Any, ...]
    models: int
    bytes: int
    seconds: float

    def _card(self) -> Card:
        title = (
            f"{self.models} models, {format_bytes(self.bytes)}, in {format_seconds(self.seconds)}"
        )
        where = ", ".join(str(root) for root in self.roots) or "nowhere: no directory exists"
        tables = [
            Table([f"{kind} ({len(names)})"], [[name] for name in names[:20]])
            for kind, names in (
                ("added", self.added),
                ("changed", self.changed),
                ("removed", self.removed),
            )
            if names
        ]
        if self.skipped:
            rows = [[str(item.path), item.reason] for item in self.skipped[:20]]
            tables.append(Table([f"skipped ({len(self.skipped)})", "why"], rows))
        return Card(title, f"Looked in {where}", tables)


class ModelRegistry(Displayed):
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
        self._cache = ScanCache()
        self._models: dict[str, ModelMetadata] | None = None
        self._preferences = preferences
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
        models = self.available_models
        if name not in models:
            hint = did_you_mean(name, models) or " The registry is empty."
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
            Added, changed and removed names, what was skipped and why, seconds.
        """
        found = discover(self._sources, cache=self._cache, progress=progress)
        models = {name: self._completed(found.models[name]) for name in sorted(found.models)}
        before = self._known_fingerprints()
        now = {name: model.fingerprint for name, model in models.items()}
        report = ScanReport(
            added=tuple(name for name in now if name not in before),
            changed=tuple(name for name in now if name in before and before[name] != now[name]),
            removed=tuple(name for name in before if name not in now),
            skipped=tuple(found.skipped),
            roots=tuple(found.roots),
            models=len(models),
            bytes=sum(model.size_bytes for model in models.values()),
            seconds=found.seconds,
        )
        self._record(report, models, before)
        self._models = models
        self.last_scan = report
        if not models:
            where = ", ".join(str(item.path) for item in found.skipped[:5])
            self.messages.add(
                "warning",
                "registry",
                "No models were found"
                + (f" ({where}: {found.skipped[0].reason})" if found.skipped else "")
                + ". Give models_dir, put models into "
                f"{self._bench.paths.models}, or run `raven-lab demo` for a small real set.",
            )
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
        estimate = estimate_memory(
            model,
            engine=able[0].name if able else None,
            context_length=smallest,
            instruction_sets=self._bench.hardware.instruction_sets,
        )
        return dataclasses.replace(
            model,
            minimum_ram=estimate.total_bytes,
            runtimes=tuple(runtime.name for runtime in able),
            runtime_gap=reason,
            supports_batching=any(runtime.supports_batching for runtime in able[:1]),
            preferred_hardware=tuple(d for d in able[0].devices() if d in present) if able else (),
        )

    def _known_fingerprints(self) -> dict[str, str]:
        if self._models is not None:
            return {name: model.fingerprint for name, model in self._models.items()}
        roots = tuple(str(root) for source in self._sources for root in source.roots())
        try:
            rows = self._bench.store.sql("SELECT name, fingerprint, path FROM catalogue").fetchall()
        except StoreError as error:
            self.messages.add("warning", "store", f"The catalogue cannot be read: {error}")
            return {}
        # Another registry may have looked elsewhere; its models are not removed by this scan.
        return {
            name: fingerprint
            for name, fingerprint, path in rows
            if roots and path and path.startswith(roots)
        }

    def _record(
        self, report: ScanReport, models: Mapping[str, ModelMetadata], before: Mapping[str, str]
    ) -> None:
        for event, names in (("added", report.added), ("changed", report.changed)):
            for name in names:
                model = models[name]
                self._bench.record(
                    "models",
                    event=event,
                    fingerprint=model.fingerprint,
                    name=name,
                    model_type=model.model_type.value,
                    path=str(model.path),
                    size_bytes=model.size_bytes,
                    quantization=model.quantization,
                    architecture=model.architecture,
                    parameter_count=model.parameter_count,
                    context_length=model.context_length,
                    task_types=list(model.task_types),
                    license=model.license,
                    source=model.source,
                )
        for name in report.removed:
            self._bench.record("models", event="removed", name=name, fingerprint=before[name])

    def _card(self) -> Card:
        models = self.available_models
        if not models:
            return Card("No models yet", self.messages[-1].text if self.messages else "")
        rows = [
            [
                model.name,
                model.model_type.value,
                model.quantization or "unknown",
                format_count(model.parameter_count),
                format_bytes(model.size_bytes),
                ", ".join(model.task_types) or "unknown",
                "; ".join(model.problems) or ", ".join(model.runtimes) or model.runtime_gap or "",
            ]
            for model in list(models.values())[:50]
        ]
        total = format_bytes(sum(model.size_bytes for model in models.values()))
        shown = f"; the first {len(rows)} shown" if len(rows) < len(models) else ""
        header = ["model", "format", "quantization", "parameters", "size", "tasks", "runs on"]
        return Card(f"{len(models)} models", f"{total} on disk{shown}", [Table(header, rows)])

    def __repr__(self) -> str:
        count = "not scanned yet" if self._models is None else f"{len(self._models)} models"
        return f"<ModelRegistry: {count}>"
