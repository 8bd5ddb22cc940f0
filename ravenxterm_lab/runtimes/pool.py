"""The models that are in memory: one process-wide pool with a budget.

A load asks for a prediction first and makes room by unloading idle models, never one in
use. Those go whose loss is expected to cost the least: the seconds that a load took, times how
soon it is likely to be needed again (see `UsePattern`).
"""

from __future__ import annotations

import atexit
import math
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import FailureKind, RuntimeFailureError
from ravenxterm_lab.runtimes.base import LoadOptions
from ravenxterm_lab.runtimes.eviction import Candidate, UsePattern, least_loss
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.runtimes.base import LoadedModel, LoadReport, MemoryUse, Runtime
    from ravenxterm_lab.runtimes.eviction import Key

    OnLoad = Callable[
        [ModelMetadata, Runtime, LoadOptions, LoadReport | RuntimeFailureError, int | None], None
    ]

__all__ = ["ModelPool", "Resident"]

#: How often the time to keep idle models is asked for: the person may shorten it.
_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory, at one moment.

    Attributes
    ----------
    model : ModelMetadata
        Which.
    runtime : str
        What runs it.
    settings : str
        How it was loaded; see `LoadOptions.settings`.
    memory : MemoryUse
        What its process holds (bytes).
    idle_seconds : float
        Since its last use ended; 0 while it is in use (s).
    in_use : int
        How many hold it now.
    load_seconds : float
        What its load took, and a reload would take (s).
    """

    model: ModelMetadata
    runtime: str
    settings: str
    memory: MemoryUse
    idle_seconds: float
    in_use: int
    load_seconds: float


class _Entry:
    def __init__(self, model: ModelMetadata, runtime: str, settings: str, reserved: int) -> None:
        self.model = model
        self.runtime = runtime
        self.settings = settings
        self.reserved = reserved
        self.loaded: LoadedModel | None = None
        self.in_use = 1
        self.last_used = 0.0

    def held(self) -> int:
        """Bytes to count: what is measured, or what is reserved if that is more.

        A model takes pages as it runs: what it holds after its load is not yet all of it.
        """
        return self.reserved if self.loaded is None else max(self._measured(), self.reserved)

    @property
    def load_seconds(self) -> float:
        """What its load took (s)."""
        return 0.0 if self.loaded is None else self.loaded.report.seconds

    def _measured(self) -> int:
        return 0 if self.loaded is None else self.loaded.memory().total


class ModelPool:
    """Loads models on demand, keeps them warm, and gives their memory back.

    Safe to use from any thread. Loads of different models may go on at the same time.

    Parameters
    ----------
    budget : callable
        Returns the bytes that all loaded models may hold together, now.
    estimate : callable
        Predicts the bytes that a load will take, from the model and the options; None when
        it cannot, and then the model's size on disk is the least that must fit.
    keep_alive : callable, optional
        Returns the seconds after which an idle model is unloaded; 0 unloads it at once,
        infinity (the default) never.
    on_load : callable, optional
        Told about each load: model, runtime, options, its `LoadReport` or the failure, and
        the predicted bytes. Called without any lock held.
    past : callable, optional
        Returns the uses before this pool, oldest first: runtime, fingerprint (or path) and
        settings of each. Asked once, at the first load, without any lock held.
    clock : callable, optional
        Seconds that never go back.
    """

    def __init__(
        self,
        *,
        budget: Callable[[], int],
        estimate: Callable[[ModelMetadata, LoadOptions], int | None],
        keep_alive: Callable[[], float] = lambda: math.inf,
        on_load: OnLoad | None = None,
        past: Callable[[], Iterable[Key]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget
        self._estimate = estimate
        self._keep_alive = keep_alive
        self._on_load = on_load
        self._clock = clock
        self._changed = threading.Condition()
        self._entries: dict[Key, _Entry] = {}
        self._past = past
        self._pattern: UsePattern | None = None
        self._timer: threading.Thread | None = None
        self._closed = False
        atexit.register(self.close)

    @contextmanager
    def acquire(
        self, runtime: Runtime, model: ModelMetadata, options: LoadOptions | None = None
    ) -> Iterator[tuple[LoadedModel, bool]]:
        """Hold a model in memory for the length of a ``with`` block.

        Parameters
        ----------
        runtime : Runtime
            What runs it.
        model : ModelMetadata
            Which; models of one fingerprint are the same one.
        options : LoadOptions, optional
            How to load it; another way of loading is another resident.

        Yields
        ------
        tuple of LoadedModel and bool
            The model, and whether it had to be loaded (a cold start).

        Raises
        ------
        RuntimeFailureError
            If the load fails; ``OUT_OF_MEMORY`` at once, with a list of what holds the
            memory, if it cannot fit even after every idle model has gone.
        RequirementError
            If the options do not suit the model.
        """
        entry, cold = self._enter(runtime, model, runtime.resolve(model, options or LoadOptions()))
        assert entry.loaded is not None
        try:
            yield entry.loaded, cold
        finally:
            self._leave(entry)

    def unload_idle(self, older_than: float = 0.0) -> int:
        """Unload the models that nobody uses.

        Parameters
        ----------
        older_than : float
            Only those idle for at least this long (s).

        Returns
        -------
        int
            Bytes of resident memory that came back.
        """
        with self._changed:
            now = self._clock()
            idle = [
                (key, entry)
                for key, entry in self._entries.items()
                if entry.loaded is not None
                and not entry.in_use
                and now - entry.last_used >= older_than
            ]
            for key, _ in idle:
                del self._entries[key]
            self._changed.notify_all()
        return sum(entry.loaded.unload() for _, entry in idle if entry.loaded is not None)

    def resident(self) -> tuple[Resident, ...]:
        """Return what is in memory now, least recently used first."""
        with self._changed:
            now = self._clock()
            entries = sorted(
                (entry for entry in self._entries.values() if entry.loaded is not None),
                key=lambda entry: entry.last_used,
            )
            return tuple(
                Resident(
                    entry.model,
                    entry.runtime,
                    entry.settings,
                    entry.loaded.memory(),
                    0.0 if entry.in_use else max(0.0, now - entry.last_used),
                    entry.in_use,
                    entry.loaded.report.seconds,
                )
                for entry in entries
                if entry.loaded is not None
            )

    def close(self) -> None:
        """Unload everything, models in use too, and refuse further loads. Safe to call twice."""
        with self._changed:
            self._closed = True
            entries = list(self._entries.values())
            self._entries.clear()
            self._changed.notify_all()
        for entry in entries:
            if entry.loaded is not None:
                entry.loaded.unload()
        atexit.unregister(self.close)

    def _enter(
        self, runtime: Runtime, model: ModelMetadata, options: LoadOptions
    ) -> tuple[_Entry, bool]:
        key = (runtime.name, model.fingerprint or str(model.path), options.settings)
        predicted = self._estimate(model, options)
        learned = UsePattern(self._past()) if self._pattern is None else self._pattern
        with self._changed:
            # Another thread may have come first, and its uses count.
            self._pattern = self._pattern or learned
            self._pattern.use(key)
            while (entry := self._entries.get(key)) is not None and entry.loaded is None:
                self._changed.wait()  # another thread loads it right now
            self._refuse_if_closed(model)
            if entry is not None and entry.loaded is not None:
                if entry.loaded.alive:
                    entry.in_use += 1
                    return entry, False
                del self._entries[key]
            # What is measured later is the whole process, so its empty state counts too.
            reserved = runtime.overhead_bytes + (predicted or model.size_bytes)
            entry = _Entry(model, runtime.name, options.settings, reserved)
            victims, room = self._make_room(entry)
            # A worker that takes more than the budget leaves it shall fail, not the machine.
            limit = max(1, room - runtime.overhead_bytes)
            self._entries[key] = entry
        loaded: LoadedModel | None = None
        try:
            # Their memory must be back before the new model takes it.
            for victim in victims:
                if victim.loaded is not None:
                    victim.loaded.unload()
            loaded = runtime.load(model, replace(options, memory_limit=limit))
            # Within the `try`: an interrupt in the wait for the lock must not leave an entry
            # that looks as if it were loading for ever.
            with self._changed:
                closed = self._closed
                entry.loaded = loaded
                self._changed.notify_all()
                self._start_timer()
        except BaseException as error:
            with self._changed:
                self._entries.pop(key, None)
                self._changed.notify_all()
            if loaded is not None:
                loaded.unload()
            if isinstance(error, RuntimeFailureError):
                self._tell(model, runtime, options, error, predicted)
            raise
        if closed:
            loaded.unload()
            self._refuse_if_closed(model)
        try:
            self._tell(model, runtime, options, loaded.report, predicted)
        except BaseException:
            self._leave(entry)
            raise
        return entry, True

    def _leave(self, entry: _Entry) -> None:
        dead: list[_Entry] = []
        with self._changed:
            entry.in_use -= 1
            entry.last_used = self._clock()
            loaded = entry.loaded
            unwanted = loaded is not None and (not loaded.alive or self._keep_alive() <= 0)
            if unwanted and not entry.in_use:
                for key in [k for k, other in self._entries.items() if other is entry]:
                    del self._entries[key]
                dead.append(entry)
            self._changed.notify_all()
        for gone in dead:
            if gone.loaded is not None:
                gone.loaded.unload()

    def _make_room(self, wanted: _Entry) -> tuple[list[_Entry], int]:
        """Take idle models out, and return them with the bytes that the wanted one may take."""
        budget = self._budget()
        held = {key: entry.held() for key, entry in self._entries.items()}
        idle = [key for key, e in self._entries.items() if e.loaded is not None and not e.in_use]
        room = budget - sum(held.values())
        if room + sum(held[key] for key in idle) < wanted.reserved:
            # Fail before anything is unloaded: it would go for nothing.
            raise self._no_room(wanted, budget, held)
        if room >= wanted.reserved:
            return [], room
        expected = self._pattern.expected() if self._pattern is not None else {}
        idle.sort(key=lambda key: self._entries[key].last_used)
        choice = [
            Candidate(key, held[key], expected.get(key, 0.0) * self._entries[key].load_seconds)
            for key in idle
        ]
        going = least_loss(choice, wanted.reserved - room)
        victims = [self._entries.pop(item.key) for item in going]
        return victims, room + sum(item.bytes for item in going)

    def _no_room(self, wanted: _Entry, budget: int, held: dict[Key, int]) -> RuntimeFailureError:
        holders = [
            f"{entry.model.name} ({entry.settings}): {format_bytes(held[key])}, in use"
            for key, entry in self._entries.items()
            if entry.in_use
        ]
        blame = f" Held now by {'; '.join(holders)}." if holders else ""
        return RuntimeFailureError(
            f"{wanted.model.name} ({wanted.settings}) needs {format_bytes(wanted.reserved)}, and "
            f"the budget for loaded models is {format_bytes(budget)}.{blame} Take a smaller model "
            "or a shorter context, wait for the runs to end, or raise max_memory_usage.",
            FailureKind.OUT_OF_MEMORY,
        )

    def _tell(
        self,
        model: ModelMetadata,
        runtime: Runtime,
        options: LoadOptions,
        outcome: LoadReport | RuntimeFailureError,
        predicted: int | None,
    ) -> None:
        if self._on_load is not None:
            self._on_load(model, runtime, options, outcome, predicted)

    def _refuse_if_closed(self, model: ModelMetadata) -> None:
        if self._closed:
            raise RuntimeFailureError(
                f"{model.name} cannot be loaded: the pool of loaded models is closed.",
                FailureKind.RUNTIME_ERROR,
            )

    def _start_timer(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = threading.Thread(target=self._watch, name="model-pool", daemon=True)
            self._timer.start()

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._closed or not self._entries:
                    self._timer = None
                    return
                wait = self._next_expiry()
                if wait > 0:
                    self._changed.wait(min(wait, threading.TIMEOUT_MAX))
                    continue
            self.unload_idle(self._keep_alive())

    def _next_expiry(self) -> float:
        alive = self._keep_alive()
        idle = [e for e in self._entries.values() if e.loaded is not None and not e.in_use]
        if not idle:
            return _LOOK_SECONDS
        oldest = min(entry.last_used for entry in idle)
        return min(_LOOK_SECONDS, alive - (self._clock() - oldest))
