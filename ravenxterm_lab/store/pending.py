"""What waits in the spool, decoded once: who asks again pays for the new rows only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from ravenxterm_lab.store.snapshot import SegmentFile

__all__ = ["Pending", "Waiting"]

#: Pieces of one segment after which it is decoded anew as a whole: DuckDB scans few large
#: batches faster than many small ones.
_MOST_PIECES = 16
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
    """

    tables: dict[str, pa.Table]
    events: int
    oldest: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Piece:
    tables: dict[str, pa.Table]
    events: int
    oldest: int | None


@dataclass(slots=True)
class _Decoded:
    """What was decoded of one segment: the events from ``first`` to before ``next``."""

    first: int
    next: int
    pieces: list[_Piece] = field(default_factory=list)


class Pending:
    """Reads what waits in the spool and remembers it. One thread at a time."""

    def __init__(self) -> None:
        self._known: dict[Path, _Decoded] = {}
        self._notes: list[str] = []

    def forget(self) -> None:
        """Read everything anew the next time."""
        self._known = {}

    def collect(self, segments: Sequence[SegmentFile], watermarks: Mapping[str, int]) -> Waiting:
        """Return the events of the segments from the watermarks on.

        Parameters
        ----------
        segments : sequence of SegmentFile
            Every segment of the spool.
        watermarks : mapping of str to int
            By session, the first sequence number that was not ingested.
        """
        import pyarrow as pa

        self._notes = []
        known: dict[Path, _Decoded] = {}
        for segment in segments:
            seen = max(watermarks.get(segment.session, 1), segment.first_seq)
            decoded = self._decode(segment, seen)
            if decoded is not None:
                known[segment.path] = decoded
        pieces = [piece for decoded in known.values() for piece in decoded.pieces]
        events = sum(piece.events for piece in pieces)
        self._known = known if events <= _MOST_EVENTS else {}
        parts: dict[str, list[pa.Table]] = {}
        for piece in pieces:
            for name, table in piece.tables.items():
                parts.setdefault(name, []).append(table)
        tables = {name: pa.concat_tables(part) for name, part in parts.items()}
        oldest = min((p.oldest for p in pieces if p.oldest is not None), default=None)
        return Waiting(tables, events, oldest, tuple(self._notes))

    def _decode(self, segment: SegmentFile, seen: int) -> _Decoded | None:
        from ravenxterm_lab.store.snapshot import unreadable

        decoded = self._known.get(segment.path)
        if decoded is None or decoded.first != seen or len(decoded.pieces) >= _MOST_PIECES:
            decoded = _Decoded(seen, seen)
        try:
            with segment:
                if segment.written(decoded.next):
                    self._add(decoded, segment)
        except FileNotFoundError:
            return None
        except (OSError, StoreError) as error:
            self._notes.append(unreadable(segment.path, error))
            return None
        return decoded

    def _add(self, decoded: _Decoded, segment: SegmentFile) -> None:
        from ravenxterm_lab.store.decoding import decode

        rows = segment.read(decoded.next)
        for seq, why in rows.damaged:
            self._notes.append(f"event {rows.session}:{seq} was skipped: {why}")
        oldest = int(rows.slots["ts"].min()) if len(rows.slots) else None
        decoded.pieces.append(_Piece(decode([rows]), len(rows.slots), oldest))
        decoded.next = rows.next_seq
