"""What a store holds at this moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.store import database
from ravenxterm_lab.store.access import utc
from ravenxterm_lab.store.locks import holder
from ravenxterm_lab.store.schema import SCHEMA_VERSION
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from ravenxterm_lab.store.reading import Readers

__all__ = ["Ingesting", "StoreInfo", "read_info"]

#: Of fewer rows an empty database would be most of what a row seems to take.
_MANY = 1000


@dataclass(frozen=True, slots=True)
class Ingesting:
    """Who moves rows into the database, compacts it or exports from it right now.

    Attributes
    ----------
    pid : int
        The process; 0 when it could not say.
    since : datetime
        Since when (UTC, without a zone).
    """

    pid: int
    since: datetime


@dataclass(frozen=True, slots=True)
class StoreInfo(Displayed):
    """What a store holds at this moment. Sizes are in bytes on disk.

    Attributes
    ----------
    path : Path
        The directory.
    rows : dict of str to int
        Rows of each table, those that wait in the spool included.
    bytes, database_bytes, spool_bytes : int
        Everything; the database; the spool.
    segments, pending : int
        Segments in the spool, and events in them that were not yet ingested.
    sessions : int
        Processes that recorded something, a forked child being one of its own.
    lag : float or None
        Seconds since the oldest event that waits was recorded; None when none waits.
    ingesting : Ingesting or None
        Who holds ``ingest.lock`` right now; None when nobody does.
    last_ingest : datetime or None
        When the database was last written, as its file says (UTC, without a zone): by an
        ingest, which is also what rolls up, or by a compaction. None before the first.
    schema_version : int
        The schema that this version of the package reads and writes.
    problems : tuple of str
        What this process met so far, such as a damaged event.
    """

    path: Path
    rows: dict[str, int]
    bytes: int
    database_bytes: int
    spool_bytes: int
    segments: int
    pending: int
    sessions: int
    lag: float | None
    ingesting: Ingesting | None
    last_ingest: datetime | None
    schema_version: int
    problems: tuple[str, ...]

    @property
    def bytes_per_row(self) -> float | None:
        """Size of the database over the rows in it; None without any."""
        moved = sum(self.rows.values()) - self.pending
        return self.database_bytes / moved if moved > 0 else None

    def _card(self) -> Card:
        waiting = f"{self.pending:,} in {format_number(self.segments, 'segment')}"
        if self.lag is not None:
            waiting += f", the oldest for {format_seconds(self.lag)}"
        busy = "nobody"
        if self.ingesting is not None:
            busy = f"process {self.ingesting.pid} since {self.ingesting.since:%H:%M:%S} UTC"
        per_row = self.bytes_per_row if sum(self.rows.values()) >= _MANY else None
        size = format_bytes(self.database_bytes)
        facts = [
            ["rows", f"{sum(self.rows.values()):,}"],
            ["sessions", f"{self.sessions:,}"],
            ["database", size if per_row is None else f"{size}, {per_row:,.0f} bytes per row"],
            ["spool", format_bytes(self.spool_bytes)],
            ["waiting", waiting],
            ["ingesting", busy],
            [
                "last written",
                f"{self.last_ingest:%Y-%m-%d %H:%M:%S} UTC" if self.last_ingest else "never",
            ],
            ["schema", str(self.schema_version)],
            ["problems", f"{len(self.problems):,}"],
        ]
        filled = [[name, f"{count:,}"] for name, count in self.rows.items() if count]
        tables = [Table(["", ""], facts)]
        if filled:
            tables.append(Table(["table", "rows"], filled, [False, True]))
        note = f"{self.path}: {format_bytes(self.bytes)} on disk"
        if not filled:
            note = (
                f"{self.path}: nothing is recorded yet. Run `raven-lab demo`, or run a model: "
                '`raven-lab run text_generation "Why is the sky blue?"`.'
            )
        return Card("Metric store", note, tables)


def read_info(
    directory: Path,
    readers: Readers,
    problems: list[str],
    clock: Callable[[], int],
) -> StoreInfo:
    """Look at a store; nothing is created.

    Parameters
    ----------
    directory : Path
        The store.
    readers : Readers
        Those of the store.
    problems : list of str
        What this process met so far; read last, for the readers may add to it.
    clock : callable
        Nanoseconds since 1970 (UTC).

    Raises
    ------
    StoreError
        If it cannot be read.
    """
    held = holder(directory / "ingest.lock")
    with readers.open(rollups=False) as reader:
        rows = reader.count_rows()
        segments, sessions, waiting = reader.segments, reader.sessions, reader.waiting
    oldest = waiting.oldest
    sizes = {path: _blocks(path) for path in directory.rglob("*")}
    return StoreInfo(
        path=directory,
        rows=rows,
        bytes=sum(sizes.values()),
        database_bytes=sum(
            size for path, size in sizes.items() if path.name.startswith(database.DATABASE)
        ),
        spool_bytes=sum(size for path, size in sizes.items() if path.parent.name == "spool"),
        segments=segments,
        pending=waiting.events,
        sessions=sessions,
        # A clock that jumped back makes no event of the future.
        lag=None if oldest is None else max(clock() - oldest, 0) / 1e9,
        ingesting=None if held is None else Ingesting(held[0], utc(int(held[1] * 1e9))),
        last_ingest=_written(directory / database.DATABASE),
        schema_version=SCHEMA_VERSION,
        problems=tuple(problems),
    )


def _written(path: Path) -> datetime | None:
    # stat() opens nothing, so it is safe beside DuckDB's locks.
    try:
        return utc(path.stat().st_mtime_ns)
    except FileNotFoundError:
        return None


def _blocks(path: Path) -> int:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0
    return 0 if path.is_dir() else getattr(stat, "st_blocks", 0) * 512 or stat.st_size
