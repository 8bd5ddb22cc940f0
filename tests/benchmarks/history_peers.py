"""Who is asked in ``bench_history.py``: the store, SQLite and pandas, each with the same rows.

Each loads the rows into a directory of its own and answers questions until it is closed. They
are made to run one after the other, each in a process of its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import psutil
from history_loading import FrameLoading, LiteLoading, StoreLoading
from history_questions import DAY, Question, Rows, micros
from history_rows import Chunk, chunks

from ravenxterm_lab.store import Store, database
from ravenxterm_lab.units import format_bytes

__all__ = [
    "PEERS",
    "LitePeer",
    "OverLimitError",
    "Peer",
    "TooLargeError",
    "limited",
    "plain",
    "spilling_into",
]

CHUNK = 500_000
#: Bytes a row of the data frame, and as much again several times while pandas works on it.
FRAME_BYTES = 43
FRAME_WORK = 4.0
#: Instructions of SQLite's machine between two looks at the clock: about a millisecond.
_STEPS = 20_000

Say = Callable[[str], None]
Way = Callable[[], Rows]


class OverLimitError(BaseException):
    """A question took longer than it may; no ``except Exception`` on the way shall keep it."""


class TooLargeError(Exception):
    """So many rows do not fit; the message says why."""


class Peer(Protocol):
    """One who is asked."""

    def load(self, rows: int, seed: int, say: Say) -> str:
        """Load the rows; return a line about what that took."""

    def ways(self, question: Question) -> Iterator[tuple[str, Way, Way | None]]:
        """Yield label, how it is asked, and how on a connection that was held open."""

    def close(self) -> None:
        """Let go of everything."""


@contextlib.contextmanager
def spilling_into(place: Path) -> Iterator[None]:
    """Let processes that start meanwhile put there what their memory does not hold."""
    # SQLite asks for its variable when its module is imported: in the process it would be late.
    names = ("TMPDIR", "SQLITE_TMPDIR")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(place)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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


def _filled(
    take: Callable[[Chunk], None], name: str, rows: int, seed: int, say: Say, size: int = CHUNK
) -> float:
    """Give every chunk to ``take``; return the seconds spent there."""
    spent = 0.0
    done = told = 0
    for chunk in chunks(rows, seed, size):
        start = time.perf_counter()
        take(chunk)
        spent += time.perf_counter() - start
        done += len(chunk.ts)
        if done - told >= rows // 10 or done == rows:
            say(f"{name}: {done:,} rows loaded")
            told = done
    return spent


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OverLimitError` after so long in the main thread, as soon as Python is back there."""

    def ring(_number: int, _frame: object) -> None:
        raise OverLimitError

    begin = time.perf_counter()
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if time.perf_counter() - begin > seconds:
        raise OverLimitError


# --- the store ----------------------------------------------------------------------------------


class StorePeer:
    """The store."""

    def __init__(self, place: Path, limit: float) -> None:
        # Never broken off: its answers are what the others are compared with at the last.
        del limit
        self._directory = place / "store"
        self._store: Store | None = None

    def load(self, rows: int, seed: int, say: Say) -> str:
        """Fill it and close it."""
        loading = StoreLoading(self._directory)
        spent = _filled(loading.take, "store", rows, seed, say)
        spent -= loading.rollups
        say("store: merging the rollups")
        loading.finish()
        self._store = Store(self._directory, ingest=False)
        size = (self._directory / database.DATABASE).stat().st_size
        return (
            f"store: {spent:.0f} s, its rollups {loading.rollups:.0f} s; {format_bytes(size)}, "
            f"{size / rows:.1f} bytes a row"
        )

    def ways(self, question: Question) -> Iterator[tuple[str, Way, Way | None]]:
        """Yield each way of the store; SQL also on a connection that was held open."""
        store = self._store
        assert store is not None
        for label, way in question.ours.items():
            if not isinstance(way, str):
                yield label, lambda way=way: way(store), None  # type: ignore[misc]
                continue
            with self._held_open() as execute:
                yield (
                    label,
                    lambda way=way: store.sql(way).fetchall(),  # type: ignore[misc]
                    lambda way=way: execute(way),  # type: ignore[misc]
                )

    @contextlib.contextmanager
    def _held_open(self) -> Iterator[Callable[[str], Rows]]:
        """Yield a function that runs SQL on one connection to the file, opened by its first."""
        connection = database.connect()
        attached = False

        def execute(sql: str) -> Rows:
            nonlocal attached
            if not attached:
                database.attach(connection, self._directory, read_only=True)
                connection.execute(f"USE {database.CATALOGUE}")
                attached = True
            return connection.execute(sql).fetchall()

        try:
            yield execute
        finally:
            connection.close()

    def close(self) -> None:
        """Close it, and fail if it met problems."""
        if self._store is not None:
            problems = self._store.problems
            self._store.close()
            assert not problems, problems


