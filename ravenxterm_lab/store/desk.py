"""A DuckDB in memory with the views, to which the file is attached for one query at a time.

To start one takes longer than most queries, so it is kept from one to the next. The file
is not: while one process has it open, no other can write to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.store import database
from ravenxterm_lab.store.pending import Pending
from ravenxterm_lab.store.queries import ROWS_OF
from ravenxterm_lab.store.schema import ROLLUPS, TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping
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
    """

    def __init__(self, directory: Path) -> None:
        from ravenxterm_lab.store.decoding import select_list

        self._directory = directory
        self.pending = Pending()
        self.connection = database.connect()
        self._shelves: dict[str, _Shelf] = {}
        # What the views over the shelves rest on.
        self._relations: dict[str, object] = {}
        self._attached = self.present = False
        execute = self.connection.execute
        execute(f"ATTACH ':memory:' AS {_WAITING}")
        self.attach(present=False)
        for name in _SHOWN:
            source = f"{database.CATALOGUE}.{name}"
            execute(f"CREATE TABLE {_WAITING}.no_{name} AS FROM {source} LIMIT 0")
            execute(f"CREATE VIEW {_WAITING}.{name} AS FROM {_WAITING}.no_{name}")
            waiting = f"SELECT {select_list(name)} FROM {_WAITING}.{name}"  # noqa: S608 - our own names
            execute(f"CREATE VIEW {name} AS FROM {source} UNION ALL BY NAME {waiting}")
        execute(database.views(outside=True))
        self._describe()
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

    def detach(self) -> bool:
        """Let go of the file, as has to be done before the gate is let go of.

        An empty database in its place stays. Afterwards the desk can be used again, unless
        False is returned; then it is closed.
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
        return True

    def show(self, tables: Mapping[str, pa.Table]) -> None:
        """Let the views unite the database with the rows that wait."""
        for name in self._shelves.keys() - tables.keys():
            self.connection.execute(
                f"CREATE OR REPLACE VIEW {_WAITING}.{name} AS FROM {_WAITING}.no_{name}"
            )
            del self._shelves[name], self._relations[name]
        for name, table in tables.items():
            shelf = self._shelves.get(name)
            if shelf is None or not shelf.schema.equals(table.schema):
                shelf = _Shelf(table)
                self._put_up(name, shelf)
            shelf.table = table

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

    def _describe(self) -> None:
        """Give the views over the tables the comments of the tables, and the others their own."""
        execute = self.connection.execute
        execute(database.view_comments())
        of_tables = execute(
            "SELECT table_name, comment FROM duckdb_tables() WHERE database_name = ?",
            [database.CATALOGUE],
        ).fetchall()
        of_columns = execute(
            "SELECT table_name, column_name, comment FROM duckdb_columns() "
            "WHERE database_name = ? AND comment IS NOT NULL",
            [database.CATALOGUE],
        ).fetchall()
        statements = [
            f"COMMENT ON VIEW {table} IS {database.literal(comment)}"
            for table, comment in of_tables
            if table in _SHOWN and comment
        ]
        statements += [
            f'COMMENT ON COLUMN {view}."{column}" IS {database.literal(comment)}'
            for table, column, comment in of_columns
            for view in (table, ROWS_OF.get(table))
            if table in _SHOWN and view is not None
        ]
        execute(";".join(statements))
