"""Reading: the database and whatever still waits in the spool, as one.

The watermarks are read, and after them the segments, while the gate is held, so that no
event is seen twice or missed: nothing is committed meanwhile, and a segment is removed
only after the commit that consumed it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ravenxterm_lab.exceptions import QueryError, StoreError
from ravenxterm_lab.store import database
from ravenxterm_lab.store.desk import Desk
from ravenxterm_lab.store.forking import watch_forks
from ravenxterm_lab.store.journal import settled_gate, upgrade
from ravenxterm_lab.store.queries import check_statement, names_rollups, one_line
from ravenxterm_lab.store.result import QueryResult
from ravenxterm_lab.store.schema import KIND_OF, TABLES
from ravenxterm_lab.store.segments import store_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import duckdb

    from ravenxterm_lab.store.pending import Waiting
    from ravenxterm_lab.store.snapshot import SegmentFile

__all__ = ["Mark", "Reader", "Readers", "run_query"]

#: How many rows there are of some tables, wherever they lie, and how many were ever removed.
#: To move rows from the spool into the database changes no mark.
Mark: TypeAlias = tuple[int, ...]

#: Idle connections that are kept: one for each of a few threads that ask at once.
_MOST_DESKS = 2

_COUNTS = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM {name}" for name in TABLES)  # noqa: S608 - our own names


class Reader:
    """A connection in memory that sees every event recorded before it was opened.

    Attributes
    ----------
    connection : DuckDBPyConnection
        With a view for every table and those of ``views.sql``; it can reach no other file.
    segments, sessions : int
        Segments in the spool, and sessions of which anything is known.
    waiting : Waiting
        What was not ingested yet.
    """

    def __init__(self, desk: Desk, segments: int, sessions: int, waiting: Waiting) -> None:
        self._desk = desk
        self.connection: duckdb.DuckDBPyConnection = desk.connection
        self.segments = segments
        self.sessions = sessions
        self.waiting = waiting

    @property
    def pending(self) -> int:
        """Events in the spool that were not ingested."""
        return self.waiting.events

    def count_rows(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        return dict(self.connection.execute(_COUNTS).fetchall())

    def mark(self, tables: Sequence[str]) -> Mark:
        """Return the mark of some tables (see `Readers.mark`)."""
        waiting = self.waiting.tables
        still = (waiting[name].num_rows if name in waiting else 0 for name in tables)
        return _added(self._desk.count_ingested(tables), still)

    def rows(self, query: str, params: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Run a statement of this package, which needs no checks, and return its few rows.

        Raises
        ------
        QueryError
            If DuckDB refuses it.
        """
        import duckdb

        try:
            # A relation would be planned twice: once for its types, once more to be run.
            return self.connection.execute(query, dict(params)).fetchall()
        except duckdb.Error as error:
            raise QueryError(one_line(error)) from error


