"""Restore: what an export wrote comes back, each row once, with the statistics it had."""

import datetime as dt
import shutil

import duckdb
import polars as pl
import pytest

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store import Store

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return int(self.now.timestamp()) * 10**9


@pytest.fixture
def store(tmp_path):
    """900 executions of two models over 45 days, feedback, and a message; the last ones wait."""
    clock = Clock()
    with Store(tmp_path / "store", ingest=False, clock=clock) as store:
        for number in range(900):
            clock.now = START + dt.timedelta(hours=1.2 * number)
            if number == 800:
                store.ingest_now()
            metrics = {
                "latency": 0.1 + number % 7, "success": number % 11 > 0, "n": number,
                "quality": number % 3 / 2, "text": f"day's {number}", "tokens_out": number,
            }  # fmt: skip
            model = "small" if number % 12 == 0 else "large"
            run = store.record_execution(model=model, task="text_generation", metrics=metrics)
        store.record("feedback", execution=str(run), quality=0.5)
        yield store


@pytest.fixture
def other(tmp_path):
    """Another store, with one run of its own."""
    with Store(tmp_path / "other", ingest=False) as store:
        store.record_execution(model="own", task="embedding", metrics={"latency": 1.0})
        yield store


def statistics_of(store):
    """Sums of floating-point numbers depend on their order in the last place."""
    rows = store.sql("SELECT * FROM model_stats WHERE model != 'own' ORDER BY ALL").fetchall()
    return [tuple(round(v, 9) if isinstance(v, float) else v for v in row) for row in rows]


def everything(store, table="executions"):
    return store.sql(f"SELECT * FROM {table} ORDER BY ts, session, seq").fetchall()


def test_another_store_gets_every_row_and_every_statistic(store, other, tmp_path):
    """Rows with their maps and JSON, and sums and quantiles as if it had seen them happen."""
    store.export(tmp_path / "out", table="executions")
    store.export(tmp_path / "out" / "feedback.parquet", table="feedback")
    report = other.restore(tmp_path / "out")
    assert dict(report.added) == {"executions": 900, "feedback": 1}
    assert "901 new rows" in str(report)
    own = [row for row in everything(other) if row[3] != "own"]
    assert own == everything(store)
    assert everything(other, "feedback") == everything(store, "feedback")
    assert statistics_of(other) == statistics_of(store)
    assert other.check().problems == ()


def test_a_row_never_comes_twice(store, tmp_path):
    """What is there already is left alone, as are the statistics."""
    store.export(tmp_path / "out.parquet")
    before, statistics = everything(store), statistics_of(store)
    for _ in range(2):
        report = store.restore(tmp_path / "out.parquet")
        assert (report.rows, dict(report.known)) == (0, {"executions": 900})
    assert everything(store) == before
    assert statistics_of(store) == statistics
    assert store.check().problems == ()


def test_rows_that_were_removed_come_back_and_count_once(store, tmp_path):
    """The statistics by hour outlived them, and are not added to again."""
    before = everything(store)
    statistics = statistics_of(store)
    store.export(tmp_path / "out.parquet", until=START + dt.timedelta(days=30), remove=True)
    left = len(everything(store))
    assert 0 < left < 900
    assert store.restore(tmp_path / "out.parquet").rows == 900 - left
    assert everything(store) == before
    assert statistics_of(store) == statistics
    assert store.check().problems == ()


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pl.DataFrame({"a": [1]}), "footer names no table"),
        (None, "no Parquet file"),
    ],
)
def test_what_is_no_export_is_refused(other, tmp_path, frame, words):
    """And nothing is restored, also of whole files beside it."""
    path = tmp_path / "given"
    path.mkdir()
    if frame is not None:
        frame.write_parquet(path / "a.parquet")
    before = everything(other)
    with pytest.raises(StoreError, match=words):
        other.restore(path)
    assert everything(other) == before


def test_a_damaged_file_leaves_everything_as_it_was(store, other, tmp_path):
    """Whole files that come before it in the directory are not restored either."""
    (tmp_path / "out").mkdir()
    whole = tmp_path / "out" / "a.parquet"
    store.export(whole)
    shutil.copy(whole, tmp_path / "out" / "b.parquet")
    raw = bytearray((tmp_path / "out" / "b.parquet").read_bytes())
    raw[200:4000] = bytes(3800)
    (tmp_path / "out" / "b.parquet").write_bytes(raw)
    before, statistics = everything(other), statistics_of(other)
    with pytest.raises(StoreError, match="Nothing was restored"):
        other.restore(tmp_path / "out")
    assert everything(other) == before
    assert statistics_of(other) == statistics


def test_a_newer_version_s_column_is_named(store, other, tmp_path):
    """Rather than dropped in silence."""
    import pyarrow.parquet as pq

    store.export(tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    wider = table.append_column("colour", [[None] * table.num_rows])
    pq.write_table(wider, tmp_path / "new.parquet")
    with pytest.raises(StoreError, match="unknown column 'colour'"):
        other.restore(tmp_path / "new.parquet")


def test_a_store_that_never_held_a_row_takes_them_too(store, tmp_path):
    """The database is made."""
    store.export(tmp_path / "out.parquet")
    with Store(tmp_path / "fresh", ingest=False) as fresh:
        assert fresh.restore(tmp_path / "out.parquet").rows == 900
        assert everything(fresh) == everything(store)


def test_a_part_of_a_session_is_whole_in_another_store_and_grows(store, other, tmp_path):
    """What was not brought along is told from what was lost; the rest may come later."""
    middle = START + dt.timedelta(days=20)
    store.export(tmp_path / "late.parquet", since=middle)
    store.export(tmp_path / "early.parquet", until=middle)
    for name in ("late", "late", "early"):
        other.restore(tmp_path / f"{name}.parquet")
        check = other.check()
        # The earlier half stayed behind until it came.
        assert (check.removed > 0, check.problems) == (name == "late", ())
    assert [row for row in everything(other) if row[3] != "own"] == everything(store)
    store.export(tmp_path / "feedback.parquet", table="feedback")
    other.restore(tmp_path / "feedback.parquet")
    assert (other.check().removed, other.check().problems) == (0, ())
    assert statistics_of(other) == statistics_of(store)


def test_a_real_loss_is_still_found_after_a_restore(store, tmp_path):
    """Restoring rows of this store's own session hides no gap in it."""
    store.export(tmp_path / "out.parquet", until=START + dt.timedelta(days=1))
    store.ingest_now()
    connection = duckdb.connect(store.database)
    connection.execute("DELETE FROM executions WHERE seq BETWEEN 500 AND 509")
    connection.close()
    assert store.check().gaps == 10
    store.restore(tmp_path / "out.parquet")
    assert store.check().gaps == 10
