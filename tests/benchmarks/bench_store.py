"""What one record() costs, beside what people would write instead; medians of one run.

Usage: python tests/benchmarks/bench_store.py [--events N] [--directory PATH]

The ways take turns, so that a noisy moment of the machine hits them all. CPU time is that
of the process, its threads included.
"""

from __future__ import annotations

import argparse
import gc
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from ravenxterm_lab.store import Store

ROUNDS = 9
CORE = {"latency": 0.1, "throughput": 100.0, "memory_efficiency": 0.8, "success": True}
EXTRAS = {**CORE, "temperature": 0.7, "batch": 4.0}
COUNTERS = {**CORE, "tokens_in": 12, "tokens_out": 256, "time_to_first_token": 0.05}
COLUMNS = "ts BIGINT, model TEXT, task TEXT, device TEXT, latency DOUBLE, throughput DOUBLE"
INSERT = "INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)"


def event() -> tuple[object, ...]:
    """Return one row as a database would get it."""
    return (time.time_ns(), "model", "text_generation", "cpu", 0.1, 100.0)


def measure(action: Callable[[], object], count: int) -> tuple[float, float]:
    """Return wall and CPU microseconds per call."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        action()
    return (
        (time.perf_counter() - wall) / count * 1e6,
        (time.process_time() - cpu) / count * 1e6,
    )


def main() -> None:
    """Print one line for each way, then the speed of ingest and of a query."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000, help="calls of record() a round")
    parser.add_argument("--directory", type=Path, help="on the disk that counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        run(Path(name), options.events)


def run(place: Path, events: int) -> None:
    """Measure every way in ``place``."""
    rows: list[object] = []
    store = Store(place / "store", ingest=False)
    record = store.record_execution
    lite = sqlite3.connect(place / "lite.db", isolation_level=None)
    lite.execute("PRAGMA journal_mode = WAL")
    lite.execute("PRAGMA synchronous = NORMAL")
    lite.execute(f"CREATE TABLE t ({COLUMNS})")
    duck = duckdb.connect(str(place / "auto.duckdb"))
    duck.execute(f"CREATE TABLE t ({COLUMNS})")
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "list.append of a dict": (
            lambda: rows.append(
                {
                    "ts": time.time_ns(),
                    "model": "model",
                    "task": "text_generation",
                    "device": "cpu",
                    "latency": 0.1,
                    "throughput": 100.0,
                    "memory_efficiency": 0.8,
                    "success": True,
                }
            ),
            events,
        ),
        "list.append of a tuple": (lambda: rows.append(event()), events),
        "record()": (
            lambda: record(model="model", task="text_generation", device="cpu", metrics=CORE),
            events,
        ),
        "record() + 2 extras": (
            lambda: record(model="model", task="text_generation", device="cpu", metrics=EXTRAS),
            events,
        ),
        "record() + 3 counters": (
            lambda: record(model="model", task="text_generation", device="cpu", metrics=COUNTERS),
            events,
        ),
        "SQLite WAL, NORMAL": (lambda: lite.execute(INSERT, event()), max(events // 20, 1)),
        "DuckDB autocommit": (lambda: duck.execute(INSERT, event()), max(events // 200, 1)),
    }
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        rows.clear()
        for way, (action, count) in ways.items():
            found[way].append(measure(action, count))
    base = statistics.median(wall for wall, _ in found["list.append of a dict"])
    print(f"{'':24}{'wall µs':>10}{'CPU µs':>10}{'× dict':>10}")
    for way, pairs in found.items():
        wall = statistics.median(pair[0] for pair in pairs)
        cpu = statistics.median(pair[1] for pair in pairs)
        print(f"{way:24}{wall:10.2f}{cpu:10.2f}{wall / base:10.1f}")
    pending = store.info().pending
    start = time.perf_counter()
    store.sql("SELECT count(*) FROM executions")
    query = time.perf_counter() - start
    start = time.perf_counter()
    moved = store.ingest_now()
    ingest = time.perf_counter() - start
    idle = [store.sql("SELECT count(*) FROM executions").elapsed for _ in range(15)]
    print(f"query over {pending:,} pending rows: {query * 1e3:.0f} ms")
    print(f"ingest: {ingest / moved * 1e6:.2f} µs/row, two of three rows with a payload")
    print(f"query over {moved:,} ingested rows: {statistics.median(idle) * 1e3:.0f} ms")
    store.close()
    lite.close()
    duck.close()


if __name__ == "__main__":
    main()
