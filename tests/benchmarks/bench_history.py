"""Questions to a year of executions: the store beside SQLite and pandas, on the same rows.

Usage: ``python tests/benchmarks/bench_history.py [--rows N] [--no-sqlite] [--directory PATH]``.

The rows of ``history_rows.py`` go into a store through its own schema, with the rollups that the
ingest would have written; into SQLite, with an index on the time and one on model and time; and
into a pandas data frame in memory, strings as categories. The answers are compared before any
time is printed. Times are medians of warm runs in wall time: "store" is `Store.sql`, which opens
and closes the file, and "CPU" the CPU time of that; "open" is the same SQL on a connection that
was held open, which no product with several processes can have.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import psutil
from backfill import write_rollups
from history_questions import DAY, QUESTIONS, Question, Rows, micros
from history_rows import MODELS, TASKS, Chunk, chunks

from ravenxterm_lab.store import Store, database
from ravenxterm_lab.units import format_bytes

CHUNK = 500_000
#: Bytes a row of the data frame, and as much again several times while pandas works on it.
FRAME_BYTES = 43
FRAME_WORK = 3.5
#: No question is asked again after so long (s).
PATIENCE = 20.0
SAME = 1e-9

Peer = Callable[[Question], Rows]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and the median wall and CPU seconds of a warm run."""

    rows: Rows
    wall: float
    cpu: float


class StoreLoading:
    """A store, filled through its own schema."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        database.create(place)
        self._connection = database.connect()
        database.attach(self._connection, place, read_only=False)
        self._connection.execute(f"USE {database.CATALOGUE}")

    def take(self, chunk: Chunk) -> None:
        """Append a chunk."""
        self._connection.execute("BEGIN")
        self._connection.register("chunk", chunk.table)
        self._connection.execute("INSERT INTO executions BY NAME FROM chunk")
        self._connection.execute("COMMIT")
        self._connection.unregister("chunk")

    def finish(self) -> float:
        """Write rollups and watermarks; return the seconds of the rollups."""
        self._connection.execute(
            "INSERT INTO watermarks SELECT session, max(seq) + 1 FROM executions GROUP BY session"
        )
        start = time.perf_counter()
        write_rollups(self._connection)
        rollups = time.perf_counter() - start
        self._connection.execute("USE memory")
        self._connection.execute(f"DETACH {database.CATALOGUE}")
        self._connection.close()
        return rollups


class LiteLoading:
    """SQLite, built as fast as it allows."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000"):
            self.connection.execute(f"PRAGMA {setting}")
        self.connection.execute(
            "CREATE TABLE e (ts INTEGER, model TEXT, task TEXT, success INTEGER, latency REAL, "
            "throughput REAL, quality REAL, peak_memory INTEGER)"
        )

    def take(self, chunk: Chunk) -> None:
        """Append a chunk; SQLite takes a NaN for NULL."""
        columns = [
            chunk.ts.tolist(),
            [MODELS[at] for at in chunk.model.tolist()],
            [TASKS[at] for at in chunk.task.tolist()],
            chunk.success.tolist(),
            chunk.latency.tolist(),
            chunk.throughput.tolist(),
            chunk.quality.tolist(),
            chunk.peak_memory.tolist(),
        ]
        self.connection.execute("BEGIN")
        self.connection.executemany(
            "INSERT INTO e VALUES (?, ?, ?, ?, ?, ?, ?, ?)", zip(*columns, strict=True)
        )
        self.connection.execute("COMMIT")

    def finish(self) -> float:
        """Make the indexes; return the seconds that they took."""
        start = time.perf_counter()
        for sql in (
            "CREATE INDEX by_time ON e (ts)",
            "CREATE INDEX by_model ON e (model, ts)",
            "ANALYZE",
            f"PRAGMA mmap_size = {1 << 40}",
        ):
            self.connection.execute(sql)
        return time.perf_counter() - start


