"""The database for upkeep: attached within the right gate, and closed before it is left."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store import database, journal
from ravenxterm_lab.store.locks import exclusive_gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import duckdb

__all__ = ["failure", "reading", "sync", "utc", "writing"]


def failure(what: str, error: Exception, remedy: str) -> StoreError:
    """Return the error for something that DuckDB refused, in one line."""
    reason = database.reason(error)
    full = "No space left" in reason or "Could not write all bytes" in reason
    if full and "space" not in remedy:
        remedy = f"Free space on the disk. {remedy}"
    return StoreError(f"{what} ({reason}). {remedy}")


@contextlib.contextmanager
def reading(
    directory: Path, *, threads: int | None = 1
) -> Iterator[duckdb.DuckDBPyConnection | None]:
    """Attach the file read-only, with the gate shared; None when there is no file.

    Raises
    ------
    StoreError
        If it cannot be opened, or a writer holds the gate for too long.
    """
    if not (directory / database.DATABASE).exists():
        yield None
        return
    while True:
        connection = database.connect(threads=threads)
        with journal.settled_gate(directory, create=True), contextlib.closing(connection):
            if database.attach(connection, directory, read_only=True):
                connection.execute(f"USE {database.CATALOGUE}")
                yield connection
                return
        journal.upgrade(directory)


@contextlib.contextmanager
def writing(
    directory: Path,
    *,
    patience: float,
    stop: Callable[[], bool] | None = None,
    create: bool = False,
) -> Iterator[duckdb.DuckDBPyConnection | None]:
    """Attach the file for writing, migrated, with the gate held alone.

    The caller holds ``ingest.lock``, and commits; what it did not commit is undone.
    None when readers hold the gate for longer than ``patience`` seconds. With ``create`` a
    file that does not exist is made, empty.

    Raises
    ------
    StoreError
        If it cannot be opened.
    StoreVersionError
        If a newer version of this package made it.
    """
    connection = database.connect(threads=1)
    with (
        exclusive_gate(directory, patience=patience, stop=stop) as obtained,
        contextlib.closing(connection),
    ):
        if not obtained:
            yield None
            return
        if create and not (directory / database.DATABASE).exists():
            database.create(directory)
        journal.attach_for_writing(connection, directory)
        connection.execute(f"USE {database.CATALOGUE}")
        yield connection
        # Within the gate: detaching checkpoints, and readers shall find no log to replay.
        connection.execute("USE memory")
        journal.detach_written(connection, directory)


def sync(path: Path) -> None:
    """Bring a file to the disk, or that an entry of a directory was made or renamed."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def utc(ns: int) -> datetime:
    """Return nanoseconds since 1970 as the time that the tables hold: UTC, without a zone."""
    start = datetime(1970, 1, 1, tzinfo=UTC)
    return (start + timedelta(microseconds=ns // 1000)).replace(tzinfo=None)
