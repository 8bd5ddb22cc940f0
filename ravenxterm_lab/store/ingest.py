"""Ingest: what waits in the spool goes into the database, rows and watermarks together.

One process at a time, elected by ``ingest.lock``, decodes outside the gate and holds the
gate for one transaction. A segment is removed after the commit that consumed it, once
nobody writes to it any more. A death at any point leaves either both or none.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store import database, journal
from ravenxterm_lab.store.collecting import collect
from ravenxterm_lab.store.forking import watch_forks
from ravenxterm_lab.store.locks import FileLock, exclusive_gate, is_locked
from ravenxterm_lab.store.segments import store_error
from ravenxterm_lab.store.upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import duckdb

    from ravenxterm_lab.store.collecting import Batch, Work

__all__ = ["CROWDED", "PASS_LIMIT", "Ingester", "Pass"]

#: Events that one pass moves at most, at least if they wait, and at first. Whole groups of
#: rows go straight into the file; what is less is written to the log, and then rewritten
#: with the next pass.
PASS_LIMIT = 4 * database.ROW_GROUP
_LEAST = database.ROW_GROUP
_FIRST = 2 * database.ROW_GROUP
#: Where there is more than one group of rows, a second one halves the time of a pass.
_THREADS = 2
#: How long a pass ought to hold the database (s): queries wait meanwhile.
_HOLD = 0.1
#: Segments in the spool above which an ingest is due at once.
CROWDED = 32

_WAITS = "what was recorded is kept and can be queried"
_HOUR = 3600 * 1_000_000_000
_STALE_DRAFT = 60.0  # seconds after which a half-made segment is nobody's


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did.

    Attributes
    ----------
    rows : int
        Events moved.
    more : bool
        Whether more was waiting than one pass takes.
    held : float
        For how long the database was held (s).
    """

    rows: int
    more: bool
    held: float = 0.0