class FrameLoading:
    """A pandas data frame, in columns that are there from the beginning."""

    def __init__(self, rows: int) -> None:
        self._at = 0
        self._columns = {
            "ts": np.empty(rows, np.int64),
            "model": np.empty(rows, np.int8),
            "task": np.empty(rows, np.int8),
            "success": np.empty(rows, np.bool_),
            "latency": np.empty(rows),
            "throughput": np.empty(rows),
            "quality": np.empty(rows),
            "peak_memory": np.empty(rows, np.int64),
        }

    def take(self, chunk: Chunk) -> None:
        """Copy a chunk to its place."""
        end = self._at + len(chunk.ts)
        for name, column in self._columns.items():
            column[self._at : end] = getattr(chunk, name)
        self._at = end

    def finish(self) -> pd.DataFrame:
        """Return the data frame."""
        columns: dict[str, Any] = dict(self._columns)
        columns["ts"] = columns["ts"].view("datetime64[us]")
        columns["model"] = pd.Categorical.from_codes(columns["model"], MODELS)
        columns["task"] = pd.Categorical.from_codes(columns["task"], TASKS)
        return pd.DataFrame(columns, copy=False)


def plain(value: Any) -> Any:
    """Return a value that compares: a moment as microseconds, a number as Python's own."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, datetime):
        return micros(value)
    if isinstance(value, date):
        return (value - date(1970, 1, 1)) // timedelta(days=1) * DAY
    return value


def check(question: Question, label: str, exact: Rows, other: Rows) -> None:
    """Fail if two answers differ, by more than an estimate of that label may."""
    tolerance = question.tolerance.get(label, {})
    both = [[tuple(map(plain, row)) for row in rows] for rows in (exact, other)]
    if question.keys:
        for rows in both:
            rows.sort(key=lambda row: row[: question.keys])
    where = f"{question.name}, {label}"
    assert len(both[0]) == len(both[1]), f"{where}: {len(both[0])} rows or {len(both[1])}"
    for one, two in zip(*both, strict=True):
        for column, (a, b) in enumerate(zip(one, two, strict=True)):
            numbers = isinstance(a, float) and isinstance(b, float)
            near = numbers and math.isclose(
                a, b, rel_tol=tolerance.get(column, SAME), abs_tol=1e-12
            )
            assert near or a == b, f"{where}: {one} or {two}"


def ask(action: Callable[[], Rows], repeat: int) -> Answer:
    """Ask once to warm up, then ``repeat`` times; what takes long is asked less often."""
    times: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while len(times) <= repeat and (len(times) < 2 or time.perf_counter() - begin < PATIENCE):
        wall, cpu = time.perf_counter(), time.process_time()
        rows = action()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
        if times[0][0] > PATIENCE:
            break
    warm = times[1:] or times
    wall, cpu = (statistics.median(column) for column in zip(*warm, strict=True))
    return Answer(rows, wall, cpu)


@contextlib.contextmanager
def held_open(directory: Path) -> Iterator[Callable[[str], Rows]]:
    """Yield a function that runs SQL on one connection to the file."""
    connection = database.connect()
    try:
        database.attach(connection, directory, read_only=True)
        connection.execute(f"USE {database.CATALOGUE}")
        yield lambda sql: connection.execute(sql).fetchall()
    finally:
        connection.close()


def compare(question: Question, store: Store, peers: dict[str, Peer], repeat: int) -> None:
    """Ask everyone, compare the answers, and print a line for each way of the store."""
    theirs = {name: ask(lambda peer=peer: peer(question), repeat) for name, peer in peers.items()}  # type: ignore[misc]
    ours: dict[str, tuple[Answer, Answer | None]] = {}
    for label, way in question.ours.items():
        if isinstance(way, str):
            answer = ask(lambda way=way: store.sql(way).fetchall(), repeat)  # type: ignore[misc]
            with held_open(store.path) as execute:
                ours[label] = answer, ask(lambda way=way: execute(way), repeat)  # type: ignore[misc]
        else:
            ours[label] = ask(lambda way=way: way(store), repeat), None  # type: ignore[misc]
    exact = next(iter(theirs.values()), None) or ours[list(ours)[-1]][0]
    for name, other in theirs.items():
        check(question, name, exact.rows, other.rows)
    for label, (answer, _) in ours.items():
        check(question, label, exact.rows, answer.rows)
    for number, (label, (answer, bare)) in enumerate(ours.items()):
        name = f"  {label}" if number else question.name + (f": {label}" if label else "")
        line = f"{name:60}{answer.wall * 1e3:9.0f}{answer.cpu * 1e3:9.0f}"
        line += f"{bare.wall * 1e3:9.0f}" if bare else f"{'–':>9}"
        for peer in theirs.values():
            line += f"{peer.wall * 1e3:10.0f}{peer.wall / answer.wall:8.1f} ×"
        print(line, flush=True)


def fits(rows: int) -> bool:
    """Whether pandas can work on so many rows in the memory that is available."""
    needed, there = rows * FRAME_BYTES * FRAME_WORK, psutil.virtual_memory().available
    if needed > there:
        print(
            f"pandas is left out: it would take about {format_bytes(int(needed))}, "
            f"and {format_bytes(there)} are available"
        )
    return needed <= there


def run(place: Path, rows: int, seed: int, repeat: int, *, lite: bool) -> None:
    """Fill everyone in ``place``, ask them, and print the table."""
    print(
        f"{rows:,} executions of a year, seed {seed}; Python {sys.version.split()[0]}, "
        f"DuckDB {duckdb.__version__}, SQLite {sqlite3.sqlite_version}, pandas {pd.__version__}"
    )
    directory = place / "store"
    mine = StoreLoading(directory)
    sqlite = LiteLoading(place / "peer.sqlite") if lite else None
    memory = FrameLoading(rows) if fits(rows) else None
    targets = [target for target in (mine, sqlite, memory) if target is not None]
    spent = dict.fromkeys(targets, 0.0)
    for chunk in chunks(rows, seed, CHUNK):
        for target in targets:
            start = time.perf_counter()
            target.take(chunk)
            spent[target] += time.perf_counter() - start
    rollups = mine.finish()
    size = (directory / database.DATABASE).stat().st_size
    print(
        f"store: {spent[mine]:.0f} s, its rollups {rollups:.0f} s; {format_bytes(size)}, "
        f"{size / rows:.1f} bytes a row"
    )
    peers: dict[str, Peer] = {}
    with contextlib.ExitStack() as stack:
        if sqlite is not None:
            connection = stack.enter_context(contextlib.closing(sqlite.connection))
            indexes = sqlite.finish()
            size = (place / "peer.sqlite").stat().st_size
            print(
                f"SQLite: {spent[sqlite]:.0f} s, its indexes {indexes:.0f} s; "
                f"{format_bytes(size)}, {size / rows:.1f} bytes a row, of 8 columns"
            )
            peers["SQLite"] = lambda question: connection.execute(question.lite).fetchall()
        if memory is not None:
            frame = memory.finish()
            size = int(frame.memory_usage().sum())
            kept = place / "peer.parquet"
            frame.to_parquet(kept)
            start = time.perf_counter()
            pd.read_parquet(kept)
            again = time.perf_counter() - start
            print(
                f"pandas: {format_bytes(size)} of memory, {size / rows:.1f} bytes a row, of 8 "
                f"columns; to read them again from Parquet takes {again:.1f} s"
            )
            peers["pandas"] = lambda question: question.frame(frame)
        with Store(directory, ingest=False) as store:
            header = "".join(f"{name:>10}{'':10}" for name in peers)
            print(f"{'ms':60}{'store':>9}{'CPU':>9}{'open':>9}{header}")
            for question in QUESTIONS:
                compare(question, store, peers, repeat)
            assert not store.problems, store.problems


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5, help="warm runs of each question")
    parser.add_argument("--no-sqlite", action="store_true", help="it takes longest to build")
    parser.add_argument("--directory", type=Path, help="on the disk that counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        run(Path(name), options.rows, options.seed, options.repeat, lite=not options.no_sqlite)


if __name__ == "__main__":
    main()
