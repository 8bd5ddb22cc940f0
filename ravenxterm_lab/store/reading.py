"""Reading: the database and whatever still waits in the spool, as one.

The order makes it complete: the segments are opened before the gate is taken, and what
was ingested and removed in between is then covered by the watermarks, which are read
after it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import QueryError, StoreError
from ravenxterm_lab.store import database
from ravenxterm_lab.store.locks import shared_gate
from ravenxterm_lab.store.queries import ROWS_OF, Needs, check_statement, one_line
from ravenxterm_lab.store.result import QueryResult
from ravenxterm_lab.store.schema import ROLLUPS, TABLES
from ravenxterm_lab.store.segments import store_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import duckdb

    from ravenxterm_lab.store.snapshot import SegmentFile

__all__ = ["Reader", "Waiting", "open_reader", "run_query"]

_WAITING = "waiting"
_ALL = Needs()

_COUNTS = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM {name}" for name in TABLES)  # noqa: S608 - our own names


@dataclass(frozen=True, slots=True)
class Waiting:
    """Events in the spool that were not ingested.

    Attributes
    ----------
    events : int
        How many.
    oldest : int or None
        When the oldest was recorded (ns since 1970, UTC); None without any.
    relations : tuple
        What the views over them rest on; they live as long as this does.
    """

    events: int
    oldest: int | None
    relations: tuple[object, ...]


class Reader:
    """A connection in memory that sees every event recorded before it was opened.

    Attributes
    ----------
    connection : DuckDBPyConnection
        With a view for every table and those of ``views.sql``; it can reach no file.
    segments, sessions : int
        Segments in the spool, and sessions of which anything is known.
    waiting : Waiting
        What was not ingested yet.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        segments: int,
        sessions: int,
        waiting: Waiting,
    ) -> None:
        self.connection = connection
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


@contextlib.contextmanager
def open_reader(
    directory: Path, note: Callable[[str], None], needs: Needs = _ALL
) -> Iterator[Reader]:
    """Open what was recorded so far, by every process; the gate is held meanwhile.

    Parameters
    ----------
    directory : Path
        The store; nothing is created when it does not exist.
    note : callable
        Receives a sentence for each event or segment that cannot be read.
    needs : Needs
        What to set up beside the tables of events; all by default.

    Raises
    ------
    StoreError
        If the store cannot be read.
    StoreVersionError
        If a newer version of this package made it.
    """
    if directory.exists() and not directory.is_dir():
        raise StoreError(
            f"The metric store cannot be read: {directory} is a file. Move it away, or set "
            "RAVENXTERM_HOME to another directory."
        )
    from ravenxterm_lab.store.snapshot import list_segments

    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(contextlib.closing(database.connect()))
        try:
            segments = list_segments(directory / "spool")
        except OSError as error:
            raise store_error(directory, error) from error
        present = (directory / database.DATABASE).exists()
        gated = stack.enter_context(shared_gate(directory, create=present))
        # Within the gate: an open file is locked by DuckDB, and fails whoever gets the gate next.
        stack.callback(connection.close)
        if present or (gated and (directory / database.DATABASE).exists()):
            database.attach(connection, directory, read_only=True)
        else:
            connection.execute(f"ATTACH ':memory:' AS {database.CATALOGUE}")
            database.migrate(connection, described=needs.comments)
        watermarks = database.read_watermarks(connection)
        waiting = _add_pending(connection, segments, watermarks, note, needs.rollups)
        connection.execute(database.views(outside=True, statistics=needs.statistics))
        if needs.comments:
            _copy_comments(connection)
        connection.execute("SET enable_external_access = false")
        sessions = len(watermarks.keys() | {segment.session for segment in segments})
        yield Reader(connection, len(segments), sessions, waiting)


def _add_pending(
    connection: duckdb.DuckDBPyConnection,
    segments: list[SegmentFile],
    watermarks: Mapping[str, int],
    note: Callable[[str], None],
    rollups: bool,
) -> Waiting:
    """Create a view for every table that unites what was ingested with what waits."""
    from ravenxterm_lab.store.decoding import decode, select_list
    from ravenxterm_lab.store.rollups import summarise
    from ravenxterm_lab.store.snapshot import unreadable

    batches = []
    for segment in segments:
        seen = max(watermarks.get(segment.session, 1), segment.first_seq)
        try:
            with segment:
                rows = segment.read(seen) if segment.written(seen) else None
        except FileNotFoundError:
            continue
        except (OSError, StoreError) as error:
            note(unreadable(segment.path, error))
            continue
        if rows is not None:
            batches.append(rows)
            for seq, why in rows.damaged:
                note(f"event {rows.session}:{seq} was skipped: {why}")
    tables = decode(batches) if batches else {}
    # Few queries ask for the sums: the others need not wait until they are formed.
    if rollups and "executions" in tables:
        tables |= summarise(tables["executions"])
    # In a database of its own, what waits is not among the tables that SHOW TABLES lists.
    connection.execute(f"ATTACH ':memory:' AS {_WAITING}")
    connection.execute(f"USE {_WAITING}")
    relations: list[object] = []
    for name, table in tables.items():
        relation = connection.from_arrow(table)
        relations += [table, relation, relation.create_view(name)]
    connection.execute("USE memory")
    for name in (*TABLES, *ROLLUPS) if rollups else TABLES:
        union = ""
        if name in tables:
            union = f" UNION ALL BY NAME SELECT {select_list(name)} FROM {_WAITING}.{name}"  # noqa: S608 - our own names
        connection.execute(
            f"CREATE VIEW {name} AS SELECT * FROM {database.CATALOGUE}.{name}{union}"  # noqa: S608 - our own names
        )
    oldest = [int(rows.slots["ts"].min()) for rows in batches if len(rows.slots)]
    return Waiting(
        sum(len(rows.slots) for rows in batches), min(oldest, default=None), tuple(relations)
    )


def _copy_comments(connection: duckdb.DuckDBPyConnection) -> None:
    """Give the views over the tables the comments of the tables, and the others their own."""
    connection.execute(database.view_comments())
    shown = {*TABLES, *ROLLUPS}
    of_tables = connection.execute(
        "SELECT table_name, comment FROM duckdb_tables() WHERE database_name = ?",
        [database.CATALOGUE],
    ).fetchall()
    of_columns = connection.execute(
        "SELECT table_name, column_name, comment FROM duckdb_columns() "
        "WHERE database_name = ? AND comment IS NOT NULL",
        [database.CATALOGUE],
    ).fetchall()
    for table, comment in of_tables:
        if table in shown and comment:
            connection.execute(f"COMMENT ON VIEW {table} IS {_literal(comment)}")
    for table, column, comment in of_columns:
        for view in (table, ROWS_OF.get(table)) if table in shown else ():
            if view is not None:
                connection.execute(f'COMMENT ON COLUMN {view}."{column}" IS {_literal(comment)}')


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def run_query(
    directory: Path,
    query: str,
    params: Sequence[object] | Mapping[str, object] | None,
    note: Callable[[str], None],
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
    with open_reader(directory, note, Needs.of(str(query))) as reader:
        connection = reader.connection
        check_statement(connection, query)
        connection.execute("SET lock_configuration = true")
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