class Ingester:
    """Moves events from the spool into the database. Any thread may call it.

    Parameters
    ----------
    directory : Path
        The store.
    note : callable
        Receives a sentence for each problem met.
    clock : callable
        Nanoseconds since 1970 (UTC), for the age of samples.
    """

    def __init__(
        self,
        directory: Path,
        note: Callable[[str], None],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._directory = directory
        self._spool = directory / "spool"
        self._note = note
        # What the file said last; its state tells whether another process wrote since.
        self._watermarks: dict[str, int] = {}
        self._state: tuple[int, ...] | None = None
        self._limit = _FIRST
        self._patience = 0.25
        # Successful runs by model and task that this process moved: of many, the rollups
        # need not keep each value.
        self._known: Counter[tuple[str | None, str | None]] = Counter()
        # Partial rows of the rollups since they were last merged, and the hour of that.
        self._partials = self._merged = 0
        self._clock = clock
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._uses = 0
        self._lock = threading.Lock()
        self._at_rest = False
        self._forking = False
        self._upkeep = Upkeep(directory, note, clock)
        watch_forks(self)

    def before_fork(self) -> None:
        """Wait for a pass of another thread, lest the child inherit half of DuckDB."""
        self._forking = True
        self._at_rest = self._lock.acquire(timeout=10.0)
        if self._at_rest:
            self.close()

    def close(self) -> None:
        """Close the connection that is kept between passes. Idempotent."""
        # A pass under way has taken it, and keeps it to itself.
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def after_fork_in_parent(self) -> None:
        """Allow passes again."""
        self._forking = False
        if self._at_rest:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin with a lock that nobody holds."""
        self._forking = False
        self._lock = threading.Lock()

    def crowded(self) -> bool:
        """Whether so many segments lie in the spool that an ingest is due."""
        try:
            return sum(path.suffix == ".rec" for path in self._spool.iterdir()) > CROWDED
        except OSError:
            return False

    def run_pass(
        self, *, patience: float = 0.0, stop: Callable[[], bool] | None = None
    ) -> Pass | None:
        """Move what waits, at most `PASS_LIMIT` events, and fewer where the disk is slow.

        Parameters
        ----------
        patience : float
            How long to wait for another ingester to finish, and for the gate (s). With 0
            the wait for the gate adapts: it grows each time that it was in vain.
        stop : callable, optional
            Ends a wait early when it returns True.

        Returns
        -------
        Pass or None
            None when another process ingests or reads for longer than that.

        Raises
        ------
        StoreError
            If the store cannot be written or read.
        StoreVersionError
            If a newer version made the database; nothing was touched.
        """
        if not self._spool.is_dir():
            return Pass(0, more=False)
        try:
            with self.holding(patience, stop) as obtained:
                done = self._pass(patience, stop) if obtained else None
                if done is not None and not done.more:
                    self._upkeep.after_pass(stop)
                return done
        except OSError as error:
            raise store_error(self._directory, error, so=_WAITS) from error

    def compact_if_due(self, stop: Callable[[], bool]) -> None:
        """Compact the database in a quiet hour, if that is worth its while.

        It gives way to ``stop``, to a fork, and to events that pile up meanwhile.
        """
        if not self._upkeep.may_compact():
            return
        with self.holding(0.0, stop) as obtained:
            if obtained:
                self._upkeep.compact(lambda: stop() or self._forking or self.crowded())

    @contextlib.contextmanager
    def holding(self, patience: float, stop: Callable[[], bool] | None = None) -> Iterator[bool]:
        """Keep every other ingester away meanwhile: nobody else writes the database then.

        Yields
        ------
        bool
            Whether that was obtained within ``patience`` seconds.
        """
        with self._lock, FileLock(self._directory / "ingest.lock", create=True) as lock:
            obtained = lock.acquire(shared=False, patience=patience, stop=stop)
            if obtained:
                lock.sign()
            yield obtained

    def _pass(self, patience: float, stop: Callable[[], bool] | None) -> Pass | None:
        self._remove_stale_drafts()
        self._refresh_watermarks()
        while True:
            batch = collect(self._spool, self._watermarks, self._limit, self._known)
            held = 0.0
            if batch.events:
                done = self._commit(batch, patience, stop)
                if done is None:
                    return None
                if not done:
                    continue
                held = done
            for text in batch.notes:
                self._note(text)
            self._remove_consumed(batch.work)
            return Pass(batch.rows, batch.more, held)

    def _adapt(self, moved: int, held: float) -> None:
        """Let the next pass be larger or smaller, so that it holds the database about `_HOLD`."""
        if held > _HOLD:
            self._limit = max(self._limit - _LEAST, _LEAST)
        elif moved >= self._limit and held < 0.7 * _HOLD:
            self._limit = min(self._limit + _LEAST, PASS_LIMIT)

    def _refresh_watermarks(self) -> None:
        state = database.state_of(self._directory)
        if state is not None and state == self._state:
            return
        self._watermarks = {}
        if state is not None:
            connection = self._connected()
            self._connection = None
            # Closed within the gate, whatever happens: an open file is locked by DuckDB.
            with (
                journal.settled_gate(self._directory, create=True),
                contextlib.ExitStack() as failure,
            ):
                failure.callback(connection.close)
                database.attach(connection, self._directory, read_only=True)
                self._watermarks = database.read_watermarks(connection)
                connection.execute(f"DETACH {database.CATALOGUE}")
                self._state = database.state_of(self._directory)
                failure.pop_all()
            self._connection = connection

    def _commit(
        self, batch: Batch, patience: float, stop: Callable[[], bool] | None
    ) -> float | None:
        """Write rows and watermarks; return for how long the database was held (s).

        0 if the watermarks were not those assumed and nothing was written, None if the
        gate was not obtained. While more waits, the rollups are not merged.
        """
        import duckdb

        from ravenxterm_lab.store.decoding import select_list
        from ravenxterm_lab.store.merging import MANY, merge_partials, weight
        from ravenxterm_lab.store.rollups import tally

        tables = batch.events | batch.rollups
        connection = self._connected()
        # Kept for the next pass, if this one leaves it as it was.
        self._connection = None
        committed = False
        try:
            for name, table in tables.items():
                connection.register(f"pending_{name}", table)
            # Closed within the gate, whatever happens: an open file is locked by DuckDB.
            with (
                exclusive_gate(
                    self._directory, patience=patience or self._patience, stop=stop
                ) as obtained,
                contextlib.ExitStack() as failure,
            ):
                failure.callback(connection.close)
                if not obtained:
                    self._patience = min(self._patience * 2, 4.0)
                    return None
                self._patience = 0.25
                began = time.perf_counter()
                new = not (self._directory / database.DATABASE).exists()
                if new:
                    database.create(self._directory)
                journal.attach_for_writing(connection, self._directory)
                before = database.read_watermarks(connection)
                if before != batch.before:
                    # The file was replaced since it was read; begin again from what it says.
                    self._watermarks = before
                    self._known.clear()
                    return 0.0
                threads = _THREADS if batch.rows > database.ROW_GROUP else 1
                connection.execute(f"SET threads = {threads}")
                connection.execute("BEGIN")
                for name in tables:
                    target, columns = f"{database.CATALOGUE}.{name}", select_list(name)
                    insert = f"INSERT INTO {target} BY NAME SELECT {columns} FROM pending_{name}"  # noqa: S608 - our own names
                    connection.execute(insert)
                hour = self._clock() // _HOUR
                merging = not batch.more and (self._partials >= MANY or hour != self._merged)
                if merging:
                    merge_partials(connection, database.CATALOGUE)
                database.write_watermarks(connection, before, batch.after)
                connection.execute("COMMIT")
                committed = True
                # Within the gate: detaching checkpoints, and readers shall find no log to replay.
                journal.detach_written(connection, self._directory)
                self._state = database.state_of(self._directory)
                held = time.perf_counter() - began
                failure.pop_all()
            for name in tables:
                connection.unregister(f"pending_{name}")
            self._uses += 1
            if not database.worn(connection, self._uses):
                self._connection = connection
        except duckdb.Error as error:
            path, why = self._directory / database.DATABASE, database.reason(error)
            what = f"The rows in {self._spool} could not be moved into {path} ({why})"
            if committed:
                what = f"{path} has the new rows in its log, but they could not be filed ({why})"
            raise StoreError(f"{what}; {_WAITS}. Make sure that the disk is not full.") from error
        finally:
            if self._connection is None:
                connection.close()
        self._watermarks = batch.after
        if batch.rollups:
            self._known += tally(batch.rollups["execution_hours"])
        partials = sum(map(weight, batch.rollups.values()))
        self._partials = partials if merging else self._partials + partials
        self._merged = hour if merging else self._merged
        if not (new or merging):
            self._adapt(batch.rows, held)
        return held

    def _connected(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            self._connection, self._uses = database.connect(threads=1), 0
        return self._connection

    def _remove_consumed(self, work: list[Work]) -> None:
        for item in work:
            if item.drained and item.final:
                # The slots first: a sidecar without them is known to be a leftover.
                for suffix in (".rec", ".str", ".ext"):
                    item.segment.path.with_suffix(suffix).unlink(missing_ok=True)

    def _remove_stale_drafts(self) -> None:
        names = {path.name for path in self._spool.iterdir()}
        now = time.time()
        for name in names:
            path = self._spool / name
            orphan = path.suffix in (".str", ".ext") and f"{path.stem}.rec" not in names
            if orphan or path.suffix == ".new":
                with contextlib.suppress(FileNotFoundError):
                    if now - path.stat().st_mtime > _STALE_DRAFT and not is_locked(path):
                        path.unlink()