# --- SQLite -------------------------------------------------------------------------------------


class LitePeer:
    """SQLite, with an index on the time and one on model and time."""

    def __init__(self, place: Path, limit: float) -> None:
        self._path = place / "peer.sqlite"
        self._limit = limit
        self._connection: sqlite3.Connection | None = None

    def load(self, rows: int, seed: int, say: Say) -> str:
        """Fill it and make its indexes."""
        loading = LiteLoading(self._path)
        self._connection = loading.connection
        spent = _filled(loading.take, "SQLite", rows, seed, say)
        indexes = loading.finish(say)
        size = self._path.stat().st_size
        return (
            f"SQLite: {spent:.0f} s, its indexes {indexes:.0f} s; {format_bytes(size)}, "
            f"{size / rows:.1f} bytes a row, of 8 columns"
        )

    def ways(self, question: Question) -> Iterator[tuple[str, Way, Way | None]]:
        """Yield the one way."""
        yield "", lambda: self._ask(question.lite), None

    def _ask(self, sql: str) -> Rows:
        assert self._connection is not None
        deadline = time.perf_counter() + self._limit
        self._connection.set_progress_handler(lambda: time.perf_counter() > deadline, _STEPS)
        try:
            rows = self._connection.execute(sql).fetchall()
        except sqlite3.OperationalError as error:
            if str(error) == "interrupted":
                raise OverLimitError from error
            raise
        finally:
            self._connection.set_progress_handler(None, 0)
        if time.perf_counter() > deadline:
            raise OverLimitError
        return rows

    def close(self) -> None:
        """Close it."""
        if self._connection is not None:
            self._connection.close()


# --- pandas -------------------------------------------------------------------------------------


class FramePeer:
    """A pandas data frame in memory, strings as categories."""

    def __init__(self, place: Path, limit: float) -> None:
        self._kept = place / "peer.parquet"
        self._limit = limit
        self._frame: pd.DataFrame | None = None

    def load(self, rows: int, seed: int, say: Say) -> str:
        """Fill it, unless the memory does not suffice to work on it."""
        needed, there = int(rows * FRAME_BYTES * FRAME_WORK), psutil.virtual_memory().available
        if needed > there:
            raise TooLargeError(
                f"pandas is left out: it would take about {format_bytes(needed)}, "
                f"and {format_bytes(there)} are available"
            )
        loading = FrameLoading(rows)
        _filled(loading.take, "pandas", rows, seed, say)
        frame = self._frame = loading.finish()
        size = int(frame.memory_usage().sum())
        say("pandas: writing Parquet and reading it again")
        frame.to_parquet(self._kept)
        start = time.perf_counter()
        pd.read_parquet(self._kept)
        again = time.perf_counter() - start
        self._kept.unlink()
        return (
            f"pandas: {format_bytes(size)} of memory, {size / rows:.1f} bytes a row, of 8 "
            f"columns; to read them again from Parquet takes {again:.1f} s"
        )

    def ways(self, question: Question) -> Iterator[tuple[str, Way, Way | None]]:
        """Yield the one way."""

        def answer() -> Rows:
            assert self._frame is not None
            with limited(self._limit):
                return question.frame(self._frame)

        yield "", answer, None

    def close(self) -> None:
        """Let go of the frame."""
        self._frame = None


PEERS: Mapping[str, Callable[[Path, float], Peer]] = {
    "store": StorePeer,
    "SQLite": LitePeer,
    "pandas": FramePeer,
}
