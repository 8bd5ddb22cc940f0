"""The journal of the blocks that DuckDB rewrites in place."""

import shutil
import subprocess
import sys

import duckdb
import pytest

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store import Store, database, journal
from ravenxterm_lab.store.locks import exclusive_gate

COUNT = "SELECT count(*), sum(latency) FROM executions"
BLOCK = 262_144
HEADERS = 12_288


@pytest.fixture
def place(tmp_path):
    """A store with a thousand rows in its database."""
    with Store(tmp_path / "store", ingest=False) as store:
        for number in range(1000):
            store.record_execution(model="m", metrics={"latency": float(number)})
        store.ingest_now()
    return tmp_path / "store"


def begin_writing(place):
    """Do what a writer does before it changes anything, and die; return the metadata blocks."""
    connection = database.connect(threads=1)
    with exclusive_gate(place, patience=5) as obtained:
        assert obtained
        journal.attach_for_writing(connection, place)
        name = [database.CATALOGUE]
        blocks = connection.execute("SELECT block_id FROM pragma_metadata_info(?)", name).fetchall()
        connection.close()
    return [block for (block,) in blocks]


def tear(place, block):
    """Leave half of a block as a write does that a kill broke off."""
    with (place / "main.duckdb").open("r+b") as file:
        file.seek(HEADERS + block * BLOCK + BLOCK // 2)
        file.write(b"\xa5" * (BLOCK // 2))


def test_a_torn_metadata_block_is_put_back(place):
    """Without the journal the file could not be opened; with it nothing is missing."""
    for block in begin_writing(place):
        tear(place, block)
    bare = place.parent / "bare.duckdb"
    shutil.copy(place / "main.duckdb", bare)
    with pytest.raises(duckdb.Error), duckdb.connect(str(bare), read_only=True) as connection:
        connection.execute("FROM executions")
    assert (place / journal.JOURNAL).exists()
    with Store(place, ingest=False) as store:
        assert store.sql(COUNT).fetchall() == [(1000, 499500.0)]
        assert not (place / journal.JOURNAL).exists()
        store.record_execution(model="m", metrics={"latency": 0.5})
        assert store.ingest_now() == 1
        assert store.check().ok


def test_an_ingest_mends_the_file_too(place):
    """The next writer needs no reader to have come by."""
    for block in begin_writing(place):
        tear(place, block)
    with Store(place, ingest=False) as store:
        store.record_execution(model="m", metrics={"latency": 0.5})
        assert store.ingest_now() == 1
        assert store.sql(COUNT).fetchall() == [(1001, 499500.5)]


def test_a_journal_of_a_finished_checkpoint_is_dropped(place):
    """The headers tell that the file is newer than what was saved."""
    begin_writing(place)
    old = place.parent / "old.journal"
    shutil.copy(place / journal.JOURNAL, old)
    with Store(place, ingest=False) as store:
        for _ in range(2000):
            store.record_execution(model="n", metrics={"latency": 0.5})
        store.ingest_now()
        shutil.copy(old, place / journal.JOURNAL)
        assert store.sql(COUNT).fetchall() == [(3000, 500500.0)]
        assert not (place / journal.JOURNAL).exists()
        assert store.check().ok


def test_a_broken_journal_changes_nothing(place):
    """A journal is renamed into place whole; one that is not is no journal."""
    begin_writing(place)
    path = place / journal.JOURNAL
    path.write_bytes(path.read_bytes()[:-100])
    with Store(place, ingest=False) as store:
        assert store.sql(COUNT).fetchall() == [(1000, 499500.0)]


def test_a_journal_without_a_database_is_dropped(place):
    """Whoever moved the database aside begins a new one."""
    begin_writing(place)
    (place / "main.duckdb").rename(place / "aside.duckdb")
    with Store(place, ingest=False) as store:
        # The segment was still there: its rows are ingested into the new one.
        assert store.sql(COUNT).fetchall() == [(1000, 499500.0)]
        assert not (place / journal.JOURNAL).exists()
        assert store.ingest_now() == 1000
        assert store.check().ok


def test_a_file_that_cannot_be_mended_is_an_error_that_says_so(place):
    """Nobody is told that the data is lost, for it is not."""
    begin_writing(place)
    path = place / journal.JOURNAL
    path.unlink()
    path.mkdir()
    with Store(place, ingest=False) as store, pytest.raises(StoreError, match="cannot be mended"):
        store.sql(COUNT)


WRITER = """
import sys
from pathlib import Path
from ravenxterm_lab.store import database, journal
from ravenxterm_lab.store.locks import exclusive_gate

place = Path(sys.argv[1])
connection = database.connect(threads=1)
with exclusive_gate(place, patience=5):
    journal.attach_for_writing(connection, place)
    print("open", flush=True)
    sys.stdin.readline()
    connection.execute(f"INSERT INTO {database.CATALOGUE}.executions (latency) VALUES (0.5)")
    journal.detach_written(connection, place)
"""


def test_nothing_is_put_back_while_its_writer_lives(place):
    """With the lock files deleted the gate keeps nobody out; the writer's own lock still does."""
    command = [sys.executable, "-c", WRITER, str(place)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "open\n"
        for lock in place.glob("*.lock"):
            lock.unlink()
        before = (place / "main.duckdb").read_bytes()
        code = (
            "import sys; from ravenxterm_lab.store import Store; "
            "print(Store(sys.argv[1], ingest=False).sql(sys.argv[2]).fetchall())"
        )
        asking = [sys.executable, "-c", code, str(place), COUNT]
        with subprocess.Popen(asking, stdout=subprocess.PIPE, text=True) as reader:
            with pytest.raises(subprocess.TimeoutExpired):
                reader.wait(2.0)
            assert (place / journal.JOURNAL).exists()
            assert (place / "main.duckdb").read_bytes() == before
            writer.communicate("go on\n")
            assert reader.communicate()[0].strip() == "[(1001, 499500.5)]"
    assert writer.returncode == reader.returncode == 0
