"""What one pass of the ingest moves: read from the segments, decoded and summed up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store.database import ROW_GROUP
from ravenxterm_lab.store.locks import is_locked

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping
    from pathlib import Path

    import pyarrow as pa

    from ravenxterm_lab.store.snapshot import Rows, SegmentFile

__all__ = ["Batch", "Work", "collect"]


@dataclass(slots=True)
class Work:
    """One segment on its way through a pass.

    Attributes
    ----------
    segment : SegmentFile
        The segment.
    final : bool
        Whether nobody wrote to it any more before it was read.
    rows : Rows or None
        What was read of it.
    drained : bool
        Whether that was all.
    """

    segment: SegmentFile
    final: bool
    rows: Rows | None = None
    drained: bool = True

    def read(self, seen: int, budget: int, after: dict[str, int]) -> int:
        """Read the opened segment from ``seen`` on; return how many events that takes."""
        if not self.segment.written(seen):
            return 0
        self.rows = rows = self.segment.read(seen, budget)
        after[self.segment.session] = rows.next_seq
        self.drained = not self.segment.written(rows.next_seq)
        return rows.next_seq - seen


@dataclass(slots=True)
class Batch:
    """What one pass moves.

    Attributes
    ----------
    before, after : dict of str to int
        The watermarks that it goes on from, and those that hold once it was moved.
    work : list of Work
        The segments that were read.
    more : bool
        Whether more waits than one pass takes.
    rows : int
        Events to be moved.
    events, rollups : dict of str to pyarrow.Table
        The rows of the tables of events, and the partial rows of the rollups.
    notes : list of str
        A sentence for each problem met.
    """

    before: dict[str, int]
    after: dict[str, int]
    work: list[Work] = field(default_factory=list)
    more: bool = False
    rows: int = 0
    events: dict[str, pa.Table] = field(default_factory=dict)
    rollups: dict[str, pa.Table] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def collect(
    spool: Path,
    watermarks: Mapping[str, int],
    limit: int,
    known: Counter[tuple[str | None, str | None]],
) -> Batch:
    """Read, decode and sum up what waits, at most ``limit`` events.

    Parameters
    ----------
    spool : Path
        Where the segments are.
    watermarks : mapping of str to int
        By session, the first sequence number that was not ingested.
    limit : int
        Events at most.
    known : Counter of (model, task)
        As for `summarise`.

    Raises
    ------
    OSError
        If the spool cannot be read. What is wrong with a segment is noted instead.
    """
    # Imported here: numpy, which these need, would be most of the import time of a
    # process that only records.
    from ravenxterm_lab.store.decoding import decode

    batch = Batch(dict(watermarks), dict(watermarks))
    _read(spool, batch, limit)
    read = [item.rows for item in batch.work if item.rows is not None]
    batch.rows = sum(len(rows.slots) for rows in read)
    batch.events = decode(read)
    for rows in read:
        for seq, why in rows.damaged:
            batch.notes.append(f"event {rows.session}:{seq} was skipped: {why}")
    if "executions" in batch.events:
        _sum_up(batch, known)
    return batch


def _sum_up(batch: Batch, known: Counter[tuple[str | None, str | None]]) -> None:
    import pyarrow as pa

    from ravenxterm_lab.store.rollups import summarise

    executions = batch.events["executions"].combine_chunks()
    batch.rollups = summarise(executions, known)
    # Pieces of a row group are what DuckDB compresses on several threads.
    batch.events["executions"] = pa.Table.from_batches(executions.to_batches(ROW_GROUP))


def _read(spool: Path, batch: Batch, budget: int) -> None:
    """Read what waits, in order within each session, and advance ``after`` past it."""
    from ravenxterm_lab.store.snapshot import list_segments, unreadable

    work, after = batch.work, batch.after
    stuck: set[str] = set()
    for segment in list_segments(spool):
        session = segment.session
        previous = work[-1] if work and work[-1].segment.session == session else None
        if budget <= 0:
            break
        if session in stuck:
            continue
        if previous is not None and not (previous.final or after.get(session) == segment.first_seq):
            stuck.add(session)
            continue
        try:
            # Asked before the content is read: what a dead process wrote is then final.
            item = Work(segment, final=not is_locked(segment.path))
            with segment:
                seen = max(after.get(session, 1), segment.first_seq)
                budget -= item.read(seen, budget, after)
        except FileNotFoundError:
            continue
        except (OSError, StoreError) as error:
            # Its later segments wait too: a watermark says up to where *all* events of
            # a session were ingested. Other sessions go on.
            batch.notes.append(unreadable(segment.path, error))
            stuck.add(session)
            continue
        work.append(item)
        if not item.drained:
            stuck.add(session)
    batch.more = budget <= 0
