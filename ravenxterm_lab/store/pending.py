"""What waits in the spool, decoded once: who asks again pays for the new rows only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from ravenxterm_lab.store.snapshot import Rows, SegmentFile

__all__ = ["Pending", "Waiting"]

#: Pieces of one size, at most, before they become one of the next: DuckDB scans few large
#: batches faster than many small ones.
_MOST_PIECES = 4
#: Events that are kept decoded from one query to the next (about 150 bytes each).
_MOST_EVENTS = 500_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """Events in the spool that were not ingested.

    Attributes
    ----------
    tables : dict of str to pyarrow.Table
        Their rows by table.
    events : int
        How many.
    oldest : int or None
        When the oldest was recorded (ns since 1970, UTC); None without any.
    notes : tuple of str
        A sentence for each event or segment that cannot be read, as far as it is new.
    positions : dict of Path to int
        By segment, the sequence number that comes next.
    """

    tables: dict[str, pa.Table]
    events: int
    oldest: int | None
    notes: tuple[str, ...] = ()
    positions: Mapping[Path, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Piece:
    tables: dict[str, pa.Table]
    events: int
    oldest: int | None

    @property
    def size(self) -> int:
        """Its class of size: each holds four times as many events as the one before."""
        return self.events.bit_length() // 2


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was decoded of one segment: the events from ``first`` to before ``next``."""

    first: int
    next: int
    contexts: dict[int, list[Any]]


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was decoded: the same events by segment, and as rows. Never changed, but replaced."""

    seen: dict[Path, _Seen] = field(default_factory=dict)
    pieces: tuple[_Piece, ...] = ()
    tables: dict[str, pa.Table] = field(default_factory=dict)


class _GoneError(Exception):
    """A segment is not readable of which events are kept."""


class Pending:
    """Reads what waits in the spool and remembers it. One thread at a time."""

    def __init__(self) -> None:
        self._kept = _Kept()

    def forget(self) -> None:
        """Read everything anew the next time."""
        self._kept = _Kept()

    def collect(self, segments: Sequence[SegmentFile], watermarks: Mapping[str, int]) -> Waiting:
        """Return the events of the segments from the watermarks on.

        Parameters
        ----------
        segments : sequence of SegmentFile
            Every segment of the spool.
        watermarks : mapping of str to int
            By session, the first sequence number that was not ingested.
        """
        from ravenxterm_lab.store.decoding import decode

        starts = {
            segment.path: max(watermarks.get(segment.session, 1), segment.first_seq)
            for segment in segments
        }
        kept = self._kept
        # What an ingest took cannot be told apart from the rest any more; little waits then.
        if any(starts.get(path) != seen.first for path, seen in kept.seen.items()):
            kept = _Kept()
        try:
            batches, seen, notes = _read(segments, starts, kept.seen)
        except _GoneError:
            kept = _Kept()
            batches, seen, notes = _read(segments, starts, kept.seen)
        if batches:
            stamps = [int(rows.slots["ts"].min()) for rows in batches if len(rows.slots)]
            events = sum(len(rows.slots) for rows in batches)
            new = _Piece(decode(batches), events, min(stamps, default=None))
            pieces = _tidy([*kept.pieces, new])
            kept = _Kept(seen, tuple(pieces), _unite([piece.tables for piece in pieces]))
        events = sum(piece.events for piece in kept.pieces)
        # In one go: whatever breaks this call off, no event is kept twice or passed over.
        self._kept = kept if events <= _MOST_EVENTS else _Kept()
        oldest = min((p.oldest for p in kept.pieces if p.oldest is not None), default=None)
        positions = starts | {path: one.next for path, one in seen.items()}
        return Waiting(kept.tables, events, oldest, tuple(notes), positions)


def _read(
    segments: Sequence[SegmentFile], starts: Mapping[Path, int], before: Mapping[Path, _Seen]
) -> tuple[list[Rows], dict[Path, _Seen], list[str]]:
    """Read what is new; return it, what was seen then in all, and the notes about it.

    Raises
    ------
    _GoneError
        If a segment of ``before`` cannot be read any more.
    """
    from ravenxterm_lab.store.snapshot import unreadable

    batches: list[Rows] = []
    seen = dict(before)
    notes: list[str] = []
    for segment in segments:
        known = before.get(segment.path)
        try:
            with segment:
                if known is not None:
                    rows = segment.read(known.next, contexts=known.contexts)
                elif segment.written(starts[segment.path]):
                    rows = segment.read(starts[segment.path])
                else:
                    continue
        except (OSError, StoreError) as error:
            if known is not None:
                raise _GoneError from error
            if not isinstance(error, FileNotFoundError):
                notes.append(unreadable(segment.path, error))
            continue
        if known is not None and rows.next_seq == known.next:
            continue
        notes += [f"event {rows.session}:{seq} was skipped: {why}" for seq, why in rows.damaged]
        batches.append(rows)
        seen[segment.path] = _Seen(starts[segment.path], rows.next_seq, rows.contexts)
    return batches, seen, notes


def _tidy(pieces: list[_Piece]) -> list[_Piece]:
    """Put the last pieces together where there are many of a size.

    Each event is copied once for each class of size, and there are few pieces of each.
    """
    while True:
        last = pieces[-1].size
        count = next(
            (i for i, piece in enumerate(reversed(pieces)) if piece.size > last), len(pieces)
        )
        if count < _MOST_PIECES:
            return pieces
        tail = pieces[-count:]
        tables = {
            name: table.combine_chunks()
            for name, table in _unite([piece.tables for piece in tail]).items()
        }
        oldest = min((p.oldest for p in tail if p.oldest is not None), default=None)
        events = sum(piece.events for piece in tail)
        pieces = [*pieces[:-count], _Piece(tables, events, oldest)]


def _unite(parts: Sequence[Mapping[str, pa.Table]]) -> dict[str, pa.Table]:
    import pyarrow as pa

    found: dict[str, list[pa.Table]] = {}
    for part in parts:
        for name, table in part.items():
            found.setdefault(name, []).append(table)
    return {name: pa.concat_tables(tables) for name, tables in found.items()}
