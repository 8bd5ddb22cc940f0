"""What is recorded from now on, by any process, read from the spool alone.

Whoever keeps statistics in memory asks again and again whether something came. The database need
not be opened for that: every event lies in the spool before an ingest takes it, and a segment
stays where it is until the last event in it was taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store.database import state_of
from ravenxterm_lab.store.schema import KIND_OF

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import pyarrow as pa

    from ravenxterm_lab.store.reading import Reader
    from ravenxterm_lab.store.snapshot import Rows

__all__ = ["Follower"]


class Follower:
    """Tells what was recorded since it was asked last. One thread at a time.

    Parameters
    ----------
    directory : Path
        The store; it need not exist.
    tables : collection of str
        Whose rows are news.
    """

    def __init__(self, directory: Path, tables: Collection[str]) -> None:
        self._directory = directory
        self._kinds = frozenset(KIND_OF[name] for name in tables)
        # By segment: the next event to look at, and the contexts that were read.
        self._next: dict[Path, tuple[int, dict[int, list[Any]]]] = {}
        self._file: tuple[int, ...] | None = None

    def start(self) -> None:
        """From here on: what was recorded before is no news."""
        from ravenxterm_lab.store.snapshot import list_segments

        self._file = state_of(self._directory)
        self._next = {}
        for segment in list_segments(self._directory / "spool"):
            try:
                with segment:
                    self._next[segment.path] = (segment.end(), {})
            except (OSError, StoreError):
                # It went, or what cannot be read now is read when it can.
                continue

    def start_from(self, reader: Reader) -> None:
        """From where a reader saw the store: what it shows is no news, and all else is.

        Parameters
        ----------
        reader : Reader
            Of this store, and still open.
        """
        self._file = state_of(self._directory)
        self._next = {path: (seq, {}) for path, seq in reader.waiting.positions.items()}

    def news(self) -> tuple[dict[str, pa.Table], bool]:
        """Return what was recorded since, and whether that is certainly all.

        Returns
        -------
        tables : dict of str to pyarrow.Table
            New rows by table, columns as in the schema; empty when nothing came.
        sure : bool
            False when the database was written to, or a segment went or cannot be read: an
            ingest takes only what was in the spool, but rows may have been restored, or
            have come and gone since the last question. The totals of the store tell.
        """
        # Here, since recording loads no numpy.
        from ravenxterm_lab.store.decoding import decode
        from ravenxterm_lab.store.snapshot import list_segments

        batches: list[Rows] = []
        known, self._next = self._next, {}
        stamp, before = state_of(self._directory), self._file
        sure, self._file = stamp == before, stamp
        for segment in list_segments(self._directory / "spool"):
            start, contexts = known.pop(segment.path, (segment.first_seq, {}))
            try:
                with segment:
                    if segment.written(start):
                        rows = segment.read(start, contexts=contexts, kinds=self._kinds)
                        start = rows.next_seq
                        if len(rows.slots):
                            batches.append(rows)
                self._next[segment.path] = (start, contexts)
            except (OSError, StoreError):
                sure = False
        return decode(batches) if batches else {}, sure and not known
