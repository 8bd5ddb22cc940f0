"""Ingest: rows and watermarks together, segments removed after, nothing else touched."""

import os
import shutil
import subprocess
import sys
import time
from importlib import resources

import duckdb
import pytest

from ravenxterm_lab.exceptions import StoreError, StoreVersionError
from ravenxterm_lab.store import Store, ingest
from ravenxterm_lab.store.locks import FileLock, exclusive_gate, is_locked, shared_gate
from ravenxterm_lab.store.schema import SCHEMA_VERSION, TABLES
from ravenxterm_lab.store.segments import CAPACITY


@pytest.fixture
def place(tmp_path):
    return tmp_path / "store"


def spool(place):
    return sorted(path.name for path in (place / "spool").iterdir())


def fill(store, count, start=0):
    for i in range(start, start + count):
        store.record_execution(model="m", metrics={"latency": float(i)})


def sums(store):
    [row] = store.sql(
        "SELECT count(*), count(DISTINCT (session, seq)), sum(latency) FROM executions"
    )
    return row


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def test_ingest_moves_each_row_once(place):
    """Rows move; a second ingest moves none; the own live segment stays until it is closed."""
    with Store(place, ingest=False) as store:
        fill(store, 100)
        assert store.ingest_now() == 100
        assert store.ingest_now() == 0
        fill(store, 50, 100)
        assert sums(store) == (150, 150, sum(range(150)))
        assert store.info().pending == 50
        assert len(spool(place)) == 2
        assert store.ingest_now() == 50
        assert sums(store) == (150, 150, sum(range(150)))
    with Store(place, ingest=False) as other:
        assert other.ingest_now() == 0
        assert spool(place) == []
        assert sums(other) == (150, 150, sum(range(150)))


def test_two_ingesters_that_take_turns_agree(place):
    """An ingester that another one overtook neither loses nor repeats rows."""
    with Store(place, ingest=False) as one, Store(place, ingest=False) as two:
        for turn in range(4):
            fill(one, 10)
            fill(two, 10)
            assert (one, two)[turn % 2].ingest_now() == 20
            fill(one, 5)
            assert (two, one)[turn % 2].ingest_now() == 5
        assert sums(two)[:2] == (100, 100)


def test_a_full_segment_is_followed_by_the_next_and_removed(place):
    """More events than a segment holds, and than a pass takes, all arrive in order."""
    count = 2 * CAPACITY + 10
    with Store(place, ingest=False) as store:
        fill(store, count)
        assert len([name for name in spool(place) if name.endswith(".rec")]) == 3
        assert sums(store) == (count, count, count * (count - 1) / 2)
        assert store.ingest_now() == count
        assert len([name for name in spool(place) if name.endswith(".rec")]) == 1
        assert sums(store) == (count, count, count * (count - 1) / 2)
        gaps = store.sql(
            "SELECT count(*) FROM (SELECT seq - lag(seq) OVER (PARTITION BY session ORDER BY seq) "
            "AS step FROM executions) WHERE step <> 1"
        )
        assert gaps.fetchall() == [(0,)]


def test_the_thread_ingests_by_itself_and_ends_with_close(place):
    """With ingest on, rows reach the database without a call; close() ends the thread."""
    with Store(place, ingest_interval=0.05) as store:
        fill(store, 10)
        wait_for(lambda: store.info().pending == 0)
        fill(store, 10)
        wait_for(lambda: store.info().pending == 0)
        assert sums(store)[:2] == (20, 20)
        assert store.problems == []


def test_many_leftover_segments_are_ingested_at_once(place):
    """Short-lived processes leave segments; the next process clears them without waiting."""
    for _ in range(ingest.CROWDED + 1):
        with Store(place, ingest=False) as short:
            fill(short, 1)
    with Store(place, ingest_interval=3600.0) as store:
        fill(store, 1)
        wait_for(lambda: len([n for n in spool(place) if n.endswith(".rec")]) == 1)
        assert sums(store)[:2] == (ingest.CROWDED + 2, ingest.CROWDED + 2)


