"""Readings of model files: the latest of each path counts, and older ones go."""

import datetime as dt

import pytest

from ravenxterm_lab.store import Store
from ravenxterm_lab.store.locks import shared_gate
from ravenxterm_lab.store.scans import trim_scans

NOW = dt.datetime(2026, 6, 1)  # noqa: DTZ001 - as the tables hold it


@pytest.fixture
def place(tmp_path):
    return tmp_path / "store"


def record(store, rounds, paths=3):
    for number in range(rounds):
        for path in range(paths):
            store.record(
                "scans", path=f"/m/{path}", signature=f"s{number}", facts={"round": number}
            )


@pytest.mark.parametrize("moved", [False, True], ids=["waiting", "moved"])
def test_the_latest_reading_of_each_path_is_shown(place, moved):
    """The view has one row for each path, whether it waits or was moved into the database."""
    with Store(place, ingest=False) as store:
        record(store, 4)
        if moved:
            store.ingest_now()
            store.record("scans", path="/m/1", signature="newest")
        rows = store.sql("SELECT path, signature FROM scanned ORDER BY path").fetchall()
    middle = "newest" if moved else "s3"
    assert rows == [("/m/0", "s3"), ("/m/1", middle), ("/m/2", "s3")]


def test_replaced_readings_are_removed_and_the_audit_knows(place):
    """What is shown stays the same, the rows that went are noted, and nothing is missing."""
    with Store(place, ingest=False) as store:
        record(store, 5)
        store.record_execution(model="m", metrics={"latency": 1.0})
        store.ingest_now()
        before = store.sql("FROM scanned ORDER BY path").fetchall()
        assert trim_scans(place, NOW, patience=1, least=1, limit=7).rows == 7
        done = trim_scans(place, NOW, patience=1, least=1)
        assert (done.rows, done.more) == (5, False)
        assert trim_scans(place, NOW, patience=1, least=1).rows == 0
        assert store.sql("FROM scanned ORDER BY path").fetchall() == before
        assert store.sql("SELECT count(*) FROM scans").fetchall() == [(3,)]
        report = store.check()
    assert report.ok, report.problems
    assert (report.removed, report.gaps) == (12, 0)


def test_what_is_known_of_a_file_that_is_gone_goes_too(place):
    """A row that says so removes the readings before it, never one after it, and then itself."""
    with Store(place, ingest=False) as store:
        record(store, 2)
        for path in ("/m/0", "/m/1"):
            store.record("scans", path=path, signature="")
        store.record("scans", path="/m/1", signature="back again")
        seen = "SELECT path, signature FROM scanned ORDER BY path"
        latest = [("/m/1", "back again"), ("/m/2", "s1")]
        assert store.sql(seen).fetchall() == latest
        store.ingest_now()
        assert store.sql(seen).fetchall() == latest
        gone = "SELECT path, signature FROM scans ORDER BY ALL"
        assert trim_scans(place, NOW, patience=1, least=1).rows == 6
        assert store.sql(gone).fetchall() == [("/m/0", ""), ("/m/1", "back again"), ("/m/2", "s1")]
        assert trim_scans(place, NOW, patience=1, least=1).rows == 1
        assert store.sql(gone).fetchall() == [("/m/1", "back again"), ("/m/2", "s1")]
        assert trim_scans(place, NOW, patience=1, least=1).rows == 0
        assert store.check().ok


def test_a_few_replaced_readings_stay(place):
    """A transaction for some rows would cost more than they do."""
    with Store(place, ingest=False) as store:
        record(store, 5)
        store.ingest_now()
    assert trim_scans(place, NOW, patience=1).rows == 0


def test_an_absent_store_and_readers_in_the_way(place):
    """Without a database there is nothing to do; readers put it off."""
    assert trim_scans(place, NOW, patience=1).rows == 0
    with Store(place, ingest=False) as store:
        record(store, 2)
        store.ingest_now()
    with shared_gate(place):
        done = trim_scans(place, NOW, patience=0.01, least=1)
    assert (done.rows, done.more) == (0, True)


def test_upkeep_removes_them(place):
    """The ingest does it by itself, at most once an hour."""
    with Store(place, ingest=False) as store:
        record(store, 1001, paths=1)
        store.ingest_now()
        assert store.sql("SELECT count(*) FROM scans").fetchall() == [(1,)]
        assert store.check().ok
