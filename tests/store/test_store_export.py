"""Export: Parquet that holds what the store does, and rows removed only when it is there."""

import datetime as dt
import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store import Store
from ravenxterm_lab.store.locks import shared_gate
from ravenxterm_lab.store.schema import TABLES

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return int(self.now.timestamp()) * 10**9


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    """90 executions over 90 days, with other numbers and other values; the last ten wait."""
    with Store(tmp_path / "store", ingest=False, clock=clock) as store:
        for day in range(90):
            clock.now = START + dt.timedelta(days=day)
            if day == 80:
                store.ingest_now()
            metrics = {"latency": day / 7, "n": day, "text": f"day's {day}"}
            store.record_execution(model="m", metrics=metrics if day % 2 else {"latency": 1.0})
        yield store


def latencies(store):
    return [row[0] for row in store.sql("SELECT latency FROM executions ORDER BY ts")]


def test_one_file_holds_every_value_in_the_order_of_time(store, tmp_path):
    """Rows that waited too; maps and JSON come back; the report says what is in it."""
    before = store.sql("SELECT * FROM executions ORDER BY ts").fetchall()
    report = store.export(tmp_path / "all.parquet")
    assert (report.rows, report.removed, report.files) == (90, 0, (tmp_path / "all.parquet",))
    assert report.bytes == (tmp_path / "all.parquet").stat().st_size
    assert report.first == START.replace(tzinfo=None)
    frame = pl.read_parquet(tmp_path / "all.parquet")
    assert frame.columns == list(TABLES["executions"].all_columns)
    assert frame["ts"].is_sorted()
    with duckdb.connect() as connection:
        back = connection.execute("FROM read_parquet(?)", [str(report.path)]).fetchall()
    assert back == before
    assert store.sql("SELECT * FROM executions ORDER BY ts").fetchall() == before
    assert "90 rows of executions" in str(report)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_the_footer_carries_the_comments_and_the_pages_zstd(store, tmp_path):
    """Whoever opens the file years later reads the units in it."""
    store.export(tmp_path / "all.parquet")
    with pq.ParquetFile(tmp_path / "all.parquet") as file:
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
        metadata = file.metadata.metadata
    assert metadata[b"comment.latency"] == b"Wall time of the execution (s)."
    assert metadata[b"comment"].startswith(b"Every execution")
    assert b"caller's" in metadata[b"comment.num"]


def test_a_directory_holds_a_file_per_month(store, tmp_path):
    """DuckDB and polars read it as one, with year and month as columns."""
    report = store.export(tmp_path / "history")
    names = [str(path.relative_to(tmp_path)) for path in report.files]
    assert names == [f"history/year=2026/month={month}/executions.parquet" for month in (1, 2, 3)]
    with duckdb.connect() as connection:
        query = f"SELECT year, month, count(*) FROM '{tmp_path}/history/**/*.parquet' GROUP BY ALL"
        counts = connection.execute(query + " ORDER BY ALL").fetchall()
    assert counts == [(2026, 1, 31), (2026, 2, 28), (2026, 3, 31)]
    frame = pl.scan_parquet(tmp_path / "history").collect()
    assert frame["latency"].to_list() == latencies(store)


def test_times_bound_the_rows_from_since_to_before_until(store, tmp_path):
    """Aware times are converted, naive times and dates are UTC."""
    east = dt.timezone(dt.timedelta(hours=5))
    for number, (since, until, rows) in enumerate(
        [
            (START + dt.timedelta(days=10), START + dt.timedelta(days=20), 10),
            (dt.datetime(2026, 1, 11, 5, tzinfo=east), dt.date(2026, 1, 21), 10),
            (dt.datetime(2026, 1, 11), None, 80),  # noqa: DTZ001
            (None, dt.datetime(2026, 1, 1, 0, 0, 1), 1),  # noqa: DTZ001
            (dt.datetime(2030, 1, 1), None, 0),  # noqa: DTZ001
        ]
    ):
        path = tmp_path / f"{number}.parquet"
        assert store.export(path, since=since, until=until).rows == rows
        assert len(pl.read_parquet(path)) == rows
    assert store.export(tmp_path / "none", since=dt.date(2030, 1, 1)).files == ()


def test_every_table_can_be_exported(store, tmp_path):
    """Empty ones too: a file with the right columns."""
    store.record("feedback", execution="a:1", quality=0.5)
    for name, table in TABLES.items():
        store.export(tmp_path / f"{name}.parquet", table=name)
        assert pl.read_parquet(tmp_path / f"{name}.parquet").columns == list(table.all_columns)
    assert len(pl.read_parquet(tmp_path / "feedback.parquet")) == 1


