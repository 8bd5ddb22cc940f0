"""How ``bench_history.py`` fills a store, SQLite and a pandas data frame, chunk by chunk."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from history_rows import MODELS, TASKS, Chunk

from ravenxterm_lab.store import database
from ravenxterm_lab.store.decoding import select_list
from ravenxterm_lab.store.merging import merge_all
from ravenxterm_lab.store.rollups import summarise, tally

__all__ = ["FrameLoading", "LiteLoading", "StoreLoading"]

#: What DuckDB may use while it loads; the rest of the memory keeps the file.
MEMORY = "8GB"


class StoreLoading:
    """A store, filled through its own schema: rows and rollups as the ingest writes them."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        database.create(place)
        self._connection = database.connect()
        self._connection.execute(f"SET memory_limit = '{MEMORY}'")
        database.attach(self._connection, place, read_only=False)
        self._known: Counter[tuple[str | None, str | None]] = Counter()
        self._next: dict[str, int] = {}
        #: Seconds spent on the rollups.
        self.rollups = 0.0

    def take(self, chunk: Chunk) -> None:
        """Append a chunk, and the partial rows of its rollups."""
        self._connection.execute("BEGIN")
        self._insert("executions", chunk.table)
        start = time.perf_counter()
        energy = pa.nulls(chunk.table.num_rows, pa.float64())
        rollups = summarise(chunk.table.append_column("energy", energy), self._known)
        for name, table in rollups.items():
            self._insert(name, table, select_list(name))
        self._known += tally(rollups["execution_hours"])
        self.rollups += time.perf_counter() - start
        self._connection.execute("COMMIT")
        latest = chunk.table.group_by("session").aggregate([("seq", "max")])
        self._next |= {
            session: seq + 1
            for session, seq in zip(
                latest["session"].to_pylist(), latest["seq_max"].to_pylist(), strict=True
            )
        }

    def _insert(self, name: str, table: pa.Table, columns: str = "*") -> None:
        self._connection.register("chunk", table)
        self._connection.execute(
            f"INSERT INTO {database.CATALOGUE}.{name} BY NAME SELECT {columns} FROM chunk"
        )
        self._connection.unregister("chunk")

    def finish(self) -> None:
        """Merge the rollups and write the watermarks."""
        start = time.perf_counter()
        self._connection.execute("BEGIN")
        merge_all(self._connection, database.CATALOGUE)
        self.rollups += time.perf_counter() - start
        database.write_watermarks(self._connection, {}, self._next)
        self._connection.execute("COMMIT")
        self._connection.execute(f"DETACH {database.CATALOGUE}")
        self._connection.close()


class LiteLoading:
    """SQLite, built as fast as it allows."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        for setting in (
            "journal_mode = OFF",
            "synchronous = OFF",
            "cache_size = -1000000",
            "temp_store = FILE",
            "threads = 2",
        ):
            self.connection.execute(f"PRAGMA {setting}").fetchall()
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

    def finish(self, say: Callable[[str], None]) -> float:
        """Make the indexes; return the seconds that they took."""
        start = time.perf_counter()
        for sql in (
            "CREATE INDEX by_time ON e (ts)",
            "CREATE INDEX by_model ON e (model, ts)",
            "ANALYZE",
            f"PRAGMA mmap_size = {1 << 40}",
        ):
            say(f"SQLite: {sql}")
            self.connection.execute(sql).fetchall()
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
