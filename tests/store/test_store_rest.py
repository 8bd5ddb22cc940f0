"""What a store keeps between calls: little, for as long as it likes, and nothing at rest."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

from ravenxterm_lab.store import Store, database

QUERY = "SELECT model, latency FROM executions ORDER BY ts, seq"


def fill(store: Store, rows: int = 40) -> None:
    for number in range(rows):
        store.record_execution(model=f"m{number % 4}", metrics={"latency": float(number)})
    store.ingest_now()


def nodes(store: Store) -> int:
    """Return what DuckDB's eviction queues of the idle connections hold."""
    rows = [
        desk.connection.execute("SELECT sum(approximate_size) FROM duckdb_eviction_queues()")
        .fetchall()[0][0]
        for desk in store._readers._idle
    ]  # fmt: skip
    return int(sum(rows))


def daemons() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ravenxterm-store"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", ingest=False)


def shows_queues() -> bool:
    connection = database.connect(threads=1)
    known = "SELECT count(*) FROM duckdb_functions() WHERE function_name = 'duckdb_eviction_queues'"
    found = connection.execute(known).fetchall()[0][0]
    connection.close()
    return bool(found)


@pytest.mark.skipif(not shows_queues(), reason="this DuckDB does not show its eviction queues")
def test_a_connection_that_has_gathered_much_is_replaced(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries leave nodes in DuckDB's queues; beyond a bound there is a fresh connection."""
    fill(store)
    expected = store.sql(QUERY).fetchall()
    before = nodes(store)
    for _ in range(30):
        store.sql(QUERY)
    each = (nodes(store) - before) / 30
    assert each >= 1, "DuckDB gathers nothing any more: the replacement can go"
    kept = store._readers._idle[0]
    monkeypatch.setattr(database, "_LOOK_EVERY", 8)
    monkeypatch.setattr(database, "_MOST_NODES", nodes(store) + int(20 * each))
    used = {id(kept): kept}
    for _ in range(120):
        assert store.sql(QUERY).fetchall() == expected
        for desk in store._readers._idle:
            used[id(desk)] = desk
        assert nodes(store) <= database._MOST_NODES + 9 * each
    assert len(used) > 1
    store.close()


def test_where_the_queues_are_not_shown_the_uses_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a DuckDB that does not know the function, a connection serves so many times."""
    import duckdb

    class Old:
        def execute(self, query: str) -> None:
            raise duckdb.CatalogException(query)

    monkeypatch.setattr(database, "_MOST_UNSEEN", 128)
    assert [n for n in range(1, 200) if database.worn(Old(), n)] == [128, 192]  # type: ignore[arg-type]


@pytest.mark.skipif(not shows_queues(), reason="this DuckDB does not show its eviction queues")
def test_the_ingest_replaces_its_connection_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes gather nodes as queries do, and every row still arrives."""
    fill(store)
    monkeypatch.setattr(database, "_LOOK_EVERY", 1)
    monkeypatch.setattr(database, "_MOST_NODES", 0)
    fill(store)
    assert store._ingester._connection is None
    fill(store)
    assert store.sql("SELECT count(*) FROM executions").fetchall() == [(120,)]
    store.close()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted by Linux")
def test_a_connection_brings_no_threads_for_files_far_away() -> None:
    """DuckDB's pool for remote files, eight threads a connection, is not started."""
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    connections = [database.connect(threads=1) for _ in range(3)]
    assert len(list(tasks.iterdir())) - before <= 3
    for connection in connections:
        connection.close()


def test_at_rest_nothing_is_left_and_everybody_is_served(tmp_path: Path) -> None:
    """No thread, no connection, no open segment; then recording and queries go on as before."""
    gc.collect()  # the stores of earlier tests end their threads
    others = daemons()
    store = Store(tmp_path / "store", ingest_interval=0.1)
    beside = Store(tmp_path / "store", ingest_interval=0.1)
    store.record_execution(model="a", metrics={"latency": 1.0})
    beside.record_execution(model="b", metrics={"latency": 2.0})
    assert len(store.sql(QUERY)) == 2
    assert len(daemons()) == len(others) + 2
    store.rest()
    store.rest()
    assert len(daemons()) == len(others) + 1
    assert store._readers._idle == []
    assert store._ingester._connection is None
    assert store._recorder._segment is None
    assert len(store.sql(QUERY)) == 2
    beside.record_execution(model="b", metrics={"latency": 3.0})
    first = store.record_execution(model="a", metrics={"latency": 4.0})
    second = store.record_execution(model="a", metrics={"latency": 5.0})
    assert second.seq == first.seq + 1 == 3
    assert len(daemons()) == len(others) + 2
    assert [row[1] for row in store.sql(QUERY).fetchall()] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert store.check()
    store.close()
    beside.close()
    assert len(daemons()) == len(others)


def test_rest_amid_recording_loses_nothing(tmp_path: Path) -> None:
    """Threads that record while another lets the store rest again and again: every row is there."""
    store = Store(tmp_path / "store", ingest_interval=0.05)
    go = threading.Event()

    def record(name: str) -> None:
        go.wait(30)
        for number in range(300):
            store.record_execution(model=name, metrics={"latency": float(number)})

    threads = [threading.Thread(target=record, args=(f"t{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    go.set()
    while any(thread.is_alive() for thread in threads):
        store.rest()
    for thread in threads:
        thread.join(30)
    counted = store.sql("SELECT model, count(*) FROM executions GROUP BY 1 ORDER BY 1").fetchall()
    assert counted == [("t0", 300), ("t1", 300), ("t2", 300)]
    store.rest()
    assert store.check()
    store.close()


def test_a_closed_store_stays_closed_at_rest(store: Store) -> None:
    """rest() after close() opens nothing, and recording is still refused."""
    fill(store)
    store.close()
    store.rest()
    with pytest.raises(Exception, match="is closed"):
        store.record_execution(model="a", metrics={"latency": 1.0})