def test_removal_takes_exactly_what_was_exported(store, tmp_path):
    """The rest stays, the audit passes, statistics by hour survive, a second export has none."""
    runs = "SELECT sum(runs) FROM ingested.execution_hours"
    store.ingest_now()
    before = store.sql(runs).fetchall()
    until = START + dt.timedelta(days=31)
    report = store.export(tmp_path / "january.parquet", until=until, remove=True)
    assert (report.rows, report.removed) == (31, 31)
    assert "removed" in str(report)
    assert len(latencies(store)) == 59
    assert store.sql(runs).fetchall() == before
    check = store.check()
    assert check.ok, check.problems
    assert check.removed == 31
    assert store.export(tmp_path / "again.parquet", until=until, remove=True).rows == 0
    rest = store.export(tmp_path / "rest", remove=True)
    assert rest.removed == 59
    parts = [pl.read_parquet(path) for path in (tmp_path / "january.parquet", *rest.files)]
    assert sorted(pl.concat(parts)["seq"].to_list()) == list(range(1, 91))
    assert store.check().ok
    kept = store.sql("SELECT action, rows FROM ingested.maintenance ORDER BY ts").fetchall()
    assert sorted(kept) == [("export", 0), ("export", 31), ("export", 59)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"table": "executons"}, "Did you mean 'executions'"),
        ({"table": "watermarks"}, "no table 'watermarks'"),
        ({"since": START, "until": START}, "must be before"),
        ({"since": "2026-01-01"}, "must be a datetime"),
        ({"path": "x.csv"}, "is Parquet"),
        ({"path": "nowhere/x.parquet"}, "is no directory"),
        ({"path": "store"}, "exists already"),
        ({"path": 5}, "no path"),
    ],
)
def test_a_bad_request_is_refused_before_anything_is_written(
    store, tmp_path, monkeypatch, arguments, expected
):
    """The message names what is wrong; nothing new lies anywhere."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    path = arguments.pop("path", "x.parquet")
    with pytest.raises(StoreError, match=expected):
        store.export(path, remove=True, **arguments)
    assert sorted(tmp_path.rglob("*")) == before
    assert len(latencies(store)) == 90


def test_an_export_overwrites_nothing(store, tmp_path):
    """Not even a link that points nowhere."""
    (tmp_path / "x.parquet").write_text("mine")
    (tmp_path / "y.parquet").symlink_to("nowhere")
    for name in ("x.parquet", "y.parquet"):
        with pytest.raises(StoreError, match="exists already"):
            store.export(tmp_path / name)
    assert (tmp_path / "x.parquet").read_text() == "mine"


def test_a_store_without_a_row_has_nothing_to_export(tmp_path):
    """It says so, and creates nothing."""
    with (
        Store(tmp_path / "store", ingest=False) as store,
        pytest.raises(StoreError, match="nothing was ever recorded"),
    ):
        store.export(tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_file_and_every_row(store, tmp_path):
    """The draft is removed, nothing else is touched."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs privileges that this process does not have")
    try:
        (disk / "filler").write_bytes(os.urandom(60_000))
        for name in ("x.parquet", "x"):
            with pytest.raises(StoreError, match=r"(?s)disk.*No row was removed"):
                store.export(disk / name, remove=True)
        assert [path.name for path in disk.iterdir()] == ["filler"]
        assert len(latencies(store)) == 90
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StoreError, match="Read-only"):
            store.export(disk / "x.parquet", remove=True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert store.check().ok


def test_readers_that_stay_keep_the_rows_and_the_file(store, tmp_path, monkeypatch):
    """When the gate is not to be had for the removal, both are there, and the message says so."""
    from ravenxterm_lab.store.export import Export

    store.ingest_now()
    work = Export(store.path, tmp_path / "x.parquet")
    with shared_gate(store.path), pytest.raises(StoreError, match="still in the database"):
        work.run(remove=True, patience=0.05)
    assert len(pl.read_parquet(tmp_path / "x.parquet")) == 90
    assert len(latencies(store)) == 90


def test_what_a_killed_export_left_is_removed_by_the_next(store, tmp_path):
    """Its draft names the process that died; that of a living one is left alone."""
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    dead = tmp_path / f".x.{done.stdout.strip()}-00.partial"
    living = tmp_path / f".x.{os.getpid()}-00.partial"
    dead.mkdir()
    (dead / "half").write_bytes(b"x")
    living.write_bytes(b"x")
    store.export(tmp_path / "x")
    assert not dead.exists()
    assert living.exists()


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_a_kill_during_an_export_loses_no_row(tmp_path, delay):
    """Each row is in the store or in a whole file, whenever the process dies."""
    place = tmp_path / "store"
    with Store(place, ingest=False) as store:
        for i in range(3000):
            store.record_execution(model="m", metrics={"latency": float(i)})
        store.ingest_now()
    program = (
        "import sys; from pathlib import Path; import duckdb, pyarrow, numpy\n"
        "from ravenxterm_lab.store import Store\n"
        "store = Store(Path(sys.argv[1]), ingest=False)\n"
        "print('go', flush=True)\n"
        "store.export(sys.argv[2], remove=True)\n"
    )
    target = tmp_path / "out.parquet"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(place), str(target)], stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b"go\n"
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    found = {seq for (seq,) in Store(place, ingest=False).sql("SELECT seq FROM executions")}
    exported = set(pl.read_parquet(target)["seq"].to_list()) if target.exists() else set()
    assert found | exported == set(range(1, 3001))
    assert exported in (set(), set(range(1, 3001)))
    assert found in (set(), set(range(1, 3001)))
    report = Store(place, ingest=False).check()
    assert report.ok, report.problems
    assert Path(place / "main.duckdb").exists()
