"""The store: the one object through which everything is recorded and asked."""

from __future__ import annotations

import contextlib
import sys
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store.access import utc
from ravenxterm_lab.store.asking import Asking
from ravenxterm_lab.store.audit import CheckReport, check
from ravenxterm_lab.store.compaction import CompactionReport, compact, nothing_done, worthwhile
from ravenxterm_lab.store.daemon import Daemon
from ravenxterm_lab.store.database import DATABASE
from ravenxterm_lab.store.export import Export, ExportReport
from ravenxterm_lab.store.info import StoreInfo, read_info
from ravenxterm_lab.store.ingest import Ingester
from ravenxterm_lab.store.locks import FileLock
from ravenxterm_lab.store.packing import split_metrics
from ravenxterm_lab.store.reading import Readers
from ravenxterm_lab.store.recorder import Recorder
from ravenxterm_lab.store.schema import IN_SLOT, KIND_OF, ExecutionId
from ravenxterm_lab.store.segments import NAN, PACKED, SUCCESS
from ravenxterm_lab.store.validation import encode_fields

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping
    from datetime import date, datetime

    from ravenxterm_lab.store.restoring import RestoreReport

__all__ = ["Store", "StoreInfo"]

#: Problems kept in memory; a damaged disk must not fill it.
_MOST_PROBLEMS = 1000