def test_recording_and_ingesting_load_no_data_frames(place):
    """Recording loads neither numpy nor DuckDB; ingest and queries load no pandas, no polars."""
    program = (
        "import sys; from pathlib import Path; from ravenxterm_lab.store import Store\n"
        "store = Store(Path(sys.argv[1]), ingest=False)\n"
        "store.record_execution(model='m', metrics={'latency': 1.0, 'x': 'text', 'n': 1})\n"
        "heavy = {'numpy', 'duckdb', 'pyarrow', 'pandas', 'polars'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "store.sql('FROM executions').fetchall(); store.ingest_now()\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(place)], capture_output=True, text=True, check=True
    )
    recorded, queried = done.stdout.splitlines()
    assert recorded == "[]"
    # DuckDB 1.5 imports pandas itself, whatever is registered with it.
    if int(duckdb.__version__.split(".")[0]) >= 2:
        assert queried == "['duckdb', 'numpy', 'pyarrow']"
    assert "polars" not in queried


@pytest.mark.parametrize("interval", ["0.01", "3600"])
def test_a_process_with_a_running_thread_exits_cleanly(place, interval):
    """Neither an idle thread nor a busy one delays or disturbs the end of the interpreter."""
    program = (
        "import sys; from pathlib import Path; from ravenxterm_lab.store import Store\n"
        "store = Store(Path(sys.argv[1]), ingest_interval=float(sys.argv[2]))\n"
        "for i in range(20000): store.record_execution(model='m', metrics={'latency': 1.0})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(place), interval],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert sums(Store(place, ingest=False))[:2] == (20000, 20000)


def test_the_file_has_the_schema_that_the_code_knows(place):
    """Columns and types in SQL and in code agree; no key, no index; readable by DuckDB 1.5."""
    with Store(place, ingest=False) as store:
        fill(store, 1)
        store.ingest_now()
    copy = place.parent / "copy.duckdb"
    shutil.copy(place / "main.duckdb", copy)
    with duckdb.connect(str(copy), read_only=True) as connection:
        for name, table in TABLES.items():
            found = {row[0]: row[1] for row in connection.sql(f"DESCRIBE {name}").fetchall()}
            assert found == table.all_columns, name
        # The views in the file work under any name of the file.
        assert connection.sql("SELECT runs FROM model_stats").fetchall() == [(1,)]
        assert connection.sql("SELECT count(*) FROM duckdb_indexes()").fetchall() == [(0,)]
        assert connection.sql("SELECT count(*) FROM duckdb_constraints()").fetchall() == [(0,)]
        tags = connection.sql("SELECT tags FROM duckdb_databases() WHERE NOT internal").fetchall()
    assert "v1.5" in str(tags)


def test_migrations_are_numbered_without_a_gap():
    """The newest migration is the version that the code writes."""
    files = resources.files("ravenxterm_lab.store").joinpath("migrations").iterdir()
    numbers = sorted(int(file.name[:4]) for file in files if file.name.endswith(".sql"))
    assert numbers == list(range(1, SCHEMA_VERSION + 1))


def test_a_store_of_a_newer_version_is_refused_and_left_untouched(place):
    """Queries and ingest say which versions; the database keeps every byte; rows wait."""
    with Store(place, ingest=False) as store:
        fill(store, 3)
        store.ingest_now()
        with exclusive_gate(place, patience=5) as obtained:
            assert obtained
            with duckdb.connect(str(place / "main.duckdb")) as connection:
                connection.execute("INSERT INTO schema_version VALUES (99, 'future', NULL)")
        before = (place / "main.duckdb").read_bytes()
        fill(store, 2)
        for action in (store.ingest_now, lambda: store.sql("FROM executions"), store.info):
            with pytest.raises(StoreVersionError, match=r"99.*--upgrade"):
                action()
    assert (place / "main.duckdb").read_bytes() == before
    with (
        exclusive_gate(place, patience=5),
        duckdb.connect(str(place / "main.duckdb")) as connection,
    ):
        connection.execute("DELETE FROM schema_version WHERE version = 99")
    with Store(place, ingest=False) as store:
        assert sums(store)[:2] == (5, 5)


def test_the_thread_stops_at_a_newer_version_with_a_problem(place):
    """A refusal in the background is a problem on record, and no crash."""
    with Store(place, ingest=False) as store:
        fill(store, 1)
        store.ingest_now()
    with duckdb.connect(str(place / "main.duckdb")) as connection:
        connection.execute("INSERT INTO schema_version VALUES (99, 'future', NULL)")
    with Store(place, ingest_interval=0.02) as store:
        fill(store, 1)
        wait_for(lambda: bool(store.problems))
        assert "99" in store.problems[0]
        fill(store, 1)


def test_a_database_that_is_no_database_is_an_error_and_keeps_the_rows(place):
    """Garbage in place of the file: the error names it; moved aside, the rows are there."""
    with Store(place, ingest=False) as store:
        fill(store, 3)
        (place / "main.duckdb").write_bytes(b"not a database" * 1000)
        with pytest.raises(StoreError, match=r"main\.duckdb.*Move it aside"):
            store.ingest_now()
        with pytest.raises(StoreError, match=r"main\.duckdb.*Move it aside"):
            store.sql("FROM executions")
        (place / "main.duckdb").unlink()
        assert store.ingest_now() == 3
        assert sums(store)[:2] == (3, 3)


def test_a_copied_database_without_its_locks_is_read(place):
    """The file alone, moved to a new home, is a whole store."""
    with Store(place, ingest=False) as store:
        fill(store, 3)
        store.ingest_now()
    new = place.parent / "new"
    new.mkdir()
    shutil.copy(place / "main.duckdb", new)
    with Store(new, ingest=False) as store:
        assert sums(store)[:2] == (3, 3)
        fill(store, 1)
        assert store.ingest_now() == 1
        assert sums(store)[:2] == (4, 4)


def test_a_database_replaced_under_an_ingester_is_noticed(place):
    """What still lies in the spool goes into the new file too."""
    with Store(place, ingest=False) as store:
        fill(store, 3)
        store.ingest_now()
        (place / "main.duckdb").unlink()
        fill(store, 2)
        assert sums(store)[:2] == (5, 5)
        assert store.ingest_now() == 5
        assert sums(store)[:2] == (5, 5)


def test_a_store_deleted_under_its_process_goes_on_in_a_new_segment(place):
    """After rm -rf, the thread notices, says so, and what follows is recorded."""
    with Store(place, ingest_interval=0.05) as store:
        fill(store, 3)
        shutil.rmtree(place)
        wait_for(lambda: any("deleted" in text for text in store.problems))
        fill(store, 2)
        assert sums(store)[0] >= 2


def test_a_broken_off_creation_leaves_nothing_behind(place):
    """Stale drafts of segments and sidecars without a segment are removed."""
    with Store(place, ingest=False) as store:
        fill(store, 1)
        old = time.time() - 3600
        for name in ("dead-1.0000.new", "dead-1.str", "dead-1.ext"):
            (place / "spool" / name).write_bytes(b"x")
            os.utime(place / "spool" / name, (old, old))
        (place / "spool" / "fresh-1.0000.new").write_bytes(b"x")
        (place / "main.duckdb.new").write_bytes(b"half a database")
        store.ingest_now()
        names = spool(place)
        assert not [name for name in names if name.startswith("dead")]
        assert "fresh-1.0000.new" in names
        assert not (place / "main.duckdb.new").exists()
        assert sums(store)[:2] == (1, 1)


def test_a_foreign_file_in_the_spool_is_left_alone(place):
    """Whatever is not ours is neither read nor removed."""
    with Store(place, ingest=False) as store:
        fill(store, 1)
        for name in ("notes.txt", "noseq.rec", "a-b.rec"):
            (place / "spool" / name).write_text("mine")
        store.ingest_now()
        assert {"notes.txt", "noseq.rec", "a-b.rec"} <= set(spool(place))
        assert sums(store)[:2] == (1, 1)


def test_readers_share_the_gate_and_a_writer_waits_for_them(tmp_path):
    """Two readers hold it at once; a writer gets it only alone, and gives up in time."""
    with exclusive_gate(tmp_path, patience=1) as obtained:
        assert obtained
    with shared_gate(tmp_path) as one, shared_gate(tmp_path) as two:
        assert one
        assert two
        with exclusive_gate(tmp_path, patience=0.01) as obtained:
            assert not obtained
    with exclusive_gate(tmp_path, patience=1) as obtained:
        assert obtained
        with (
            pytest.raises(StoreError, match="held by another process"),
            shared_gate(tmp_path, patience=0.01),
        ):
            pass


def test_a_query_ends_with_an_error_when_the_gate_stays_shut(place):
    """Ingest gives way while a reader is at work, and rows stay visible."""
    with Store(place, ingest=False) as store:
        fill(store, 3)
        store.ingest_now()
        fill(store, 3)
        with shared_gate(place):
            ingester = ingest.Ingester(place, print)
            assert ingester.run_pass() is None
            assert sums(store)[:2] == (6, 6)
        assert ingester.run_pass().rows == 3


def test_a_lock_ends_with_its_holder(tmp_path):
    """is_locked tells a living holder from a closed one."""
    path = tmp_path / "lock"
    with FileLock(path, create=True) as lock:
        assert lock.acquire(shared=False, patience=0)
        assert is_locked(path)
    assert not is_locked(path)
    lock.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few MiB."""
    mount = shutil.which("mount")
    place = tmp_path / "disk"
    place.mkdir()
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")

    def mounted(size):
        done = subprocess.run(
            [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"this container may not mount a tmpfs: {done.stderr.decode().strip()}")
        return place

    yield mounted
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def test_a_full_disk_is_an_error_at_the_first_record_and_nothing_is_written(small_disk):
    """The segment does not fit: the error says so, and leaves no file."""
    place = small_disk("1m") / "store"
    with Store(place, ingest=False) as store:
        with pytest.raises(StoreError, match=r"No space left.*Free space"):
            fill(store, 1)
        assert spool(place) == []
        assert store.sql("FROM executions").rows == 0


def test_a_disk_that_fills_up_keeps_every_recorded_row(small_disk):
    """Payloads until the disk is full: an error, and all that was recorded is there."""
    place = small_disk("9m") / "store"
    with Store(place, ingest=False) as store:
        count = 0

        def fill_the_disk():
            nonlocal count
            while True:
                store.record_execution(model="m", metrics={"text": "x" * 10_000})
                count += 1

        with pytest.raises(StoreError, match="No space left"):
            fill_the_disk()
        assert count > 100
        fill(store, 1)
        assert store.sql("SELECT count(*), sum(len(extra)) > 1 FROM executions").fetchall() == [
            (count + 1, True)
        ]

        def fill_the_database():
            while True:
                fill(store, 30000)
                store.ingest_now()

        with pytest.raises(StoreError, match=r"kept|No space"):
            fill_the_database()
        rows = store.sql("SELECT count(*), count(DISTINCT seq) FROM executions").fetchall()
        assert rows[0][0] == rows[0][1] > count


def test_a_read_only_file_system_is_an_error_but_can_be_read(small_disk):
    """Recording says what to do; what is there can still be queried."""
    disk = small_disk("20m")
    with Store(disk / "store", ingest=False) as store:
        fill(store, 3)
        store.ingest_now()
        fill(store, 2)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with Store(disk / "store", ingest=False) as store:
        assert sums(store)[:2] == (5, 5)
        with pytest.raises(StoreError, match=r"Read-only.*RAVENXTERM_HOME"):
            fill(store, 1)
        with pytest.raises(StoreError, match="Read-only"):
            store.ingest_now()
    with Store(disk / "other", ingest=False) as store:
        assert store.sql("FROM executions").rows == 0
        with pytest.raises(StoreError, match="Read-only"):
            fill(store, 1)


def test_a_segment_that_cannot_be_opened_holds_back_the_later_ones_of_its_session(tmp_path):
    """Its events are ingested once it can be opened again; no watermark passes over them."""
    with Store(tmp_path / "store", ingest=False) as store:
        for _ in range(66_000):
            store.record_execution(model="m", metrics={"latency": 1.0})
    segments = sorted((tmp_path / "store" / "spool").glob("*.rec"), key=lambda p: len(p.name))
    assert len(segments) == 2
    aside = segments[0].rename(tmp_path / "aside")
    segments[0].symlink_to(segments[0])
    with Store(tmp_path / "store", ingest=False) as store:
        assert store.ingest_now() == 0
        assert "cannot be read" in store.problems[0]
        segments[0].unlink()
        aside.rename(segments[0])
        assert store.ingest_now() == 66_000
        assert store.sql("FROM executions").rows == 66_000
