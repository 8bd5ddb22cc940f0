"""The models that are in memory: one process-wide pool with a budget for each device.

A load asks for a prediction first and makes room by unloading idle models, never one in
use, on each device that is short. Those go whose loss is expected to cost the least: the seconds
that a load took, times how soon it is likely to be needed again (see `UsePattern`).
"""

from __future__ import annotations

import atexit
import math
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import FailureKind, RuntimeFailureError
from ravenxterm_lab.runtimes.base import LoadOptions
from ravenxterm_lab.runtimes.budgets import RAM, added, shortage
from ravenxterm_lab.runtimes.eviction import Candidate, UsePattern, least_loss
from ravenxterm_lab.runtimes.hours import HoursOfUse, hour_now
from ravenxterm_lab.runtimes.residents import Entry, divide
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.runtimes.base import LoadedModel, Runtime
    from ravenxterm_lab.runtimes.budgets import Bytes
    from ravenxterm_lab.runtimes.eviction import Key
    from ravenxterm_lab.runtimes.reports import LoadReport
    from ravenxterm_lab.runtimes.residents import Resident

    OnLoad = Callable[
        [ModelMetadata, Runtime, LoadOptions, LoadReport | RuntimeFailureError, int | None], None
    ]

__all__ = ["ModelPool"]

#: How often the time to keep idle models is asked for: the person may shorten it.
_LOOK_SECONDS = 5.0
#: Of a device without a budget (bytes): more than any address space.
_UNLIMITED = 1 << 62
#: How long what the budget was counts, where only a resident model is used again.
_BUDGET_SECONDS = 5.0


