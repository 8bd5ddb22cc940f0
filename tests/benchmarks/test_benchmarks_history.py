"""The generated store is a real one, limits hold, and a failure costs no other its column."""

import argparse
import contextlib
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_history
import pytest
from bench_history import Answer, Outcome, Table
from history_loading import StoreLoading
from history_peers import LitePeer, OverLimitError, limited, spilling_into
from history_questions import QUESTIONS
from history_rows import Chunk, chunks

from ravenxterm_lab.store import Store, database

METRICS = (
    "latency", "throughput", "memory_efficiency", "success", "time_to_first_token", "tokens_in",
    "tokens_out", "peak_memory", "quality", "error",
)  # fmt: skip
CONTEXT = ("model", "fingerprint", "task", "device", "runtime", "settings", "hardware")
PLAN = argparse.Namespace(rows=5000, seed=1, repeat=1, limit=60.0, without=[])


class Clock:
    """Says what time it is told that it is (microseconds)."""

    now = 0

    def __call__(self) -> int:
        return self.now * 1000


def recorded(directory: Path, parts: list[Chunk]) -> Store:
    """Return a store that recorded the rows, each at its time, and ingested them."""
    clock = Clock()
    store = Store(directory, ingest=False, clock=clock)
    for part in parts:
        for ts, row in zip(part.ts.tolist(), part.table.to_pylist(), strict=True):
            clock.now = ts
            metrics = {name: row[name] for name in METRICS}
            store.record_execution(**{name: row[name] for name in CONTEXT}, metrics=metrics)
    store.ingest_now()
    return store


def loop(limit: float) -> None:
    with limited(limit):
        while True:
            pass


def approximately(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [
        tuple(pytest.approx(v, rel=1e-12) if isinstance(v, float) else v for v in row)
        for row in rows
    ]


def test_the_generated_store_has_the_rollups_of_a_real_ingest(tmp_path: Path) -> None:
    """Rows loaded in chunks give the statistics that the same rows give when recorded."""
    parts = list(chunks(20_000, 7, 3000))
    loading = StoreLoading(tmp_path / "generated")
    for part in parts:
        loading.take(part)
    loading.finish()
    with (
        Store(tmp_path / "generated", ingest=False) as generated,
        recorded(tmp_path / "recorded", parts) as real,
    ):
        runs = [row[0] for row in real.sql("SELECT runs FROM model_stats").fetchall()]
        assert min(runs) < 1000 < max(runs)
        for view in ("model_stats", "hourly"):
            query = f"SELECT * FROM {view} ORDER BY ALL"
            assert generated.sql(query).fetchall() == approximately(real.sql(query).fetchall())
        assert generated.check()
        assert real.check()


def test_at_a_limit_of_nothing_the_peers_are_broken_off(tmp_path: Path) -> None:
    """What SQLite and pandas were broken off at is marked, and in no comparison."""
    done = subprocess.run(
        [sys.executable, "-W", "error", Path(bench_history.__file__), "--rows", "5000",
         "--repeat", "1", "--limit", "0", "--directory", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    for question in QUESTIONS:
        [row] = [row for row in lines if row.startswith((f"{question.name} ", f"{question.name}:"))]
        assert row.count("> 0 ") == 2, row
    assert "> is a question broken off after 0 s, whose answer is in no comparison" in lines
    assert any("compared with all rows of the store" in row for row in lines)
    assert any(row.startswith("not compared with any other: ") for row in lines)
    assert "with SQLite" not in done.stdout
    assert "with pandas" not in done.stdout
    assert "SQLite: how many" in done.stderr
    assert list(tmp_path.iterdir()) == []


def _temporary(answer: Any) -> None:
    """Say where DuckDB and SQLite put what does not fit, in this process."""
    connection = sqlite3.connect("", isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("CREATE TABLE t AS SELECT zeroblob(10000000) AS b")
    folder = Path("/proc/self/fd")
    links = [fd.readlink().parent for fd in folder.iterdir() if fd.is_symlink()]
    connection.close()
    with contextlib.closing(database.connect()) as duck:
        [(spill,)] = duck.execute("SELECT current_setting('temp_directory')").fetchall()
    answer.send((links, Path(spill).parent))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks /proc for the open files")
def test_what_does_not_fit_goes_to_the_directory(tmp_path: Path) -> None:
    """DuckDB and SQLite of a process that starts meanwhile spill there; nobody else does."""
    before = dict(os.environ)
    ears, mouth = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_temporary, args=(mouth,), daemon=True)
    with spilling_into(tmp_path):
        child.start()
    assert dict(os.environ) == before
    mouth.close()
    with ears:
        links, spill = ears.recv()
    child.join()
    assert tmp_path in links
    assert spill == tmp_path


def test_a_question_without_an_end_is_broken_off(tmp_path: Path) -> None:
    """SQLite within a statement and Python within a loop stop at the limit, and go on after."""
    place = tmp_path / "lite"
    place.mkdir()
    peer = LitePeer(place, 0.05)
    peer.load(100, 1, lambda text: None)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT sum(x) FROM n"
    [(_, ask, _)] = peer.ways(replace(QUESTIONS[0], lite=endless))
    with pytest.raises(OverLimitError):
        ask()
    peer.close()
    with pytest.raises(OverLimitError):
        loop(0.05)
    with limited(60):
        pass


def test_whoever_does_not_fit_is_left_out_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data frame larger than the memory is not tried, and is no failure."""
    table = Table()
    plan = argparse.Namespace(**{**vars(PLAN), "rows": 10**12})
    bench_history.listen("pandas", plan, tmp_path / "place", time.perf_counter(), table)
    assert "pandas is left out: it would take about" in capsys.readouterr().out
    assert table == Table()
    assert not (tmp_path / "place").exists()


def test_a_peer_that_is_killed_costs_no_other_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The death of one process is said, and what there is of the others is printed."""

    def kill() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        children[0].kill()

    table = Table({("pandas", 0): {"": Outcome(Answer([("a", 0.5)], 0.25, 0.25))}})
    killer = threading.Thread(target=kill)
    killer.start()
    bench_history.listen("store", PLAN, tmp_path / "place", time.perf_counter(), table)
    killer.join()
    assert table.failures == ["store: its process ended with -9, as when the memory is spent"]
    bench_history.show(table, ["store", "pandas"], 60.0)
    [row] = [
        row for row in capsys.readouterr().out.splitlines() if row.startswith(QUESTIONS[0].name)
    ]
    assert row.split()[-4:] == ["–", "–", "–", "250"]


def test_answers_that_differ_are_said_instead_of_their_times(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a question with two answers no time is printed, and the others stay."""
    one, other = ({"": Outcome(Answer(rows, 0.25, 0.25))} for rows in ([("a", 0.5)], [("a", 0.6)]))
    table = Table({("SQLite", 0): one, ("pandas", 0): other, ("SQLite", 1): one})
    bench_history.show(table, ["SQLite", "pandas"], 60.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [*QUESTIONS[0].name.split(), "answers", "differ"]
    assert lines[2].split()[-2:] == ["250", "–"]
    assert "answers differ" in table.failures[0]
