"""The store: the one object through which everything is recorded and asked."""

from __future__ import annotations

import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store.daemon import Daemon
from ravenxterm_lab.store.database import DATABASE
from ravenxterm_lab.store.ingest import Ingester
from ravenxterm_lab.store.packing import split_metrics
from ravenxterm_lab.store.reading import open_reader, run_query
from ravenxterm_lab.store.recorder import Recorder
from ravenxterm_lab.store.schema import IN_SLOT, KIND_OF, SCHEMA_VERSION, ExecutionId
from ravenxterm_lab.store.segments import NAN, PACKED, SUCCESS
from ravenxterm_lab.store.validation import encode_fields
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ravenxterm_lab.store.result import QueryResult

__all__ = ["Store", "StoreInfo"]

#: Problems kept in memory; a damaged disk must not fill it.
_MOST_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class StoreInfo:
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
    schema_version: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        filled = ", ".join(f"{count:,} {name}" for name, count in self.rows.items() if count)
        return (
            f"{self.path}: {filled or 'empty'}; {format_bytes(self.bytes)} on disk; "
            f"{self.pending:,} pending in {self.segments} segments; "
            f"{len(self.problems)} problems"
        )


class _Problems:
    """Sentences for a person, each once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        if text not in self.texts and len(self.texts) < _MOST_PROBLEMS:
            self.texts.append(text)


class Store:
    """Records events at once and answers SQL over everything that any process recorded.

    **Threads.** Every method may be called from any thread, and from asyncio tasks, where
    `record_execution` takes about a microsecond and never waits for the disk. A signal
    handler or a finalizer may record too.

    **Forks.** A child of ``os.fork()`` may go on using the store; it gets a session and a
    segment of its own at its first record. A spawned process opens its own `Store`.

    **Ownership.** Any number of processes and of `Store` objects may share a directory.
    Nothing is created before the first record. What `record` and `record_execution`
    returned from survives the death of the process; a power cut can take at most about
    the last second of it. No connection to the database is ever held.

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
        Seconds between its passes.

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
        self._ingester = Ingester(self._directory, note)
        self._daemon = Daemon(self._ingester, ingest_interval, note, enabled=ingest)
        self._recorder = Recorder(self._directory / "spool", clock, self._daemon.poke)
        self._daemon.recorder = self._recorder
        self._append = self._recorder.append
        # Also at exit; nothing that it refers to refers back to this object.
        self._finalizer = weakref.finalize(self, _shut_down, self._daemon, self._recorder)

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
            ``hardware_samples``, ``preference_changes``, ``messages``, ``feedback`` or
            ``models``.
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

    def sql(
        self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> QueryResult:
        """Run one read-only query over everything recorded so far, by every process.

        Parameters
        ----------
        query : str
            One statement that reads: SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW,
            SUMMARIZE, PIVOT or EXPLAIN. It can reach neither files nor Python variables.
        params : sequence or mapping, optional
            Values for ``?`` or ``$name``.

        Returns
        -------
        QueryResult
            Materialised; an absent store has empty tables.

        Raises
        ------
        QueryError
            If it is anything else, or DuckDB refuses it; the message is one line.
        StoreError
            If the store cannot be read.
        StoreVersionError
            If a newer version of this package made it; it is left untouched.
        """
        return run_query(self._directory, query, params, self._problems.note)

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
        with open_reader(self._directory, self._problems.note) as reader:
            rows, segments, pending = reader.count_rows(), reader.segments, reader.waiting.events
        sizes = {path: _blocks(path) for path in self._directory.rglob("*")}
        spool = sum(size for path, size in sizes.items() if path.parent.name == "spool")
        return StoreInfo(
            path=self._directory,
            rows=rows,
            bytes=sum(sizes.values()),
            database_bytes=sum(
                size for path, size in sizes.items() if path.name.startswith("main.duckdb")
            ),
            spool_bytes=spool,
            segments=segments,
            pending=pending,
            schema_version=SCHEMA_VERSION,
            problems=tuple(self._problems.texts),
        )

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


def _shut_down(daemon: Daemon, recorder: Recorder) -> None:
    daemon.stop()
    recorder.close()


def _blocks(path: Path) -> int:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0
    return 0 if path.is_dir() else getattr(stat, "st_blocks", 0) * 512 or stat.st_size