class Readers:
    """Opens readers of one store. Any thread may; each reader has a connection to itself.

    Parameters
    ----------
    directory : Path
        The store; nothing is created when it does not exist.
    note : callable
        Receives a sentence for each event or segment that cannot be read.
    """

    def __init__(self, directory: Path, note: Callable[[str], None]) -> None:
        self._directory = directory
        self._note = note
        self._idle: list[Desk] = []
        self._most = _MOST_DESKS
        watch_forks(self)

    def before_fork(self) -> None:
        """Close what is idle: a child would inherit a DuckDB without its threads."""
        self._close_idle()

    def after_fork_in_parent(self) -> None:
        """Begin anew with the next query."""

    def after_fork_in_child(self) -> None:
        """Begin anew with the next query."""

    def close(self) -> None:
        """Close what is idle and keep nothing from now on; queries still work."""
        self._most = 0
        self._close_idle()

    def rest(self) -> None:
        """Close what is idle; the next query opens a connection."""
        self._close_idle()

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    @contextlib.contextmanager
    def open(self, *, rollups: bool = True) -> Iterator[Reader]:
        """Open what was recorded so far, by every process; the gate is held meanwhile.

        Parameters
        ----------
        rollups : bool
            Whether the rollups are to hold what waits, too; it takes some time to sum up.

        Raises
        ------
        StoreError
            If the store cannot be read.
        StoreVersionError
            If a newer version of this package made it.
        """
        with self._desk() as desk, self._opened(desk, rollups=rollups) as reader:
            yield reader

    @contextlib.contextmanager
    def _desk(self) -> Iterator[Desk]:
        """Take an idle desk, or a new one, and keep it for the next query if it is in order."""
        if self._directory.exists() and not self._directory.is_dir():
            raise StoreError(
                f"The metric store cannot be read: {self._directory} is a file. Move it away, "
                "or set RAVENXTERM_HOME to another directory."
            )
        try:
            desk = self._idle.pop()
        except IndexError:
            desk = Desk(self._directory)
        try:
            yield desk
        finally:
            if desk.usable and len(self._idle) < self._most:
                self._idle.append(desk)
            else:
                desk.close()

    @contextlib.contextmanager
    def _opened(self, desk: Desk, *, rollups: bool) -> Iterator[Reader]:
        # In doubt it is not used again: an exception may have come within any step.
        desk.usable = False
        with contextlib.ExitStack() as gate:
            try:
                yield self._reader(desk, gate, rollups=rollups)
            finally:
                # Within the gate: an open file is locked by DuckDB, and fails whoever
                # gets the gate next.
                desk.usable = desk.detach()

    def mark(self, tables: Sequence[str]) -> Mark:
        """Return the mark of some tables: while it stays the same, so do their rows.

        Asking is cheap while nobody writes to the database: what an earlier call read there is
        still true then, and only what was appended to the spool since is looked at.

        Parameters
        ----------
        tables : sequence of str
            Which.

        Raises
        ------
        StoreError
            If the store cannot be read.
        StoreVersionError
            If a newer version of this package made it.
        """
        with self._desk() as desk:
            known = self._known_mark(desk, tables)
            while known is None:
                # In doubt it is not used again, as in `_opened`.
                desk.usable = False
                with contextlib.ExitStack() as gate:
                    try:
                        gated = self._attach(desk, gate)
                        watermarks = desk.read_watermarks()
                        counts = desk.count_ingested(tables)
                        waiting = self._count_waiting(watermarks, tables)
                        # Without a gate, the first ingest may have taken what was not seen.
                        if gated or desk.present or not self._file.exists():
                            known = _added(counts, waiting)
                    finally:
                        desk.usable = desk.detach()
            return known

    def _known_mark(self, desk: Desk, tables: Sequence[str]) -> Mark | None:
        """Return the mark without a look into the database; None where one is needed."""
        ingested = desk.ingested
        counts = None if ingested is None else ingested.counts.get(tuple(tables))
        if ingested is None or counts is None:
            return None
        with settled_gate(self._directory, create=self._file.exists()) as gated:
            if database.state_of(self._directory) != ingested.state:
                return None
            waiting = self._count_waiting(ingested.watermarks, tables)
            return _added(counts, waiting) if gated or not self._file.exists() else None

    def _count_waiting(self, watermarks: Mapping[str, int], tables: Sequence[str]) -> list[int]:
        """Count the rows of some tables that wait, by their kind and without decoding any."""
        kinds = [KIND_OF[name] for name in tables]
        found = [0] * len(kinds)
        for segment in self._segments():
            start = max(watermarks.get(segment.session, 1), segment.first_seq)
            # What cannot be read, or was taken meanwhile, does not wait.
            with contextlib.suppress(OSError, StoreError), segment:
                counts = segment.count(start)
                found = [n + int(counts[kind]) for n, kind in zip(found, kinds, strict=True)]
        return found

    def _reader(self, desk: Desk, gate: contextlib.ExitStack, *, rollups: bool) -> Reader:
        from ravenxterm_lab.store.rollups import summarise

        while True:
            gated = self._attach(desk, gate)
            watermarks = desk.read_watermarks()
            segments = self._segments()
            waiting = desk.pending.collect(segments, watermarks)
            if gated or desk.present or not self._file.exists():
                break
            # There was no gate yet, and the first ingest may have taken what was not seen.
            desk.pending.forget()
        self._tell(waiting)
        tables = dict(waiting.tables)
        if rollups and "executions" in tables:
            tables |= summarise(tables["executions"])
        desk.show(tables)
        sessions = len(watermarks.keys() | {segment.session for segment in segments})
        return Reader(desk, len(segments), sessions, waiting)

    def _segments(self) -> list[SegmentFile]:
        from ravenxterm_lab.store.snapshot import list_segments

        try:
            return list_segments(self._directory / "spool")
        except OSError as error:
            raise store_error(
                self._directory, error, verb="read", so="what was recorded is kept"
            ) from error

    def _tell(self, waiting: Waiting) -> None:
        for text in waiting.notes:
            self._note(text)

    @property
    def _file(self) -> Path:
        return self._directory / database.DATABASE

    def _attach(self, desk: Desk, gate: contextlib.ExitStack) -> bool:
        """Enter the gate and attach the file; say whether there is a gate."""
        gated = gate.enter_context(settled_gate(self._directory, create=self._file.exists()))
        if desk.attach(present=self._file.exists()):
            return gated
        gate.close()
        upgrade(self._directory)
        return self._attach(desk, gate)


def _added(counts: Mark, waiting: Iterable[int]) -> Mark:
    """Return the mark, given that of what lies in the database."""
    *rows, removed = counts
    return (*(n + more for n, more in zip(rows, waiting, strict=True)), removed)


def run_query(
    readers: Readers,
    query: str,
    params: Sequence[object] | Mapping[str, object] | None,
) -> QueryResult:
    """Run one read-only statement and materialise its result.

    Raises
    ------
    QueryError
        If it is not one read-only statement, or DuckDB refuses it.
    StoreError
        If the store cannot be read.
    """
    import duckdb

    start = time.perf_counter()
    with readers.open(rollups=names_rollups(str(query))) as reader:
        connection = reader.connection
        check_statement(connection, query)
        try:
            relation = connection.sql(query, params=_bindable(params))
            types = tuple(str(kind) for kind in relation.types)
            table = relation.to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(one_line(error)) from error
    return QueryResult(query, table, types, time.perf_counter() - start)


def _bindable(params: object) -> list[object] | dict[str, object] | None:
    if params is None:
        return None
    if isinstance(params, Mapping):
        return {name: _plain(value) for name, value in params.items()}
    if isinstance(params, Sequence) and not isinstance(params, (str, bytes, bytearray)):
        return [_plain(value) for value in params]
    raise QueryError(
        f"params must be a sequence or a mapping, such as [0.5] or {{'latency': 0.5}}, "
        f"got {type(params).__name__}."
    )


def _plain(value: object) -> object:
    import numpy as np

    # DuckDB binds no NumPy scalar; dates keep their error, as item() may lose their unit.
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        return value.item()
    return value
