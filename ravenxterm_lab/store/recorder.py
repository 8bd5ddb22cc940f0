"""The recorder: one process's thread-safe, fork-safe way into its segments.

Whoever appends takes the segment off a list and puts it back afterwards, which Python does
atomically. Whoever finds the list empty, because another thread or the code that it
interrupted (a signal handler, a finalizer) is within an append, writes to a session and a
segment of its own. So no append waits for another; only when more threads than there may
be segments append at once do they take turns.
"""

from __future__ import annotations

import contextlib
import secrets
import time
import zlib
from typing import TYPE_CHECKING, cast

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store.forking import watch_forks
from ravenxterm_lab.store.schema import ExecutionId
from ravenxterm_lab.store.segments import (
    BODY,
    BODY_SIZE,
    HEADER_SIZE,
    NO_CONTEXT,
    SLOT_SIZE,
    SegmentWriter,
    sync_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Recorder"]

_pack = BODY.pack
_checksum = zlib.adler32
# NamedTuple's own constructor takes twice as long; one is made for each event.
_new_id = tuple.__new__
#: Words of 32 bits from the begin of the file to the checksum of the first slot, and from
#: one to the next.
_FIRST_CHECKSUM = (HEADER_SIZE + BODY_SIZE) // 4
_CHECKSUM_STEP = SLOT_SIZE // 4
#: How long a call waits for the segment that another thread is appending to (s).
_PATIENCE = 1.0
#: Segments of one process at a time; more threads than that take turns.
_MOST = 8


def _wake_nobody() -> None:
    pass


class _NoSegment:
    """Stands where a segment will be: full from the start."""

    count = limit = 0

    def settle(self) -> None:
        pass


_NO_SEGMENT = cast("SegmentWriter", _NoSegment())


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
        Called when a segment was begun.
    beside : int
        How many recorders of this process there are already.
    """

    def __init__(
        self,
        spool: Path,
        clock: Callable[[], int],
        on_segment: Callable[[], None],
        beside: int = 0,
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._on_segment = on_segment
        self._closed = False
        self._number = beside + 1
        self._begin_session()
        watch_forks(self)

    def _begin_session(self) -> None:
        self._segment: SegmentWriter | None = None
        # The one segment, or nothing while somebody is appending to it.
        self._free = [_NO_SEGMENT]
        self._beside: list[Recorder] = []
        self._next_seq = 1
        self._synced = 0
        self.session = f"{time.time_ns() // 1_000_000:x}{secrets.token_hex(4)}"

    def append(
        self,
        mark: int,
        latency: float,
        throughput: float,
        memory_efficiency: float,
        context: tuple[object, ...] | None,
        payload: bytes | None,
    ) -> ExecutionId:
        """Write one event; it is safe from the death of the process when this returns.

        Parameters
        ----------
        mark : int
            The kind of the event, and its flags from bit 8 on.
        latency, throughput, memory_efficiency : float
            In the units of the table ``executions``; NaN stands for "not measured".
        context : tuple or None
            Fields that repeat, and the names of the numbers in the payload.
        payload : bytes or None
            Everything else.

        Raises
        ------
        MetricError
            If the context cannot be written as it is.
        StoreError
            If the event cannot be written, or the recorder is closed; nothing was written.
        """
        try:
            segment = self._free.pop()
        except IndexError:
            return self._append_beside(
                mark, latency, throughput, memory_efficiency, context, payload
            )
        try:
            if segment.count >= segment.limit:
                segment = self._advance(segment)
            if context is None:
                entry = NO_CONTEXT
            else:
                try:
                    entry = segment.contexts[context]
                except (KeyError, TypeError):
                    entry = segment.intern(context)
            count = segment.count
            seq = segment.first_seq + count
            if payload is None:
                body = _pack(
                    seq, self._clock(), latency, throughput, memory_efficiency, 0, 0, entry, mark
                )
                checksum = _checksum(body)
            else:
                body = _pack(
                    seq,
                    self._clock(),
                    latency,
                    throughput,
                    memory_efficiency,
                    segment.put(payload),
                    len(payload),
                    entry,
                    mark,
                )
                checksum = _checksum(payload, _checksum(body))
            place = HEADER_SIZE + count * SLOT_SIZE
            segment.map[place : place + BODY_SIZE] = body
            segment.words[_FIRST_CHECKSUM + count * _CHECKSUM_STEP] = checksum
            segment.count = count + 1
        except BaseException:
            # What failed may have changed the segment, and a signal handler may have raised
            # between the two last lines.
            segment = self._segment or _NO_SEGMENT
            segment.settle()
            self._free.append(segment)
            raise
        self._free.append(segment)
        return _new_id(ExecutionId, (self.session, seq))

    def _append_beside(
        self,
        mark: int,
        latency: float,
        throughput: float,
        memory_efficiency: float,
        context: tuple[object, ...] | None,
        payload: bytes | None,
    ) -> ExecutionId:
        if self._number >= _MOST:
            # Each segment takes some MiB of the disk. Who interrupted an append waits in vain,
            # and then goes on beside it.
            taken = self._take(_PATIENCE)
            if taken is not None:
                self._free.append(taken)
                return self.append(mark, latency, throughput, memory_efficiency, context, payload)
        # It wakes nobody: what it interrupted may be the waking, with that lock held.
        if not self._beside:
            self._beside.append(Recorder(self._spool, self._clock, _wake_nobody, self._number))
        beside = self._beside[0]
        if self._closed:
            beside.close()
        return beside.append(mark, latency, throughput, memory_efficiency, context, payload)

    def _advance(self, segment: SegmentWriter) -> SegmentWriter:
        if segment is not _NO_SEGMENT:
            if segment.extend():
                return segment
            self._let_go(segment, segment.seal)
        if self._closed:
            raise StoreError(
                f"The store at {self._spool.parent} is closed; open a new Store to record more."
            )
        segment = SegmentWriter(self._spool, self.session, self._next_seq, self._clock())
        self._segment = segment
        segment.extend()
        self._on_segment()
        return segment

    def _let_go(self, segment: SegmentWriter, how: Callable[[], None]) -> None:
        self._next_seq = segment.first_seq + segment.count
        self._segment = None
        how()

    def _take(self, patience: float) -> SegmentWriter | None:
        """Take the segment as an append does; None if others keep it."""
        deadline = time.monotonic() + patience
        while True:
            try:
                return self._free.pop()
            except IndexError:
                if time.monotonic() >= deadline:
                    return None
                time.sleep(0.0005)

    @property
    def recorded(self) -> int:
        """Events recorded so far, in this session and those beside it."""
        segment = self._segment
        own = self._next_seq if segment is None else segment.first_seq + segment.count
        return own - 1 + sum(beside.recorded for beside in self._beside)

    def sync(self) -> None:
        """Bring to the disk what was recorded since the last call, without blocking append."""
        segment = self._segment
        if segment is not None:
            recorded = segment.first_seq + segment.count
            if recorded != self._synced:
                for path in segment.files():
                    sync_file(path)
                self._synced = recorded
        for beside in self._beside:
            beside.sync()

    def drop_lost_segment(self) -> bool:
        """Let go of segments that were deleted under us; say whether there were any."""
        dropped = [beside.drop_lost_segment() for beside in self._beside]
        segment = self._segment
        if segment is None or not segment.lost():
            return any(dropped)
        taken = self._take(_PATIENCE)
        if taken is not segment:
            if taken is not None:
                self._free.append(taken)
            return any(dropped)
        self._let_go(segment, segment.abandon)
        self._free.append(_NO_SEGMENT)
        return True

    def close(self) -> None:
        """Seal the segments. Idempotent; a later append is an error."""
        self._closed = True
        self.rest()

    def rest(self) -> None:
        """Seal the segments and bring them to the disk; the next append begins another."""
        for beside in self._beside:
            if self._closed:
                beside.close()
            else:
                beside.rest()
        taken = self._take(_PATIENCE)
        # One that an interrupted or endless append keeps is sealed by the death of the process.
        if taken is not None and taken is not _NO_SEGMENT:
            # A disk that fails here can still take the rows later: they are with the system.
            with contextlib.suppress(OSError):
                self.sync()
            self._let_go(taken, taken.seal)
        if taken is not None:
            self._free.append(_NO_SEGMENT)

    def before_fork(self) -> None:
        """Nothing to wait for: the child lets go of every segment, half-written or not."""

    def after_fork_in_parent(self) -> None:
        """Go on with the same segment."""

    def after_fork_in_child(self) -> None:
        """Begin a session; the parent's segments are only let go of."""
        # Each session beside this one is watched for itself.
        if self._segment is not None:
            self._segment.abandon()
        self._begin_session()
