"""The copy that a compaction makes: each table in the order of time, compared as it is written."""

from __future__ import annotations

import itertools
import shutil
import time
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store import database
from ravenxterm_lab.store.access import reading, utc
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import duckdb

__all__ = [
    "CHUNK",
    "REMEDY",
    "Copying",
    "Interrupted",
    "check_stop",
    "count_rows",
    "room",
    "table_names",
    "used_bytes",
]

#: Rows that are sorted, copied and compared by one statement: about a second of work.
CHUNK = 500_000
#: What every error of a compaction says.
REMEDY = "The database was left as it was."

_COPY = "compacted"
#: The first of these columns that a table has is what its rows are ordered by.
_TIMES = ("ts", "hour", "day", "minute")

_OBJECTS = """
SELECT 'table', table_name, sql, comment FROM duckdb_tables() WHERE database_name = $name
UNION ALL
SELECT 'column', table_name || '.' || column_name, data_type, comment
FROM duckdb_columns() WHERE database_name = $name AND NOT internal
UNION ALL
SELECT 'view', view_name, sql, comment
FROM duckdb_views() WHERE database_name = $name AND NOT internal
UNION ALL
SELECT 'index', index_name, sql, comment FROM duckdb_indexes() WHERE database_name = $name
UNION ALL
SELECT 'sequence', sequence_name, sql, comment
FROM duckdb_sequences() WHERE database_name = $name
UNION ALL
SELECT 'function', function_name, macro_definition, comment
FROM duckdb_functions() WHERE database_name = $name AND NOT internal
ORDER BY ALL
"""


class Interrupted(Exception):  # noqa: N818 - no error: the caller asked for it
    """The compaction was given up because its ``stop`` said so; nothing was changed."""


def table_names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the names of all tables of the attached database."""
    query = "SELECT table_name FROM duckdb_tables() WHERE database_name = ? ORDER BY 1"
    return [name for (name,) in connection.execute(query, [database.CATALOGUE]).fetchall()]


def count_rows(
    connection: duckdb.DuckDBPyConnection, table: str, of: str = database.CATALOGUE
) -> int:
    """Return the number of rows of a table."""
    query = f'SELECT count(*) FROM {of}."{table}"'  # noqa: S608 - names from the catalogue
    [[count]] = connection.execute(query).fetchall()
    return int(count)


def used_bytes(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the size of the blocks of the attached database that are not free."""
    query = (
        "SELECT block_size * (total_blocks - free_blocks) FROM pragma_database_size() "
        "WHERE database_name = ?"
    )
    [[used]] = connection.execute(query, [database.CATALOGUE]).fetchall()
    return int(used)


def room(used: int) -> int:
    """Return the bytes that the disk needs to have free for the copy of ``used`` bytes."""
    return int(used * 1.1) + 32 * 2**20


def check_stop(stop: Callable[[], bool] | None) -> None:
    """Give the work up if the caller says so."""
    if stop is not None and stop():
        raise Interrupted


