"""Compaction: the database is rewritten in the order of time, and the new file takes its name.

Readers go on while the copy is made, for only ``ingest.lock`` is held then, and rows that
are recorded meanwhile wait in the spool. The gate is held alone for one rename. A death at
any point leaves the old file or the new one, whole; what else it leaves behind is removed
by the next ingest.

The ingest adds rows by the row group, of which the last is written anew each time: the
blocks of its former copies are free and used again. They are some 2 MiB whatever the
length of the history (0.5 M and 2 M rows in passes of 20,000 alike), so that a file which
nothing is removed from hardly needs this. What makes one shrink is removal:
`ravenxterm_lab.store.export`, retention, merged rollups.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store import database
from ravenxterm_lab.store.access import failure, reading, sync, writing
from ravenxterm_lab.store.copying import (
    REMEDY,
    Copying,
    Interrupted,
    check_stop,
    count_rows,
    room,
    table_names,
    used_bytes,
)
from ravenxterm_lab.store.locks import exclusive_gate
from ravenxterm_lab.tables import Card, Displayed
from ravenxterm_lab.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path


__all__ = [
    "LEAST_BYTES",
    "RATIO",
    "CompactionReport",
    "Interrupted",
    "compact",
    "nothing_done",
    "remove_leftovers",
    "worthwhile",
]

#: Size of the file, over what it would be, from which on a compaction is worth its while.
RATIO = 1.4
#: Size below which it never is (bytes): the free blocks of a few row groups are no loss.
LEAST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class CompactionReport(Displayed):
    """What a compaction did. Sizes are in bytes on disk.

    Attributes
    ----------
    path : Path
        The database.
    rows : int
        Rows of all its tables.
    bytes_before, bytes_after : int
        Its size.
    seconds : float
        Wall time.
    done : bool
        Whether there was anything to do.
    """

    path: Path
    rows: int
    bytes_before: int
    bytes_after: int
    seconds: float
    done: bool = True

    @property
    def freed(self) -> int:
        """Bytes given back to the disk; below zero when the file grew."""
        return self.bytes_before - self.bytes_after

    def _card(self) -> Card:
        if not self.done:
            size = f"{format_bytes(self.bytes_before)}: " if self.bytes_before else ""
            return Card("Compaction", f"{self.path}: {size}nothing to gain, nothing done.")
        return Card(
            "Compaction",
            f"{self.path}: {format_bytes(self.bytes_before)} before, "
            f"{format_bytes(self.bytes_after)} now; {self.rows:,} rows in "
            f"{format_seconds(self.seconds)}.",
        )


def _target(directory: Path) -> Path:
    # A link to another disk stays one: what it points to is rewritten beside itself.
    return (directory / database.DATABASE).resolve()


def _draft(directory: Path) -> Path:
    target = _target(directory)
    return target.with_name(f"{target.name}.compact")


def remove_leftovers(directory: Path) -> None:
    """Remove what a compaction that died has left; the caller holds ``ingest.lock``."""
    draft = _draft(directory)
    for path in draft.parent.glob(f"{draft.name}*"):
        path.unlink(missing_ok=True)


def worthwhile(directory: Path, now: datetime, *, days: float = 1.0) -> bool:
    """Say whether a compaction would shrink the file to less than 1 / `RATIO` of its size.

    It would when that much of the file are free blocks, or when a row takes that much more
    than right after the last compaction. The file has to be of at least `LEAST_BYTES`, the
    last compaction at least ``days`` old, and the disk must have room for the copy.

    Parameters
    ----------
    directory : Path
        The store.
    now : datetime
        By the clock of the store, UTC without a time zone.
    days : float
        Least age of the last compaction.

    Raises
    ------
    StoreError
        If the database cannot be read.
    """
    import duckdb

    try:
        size = (directory / database.DATABASE).stat().st_size
        if size < LEAST_BYTES:
            return False
        with reading(directory) as connection:
            if connection is None:
                return False
            used = used_bytes(connection)
            last = connection.execute(
                "SELECT ts, bytes_after, rows FROM maintenance WHERE action = 'compaction' "
                "ORDER BY ts DESC LIMIT 1"
            ).fetchall()
            rows = sum(count_rows(connection, name) for name in table_names(connection))
        if shutil.disk_usage(_target(directory).parent).free < room(used):
            return False
    except FileNotFoundError:
        return False
    except duckdb.Error as error:
        raise failure(f"{directory / database.DATABASE} cannot be read", error, "") from error
    if not last:
        return size >= RATIO * used
    [(when, bytes_after, rows_then)] = last
    # A clock that jumped back shall not put it off for ever.
    if abs((now - when).total_seconds()) < days * 86400:
        return False
    denser = rows and rows_then and used / rows >= RATIO * bytes_after / rows_then
    return bool(size >= RATIO * used or denser)


def nothing_done(directory: Path) -> CompactionReport:
    """Return the report of a compaction that was not worth its while."""
    path = directory / database.DATABASE
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        size = 0
    return CompactionReport(path, 0, size, size, 0.0, done=False)


def compact(
    directory: Path,
    *,
    clock: Callable[[], int] = time.time_ns,
    patience: float = 60.0,
    stop: Callable[[], bool] | None = None,
    threads: int | None = None,
) -> CompactionReport:
    """Rewrite the database; the caller holds ``ingest.lock``.

    Parameters
    ----------
    directory : Path
        The store.
    clock : callable
        Nanoseconds since 1970 (UTC), for the record of the work.
    patience : float
        How long to wait for readers, twice (s): they hold the gate while they read.
    stop : callable, optional
        Asked about once a second; the work is given up when it returns True.
    threads : int, optional
        Of DuckDB; by default as many as there are cores.

    Raises
    ------
    StoreError
        If there is no room for the copy, readers stay too long, or DuckDB fails; the
        database is then as it was, and the copy removed.
    StoreVersionError
        If a newer version of this package made the database.
    Interrupted
        If ``stop`` said so.
    """
    import duckdb

    start = time.perf_counter()
    target, draft = _target(directory), _draft(directory)
    if not target.exists():
        return nothing_done(directory)
    try:
        remove_leftovers(directory)
        _settle(directory, patience, stop)
        before = _state(target)
        work = Copying(directory, draft, stop)
        rows = work.run(clock, start, threads)
        # Only now, with every descriptor of DuckDB closed, may another one be opened.
        _sync(draft, target)
        _swap(directory, before, patience, stop)
        sync(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            remove_leftovers(directory)
        if isinstance(error, duckdb.Error):
            raise failure(f"{target} could not be compacted", error, REMEDY) from error
        if isinstance(error, OSError):
            raise failure(
                f"{target} could not be compacted",
                error,
                f"{REMEDY} Make its directory writable, and see that the disk has room.",
            ) from error
        raise
    return CompactionReport(
        directory / database.DATABASE,
        rows,
        before[1],
        target.stat().st_size,
        time.perf_counter() - start,
    )


def _swap(
    directory: Path,
    before: tuple[int, int, int],
    patience: float,
    stop: Callable[[], bool] | None,
) -> None:
    """Give the copy the name of the original, with nobody reading and nothing changed."""
    target = _target(directory)
    with exclusive_gate(directory, patience=patience, stop=stop) as obtained:
        if not obtained:
            check_stop(stop)
            raise StoreError(
                f"{target} has been kept busy by queries for {patience:.0f} s, so that it "
                f"could not be replaced by its compacted copy. {REMEDY} End long queries "
                "and try again."
            )
        if _state(target) != before or _logs(target):
            raise StoreError(
                f"{target} was changed by something else while it was compacted. {REMEDY} "
                "Let nothing but ravenxterm-lab write to it, and try again."
            )
        _draft(directory).rename(target)


def _state(target: Path) -> tuple[int, int, int]:
    stat = target.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _logs(path: Path) -> list[Path]:
    # DuckDB has more than one, beside each other for a moment while it checkpoints.
    return sorted(path.parent.glob(f"{path.name}.wal*"))


def _settle(directory: Path, patience: float, stop: Callable[[], bool] | None) -> None:
    """Bring a log that a killed ingest left into the file: a rename would part the two."""
    with writing(directory, patience=patience, stop=stop) as connection:
        if connection is None:
            check_stop(stop)
            raise StoreError(
                f"{directory} has been kept busy by queries for {patience:.0f} s; end them "
                "and try again. Nothing was changed."
            )
        connection.execute(f"CHECKPOINT {database.CATALOGUE}")
    for log in _logs(_target(directory)) + _logs(directory / database.DATABASE):
        raise StoreError(
            f"{log} could not be brought into the database. {REMEDY} Free space on the "
            "disk and try again."
        )


def _sync(draft: Path, target: Path) -> None:
    if _logs(draft):
        raise StoreError(f"The copy {draft} is not whole: it has a log. {REMEDY}")
    draft.chmod(target.stat().st_mode & 0o777)
    sync(draft)
