"""A DuckDB in memory with the views, to which the file is attached for one query at a time.

To start one takes longer than most queries, so it is kept from one to the next. The file
is not: while one process has it open, no other can write to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store import database
from ravenxterm_lab.store.pending import Pending
from ravenxterm_lab.store.queries import ROWS_OF
from ravenxterm_lab.store.schema import ROLLUPS, TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

__all__ = ["Desk"]

#: In a database of its own, what waits is not among the tables that SHOW TABLES lists.
_WAITING = "waiting"
_SHOWN = (*TABLES, *ROLLUPS)


class _Shelf:
    """A place for one Arrow table; the view over it need not be made anew for the next."""

    def __init__(self, table: pa.Table) -> None:
        self.schema = table.schema
        self.table: pa.Table | None = table

    def __arrow_c_schema__(self) -> object:
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        table = self.schema.empty_table() if self.table is None else self.table
        return table.__arrow_c_stream__(requested_schema)


@dataclass(frozen=True, slots=True)
class Ingested:
    """What the file said when it was last open.

    Attributes
    ----------
    state : tuple of int or None
        Of the file then (see `database.state_of`).
    watermarks : dict of str to int
        By session, the first sequence number that was not ingested.
    counts : dict of tuple of str to tuple of int
        By some tables, how many rows each has, and how many rows were ever removed.
    """

    state: tuple[int, ...] | None
    watermarks: dict[str, int]
    counts: dict[tuple[str, ...], tuple[int, ...]] = field(default_factory=dict)


class Desk:
    """One connection, for one query at a time.

    Parameters
    ----------
    directory : Path
        The store.

    Attributes
    ----------
    connection : DuckDBPyConnection
        With a view for every table and those for people; it can reach no file but the
        database.
    pending : Pending
        What waits in the spool, as far as it was decoded already.
    present : bool
        Whether the file is attached, and not an empty database in its place.
    usable : bool
        Whether it is in order, for the next query.
    ingested : Ingested or None
        What is known of the file.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._uses = 0
        self.pending = Pending()
        self.connection = database.connect()
        self._shelves: dict[str, _Shelf] = {}
        # What the views over the shelves rest on.
        self._relations: dict[str, object] = {}
        self._attached = self.present = False
        self.usable = True
        self.ingested: Ingested | None = None
        execute = self.connection.execute
        execute(f"ATTACH ':memory:' AS {_WAITING}")
        self.attach(present=False)
        self._comments = self._read_comments()
        for name in _SHOWN:
            self._present(name, united=False)
        execute(database.views(outside=True))
        execute(database.view_comments())
        execute(";".join(self._comments[view] for view in ROWS_OF.values()))
        database.confine(self.connection, directory)

    def attach(self, *, present: bool) -> bool:
        """Attach the file, or an empty database in its place where there is none.

        Returns
        -------
        bool
            False if the schema of the file is older than ours; then nothing is attached.

        Raises
        ------
        StoreError
            If DuckDB cannot open it.
        StoreVersionError
            If a newer version of this package made it.
        """
        if self._attached and not present:
            return True
        if self._attached:
            self.connection.execute(f"DETACH {database.CATALOGUE}")
            self._attached = False
        if present:
            current = database.attach(self.connection, self._directory, read_only=True)
        else:
            self.connection.execute(f"ATTACH ':memory:' AS {database.CATALOGUE}")
            database.migrate(self.connection)
            current = True
        self._attached, self.present = True, present
        if not current:
            self.detach()
        return current

    def read_watermarks(self) -> dict[str, int]:
        """Return, by session, the first sequence number that was not ingested.

        Raises
        ------
        StoreError
            If the file is damaged there.
        """
        watermarks = database.read_watermarks(self.connection)
        state = database.state_of(self._directory) if self.present else None
        if self.ingested is None or self.ingested.state != state:
            self.ingested = Ingested(state, watermarks)
        return watermarks

    def count_ingested(self, tables: Sequence[str]) -> tuple[int, ...]:
        """Return how many rows each table of the file has, and how many were ever removed.

        Parameters
        ----------
        tables : sequence of str
            Which; the watermarks were read before.

        Raises
        ------
        StoreError
            If the file is damaged there.
        """
        import duckdb

        assert self.ingested is not None
        key = tuple(tables)
        counts = self.ingested.counts.get(key)
        if counts is None:
            place = database.CATALOGUE
            parts = [f"(SELECT count(*) FROM {place}.{name})" for name in tables]  # noqa: S608 - our own names
            parts.append(f"(SELECT coalesce(sum(rows), 0)::BIGINT FROM {place}.removals)")  # noqa: S608 - our own names
            try:
                [row] = self.connection.execute(f"SELECT {', '.join(parts)}").fetchall()
            except duckdb.Error as error:
                raise StoreError(
                    f"The rows of {database.DATABASE} cannot be counted ({database.reason(error)})."
                ) from error
            counts = self.ingested.counts[key] = row
        return counts

    def detach(self) -> bool:
        """Let go of the file, as has to be done before the gate is let go of.

        An empty database in its place stays. Afterwards the desk can be used again, unless
        False is returned; then it is to be closed, if it is not already.
        """
        import duckdb

        for shelf in self._shelves.values():
            # `Pending` decides what is kept from one query to the next.
            shelf.table = None
        if self._attached and self.present:
            try:
                self.connection.execute(f"DETACH {database.CATALOGUE}")
            except duckdb.Error:
                self.close()
                return False
            self._attached = self.present = False
        self._uses += 1
        return not database.worn(self.connection, self._uses)

    def show(self, tables: Mapping[str, pa.Table]) -> None:
        """Let the views unite the database with the rows that wait."""
        for name in self._shelves.keys() - tables.keys():
            self._present(name, united=False)
            self.connection.execute(f"DROP VIEW {_WAITING}.{name}")
            del self._shelves[name], self._relations[name]
        for name, table in tables.items():
            shelf = self._shelves.get(name)
            if shelf is None or not shelf.schema.equals(table.schema):
                self._put_up(name, _Shelf(table))
                if shelf is None:
                    self._present(name, united=True)
                shelf = self._shelves[name]
            shelf.table = table

    def _present(self, name: str, *, united: bool) -> None:
        """Make the view of one table, with the rows on its shelf or without."""
        from ravenxterm_lab.store.decoding import select_list

        query = f"FROM {database.CATALOGUE}.{name}"
        # Without need it costs: a table alone is counted, or sorted for the latest rows,
        # without a look at all its columns.
        if united:
            waiting = f"SELECT {select_list(name)} FROM {_WAITING}.{name}"  # noqa: S608 - our own names
            query = f"{query} UNION ALL BY NAME {waiting}"
        self.connection.execute(f"CREATE OR REPLACE VIEW {name} AS {query}; {self._comments[name]}")

    def _put_up(self, name: str, shelf: _Shelf) -> None:
        self.connection.execute(f"USE {_WAITING}")
        try:
            relation = self.connection.from_arrow(shelf)
            view = relation.create_view(name, replace=True)
        finally:
            self.connection.execute("USE memory")
        self._shelves[name], self._relations[name] = shelf, (relation, view)

    def close(self) -> None:
        """Close the connection, and with it the file."""
        self._shelves.clear()
        self._relations.clear()
        self.connection.close()

    def _read_comments(self) -> dict[str, str]:
        """Return the SQL that gives each view, by name, the comments of its table."""
        execute = self.connection.execute
        of_tables = execute(
            "SELECT table_name, comment FROM duckdb_tables() "
            "WHERE database_name = ? AND comment IS NOT NULL",
            [database.CATALOGUE],
        ).fetchall()
        of_columns = execute(
            "SELECT table_name, column_name, comment FROM duckdb_columns() "
            "WHERE database_name = ? AND comment IS NOT NULL",
            [database.CATALOGUE],
        ).fetchall()
        found: dict[str, list[str]] = {name: [] for name in (*_SHOWN, *ROWS_OF.values())}
        for name, comment in of_tables:
            if name in _SHOWN:
                found[name].append(f"COMMENT ON VIEW {name} IS {database.literal(comment)}")
        for name, column, comment in of_columns:
            for view in (name, ROWS_OF.get(name)) if name in _SHOWN else ():
                if view is not None:
                    text = database.literal(comment)
                    found[view].append(f'COMMENT ON COLUMN {view}."{column}" IS {text}')
        return {name: "; ".join(statements) for name, statements in found.items()}
