"""The daemon thread of a recording process: it syncs, ingests, and ends with the process."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import RavenXTermError, StoreVersionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ravenxterm_lab.store.ingest import Ingester
    from ravenxterm_lab.store.recorder import Recorder

__all__ = ["Daemon", "IngestThread"]

#: Events of this process after which it ingests before its time; queries decode what waits.
_MANY = 25_000

#: Events of this process below which a pass can wait longer, and how many times as long. A pass
#: costs tens of milliseconds of CPU however little it moves, which is most of what a monitor of
#: the hardware at 1 Hz costs (``tests/benchmarks/bench_monitor.py``).
_FEW, _PATIENCE = 100, 4

#: Events of a pass below which there is time for a compaction.
_QUIET = 1000


class IngestThread(threading.Thread):
    """The daemon of one process: brings segments to the disk and ingests now and then.

    It holds no reference to its store, never prints, and waits for nothing that `stop`
    does not end.
    """

    def __init__(
        self,
        ingester: Ingester,
        recorder: Recorder,
        interval: float,
        note: Callable[[str], None],
    ) -> None:
        super().__init__(name="ravenxterm-store", daemon=True)
        self._ingester = ingester
        self._recorder = recorder
        self._interval = interval
        self._note = note
        self._wake = threading.Event()
        self._stopped = threading.Event()

    def wake(self) -> None:
        """Look at once whether enough waits."""
        self._wake.set()

    def stop(self, patience: float) -> None:
        """End the thread; wait for at most ``patience`` seconds until it has."""
        self._stopped.set()
        self._wake.set()
        if threading.current_thread() is not self and self.is_alive():
            self.join(patience)

    def run(self) -> None:
        """Sync each second; ingest when enough time has passed or enough waits."""
        synced = last = time.monotonic()
        ingested = 0
        # Many short-lived processes leave a segment each, and none lives to ingest.
        due = self._ingester.crowded()
        while not self._stopped.is_set():
            self._wake.wait(0 if due else min(1.0, self._interval))
            self._wake.clear()
            if self._stopped.is_set():
                return
            try:
                now = time.monotonic()
                if now - synced >= 1.0:
                    synced = now
                    self._look_after_segment()
                waiting = self._recorder.recorded - ingested
                interval = self._interval * (_PATIENCE if waiting < _FEW else 1)
                if due or now - last >= interval or waiting >= _MANY:
                    ingested = self._recorder.recorded
                    self._ingest()
                    last, due = time.monotonic(), False
            except StoreVersionError as error:
                self._note(str(error))
                return
            except (RavenXTermError, OSError) as error:
                self._note(str(error))
                last, due = time.monotonic(), False
            except Exception as error:  # noqa: BLE001 - a daemon must not print; it is noted
                if not threading.main_thread().is_alive():
                    # The interpreter is ending, and refuses what DuckDB or Arrow ask of it.
                    return
                self._note(f"The ingest failed ({type(error).__name__}: {error}); it goes on.")
                last, due = time.monotonic(), False

    def _look_after_segment(self) -> None:
        if self._recorder.drop_lost_segment():
            self._note(
                "The segment of this process was deleted while it was in use; what it still "
                "held is lost, and recording goes on in a new one."
            )
        self._recorder.sync()

    def _ingest(self) -> None:
        while not self._stopped.is_set():
            done = self._ingester.run_pass(stop=self._stopped.is_set)
            if done is None or not done.more:
                if done is not None and done.rows < _QUIET:
                    self._ingester.compact_if_due(self._give_up)
                return

    def _give_up(self) -> bool:
        """Go on with the other duties amid long work; say whether it has to end."""
        self._look_after_segment()
        return self._stopped.is_set()


class Daemon:
    """Starts the thread of a process when there is something to do, again in each child.

    Parameters
    ----------
    ingester : Ingester
        What the thread runs.
    interval : float
        Seconds between passes.
    note : callable
        Receives a sentence for each problem met.
    enabled : bool
        Whether there is to be a thread at all.
    """

    def __init__(
        self,
        ingester: Ingester,
        interval: float,
        note: Callable[[str], None],
        *,
        enabled: bool,
    ) -> None:
        self._ingester = ingester
        self._interval = interval
        self._note = note
        self._enabled = enabled
        self._thread: IngestThread | None = None
        self.recorder: Recorder | None = None

    def poke(self) -> None:
        """Start the thread, or wake it: a segment was begun."""
        if not self._enabled or self.recorder is None:
            return
        # A thread does not survive a fork; in the child this one is not alive.
        if self._thread is not None and self._thread.is_alive():
            self._thread.wake()
            return
        thread = IngestThread(self._ingester, self.recorder, self._interval, self._note)
        # A process that is about to exit starts no threads; another one will ingest.
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def rest(self) -> None:
        """End the thread until `poke` starts the next; a pass in progress may finish first."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop(patience=10.0)

    def stop(self) -> None:
        """End the thread for good."""
        self._enabled = False
        self.rest()