class _Problems:
    """Sentences for a person, each once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        if text not in self.texts and len(self.texts) < _MOST_PROBLEMS:
            self.texts.append(text)


class Store(Asking):
    """Records events at once and answers SQL over everything that any process recorded.

    **Threads.** Every method may be called from any thread, and from asyncio tasks, where
    `record_execution` takes about a microsecond and waits neither for the disk nor for
    another thread: one that finds another within an append writes to a session and a
    segment of its own; more than eight threads at once take turns. A signal handler or a
    finalizer may record too.

    **Forks.** A child of ``os.fork()`` may go on using the store; it gets a session and a
    segment of its own at its first record. A spawned process opens its own `Store`.

    **Ownership.** Any number of processes and of `Store` objects may share a directory.
    Nothing is created before the first record. What `record` and `record_execution`
    returned from survives the death of the process; a power cut can take at most about
    the last second of it. No connection to the database is held between calls.

    Parameters
    ----------
    directory : Path
        Where the store lies; see `ravenxterm_lab.config.Paths.store`.
    clock : callable
        Nanoseconds since 1970 (UTC). It may jump: the order within a session is by ``seq``.
    ingest : bool
        Whether a daemon thread moves what was recorded into the database. Without it,
        `ingest_now` does, or any other process; queries see every row either way.
    ingest_interval : float
        Seconds between its passes; four times as long while fewer than 100 events wait.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as home:
    ...     with Store(Path(home), ingest=False) as store:
    ...         _ = store.record_execution(model="tiny", metrics={"latency": 0.1})
    ...         store.sql("SELECT model, latency FROM executions").fetchall()
    [('tiny', 0.1)]
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], int] = time.time_ns,
        ingest: bool = True,
        ingest_interval: float = 5.0,
    ) -> None:
        self._directory = Path(directory).absolute()
        self._problems = _Problems()
        note = self._problems.note
        self._clock = clock
        self._ingester = Ingester(self._directory, note, clock)
        self._daemon = Daemon(self._ingester, ingest_interval, note, enabled=ingest)
        self._recorder = Recorder(self._directory / "spool", clock, self._daemon.poke)
        self._daemon.recorder = self._recorder
        self._append = self._recorder.append
        self._readers = Readers(self._directory, note)
        # Also at exit; nothing that it refers to refers back to this object.
        self._finalizer = weakref.finalize(
            self, _shut_down, self._daemon, self._recorder, self._ingester, self._readers
        )

    def record_execution(
        self,
        *,
        model: str,
        fingerprint: str | None = None,
        task: str | None = None,
        device: str | None = None,
        runtime: str | None = None,
        settings: str | None = None,
        hardware: str | None = None,
        selection: str | None = None,
        metrics: Mapping[str, Any],
        external: bool = False,
    ) -> ExecutionId:
        """Record one execution of a model.

        Parameters
        ----------
        model : str
            Its name.
        fingerprint, task, device, runtime, settings, hardware : str, optional
            What ran where; see the comments of the table ``executions``.
        selection : str, optional
            The selection that chose the model.
        metrics : mapping of str to any
            Known keys: ``latency`` (s), ``throughput`` (tokens or items per second),
            ``memory_efficiency`` (0-1), ``success`` (True unless ``error`` is given),
            ``time_to_first_token`` (s), ``tokens_in``, ``tokens_out``, ``peak_memory``
            (bytes), ``energy`` (J), ``quality`` (0-1), ``error``; None is "not measured".
            Any other number goes to the column ``num``, anything else that JSON can hold
            to ``extra``.
        external : bool
            Whether the model is not in the registry.

        Returns
        -------
        ExecutionId
            Which row it is.

        Raises
        ------
        MetricError
            If a value is not allowed; nothing was written.
        StoreError
            If the store cannot be written; nothing was written.
        """
        # What is measured most takes the shortest way: people call this in their inner loops.
        if selection is None and type(metrics) is dict and len(metrics) == _IN_SLOT:
            try:
                latency = metrics["latency"]
                throughput = metrics["throughput"]
                memory_efficiency = metrics["memory_efficiency"]
                success = metrics["success"]
            except KeyError:
                success = None
            if (
                (success is True or success is False)
                and type(latency) is type(throughput) is type(memory_efficiency) is float
                and 0.0 <= latency <= _MAX
                and 0.0 <= throughput <= _MAX
                and 0.0 <= memory_efficiency <= 1.0
            ):
                return self._append(
                    _SUCCESSFUL if success else _EXECUTION,
                    latency,
                    throughput,
                    memory_efficiency,
                    (model, fingerprint, task, device, runtime, settings, hardware, external),
                    None,
                )
        latency, throughput, memory_efficiency, success, names, payload = split_metrics(
            metrics, selection
        )
        context: tuple[object, ...] = (
            model,
            fingerprint,
            task,
            device,
            runtime,
            settings,
            hardware,
            external,
        )
        mark = _SUCCESSFUL if success else _EXECUTION
        if names is not None:
            context = (*context, names)
            mark |= PACKED
        return self._append(mark, latency, throughput, memory_efficiency, context, payload)

    def record(self, table: str, **fields: Any) -> ExecutionId:
        """Record one event of any other table.

        Parameters
        ----------
        table : str
            ``selections``, ``candidates``, ``loads``, ``predictions``,
            ``hardware_samples``, ``preference_changes``, ``messages``, ``feedback``,
            ``models``, ``scans`` or ``changes``.
        **fields
            Values by column, in the units of the columns' comments; None is NULL.

        Raises
        ------
        MetricError
            If there is no such column or a value is not of its type; nothing was written.
        StoreError
            If there is no such table, or the store cannot be written.
        """
        kind, payload = encode_fields(table, fields)
        return self._append(kind, NAN, NAN, NAN, None, payload)

    @contextlib.contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Keep all others, of every process, from the same work meanwhile.

        Parameters
        ----------
        what : str
            Names the work, and the lock file beside the database.

        Raises
        ------
        StoreError
            If there is no store yet, or another is at it for a minute.
        """
        try:
            lock = FileLock(self._directory / f"{what}.lock", create=True)
        except FileNotFoundError as error:
            raise StoreError(f"There is no metric store at {self._directory} yet.") from error
        with lock:
            if not lock.acquire(shared=False, patience=_INGEST_PATIENCE):
                raise StoreError(
                    f"{lock.path} has been held by another process for {_INGEST_PATIENCE:.0f} s. "
                    "End that process and try again; nothing is lost."
                )
            yield

    def ingest_now(self) -> int:
        """Move everything that waits into the database; return the number of events.

        Raises
        ------
        StoreError
            If the store cannot be written, or stays busy for a minute.
        StoreVersionError
            If a newer version of this package made it; it is left untouched.
        """
        moved = 0
        while True:
            done = self._ingester.run_pass(patience=_INGEST_PATIENCE)
            if done is None:
                raise StoreError(
                    f"{self._directory} has been kept busy by other processes for "
                    f"{_INGEST_PATIENCE:.0f} s; end long queries and try again. Nothing is lost."
                )
            moved += done.rows
            if not done.more:
                return moved

    def info(self) -> StoreInfo:
        """Return what the store holds at this moment.

        Raises
        ------
        StoreError
            If the store cannot be read.
        """
        problems = self._problems
        return read_info(self._directory, self._readers, problems.texts, self._clock)

    def check(self) -> CheckReport:
        """Prove that no event is missing and none is there twice, by session and sequence.

        Readers and recording go on meanwhile; nothing is written.

        Returns
        -------
        CheckReport
            True when there is no problem; each problem names what to do.

        Raises
        ------
        StoreVersionError
            If a newer version of this package made the store.
        """
        return check(self._directory)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        table: str = "executions",
        since: datetime | date | None = None,
        until: datetime | date | None = None,
        remove: bool = False,
    ) -> ExportReport:
        """Write rows of one table as Parquet (zstd, in the order of time).

        Parameters
        ----------
        path : path
            A name that ends in ``.parquet`` becomes one file. Any other becomes a directory
            of one file per month, ``year=2026/month=1/executions.parquet``, which DuckDB
            (``read_parquet('path/**/*.parquet')``) and polars (``scan_parquet``) read as one.
            It must not exist; nothing outside of it is written.
        table : str
            Any table of events. What waits in the spool is included.
        since, until : datetime or date, optional
            From this moment on, and up to before that one. Without a time zone it is UTC,
            as the column ``ts`` is.
        remove : bool
            Whether to remove exactly these rows from the database, once the files are on
            the disk and were read back. The statistics by hour keep them; `compact` gives
            their space back to the disk.

        Raises
        ------
        StoreError
            If the table is unknown, the times make no sense, the path is taken or cannot
            be written, or the store cannot; the message says whether rows were removed.
        """
        work = Export(self._directory, path, table=table, since=since, until=until)
        self.ingest_now()
        if not remove:
            return work.run(remove=False)
        with self._holding():
            return work.run(remove=True, clock=self._clock)

    def restore(self, path: str | os.PathLike[str]) -> RestoreReport:
        """Bring rows back that `export` wrote, or those of another machine's store.

        Parameters
        ----------
        path : path
            A Parquet file, or a directory with such files at any depth. Each says in its
            footer which table it is of. A row that is there already is left as it is.

        Raises
        ------
        StoreError
            If a file is no export or cannot be read, or the store stays busy for a minute;
            nothing is restored then.
        """
        from ravenxterm_lab.store.restoring import exported_files, restore

        files = exported_files(path)
        self.ingest_now()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._holding():
            return restore(self._directory, path, files, clock=self._clock)

    def compact(self, *, force: bool = True) -> CompactionReport:
        """Rewrite the database in the order of time, and give free space back to the disk.

        Queries and recording go on meanwhile. The ingest does this by itself, at most once
        a day, when the file would shrink to less than 1/1.4 of its size.

        Parameters
        ----------
        force : bool
            Whether to do it even where little is to be gained.

        Raises
        ------
        StoreError
            If the disk has no room for the copy, or the store stays busy for a minute; the
            database is then as it was.
        """
        if not force and not worthwhile(self._directory, utc(self._clock()), days=0.0):
            return nothing_done(self._directory)
        if not self.database.exists():
            return nothing_done(self._directory)
        with self._holding():
            return compact(self._directory, clock=self._clock)

    @contextlib.contextmanager
    def _holding(self) -> Iterator[None]:
        """Keep every ingester away from the database."""
        with self._ingester.holding(_INGEST_PATIENCE) as obtained:
            if not obtained:
                raise StoreError(
                    f"{self._directory} has been kept busy by other processes for "
                    f"{_INGEST_PATIENCE:.0f} s; try again later. Nothing was changed."
                )
            yield

    @property
    def path(self) -> Path:
        """The directory of the store."""
        return self._directory

    @property
    def database(self) -> Path:
        """The DuckDB file; it appears when something is first moved into it."""
        return self._directory / DATABASE

    @property
    def problems(self) -> list[str]:
        """What this process met so far, such as a damaged event; each once."""
        return list(self._problems.texts)

    def rest(self) -> None:
        """Give back what is kept for the next call: a thread, connections, an open segment.

        Whoever uses this store goes on doing so, from any thread: the next event starts the
        thread again, and the next query opens a connection.
        """
        self._daemon.rest()
        self._recorder.rest()
        self._ingester.close()
        self._readers.rest()

    def close(self) -> None:
        """Seal the segment of this process and end its thread. Idempotent, also at exit.

        Recording afterwards is an error; queries still work.
        """
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({str(self._directory)!r})"


_EXECUTION = KIND_OF["executions"]
_SUCCESSFUL = _EXECUTION | SUCCESS
_IN_SLOT = len(IN_SLOT)
_MAX = sys.float_info.max
_INGEST_PATIENCE = 60.0


def _shut_down(daemon: Daemon, recorder: Recorder, ingester: Ingester, readers: Readers) -> None:
    daemon.stop()
    recorder.close()
    ingester.close()
    readers.close()
