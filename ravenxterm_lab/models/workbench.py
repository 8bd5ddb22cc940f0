"""What registry, selector and manager share in one process: store, hardware, runtimes, pool."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from ravenxterm_lab.config import Paths, paths
from ravenxterm_lab.estimation import Estimator, HistoryReader
from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models.budgeting import bytes_on_gpus, device_budgets
from ravenxterm_lab.models.failing import LoadFailures
from ravenxterm_lab.models.lately import Lately
from ravenxterm_lab.models.learning import Learning
from ravenxterm_lab.models.loading import (
    BeforeLoad,
    estimate_load,
    hours_of_use,
    past_uses,
    record_load,
)
from ravenxterm_lab.models.messages import MessageLog
from ravenxterm_lab.models.monitoring import Monitoring
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.runtimes import ModelPool, Runtime, discover_runtimes
from ravenxterm_lab.runtimes.budgets import RAM
from ravenxterm_lab.selection import Machine
from ravenxterm_lab.store import ExecutionId, Store

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Workbench"]

#: Tables that the estimator learns from, beside the executions.
_LEARNED_FROM = frozenset({"loads", "predictions"})


class Workbench:
    """The shared tools of one ``RAVENXTERM_HOME`` in this process.

    Nothing is read, measured or written before it is needed.

    Parameters
    ----------
    home : path, optional
        Overrides ``RAVENXTERM_HOME``.
    hardware : HardwareProfile, optional
        Instead of detecting it.
    runtimes : sequence of Runtime, optional
        Instead of those that are installed.
    """

    #: Ends what is said of the history, where it is not that of this machine.
    origin: ClassVar[str] = ""
    _shared: ClassVar[dict[Path, Workbench]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        *,
        hardware: HardwareProfile | None = None,
        runtimes: Sequence[Runtime] | None = None,
    ) -> None:
        self.paths: Paths = paths(home)
        self.store = Store(self.paths.store)
        self.messages = MessageLog(self.store)
        #: In force in this process: the pool's budget and keep-alive follow them.
        self.preferences = UserPreferences.get_defaults()
        #: Which tasks executions were chosen for in this process, and when.
        self.lately = Lately()
        #: What was known of each load that is under way, by model key and settings.
        self.before_load: dict[tuple[str, str], BeforeLoad] = {}
        if hardware is not None:
            self.hardware = hardware
        if runtimes is not None:
            self.runtimes = tuple(runtimes)

    @classmethod
    def shared(cls, home: str | os.PathLike[str] | None = None) -> Workbench:
        """Return the one workbench of this home in this process."""
        root = paths(home).home
        with cls._lock:
            if root not in cls._shared:
                cls._shared[root] = cls(root)
            return cls._shared[root]

    @cached_property
    def hardware(self) -> HardwareProfile:
        """The hardware, detected once; its bandwidth is cached below the home."""
        return HardwareProfile.detect(cache_dir=self.paths.cache)

    @cached_property
    def monitoring(self) -> Monitoring:
        """Samples of the loads, energy counters, and the monitor of this process."""
        return Monitoring(self)

    @cached_property
    def runtimes(self) -> tuple[Runtime, ...]:
        """The installed runtimes; one that cannot be imported becomes a message."""
        found, notes = discover_runtimes()
        for note in notes:
            self.messages.add("warning", note.name, f"Runtime {note.name}: {note.reason}.")
        return found

    def runtime(self, name: str) -> Runtime:
        """Return an installed runtime by its name."""
        return next(runtime for runtime in self.runtimes if runtime.name == name)

    @cached_property
    def load_failures(self) -> LoadFailures:
        """Which loads failed here lately."""
        return LoadFailures(self)

    @cached_property
    def history(self) -> HistoryReader:
        """What became of earlier estimates, read from the store when something changed."""

        def tell(error: StoreError) -> None:
            text = f"Estimated from formulas alone, history cannot be read: {error}"
            self.messages.add("warning", "store", text)

        return HistoryReader(self.store, now=self.now, on_error=tell)

    @cached_property
    def learning(self) -> Learning:
        """What selection learns from: every execution, and the changes that they show."""
        return Learning(self)

    @cached_property
    def estimator(self) -> Estimator:
        """The one estimator of this machine; it knows what was measured here."""
        here = self.hardware.fingerprint
        return Estimator(self.hardware, lambda: self.history.read(here))

    @cached_property
    def pool(self) -> ModelPool:
        """The models that are loaded in this process, within one budget."""
        return ModelPool(
            budget=partial(device_budgets, self),
            estimate=partial(estimate_load, self),
            on_gpus=partial(bytes_on_gpus, self),
            keep_alive=lambda: self.preferences.keep_alive_seconds,
            on_load=partial(record_load, self),
            past=partial(past_uses, self),
            hours=partial(hours_of_use, self),
        )

    def resident(self) -> tuple[frozenset[str], int]:
        """Return the names of the loaded models, and the bytes that unloading idle ones frees."""
        loaded = self.pool.resident()
        idle = sum(item.memory.anonymous_bytes for item in loaded if not item.in_use)
        return frozenset(item.model.name for item in loaded), idle

    def load_budget(self) -> int:
        """Return the bytes of host memory that all loaded models may hold together, now."""
        return device_budgets(self)[RAM]

    def machine(self, preferences: UserPreferences, *, reclaimable: int = 0) -> Machine:
        """Return what the constraint filter needs to know of the hardware now.

        Parameters
        ----------
        preferences : UserPreferences
            For the order of the devices and the share of the memory.
        reclaimable : int
            Bytes of idle models that could be unloaded.
        """
        profile = self.hardware.refreshed()
        present = profile.devices
        return Machine(
            devices=tuple(d for d in preferences.preferred_devices if d in present),
            total=profile.total_memory,
            available=profile.available_memory + reclaimable,
            budget=int(profile.total_memory * preferences.max_memory_usage),
            present=present,
            preferred=tuple(preferences.preferred_devices),
        )

    def record(self, table: str, **fields: Any) -> ExecutionId | None:
        """Record an event; a store that fails becomes a message, and the work goes on.

        Parameters
        ----------
        table : str
            As ``Store.record`` takes it.
        **fields
            Values by column.
        """
        try:
            recorded = self.store.record(table, **fields)
        except StoreError as error:
            self.messages.add("warning", "store", f"Not recorded: {error}")
            return None
        if table in _LEARNED_FROM:
            self.history.forget()
        return recorded

    def record_execution(self, *, metrics: Mapping[str, Any], **context: Any) -> ExecutionId | None:
        """Record an execution; a store that fails becomes a message, and the work goes on.

        Parameters
        ----------
        metrics : mapping
            As ``Store.record_execution`` takes them.
        **context
            Its other arguments: model, fingerprint, task, and so on.

        Raises
        ------
        MetricError
            If a metric has a bad value.
        """
        try:
            recorded = self.store.record_execution(metrics=metrics, **context)
        except StoreError as error:
            self.messages.add("warning", "store", f"Not recorded: {error}")
            return None
        self.history.forget()
        return recorded

    def now(self) -> str:
        """Return the moment as ISO 8601 in UTC, as SQL casts it to a TIMESTAMP."""
        return datetime.now(UTC).replace(tzinfo=None).isoformat(sep=" ")
