"""Restore: what an export wrote comes back into a store, or goes into another one.

A row is known by its session and number, so that none comes twice however often a file is
given. All files of one call go in within one transaction.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store import database
from ravenxterm_lab.store.access import failure, utc, writing
from ravenxterm_lab.store.accounting import account_for_strangers, take_back
from ravenxterm_lab.store.schema import COMMON, TABLES
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_number, format_seconds

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from datetime import datetime

    import duckdb

__all__ = ["RestoreReport", "exported_files", "restore"]

_NOTHING = "Nothing was restored."


@dataclass(frozen=True, slots=True)
class RestoreReport(Displayed):
    """What came back.

    Attributes
    ----------
    path : Path
        What was given.
    files : tuple of Path
        The Parquet files in it.
    added : mapping of str to int
        Rows that are new in the store, by table.
    known : mapping of str to int
        Rows of the files that the store held already, by table.
    seconds : float
        Wall time.
    """

    path: Path
    files: tuple[Path, ...]
    added: Mapping[str, int]
    known: Mapping[str, int]
    seconds: float

    @property
    def rows(self) -> int:
        """Rows that are new in the store."""
        return sum(self.added.values())

    def _card(self) -> Card:
        rows = [
            (table, f"{self.added[table]:,}", f"{self.known[table]:,}")
            for table in sorted(self.added)
        ]
        return Card(
            "Restore",
            f"{format_number(self.rows, 'new row')} from {format_number(len(self.files), 'file')} "
            f"at {self.path}, {format_seconds(self.seconds)}.",
            [Table(("table", "added", "known already"), rows, (False, True, True))],
        )


def restore(
    directory: Path,
    path: str | os.PathLike[str],
    files: tuple[Path, ...],
    *,
    clock: Callable[[], int] = time.time_ns,
    patience: float = 60.0,
) -> RestoreReport:
    """Bring Parquet that `Export` wrote into the database.

    The caller has moved what waits into the database, and holds ``ingest.lock``.

    Parameters
    ----------
    directory : Path
        The store; a database is made where there is none.
    path : path
        What was given, for the report.
    files : tuple of Path
        Those of `exported_files`.
    clock : callable
        Nanoseconds since 1970 (UTC), for the record of it.
    patience : float
        How long to wait for readers (s).

    Raises
    ------
    StoreError
        If a file is no export, holds columns that this version does not know, or cannot be
        read, or the store stays busy; nothing is restored then.
    """
    import duckdb

    from ravenxterm_lab.store.merging import merge_all

    start = time.perf_counter()
    try:
        with writing(directory, patience=patience, create=True) as connection:
            if connection is None:
                raise StoreError(
                    f"{directory} has been kept busy by queries for {patience:.0f} s. {_NOTHING} "
                    "End long queries, and try again."
                )
            added: dict[str, int] = {}
            known: dict[str, int] = {}
            now = utc(clock())
            connection.execute("BEGIN")
            connection.execute(
                "CREATE OR REPLACE TEMP TABLE visitors (session VARCHAR, last UBIGINT)"
            )
            for file in files:
                table = _table_of(connection, file)
                rows, new = _insert(connection, file, table)
                added[table] = added.get(table, 0) + new
                known[table] = known.get(table, 0) + rows - new
            if added.get("executions"):
                merge_all(connection, database.CATALOGUE)
            account_for_strangers(connection, now, str(path))
            _note(connection, files, sum(added.values()), time.perf_counter() - start, now)
            connection.execute("COMMIT")
    except duckdb.Error as error:
        raise failure(
            f"{path} could not be restored into {directory}", error,
            f"{_NOTHING} Give what `Store.export` wrote.",
        ) from error  # fmt: skip
    return RestoreReport(Path(path), files, added, known, time.perf_counter() - start)


def exported_files(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Return the Parquet files that a person means, by name.

    Parameters
    ----------
    path : path
        One file, or a directory with files at any depth.

    Raises
    ------
    StoreError
        If there is none.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        files = tuple(sorted(file for file in given.rglob("*.parquet") if file.is_file()))
    else:
        files = (given,) if given.is_file() else ()
    if not files:
        raise StoreError(f"{path} holds no Parquet file to restore.")
    return files


def _table_of(connection: duckdb.DuckDBPyConnection, file: Path) -> str:
    """Return the table that a file was exported from, which its footer names."""
    name = database.literal(file)
    found = connection.execute(
        f"SELECT decode(value) FROM parquet_kv_metadata({name}) "  # noqa: S608 - a quoted path
        "WHERE decode(key) = 'ravenxterm.table'"
    ).fetchall()
    if not found or found[0][0] not in TABLES:
        raise StoreError(
            f"{file} was not written by an export of this package: its footer names no table. "
            f"{_NOTHING}"
        )
    table: str = found[0][0]
    columns = connection.execute(f"DESCRIBE SELECT * FROM {_source(file)}").fetchall()  # noqa: S608 - a quoted path
    names = {column for column, *_ in columns}
    unknown = sorted(names - set(TABLES[table].all_columns))
    missing = sorted(set(COMMON) - names)
    if unknown or missing:
        what = f"an unknown column {unknown[0]!r}" if unknown else f"no column {missing[0]!r}"
        raise StoreError(
            f"{file} has {what} of the table {table}: a newer version of this package may have "
            f"written it. {_NOTHING}"
        )
    return table


def _source(file: Path) -> str:
    # The partition is in the path only.
    return f"read_parquet({database.literal(file)}, hive_partitioning = false)"


def _insert(connection: duckdb.DuckDBPyConnection, file: Path, table: str) -> tuple[int, int]:
    """Insert the rows that are not there yet; return how many the file holds, and how many new."""
    target = f"{database.CATALOGUE}.{table}"
    [(rows,)] = connection.execute(f"SELECT count(*) FROM {_source(file)}").fetchall()  # noqa: S608 - a quoted path
    columns = [row[0] for row in connection.execute(f"DESCRIBE {_select_all(file)}").fetchall()]
    chosen = ", ".join(
        f'f."{name}"::{TABLES[table].all_columns[name]} AS "{name}"' for name in columns
    )
    # Statistics by hour outlive their rows, so rows that come back after a removal count in
    # them already.
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE restored AS SELECT {chosen}, EXISTS ("  # noqa: S608 - our own names
        "FROM removals AS r WHERE r.table_name = $table AND r.session = f.session "
        "AND f.seq BETWEEN r.first_seq AND r.last_seq) AS counted "
        f"FROM {_source(file)} AS f ANTI JOIN {target} AS t USING (session, seq)",
        {"table": table},
    )
    [(new,)] = connection.execute("SELECT count(*) FROM restored").fetchall()
    connection.execute(f"INSERT INTO {target} BY NAME SELECT * EXCLUDE (counted) FROM restored")  # noqa: S608 - our own names
    if table == "executions":
        _count(connection)
    # Only now: until here, what was removed tells which rows the statistics hold already.
    take_back(connection, table)
    connection.execute(
        "INSERT INTO visitors SELECT session, max(seq) FROM restored GROUP BY session"
    )
    connection.execute("DROP TABLE restored")
    return int(rows), int(new)


def _select_all(file: Path) -> str:
    return f"SELECT * FROM {_source(file)}"  # noqa: S608 - a quoted path


def _count(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the restored executions to the sums and histograms."""
    import pyarrow as pa

    from ravenxterm_lab.store.decoding import select_list
    from ravenxterm_lab.store.rollups import summarise

    # Every column of the table, whatever the file had.
    fresh: Any = connection.sql(
        "SELECT e.* FROM executions AS e SEMI JOIN (FROM restored WHERE NOT counted) AS r "
        "USING (session, seq)"
    ).to_arrow_table()
    for name, partial in summarise(fresh.cast(_plain(pa, fresh.schema))).items():
        connection.register("restored_sums", partial)
        connection.execute(
            f"INSERT INTO {name} BY NAME SELECT {select_list(name)} FROM restored_sums"  # noqa: S608 - our own names
        )
        connection.unregister("restored_sums")


def _plain(pa: Any, schema: Any) -> Any:
    """Return a schema with JSON as the text that it is."""
    fields = []
    for field in schema:
        kind = getattr(field.type, "storage_type", field.type)
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)


def _note(
    connection: duckdb.DuckDBPyConnection,
    files: tuple[Path, ...],
    rows: int,
    seconds: float,
    now: datetime,
) -> None:
    connection.execute(
        "INSERT INTO maintenance BY NAME SELECT $now::TIMESTAMP AS ts, 'restore' AS action, "
        "$seconds AS seconds, $rows AS rows, $detail AS detail",
        {"now": now, "seconds": seconds, "rows": rows, "detail": f"from {files[0]}"},
    )