class Copying:
    """The copy: made, compared with the original, and closed."""

    def __init__(self, directory: Path, draft: Path, stop: Callable[[], bool] | None) -> None:
        self._directory = directory
        self._draft = draft
        self._stop = stop

    def run(self, clock: Callable[[], int], start: float, threads: int | None) -> int:
        """Make it, and return the number of its rows."""
        from ravenxterm_lab.store.merging import merge_all

        with reading(self._directory, threads=threads) as connection:
            assert connection is not None
            size = (self._directory / database.DATABASE).stat().st_size
            self._check_room(used_bytes(connection))
            database.attach_new(connection, self._draft, _COPY)
            connection.execute(f"COPY FROM DATABASE {database.CATALOGUE} TO {_COPY} (SCHEMA)")
            if self._objects(connection, database.CATALOGUE) != self._objects(connection, _COPY):
                raise StoreError(
                    f"{self._directory / database.DATABASE} holds something that a compaction "
                    f"would lose, such as a table in a schema of its own. {REMEDY} Move it "
                    "to a file of its own."
                )
            rows = 0
            for table in table_names(connection):
                rows += self._copy_table(connection, table)
            # What the passes of the ingest could not merge within their time.
            connection.execute("BEGIN")
            merge_all(connection, _COPY)
            connection.execute("COMMIT")
            self._compare_sums(connection)
            connection.execute(f"CHECKPOINT {_COPY}")
            connection.execute(
                f"INSERT INTO {_COPY}.maintenance BY NAME SELECT $ts::TIMESTAMP AS ts, "
                "'compaction' AS action, $seconds AS seconds, $rows AS rows, "
                "$before AS bytes_before, $after AS bytes_after, $detail AS detail",
                {
                    "ts": utc(clock()),
                    "seconds": time.perf_counter() - start,
                    "rows": rows,
                    "before": size,
                    "after": self._draft.stat().st_size,
                    "detail": "rewritten in the order of time",
                },
            )
            connection.execute(f"DETACH {_COPY}")
        return rows

    @staticmethod
    def _compare_sums(connection: duckdb.DuckDBPyConnection) -> None:
        sums = {
            tuple(connection.execute(f"SELECT sum(runs) FROM {of}.execution_hours").fetchall())  # noqa: S608 - our own names
            for of in (database.CATALOGUE, _COPY)
        }
        if len(sums) > 1:
            raise StoreError(f"The copy of the table execution_hours lost runs. {REMEDY}")

    def _check_room(self, used: int) -> None:
        free = shutil.disk_usage(self._draft.parent).free
        if free < room(used):
            raise StoreError(
                f"{self._draft.parent} has {format_bytes(free)} free, and the compacted copy of "
                f"the database needs {format_bytes(room(used))} until it takes its place. "
                f"{REMEDY} Free space on the disk and try again."
            )

    @staticmethod
    def _objects(connection: duckdb.DuckDBPyConnection, name: str) -> list[tuple[object, ...]]:
        return connection.execute(_OBJECTS, {"name": name}).fetchall()

    def _copy_table(self, connection: duckdb.DuckDBPyConnection, table: str) -> int:
        rows = count_rows(connection, table)
        order = self._order(connection, table)
        for condition in self._conditions(connection, table, order[:1], rows):
            check_stop(self._stop)
            by = f"ORDER BY {', '.join(order)}" if order else ""
            source = f'{database.CATALOGUE}."{table}" AS original WHERE {condition}'
            connection.execute(
                f'INSERT INTO {_COPY}."{table}" SELECT * FROM {source} {by}'  # noqa: S608 - names from the catalogue
            )
            check_stop(self._stop)
            copied = f'{_COPY}."{table}" AS original WHERE {condition}'
            digest = "SELECT count(*), sum(hash(original)::HUGEINT) FROM "
            one, two = (connection.execute(digest + of).fetchall() for of in (source, copied))
            if one != two:
                raise StoreError(
                    f"The copy of the table {table} differs from the original. {REMEDY} "
                    "Check the disk and the memory of this machine."
                )
        if count_rows(connection, table, _COPY) != rows:
            raise StoreError(f"The copy of the table {table} lacks rows. {REMEDY}")
        return rows

    @staticmethod
    def _order(connection: duckdb.DuckDBPyConnection, table: str) -> list[str]:
        query = (
            "SELECT column_name FROM duckdb_columns() WHERE database_name = ? AND table_name = ?"
        )
        names = {
            name for (name,) in connection.execute(query, [database.CATALOGUE, table]).fetchall()
        }
        times = [name for name in _TIMES if name in names][:1]
        return times + [name for name in ("session", "seq") if times and name in names]

    @staticmethod
    def _conditions(
        connection: duckdb.DuckDBPyConnection, table: str, time_column: list[str], rows: int
    ) -> list[str]:
        """Return conditions that part the rows into pieces of about `CHUNK`."""
        pieces = -(-rows // CHUNK)
        if pieces < 2 or not time_column:
            return ["true"]
        [column] = time_column
        shares = ", ".join(str(i / pieces) for i in range(1, pieces))
        # About the right places are good enough: every row is on one side of each.
        query = f'SELECT approx_quantile({column}, [{shares}]) FROM {database.CATALOGUE}."{table}"'  # noqa: S608 - names from the catalogue
        [[found]] = connection.execute(query).fetchall()
        marks = [f"TIMESTAMP '{mark}'" for mark in sorted(set(found or []))]
        if not marks:
            return ["true"]
        between = [f"{column} >= {a} AND {column} < {b}" for a, b in itertools.pairwise(marks)]
        return [f"{column} < {marks[0]}", *between, f"{column} >= {marks[-1]}", f"{column} IS NULL"]
