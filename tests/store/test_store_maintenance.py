"""Upkeep: old samples rolled up, the file compacted, and what the store says of itself."""

import dataclasses
import datetime as dt
import os
import secrets
import signal
import subprocess
import sys
import threading
import time

import duckdb
import pytest

from ravenxterm_lab.exceptions import StoreError, StoreVersionError
from ravenxterm_lab.store import Store, compaction, copying, database, ingest, retention
from ravenxterm_lab.store.access import reading, writing
from ravenxterm_lab.store.locks import shared_gate
from ravenxterm_lab.store.schema import ROLLUPS

START = dt.datetime(2026, 1, 1)  # noqa: DTZ001 - as the tables hold it
DAY = 86_400 * 10**9


class Clock:
    """A clock that a test sets, in nanoseconds."""

    def __init__(self):
        self.now = int(START.replace(tzinfo=dt.UTC).timestamp()) * 10**9

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def place(tmp_path):
    return tmp_path / "store"


def fill(store, count, start=0):
    for i in range(start, start + count):
        store.record_execution(model=f"m{i % 3}", metrics={"latency": float(i), "n": i, "x": "y"})


def make_room(store, clock, path):
    """Leave free blocks before those in use: old rows are removed, newer ones stay."""
    for _ in range(4):
        clock.now += 10 * DAY
        for _ in range(8_000):
            text = secrets.token_hex(250)
            store.record_execution(model="m", metrics={"latency": 1.0, "text": text})
        store.ingest_now()
    clock.now += 10 * DAY
    until = dt.datetime.fromtimestamp(clock.now // 10**9 - 15 * 86_400, tz=dt.UTC)
    assert store.export(path, until=until, remove=True).removed >= 24_000


def contents(place):
    """Everything that the file holds, comments and views included, in no order."""
    with reading(place) as connection:
        tables = {
            name: sorted(map(str, connection.execute(f"FROM {name}").fetchall()))
            for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
            if name != "maintenance" and name not in ROLLUPS
        }
        # A compaction adds partial sums up: what holds is their sum.
        tables["sums"] = connection.execute(
            "SELECT hour, model, sum(runs), sum(latency_sum) FROM execution_hours "
            "GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        described = connection.execute(
            "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() "
            "WHERE database_name = 'ingested' UNION ALL "
            "SELECT view_name, sql, '', comment FROM duckdb_views() WHERE NOT internal "
            "UNION ALL SELECT table_name, sql, '', comment FROM duckdb_tables() ORDER BY ALL"
        ).fetchall()
    return tables, described


def names(place):
    return sorted(path.name for path in place.iterdir())


# -- retention -----------------------------------------------------------------------------------


def samples(store, clock, days, every=10, count=12, gpu=0):
    """Record samples every ten seconds, from ``days`` after the start on."""
    clock.now = Clock().now + days * DAY
    for i in range(count):
        store.record(
            "hardware_samples", hardware="h", cpu_percent=float(i), memory_used=1000 + i,
            memory_available=5000 - i, process_memory=10 + i, gpu=gpu,
            gpu_percent=100.0 if i == 3 else None, gpu_power=float(i), cpu_power=2.0 * i,
            process_anonymous=i, process_file=i * i, process_cpu_percent=float(i), gpu_clock=500.0,
        )  # fmt: skip
        clock.now += every * 10**9


def test_samples_older_than_14_days_become_a_row_per_minute(place, clock):
    """Means and extremes are those of the samples; younger samples stay as they were."""
    with Store(place, ingest=False, clock=clock) as store:
        samples(store, clock, 0)
        samples(store, clock, 20)
        store.record_execution(model="m", metrics={})
        store.ingest_now()
        rows = store.sql(
            "SELECT ts, samples, cpu_percent, memory_used, memory_available, process_memory, gpu, "
            "gpu_percent, gpu_power, gpu_temperature FROM hardware WHERE samples > 1 ORDER BY ts"
        ).fetchall()
        minute = dt.timedelta(minutes=1)
        assert rows == [
            (START, 6, 2.5, 1003, 4995, 15, 0, 100.0, 2.5, None),
            (START + minute, 6, 8.5, 1009, 4989, 21, 0, None, 8.5, None),
        ]
        assert store.sql("SELECT sum(samples), count(*) FROM hardware").fetchall() == [(24, 14)]
        assert store.sql("SELECT count(*) FROM hardware_samples").fetchall() == [(12,)]
        largest = "SELECT max(cpu_percent_max), max(memory_used_max), max(gpu_power_max) "
        assert store.sql(largest + "FROM ingested.hardware_minutes").fetchall() == [
            (11.0, 1011, 11.0)
        ]
        more = "cpu_power, process_anonymous, process_file, process_cpu_percent, gpu_clock"
        rows = store.sql(f"SELECT {more} FROM hardware WHERE samples > 1 ORDER BY ts").fetchall()
        assert rows == [
            (5.0, 5, 25, 2.5, 500.0), (17.0, 11, 121, 8.5, 500.0),
        ]  # fmt: skip
        removed = store.sql("SELECT table_name, rows, first_seq, last_seq FROM ingested.removals")
        assert removed.fetchall() == [("hardware_samples", 12, 1, 12)]
        report = store.check()
        assert report.ok, report.problems
        assert (report.removed, report.events) == (12, 13)


def test_samples_that_come_late_are_rolled_up_beside_the_others(place, clock):
    """A minute may have several rows; their samples add up, and no sample is lost."""
    with Store(place, ingest=False, clock=clock) as one:
        samples(one, clock, 0)
        with Store(place, ingest=False, clock=clock) as two:
            samples(two, clock, 0, gpu=None)
            samples(one, clock, 30, count=1)
            two.ingest_now()
            assert one.sql("SELECT count(*) FROM hardware_samples").fetchall() == [(1,)]
            samples(one, clock, 0, count=6)
            clock.now = Clock().now + 40 * DAY
            one.ingest_now()
        assert one.sql("SELECT sum(samples) FROM hardware").fetchall() == [(31,)]
        report = one.check()
        assert report.ok, report.problems


def test_a_pass_rolls_up_no_more_than_it_may_and_never_half_a_minute(place, clock):
    """The rest comes with the next calls; a minute with too many samples comes whole."""
    with Store(place, ingest=False, clock=clock) as store:
        samples(store, clock, 0, every=1, count=180)
        store.ingest_now()
    now = START + dt.timedelta(days=30)
    done = [retention.trim_samples(place, now, patience=1, limit=70) for _ in range(4)]
    assert [(one.rows, one.more) for one in done] == [
        (60, True),
        (60, True),
        (60, False),
        (0, False),
    ]
    with Store(place, ingest=False, clock=clock) as store:
        assert store.sql("SELECT sum(samples), count(*) FROM hardware").fetchall() == [(180, 3)]
        samples(store, clock, 1, every=1, count=50)
        store.ingest_now()
    assert retention.trim_samples(place, now, patience=1, limit=10).rows == 50
    assert Store(place, ingest=False).check().ok


def test_retention_comes_back_each_hour_and_survives_a_clock_that_jumps_back(place, clock):
    """By the clock of the store; readers in the way put it off to the next pass."""
    with Store(place, ingest=False, clock=clock) as store:
        samples(store, clock, 0)
        store.ingest_now()
        count = "SELECT count(*) FROM hardware_samples"
        clock.now = Clock().now + 20 * DAY
        with shared_gate(place):
            store.ingest_now()
        assert store.sql(count).fetchall() == [(12,)]
        store.ingest_now()
        assert store.sql(count).fetchall() == [(0,)]
        clock.now = Clock().now - 300 * DAY
        store.ingest_now()
        samples(store, clock, 1)
        clock.now = Clock().now + 20 * DAY
        store.ingest_now()
        assert store.sql(count).fetchall() == [(0,)]
        assert store.problems == []


# -- compaction ----------------------------------------------------------------------------------


def test_a_compaction_keeps_everything_and_gives_space_back(place, tmp_path, clock):
    """Rows, comments, views, watermarks; in the order of time; readable by DuckDB 1.5."""
    with Store(place, ingest=False, clock=clock) as store:
        store.record("feedback", execution="a:1", quality=0.5)
        make_room(store, clock, tmp_path / "old.parquet")
        session = store.sql("SELECT any_value(session) FROM executions").fetchall()[0][0]
        with writing(place, patience=5) as connection:
            connection.execute("CREATE TABLE mine (i INTEGER)")
            connection.execute("INSERT INTO mine VALUES (1), (2)")
            connection.execute("CREATE VIEW ours AS SELECT i + 1 AS j FROM mine")
            connection.execute("COMMENT ON TABLE mine IS 'it''s mine'")
        before = contents(place)
        report = store.compact()
        assert report.done
        assert report.bytes_after < report.bytes_before / 1.4
        assert report.freed == report.bytes_before - report.bytes_after
        assert report.bytes_after == (place / "main.duckdb").stat().st_size
        assert contents(place) == before
        assert (place / "main.duckdb").stat().st_mode & 0o777 == 0o600
        assert names(place) == [
            "db.lock", "ingest.lock", "main.duckdb", "spool", "turnstile.lock"
        ]  # fmt: skip
        noted = store.sql(
            "SELECT action, rows, bytes_before FROM ingested.maintenance WHERE action <> 'export'"
        )
        assert noted.fetchall() == [("compaction", report.rows, report.bytes_before)]
        fill(store, 10)
        assert store.ingest_now() == 10
        check = store.check()
        assert check.ok, check.problems
        assert any(one.session == session for one in check.sessions)
    with reading(place) as connection:
        assert connection.execute("FROM ours").fetchall() == [(2,), (3,)]
        assert "v1.5" in str(connection.execute("SELECT tags FROM duckdb_databases()").fetchall())
    assert "Compaction" in str(report)


def test_a_compacted_table_is_in_the_order_of_time(place):
    """Sessions that were ingested one after the other lie side by side; pieces meet."""
    with Store(place, ingest=False) as one, Store(place, ingest=False) as two:
        for _ in range(300):
            fill(one, 10)
            fill(two, 10)
        one.ingest_now()
        assert copying.CHUNK > 6000
        one.compact()
    with reading(place) as connection:
        times = connection.execute("SELECT ts FROM executions").fetchall()
        assert times == sorted(times)
        assert len(times) == 6000


def test_a_table_of_many_pieces_is_copied_whole(place, monkeypatch):
    """Rows at the marks between pieces, rows without a time, and all at one moment."""
    monkeypatch.setattr(copying, "CHUNK", 100)
    with Store(place, ingest=False) as store:
        fill(store, 1000)
        store.ingest_now()
        with writing(place, patience=5) as connection:
            connection.execute("INSERT INTO executions BY NAME SELECT 'x' AS session, 1 AS seq")
            connection.execute(
                "INSERT INTO messages BY NAME SELECT TIMESTAMP '2026-01-01' AS ts, 'y' AS session, "
                "range + 1 AS seq FROM range(450)"
            )
        before = contents(place)
        store.compact()
        assert contents(place) == before


def test_queries_and_recording_go_on_during_a_compaction(place):
    """What is recorded meanwhile waits, is seen, and is moved afterwards."""
    with Store(place, ingest=False) as store:
        fill(store, 1000)
        store.ingest_now()
        seen = []

        def meanwhile():
            fill(store, 1)
            seen.append(store.sql("SELECT count(*) FROM executions").fetchall()[0][0])
            assert ingest.Ingester(place, print).run_pass() is None
            return False

        with store._ingester.holding(5) as obtained:
            assert obtained
            compaction.compact(place, stop=meanwhile)
        assert len(seen) > 3
        assert seen == list(range(1001, 1001 + len(seen)))
        assert store.ingest_now() == len(seen)
        assert store.check().ok
        assert store.sql("FROM executions").rows == 1000 + len(seen)


def test_a_compaction_that_is_told_to_stop_changes_nothing(place):
    """It ends within a step, and removes its draft."""
    with Store(place, ingest=False) as store:
        fill(store, 1000)
        store.ingest_now()
    before = (place / "main.duckdb").read_bytes()
    with pytest.raises(compaction.Interrupted):
        compaction.compact(place, stop=lambda: True)
    assert (place / "main.duckdb").read_bytes() == before
    assert not [name for name in names(place) if "compact" in name]


def test_a_database_that_changes_meanwhile_is_left_alone(place):
    """Something else wrote to it: the copy is dropped, the file keeps what it holds."""
    with Store(place, ingest=False) as store:
        fill(store, 1000)
        store.ingest_now()
    touched = []

    def touch():
        if not touched:
            os.utime(place / "main.duckdb", (1, 1))
            touched.append(True)
        return False

    with pytest.raises(StoreError, match=r"changed by something else.*left as it was"):
        compaction.compact(place, stop=touch)
    assert not [name for name in names(place) if "compact" in name]
    assert Store(place, ingest=False).check().ok


def test_readers_that_stay_put_a_compaction_off(place):
    """The message says what to do; nothing was changed."""
    with Store(place, ingest=False) as store:
        fill(store, 10)
        store.ingest_now()
        with shared_gate(place), pytest.raises(StoreError, match="busy by queries"):
            compaction.compact(place, patience=0.05)
        assert not [name for name in names(place) if "compact" in name]
        assert store.compact().done


def test_a_log_that_a_killed_ingest_left_is_not_lost(place):
    """Rows that were committed into the log only are in the compacted file."""
    with Store(place, ingest=False) as store:
        fill(store, 10)
        store.ingest_now()
    program = (
        "import os, sys; from pathlib import Path; from ravenxterm_lab.store import database\n"
        "connection = database.connect()\n"
        "database.attach(connection, Path(sys.argv[1]), read_only=False)\n"
        "connection.execute(\"INSERT INTO ingested.feedback (note) VALUES ('kept')\")\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(place)], check=False)
    assert (place / "main.duckdb.wal").exists()
    with Store(place, ingest=False) as store:
        store.compact()
        assert store.sql("SELECT note FROM feedback").fetchall() == [("kept",)]
    assert not (place / "main.duckdb.wal").exists()


def test_what_a_killed_compaction_left_is_removed_by_the_next_ingest(place):
    """The draft and its log."""
    with Store(place, ingest=False) as store:
        fill(store, 10)
        for name in ("main.duckdb.compact", "main.duckdb.compact.wal"):
            place.mkdir(exist_ok=True)
            (place / name).write_bytes(b"half a copy")
        store.ingest_now()
        assert not [name for name in names(place) if "compact" in name]
        (place / "main.duckdb.compact").write_bytes(b"half a copy")
        store.compact()
        assert store.check().ok


def test_a_link_to_another_disk_stays_a_link(place, tmp_path):
    """What it points to is rewritten where it lies."""
    with Store(place, ingest=False) as store:
        fill(store, 10)
        store.ingest_now()
        (tmp_path / "disk").mkdir()
        (place / "main.duckdb").rename(tmp_path / "disk" / "big.duckdb")
        (place / "main.duckdb").symlink_to(tmp_path / "disk" / "big.duckdb")
        inode = (tmp_path / "disk" / "big.duckdb").stat().st_ino
        store.compact()
        assert (place / "main.duckdb").is_symlink()
        assert (tmp_path / "disk" / "big.duckdb").stat().st_ino != inode
        assert names(tmp_path / "disk") == ["big.duckdb"]
        assert store.check().ok


def test_a_disk_without_room_is_an_error_and_the_file_is_whole(place, tmp_path):
    """Both when it is known beforehand and when it turns out amid the copy."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs privileges that this process does not have")
    try:
        with Store(disk / "store", ingest=False) as store:
            fill(store, 30_000)
            store.ingest_now()
        with Store(disk / "store", ingest=False) as store:
            store.ingest_now()
            with pytest.raises(StoreError, match="Free space"):
                store.compact()
            subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
            filled = []

            def fill_up():
                if not filled:
                    free = os.statvfs(disk)
                    filled.append(
                        (disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))
                    )
                return False

            with pytest.raises(StoreError, match=r"(?s)left as it was|No space"):
                compaction.compact(disk / "store", stop=fill_up)
            assert not [name for name in names(disk / "store") if "compact" in name]
            (disk / "filler").unlink()
            check = store.check()
            assert check.ok, check.problems
            assert check.events == 30_000
            store.compact()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_absent_and_a_newer_store_are_not_compacted(place):
    """Nothing is created; a store of the future is left untouched."""
    with Store(place, ingest=False) as store:
        assert not store.compact().done
        assert not store.compact(force=False).done
        assert not place.exists()
        fill(store, 1)
        store.ingest_now()
        with writing(place, patience=5) as connection:
            connection.execute("INSERT INTO schema_version VALUES (99, 'future', NULL)")
        before = (place / "main.duckdb").read_bytes()
        with pytest.raises(StoreVersionError):
            store.compact()
        assert (place / "main.duckdb").read_bytes() == before


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.02, 0.04, 0.06, 0.08, 0.12, 0.2])
def test_a_kill_during_a_compaction_leaves_a_whole_file(tmp_path, delay):
    """The old one or the new one; leftovers go with the next ingest."""
    place = tmp_path / "store"
    with Store(place, ingest=False) as store:
        fill(store, 5000)
        store.ingest_now()
        fill(store, 10)
    program = (
        "import sys; from pathlib import Path; import duckdb, pyarrow, numpy\n"
        "from ravenxterm_lab.store import Store\n"
        "store = Store(Path(sys.argv[1]), ingest=False)\n"
        "print('go', flush=True)\n"
        "store.compact(); store.compact()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(place)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"go\n"
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    with Store(place, ingest=False) as store:
        assert store.sql("FROM executions").rows == 5010
        store.ingest_now()
        assert not [name for name in names(place) if "compact" in name]
        check = store.check()
        assert check.ok, check.problems
        assert check.events == 5010


def test_two_compactions_at_once_take_turns(place):
    """Threads of one process keep each other waiting, as processes do."""
    with Store(place, ingest=False) as one, Store(place, ingest=False) as two:
        fill(one, 3000)
        one.ingest_now()
        done = []
        threads = [
            threading.Thread(target=lambda store=store: done.append(store.compact()))
            for store in (one, two, one)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [report.done for report in done] == [True] * 3
        assert one.check().ok


def test_a_compaction_is_worth_its_while_when_blocks_are_free(place, tmp_path, clock, monkeypatch):
    """After most rows went, once a day, never for a small file, and not right after one."""
    with Store(place, ingest=False, clock=clock) as store:
        make_room(store, clock, tmp_path / "old.parquet")
        now = dt.datetime.fromtimestamp(clock.now // 10**9, tz=dt.UTC).replace(tzinfo=None)
        assert not compaction.worthwhile(place, now)
        monkeypatch.setattr(compaction, "LEAST_BYTES", 2**20)
        assert compaction.worthwhile(place, now)
        with writing(place, patience=5) as connection:
            connection.execute(
                "INSERT INTO maintenance BY NAME SELECT $now AS ts, 'compaction' AS action, "
                "1000 AS rows, 900000 AS bytes_after",
                {"now": now - dt.timedelta(hours=4)},
            )
        assert not compaction.worthwhile(place, now)
        assert compaction.worthwhile(place, now + dt.timedelta(hours=20))
        assert compaction.worthwhile(place, now - dt.timedelta(days=2))
        assert store.compact(force=False).done
        assert not compaction.worthwhile(place, now + dt.timedelta(days=2))
        assert not store.compact(force=False).done


def test_the_thread_compacts_by_itself(place, tmp_path, clock, monkeypatch):
    """In a quiet moment, when it is worth its while; and notes it."""
    with Store(place, ingest=False, clock=clock) as store:
        make_room(store, clock, tmp_path / "old.parquet")
        size = (place / "main.duckdb").stat().st_size
    monkeypatch.setattr(compaction, "LEAST_BYTES", 2**20)
    with Store(place, ingest_interval=0.05) as store:
        fill(store, 10)
        deadline = time.monotonic() + 60
        query = "SELECT count(*) FROM ingested.maintenance WHERE action = 'compaction'"
        while store.sql(query).fetchall() != [(1,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (place / "main.duckdb").stat().st_size < size / 1.4
        fill(store, 10)
        store.ingest_now()
        assert store.problems == []
        check = store.check()
        assert check.ok, check.problems


# -- what it says of itself ----------------------------------------------------------------------


def test_info_says_the_lag_the_sessions_and_the_size_of_a_row(place, clock):
    """By the clock of the store; nothing waits after an ingest."""
    with Store(place, ingest=False, clock=clock) as store:
        empty = store.info()
        assert (empty.lag, empty.ingesting, empty.last_ingest, empty.sessions) == (None,) * 3 + (0,)
        assert empty.bytes_per_row is None
        fill(store, 3)
        clock.now += 90 * 10**9
        fill(store, 1)
        info = store.info()
        assert (info.lag, info.pending, info.sessions) == (90.0, 4, 1)
        assert "1 min 30 s" in str(info)
        clock.now -= 10**12
        assert store.info().lag == 0.0
        before = time.time()
        store.ingest_now()
        info = store.info()
        assert info.lag is None
        written = info.last_ingest.replace(tzinfo=dt.UTC).timestamp()
        assert before - 10 <= written <= time.time() + 10
        assert info.bytes_per_row == info.database_bytes / 4
        # Of four rows that says nothing.
        assert "bytes per row" not in str(info)
        assert "bytes per row" in str(dataclasses.replace(info, rows={"executions": 1000}))
        with Store(place, ingest=False) as other:
            fill(other, 1)
            assert store.info().sessions == 2
        assert "executions" in info._repr_mimebundle_()["text/html"]


def test_info_names_the_process_that_ingests(place):
    """While it does; neither before nor after, whatever the lock file still says."""
    with Store(place, ingest=False) as store:
        fill(store, 1)
        assert store.info().ingesting is None
        with ingest.Ingester(place, print).holding(5) as obtained:
            assert obtained
            busy = store.info().ingesting
            assert busy.pid == os.getpid()
            assert abs(busy.since.replace(tzinfo=dt.UTC).timestamp() - time.time()) < 60
            assert f"process {os.getpid()}" in str(store.info())
        assert store.info().ingesting is None
        with ingest.Ingester(place, print).holding(5):
            (place / "ingest.lock").write_text("")
            assert store.info().ingesting.pid == 0
        assert store.ingest_now() == 1


def test_the_store_opens_in_the_oldest_duckdb_after_a_compaction(place):
    """The copy keeps the storage version, also when it is read alone."""
    with Store(place, ingest=False) as store:
        fill(store, 5)
        store.ingest_now()
        store.compact()
    with duckdb.connect(str(place / "main.duckdb"), read_only=True) as connection:
        assert "v1.5" in str(connection.execute("SELECT tags FROM duckdb_databases()").fetchall())
        assert connection.execute("SELECT count(*) FROM executions").fetchall() == [(5,)]
    assert database.DATABASE == "main.duckdb"
