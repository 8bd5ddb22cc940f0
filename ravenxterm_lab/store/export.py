"""Export: rows of one table as Parquet, on request with their removal from the database.

The files are written beside their target, brought to the disk, read back and compared
value by value, and only then given their name. Rows are removed after that, in one
transaction with the record of it: a death at any point leaves every row in the database,
or in whole files under their final name, or in both, never in neither.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import StoreError, did_you_mean
from ravenxterm_lab.store import database
from ravenxterm_lab.store.access import failure, reading, sync, utc, writing
from ravenxterm_lab.store.schema import TABLES
from ravenxterm_lab.tables import Card, Displayed
from ravenxterm_lab.units import format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    import duckdb

__all__ = ["Export", "ExportReport"]

_SUFFIX = ".parquet"
_KEPT = "No row was removed from the database."


@dataclass(frozen=True, slots=True)
class ExportReport(Displayed):
    """What was exported.

    Attributes
    ----------
    path : Path
        The file, or the directory of files.
    files : tuple of Path
        The Parquet files, in the order of time.
    table : str
        The table.
    rows : int
        Rows in the files.
    bytes : int
        Size of the files on disk.
    first, last : datetime or None
        Time of the first and of the last row (UTC, without a zone); None without rows.
    removed : int
        Rows that were removed from the database; 0 unless that was asked for.
    seconds : float
        Wall time.
    """

    path: Path
    files: tuple[Path, ...]
    table: str
    rows: int
    bytes: int
    first: datetime | None
    last: datetime | None
    removed: int
    seconds: float

    def _card(self) -> Card:
        span = f", from {self.first} to {self.last} UTC" if self.rows else ""
        gone = (
            f" {self.removed:,} rows were removed from the database; compact it to give their "
            "space back."
            if self.removed
            else ""
        )
        count = format_number(len(self.files), "file")
        return Card(
            "Export",
            f"{format_number(self.rows, 'row')} of {self.table}{span}: "
            f"{format_bytes(self.bytes)} in {count} at {self.path}, "
            f"{format_seconds(self.seconds)}.{gone}",
        )


class Export:
    """One export, checked before anything is written.

    Parameters
    ----------
    directory : Path
        The store.
    path : path
        A name that ends in ``.parquet`` becomes one file. Any other becomes a directory of
        one file per month, ``year=2026/month=1/executions.parquet``, which DuckDB
        (``read_parquet('path/**/*.parquet')``) and polars (``scan_parquet``) read as one.
    table : str
        One of the tables of events.
    since, until : datetime or date, optional
        From this moment on, and up to before that one. Without a time zone it is UTC, as
        the column ``ts`` is.

    Raises
    ------
    StoreError
        If the table is unknown, the times make no sense, or the path is taken.
    """

    def __init__(
        self,
        directory: Path,
        path: str | os.PathLike[str],
        *,
        table: str = "executions",
        since: datetime | date | None = None,
        until: datetime | date | None = None,
    ) -> None:
        if table not in TABLES:
            raise StoreError(f"There is no table {table!r} to export.{did_you_mean(table, TABLES)}")
        self._directory = directory
        self._table = table
        self._since, self._until = _moment("since", since), _moment("until", until)
        if self._since is not None and self._until is not None and self._since >= self._until:
            raise StoreError(f"since ({self._since} UTC) must be before until ({self._until} UTC).")
        try:
            self.path = Path(path).expanduser().absolute()
        except (TypeError, RuntimeError) as error:
            raise StoreError(f"{path!r} is no path to export to ({error}).") from error
        if self.path.suffix not in ("", _SUFFIX):
            raise StoreError(
                f"{self.path} cannot be written: an export is Parquet. End the name in "
                f"{_SUFFIX} for one file, or give it no suffix for a directory of months."
            )
        self._check_target()
        # Made in this place, so that giving it its name is one step on one file system.
        owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._draft = self.path.with_name(f".{self.path.name}.{owner}.partial")

    def _check_target(self) -> None:
        if self.path.exists() or self.path.is_symlink():
            raise StoreError(
                f"{self.path} exists already, and an export overwrites nothing. "
                "Choose another name, or remove it first."
            )
        if not self.path.parent.is_dir():
            raise StoreError(
                f"{self.path.parent} is no directory. Create it before exporting to it."
            )

    @property
    def _rows(self) -> str:
        conditions = []
        if self._since is not None:
            conditions.append(f"ts >= TIMESTAMP '{self._since}'")
        if self._until is not None:
            conditions.append(f"ts < TIMESTAMP '{self._until}'")
        return f"{database.CATALOGUE}.{self._table} AS t WHERE " + (
            " AND ".join(conditions) or "true"
        )

    def run(
        self, *, remove: bool, clock: Callable[[], int] = time.time_ns, patience: float = 60.0
    ) -> ExportReport:
        """Write the files, and remove the rows if asked to.

        The caller has moved what waits into the database, and for ``remove`` holds
        ``ingest.lock``.

        Parameters
        ----------
        remove : bool
            Whether to remove the rows that were exported.
        clock : callable
            Nanoseconds since 1970 (UTC), for the record of the removal.
        patience : float
            How long to wait for readers before rows are removed (s).

        Raises
        ------
        StoreError
            If the files cannot be written or do not hold what the database does, or the
            rows cannot be removed; the message says which.
        """
        import duckdb

        start = time.perf_counter()
        _remove_abandoned(self.path)
        try:
            try:
                files, rows, first, last = self._write()
                size = sum(path.stat().st_size for path in files)
                self._check_target()
                self._draft.rename(self.path)
                sync(self.path.parent)
            except BaseException:
                _remove(self._draft)
                raise
            removed = self._remove_rows(rows, size, start, clock, patience) if remove else 0
        except duckdb.Error as error:
            raise failure(
                f"The rows of {self._table} could not be exported to {self.path}", error, _KEPT
            ) from error
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be written ({error.strerror or error}). {_KEPT} Choose a "
                "directory that is writable and has room."
            ) from error
        final = tuple(self.path / path.relative_to(self._draft) for path in files)
        return ExportReport(
            self.path, final, self._table, rows, size, first, last, removed,
            time.perf_counter() - start,
        )  # fmt: skip

    def _write(self) -> tuple[list[Path], int, datetime | None, datetime | None]:
        """Write, sync and verify the draft; return its files, and what is in them."""
        with reading(self._directory, threads=None) as connection:
            if connection is None:
                raise StoreError(
                    f"{self._directory} holds no {self._table}: nothing was ever recorded there."
                )
            query = f"SELECT count(*), min(ts), max(ts) FROM {self._rows}"  # noqa: S608 - our own names
            [(rows, first, last)] = connection.execute(query).fetchall()
            metadata = self._metadata(connection)
            files = []
            compared = 0
            for path, condition in self._parts(connection):
                path.parent.mkdir(parents=True, exist_ok=True)
                source = f"{self._rows} AND {condition}"
                connection.execute(
                    f"COPY (SELECT t.* FROM {source} ORDER BY ts, session, seq) "  # noqa: S608 - our own names
                    f"TO {database.literal(path)} (FORMAT parquet, COMPRESSION zstd, "
                    f"USE_TMP_FILE false, KV_METADATA {metadata})"
                )
                sync(path)
                compared += self._compare(connection, source, path)
                files.append(path)
        if compared != rows:
            raise StoreError(
                f"{rows - compared} rows of {self._table} have no time and fit in no month. "
                f"{_KEPT} Export to one file instead."
            )
        if self._draft.is_dir():
            for folder in [
                *(path for path in self._draft.rglob("*") if path.is_dir()),
                self._draft,
            ]:
                sync(folder)
        return files, int(rows), first, last

    def _parts(self, connection: duckdb.DuckDBPyConnection) -> list[tuple[Path, str]]:
        """Return the files to write, each with the condition for its rows."""
        if self.path.suffix == _SUFFIX:
            return [(self._draft, "true")]
        query = f"SELECT DISTINCT year(ts), month(ts) FROM {self._rows} ORDER BY ALL"  # noqa: S608 - our own names
        months = connection.execute(query).fetchall()
        self._draft.mkdir()
        return [
            (
                self._draft / f"year={year}" / f"month={month}" / f"{self._table}{_SUFFIX}",
                f"ts >= {_month(year, month)} AND ts < {_month(year, month)} + INTERVAL 1 MONTH",
            )
            for year, month in months
        ]

    def _compare(self, connection: duckdb.DuckDBPyConnection, source: str, path: Path) -> int:
        """Read a file back, every value of it, and return the number of its rows."""
        columns = ", ".join(
            f'"{name}"::{sql} AS "{name}"' for name, sql in TABLES[self._table].all_columns.items()
        )
        digest = "SELECT count(*), sum(hash(t)::HUGEINT) FROM"
        # The partition is in the path only.
        file = f"read_parquet({database.literal(path)}, hive_partitioning = false)"
        written, expected = (
            connection.execute(f"{digest} (SELECT {columns} FROM {of}) AS t").fetchall()  # noqa: S608 - our own names
            for of in (file, source)
        )
        if written != expected:
            raise StoreError(
                f"{path.name} does not hold what the database does: reading it back gave "
                f"{written[0][0]:,} rows instead of {expected[0][0]:,}, or other values. {_KEPT} "
                "Check the disk that it was written to."
            )
        return int(written[0][0])

    def _metadata(self, connection: duckdb.DuckDBPyConnection) -> str:
        """Return the comments of the table and its columns, for the footer of the files."""
        comments = connection.execute(
            "SELECT '', comment FROM duckdb_tables() WHERE database_name = $1 AND table_name = $2 "
            "UNION ALL SELECT column_name, comment FROM duckdb_columns() "
            "WHERE database_name = $1 AND table_name = $2",
            [database.CATALOGUE, self._table],
        ).fetchall()
        pairs = {
            "ravenxterm.table": self._table,
            **{
                f"comment.{name}" if name else "comment": text
                for name, text in comments
                if text is not None
            },
        }
        return (
            "{"
            + ", ".join(f"{database.literal(k)}: {database.literal(v)}" for k, v in pairs.items())
            + "}"
        )

    def _remove_rows(
        self, rows: int, size: int, start: float, clock: Callable[[], int], patience: float
    ) -> int:
        import duckdb

        try:
            with writing(self._directory, patience=patience) as connection:
                if connection is None:
                    raise StoreError(
                        f"{self.path} is whole, but its rows are still in the database too, which "
                        f"has been kept busy by queries for {patience:.0f} s. End long queries, "
                        "and export again to another name."
                    )
                return self._remove_within(connection, rows, size, start, utc(clock()))
        except duckdb.Error as error:
            raise failure(
                f"{self.path} is whole, but removing its rows from the database failed",
                error,
                "Look whether they are still there before you export again; none is lost.",
            ) from error

    def _remove_within(
        self,
        connection: duckdb.DuckDBPyConnection,
        rows: int,
        size: int,
        start: float,
        now: datetime,
    ) -> int:
        """Remove the rows and note it, in one transaction."""
        before = (self._directory / database.DATABASE).stat().st_size
        connection.execute("BEGIN")
        connection.execute(
            "INSERT INTO removals BY NAME SELECT $now::TIMESTAMP AS ts, $table AS table_name, "  # noqa: S608 - our own names
            "session, count(*) AS rows, min(seq) AS first_seq, max(seq) AS last_seq, "
            f"$reason AS reason FROM {self._rows} GROUP BY session",
            {"now": now, "table": self._table, "reason": f"exported to {self.path}"},
        )
        delete = f"DELETE FROM {self._rows}"  # noqa: S608 - our own names
        [[removed]] = connection.execute(delete).fetchall()
        if removed != rows:
            connection.execute("ROLLBACK")
            raise StoreError(
                f"{self.path} is whole, but the database has changed since: it holds {removed:,} "
                f"such rows instead of {rows:,}. {_KEPT} Export again to another name."
            )
        connection.execute(
            "INSERT INTO maintenance BY NAME SELECT $now::TIMESTAMP AS ts, 'export' AS action, "
            "$seconds AS seconds, $rows AS rows, $before AS bytes_before, $size AS bytes_after, "
            "$detail AS detail",
            {
                "now": now, "seconds": time.perf_counter() - start, "rows": rows,
                "before": before, "size": size,
                "detail": f"{self._table} to {self.path}, and removed here",
            },
        )  # fmt: skip
        connection.execute("COMMIT")
        return int(removed)


def _moment(name: str, value: datetime | date | None) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)  # noqa: DTZ001 - as the column, UTC
    raise StoreError(
        f"{name} must be a datetime or a date, got {type(value).__name__}; "
        "for instance datetime(2026, 1, 1, tzinfo=UTC)."
    )


def _month(year: int, month: int) -> str:
    return f"make_timestamp({year}, {month}, 1, 0, 0, 0)"


def _remove(draft: Path) -> None:
    with contextlib.suppress(OSError):
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove the drafts of earlier exports to this name that died."""
    prefix = f".{path.name}."
    for draft in path.parent.glob(".*.partial"):
        owner = draft.name.removeprefix(prefix).removesuffix(".partial").partition("-")[0]
        if draft.name.startswith(prefix) and owner.isdigit() and not _lives(int(owner)):
            _remove(draft)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