class ModelPool:
    """Loads models on demand, keeps them warm, and gives their memory back.

    Safe to use from any thread. Loads of different models may go on at the same time.

    Parameters
    ----------
    budget : callable
        Returns the bytes that all loaded models may hold together now, by device (`RAM` and
        names of GPUs); a device that it does not name has no limit.
    estimate : callable
        Predicts the bytes that a load will take by device, from the model and the options; None
        when it cannot, and then the model's size on disk is the least that must fit in `RAM`.
    on_gpus : callable, optional
        Returns what the drivers tell: by process, the bytes that it holds on each GPU.
    keep_alive : callable, optional
        Returns the seconds after which an idle model is unloaded; 0 unloads it at once,
        infinity (the default) never.
    on_load : callable, optional
        Told about each load: model, runtime, options, its `LoadReport` or the failure, and
        the predicted bytes of all devices together. Called without any lock held.
    past : callable, optional
        Returns the uses before this pool, oldest first: runtime, fingerprint (or path) and
        settings of each. Asked once, at the first load, without any lock held.
    hours : callable, optional
        Returns when each was used on earlier days. Asked at the first load of an hour, without
        any lock held.
    hour : callable, optional
        Returns the hours since 1970 began (UTC).
    clock : callable, optional
        Seconds that never go back.
    """

    def __init__(
        self,
        *,
        budget: Callable[[], Bytes],
        estimate: Callable[[ModelMetadata, LoadOptions], Bytes | None],
        on_gpus: Callable[[], Mapping[int, Bytes]] = dict,
        keep_alive: Callable[[], float] = lambda: math.inf,
        on_load: OnLoad | None = None,
        past: Callable[[], Iterable[Key]] = tuple,
        hours: Callable[[], HoursOfUse] = HoursOfUse,
        hour: Callable[[], int] = hour_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget
        self._estimate = estimate
        self._on_gpus = on_gpus
        self._keep_alive = keep_alive
        self._on_load = on_load
        self._clock = clock
        self._changed = threading.Condition()
        self._entries: dict[Key, Entry] = {}
        self._host_budget = 0
        self._asked = -math.inf
        self._past = past
        self._pattern: UsePattern | None = None
        self._ask_hours, self._hour = hours, hour
        self._hours: tuple[int, HoursOfUse] | None = None
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

    def unload_idle(self, older_than: float = 0.0, *, model: ModelMetadata | None = None) -> int:
        """Unload the models that nobody uses.

        Parameters
        ----------
        older_than : float
            Only those idle for at least this long (s).
        model : ModelMetadata, optional
            Only this one, however it was loaded.

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
                and (model is None or key[1] == _identity(model))
            ]
            for key, _ in idle:
                del self._entries[key]
            self._changed.notify_all()
        return sum(entry.loaded.unload() for _, entry in idle if entry.loaded is not None)

    def resident(self) -> tuple[Resident, ...]:
        """Return what is in memory now, least recently used first."""
        with self._changed:
            now, on_gpus = self._clock(), self._on_gpus() if self._entries else {}
            entries = sorted(self._entries.values(), key=lambda entry: entry.last_used)
            shown = (entry.shown(now, on_gpus) for entry in entries)
            return tuple(resident for resident in shown if resident is not None)

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
    ) -> tuple[Entry, bool]:
        key = (runtime.name, _identity(model), options.settings)
        predicted = self._estimate(model, options)
        learned = UsePattern(self._past()) if self._pattern is None else self._pattern
        if key not in self._entries:
            self._look_at_the_clock()
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
                    try:
                        if self._clock() - self._asked > _BUDGET_SECONDS:
                            self._ask_budget()
                        self._divide()
                    except BaseException:
                        entry.in_use -= 1
                        raise
                    return entry, False
                del self._entries[key]
            # What is measured later is the whole process, so its empty state counts too.
            reserved = dict(predicted or {RAM: model.size_bytes})
            reserved[RAM] = reserved.get(RAM, 0) + runtime.overhead_bytes
            entry = Entry(model, runtime.name, options.settings, reserved)
            victims = self._make_room(entry)
            share = self._divide(entry)
            # A worker that takes more than the budget leaves it shall fail, not the machine.
            limit = max(1, reserved[RAM] - runtime.overhead_bytes + share)
            # Last: after an interrupt it would look as if it were loading for ever.
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
                self._divide()
        except BaseException as error:
            with self._changed:
                self._entries.pop(key, None)
                self._changed.notify_all()
                self._divide()
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

    def _look_at_the_clock(self) -> None:
        """Ask when models were used on earlier days, once an hour."""
        hour = self._hour()
        if self._hours is None or self._hours[0] != hour:
            self._hours = hour, self._ask_hours()

    def _leave(self, entry: Entry) -> None:
        dead: list[Entry] = []
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
            self._divide()
        for gone in dead:
            if gone.loaded is not None:
                gone.loaded.unload()

    def _divide(self, coming: Entry | None = None) -> int:
        entries = [*self._entries.values(), *([] if coming is None else [coming])]
        return divide(entries, self._host_budget)

    def _ask_budget(self) -> Bytes:
        budget = self._budget()
        self._host_budget = budget.get(RAM, _UNLIMITED)
        self._asked = self._clock()
        return budget

    def _make_room(self, wanted: Entry) -> list[Entry]:
        """Take idle models out, so many that the wanted one fits on every device; return them."""
        budget, on_gpus = self._ask_budget(), self._on_gpus() if self._entries else {}
        held = {key: entry.held(on_gpus) for key, entry in self._entries.items()}
        idle = [key for key, e in self._entries.items() if e.loaded is not None and not e.in_use]
        taken = added(held.values())
        short = shortage(budget, taken, wanted.reserved)
        free = added(held[key] for key in idle)
        for device, lacking in short.items():
            if free.get(device, 0) < lacking:
                # Fail before anything is unloaded: it would go for nothing.
                raise self._no_room(wanted, device, budget[device], held)
        if not short:
            return []
        hour, hours = self._hours or (0, None)
        expected = self._pattern.expected(hours, hour) if self._pattern is not None else {}
        idle.sort(key=lambda key: self._entries[key].last_used)
        choice = [
            Candidate(key, held[key], expected.get(key, 0.0) * self._entries[key].load_seconds)
            for key in idle
        ]
        return [self._entries.pop(item.key) for item in least_loss(choice, short)]

    def _no_room(
        self, wanted: Entry, device: str, budget: int, held: Mapping[Key, Bytes]
    ) -> RuntimeFailureError:
        holders = [
            f"{entry.model.name} ({entry.settings}): {format_bytes(held[key][device])}, in use"
            for key, entry in self._entries.items()
            if entry.in_use and held[key].get(device)
        ]
        blame = f" Held now by {'; '.join(holders)}." if holders else ""
        on, there = ("", "") if device == RAM else (f" on {device}", " there")
        fewer = "" if device == RAM else "put fewer layers there, "
        return RuntimeFailureError(
            f"{wanted.model.name} ({wanted.settings}) needs "
            f"{format_bytes(wanted.reserved[device])}{on}, and the budget for loaded models{there} "
            f"is {format_bytes(budget)}.{blame} Take a smaller model or a shorter context, {fewer}"
            "wait for the runs to end, or raise max_memory_usage.",
            FailureKind.OUT_OF_MEMORY,
        )

    def _tell(
        self,
        model: ModelMetadata,
        runtime: Runtime,
        options: LoadOptions,
        outcome: LoadReport | RuntimeFailureError,
        predicted: Bytes | None,
    ) -> None:
        if self._on_load is not None:
            total = None if predicted is None else sum(predicted.values())
            self._on_load(model, runtime, options, outcome, total)

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


def _identity(model: ModelMetadata) -> str:
    return model.fingerprint or str(model.path)
