"""The recorder: one process's thread-safe, fork-safe way into its segments."""

from __future__ import annotations

import secrets
import threading
import time
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store.forking import watch_forks
from ravenxterm_lab.store.schema import ExecutionId
from ravenxterm_lab.store.segments import SegmentWriter, sync_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Recorder"]


def _wake_nobody() -> None:
    pass


class Recorder:
    """Appends events to the current segment and starts the next one when it is full.

    Any thread may call any method. After ``os.fork()`` the child goes on with a session
    and a segment of its own.

    Parameters
    ----------
    spool : Path
        Where segments go; created at the first event.
    clock : callable
        Nanoseconds since 1970 (UTC).
    on_segment : callable
        Called when a segment was begun, with this recorder's lock held.
    """

    def __init__(
        self, spool: Path, clock: Callable[[], int], on_segment: Callable[[], None]
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._on_segment = on_segment
        self._segment: SegmentWriter | None = None
        self._closed = False
        self._begin_session()
        watch_forks(self)

    def _begin_session(self) -> None:
        self._lock = threading.RLock()
        self._busy = False
        self._nested: Recorder | None = None
        self._next_seq = 1
        self._synced = 0
        self.session = f"{time.time_ns() // 1_000_000:x}{secrets.token_hex(4)}"

    def append(
        self,
        kind: int,
        flags: int,
        latency: float,
        throughput: float,
        memory_efficiency: float,
        context: tuple[object, ...] | None,
        payload: bytes | None,
    ) -> ExecutionId:
        """Write one event; it is safe from the death of the process when this returns.

        Raises
        ------
        StoreError
            If it cannot be written, or the recorder is closed; nothing was written.
        """
        with self._lock:
            if self._busy:
                return self._append_nested(
                    kind, flags, latency, throughput, memory_efficiency, context, payload
                )
            self._busy = True
            try:
                segment = self._segment
                if segment is None or (segment.count >= segment.limit and not segment.extend()):
                    segment = self._roll()
                return ExecutionId(
                    self.session,
                    segment.append(
                        self._clock(),
                        kind,
                        flags,
                        latency,
                        throughput,
                        memory_efficiency,
                        context,
                        payload,
                    ),
                )
            finally:
                self._busy = False

    def _append_nested(
        self,
        kind: int,
        flags: int,
        latency: float,
        throughput: float,
        memory_efficiency: float,
        context: tuple[object, ...] | None,
        payload: bytes | None,
    ) -> ExecutionId:
        # A signal handler or a finalizer records while this very thread is within an
        # append: a session of its own keeps it clear of the half-written slot.
        nested = self._nested
        if nested is None:
            # It wakes nobody: what it interrupted may be the waking, with that lock held.
            nested = self._nested = Recorder(self._spool, self._clock, _wake_nobody)
        return nested.append(kind, flags, latency, throughput, memory_efficiency, context, payload)

    def _roll(self) -> SegmentWriter:
        if self._closed:
            raise StoreError(
                f"The store at {self._spool.parent} is closed; open a new Store to record more."
            )
        if self._segment is not None:
            self._next_seq = self._segment.first_seq + self._segment.count
            self._segment.seal()
            self._segment = None
        segment = SegmentWriter(self._spool, self.session, self._next_seq, self._clock())
        segment.extend()
        self._segment = segment
        self._on_segment()
        return segment

    @property
    def recorded(self) -> int:
        """Events recorded in this session so far, those of nested sessions left out."""
        segment = self._segment
        if segment is None:
            return self._next_seq - 1
        return segment.first_seq + segment.count - 1

    def sync(self) -> None:
        """Bring to the disk what was recorded since the last call, without blocking append."""
        with self._lock:
            recorded, segment = self.recorded, self._segment
            if segment is None or recorded == self._synced:
                return
            files = segment.files()
            self._synced = recorded
        for path in files:
            sync_file(path)
        if self._nested is not None:
            self._nested.sync()

    def drop_lost_segment(self) -> bool:
        """Let go of a segment that was deleted under us; say whether there was one."""
        with self._lock:
            if self._busy or self._segment is None or not self._segment.lost():
                return False
            self._next_seq = self._segment.first_seq + self._segment.count
            self._segment.abandon()
            self._segment = None
            return True

    def close(self) -> None:
        """Seal the segment. Idempotent; a later append is an error."""
        with self._lock:
            self._closed = True
            if self._nested is not None:
                self._nested.close()
            if self._segment is not None:
                self.sync()
                self._next_seq = self._segment.first_seq + self._segment.count
                self._segment.seal()
                self._segment = None

    def before_fork(self) -> None:
        """Wait until no append is half done."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on with the same segment."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin a session; the parent's segment is only let go of."""
        if self._segment is not None:
            self._segment.abandon()
            self._segment = None
        self._begin_session()
