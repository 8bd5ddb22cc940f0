"""The audit: it passes on a whole store, and names what was broken in one by hand."""

import datetime as dt

import duckdb
import pytest

from ravenxterm_lab.exceptions import StoreVersionError
from ravenxterm_lab.store import Store
from ravenxterm_lab.store.locks import exclusive_gate
from ravenxterm_lab.store.schema import TABLES
from ravenxterm_lab.store.segments import CAPACITY, HEADER_SIZE, SLOT_SIZE


@pytest.fixture
def place(tmp_path):
    """A store of one closed session of 100 events in two tables, all of them ingested."""
    with Store(tmp_path / "store", ingest=False) as store:
        for i in range(100):
            if i % 10:
                store.record_execution(model="m", metrics={"latency": float(i)})
            else:
                store.record("messages", level="info", subject="test", text=str(i))
        store.ingest_now()
    with Store(tmp_path / "store", ingest=False) as store:
        # Now that its process has let go of it, the segment is removed.
        store.ingest_now()
    return tmp_path / "store"


def write(place, *statements):
    """Change the database as nobody should."""
    with (
        exclusive_gate(place, patience=5) as obtained,
        duckdb.connect(str(place / "main.duckdb")) as connection,
    ):
        assert obtained
        for statement in statements:
            connection.execute(statement)


def check(place):
    with Store(place, ingest=False) as store:
        return store.check()


def session(report):
    [one] = report.sessions
    return one


def test_a_store_that_does_not_exist_is_whole(tmp_path):
    """Nothing was recorded, nothing is missing, nothing is created."""
    report = check(tmp_path / "store")
    assert report.ok
    assert bool(report)
    assert (report.events, report.sessions) == (0, ())
    assert not (tmp_path / "store").exists()


def test_a_whole_store_passes_with_rows_waiting_and_moved(place):
    """Sessions of several processes, of which some rows wait; the numbers are those recorded."""
    with Store(place, ingest=False) as one, Store(place, ingest=False) as two:
        for store, count in ((one, 7), (two, 5)):
            for _ in range(count):
                store.record_execution(model="m", metrics={"latency": 1.0})
        one.ingest_now()
        two.record("feedback", execution="a:1", quality=0.5)
        report = two.check()
    assert report.problems == ()
    assert report.ok
    assert (report.events, report.pending, report.gaps, report.duplicates) == (113, 1, 0, 0)
    assert sorted(each.rows for each in report.sessions) == [6, 7, 100]
    assert all(each.lowest == 1 and each.highest == each.rows for each in report.sessions)
    assert "whole" in str(report)


def test_an_audit_counts_across_words_and_segments(tmp_path):
    """More events than a segment holds, half of them moved."""
    count = CAPACITY + 100
    with Store(tmp_path / "store", ingest=False) as store:
        for i in range(count):
            store.record_execution(model="m", metrics={"latency": 1.0})
            if i == 70:
                store.ingest_now()
        report = store.check()
    assert report.ok, report.problems
    assert (report.events, session(report).highest) == (count, count)


def test_a_planted_duplicate_is_named(place):
    """The same number in two tables: how often, which one, where."""
    write(
        place,
        "INSERT INTO feedback BY NAME SELECT ts, session, seq FROM executions WHERE seq = 43",
    )
    report = check(place)
    assert not report
    assert (report.duplicates, report.gaps, session(report).repeated) == (1, 0, 1)
    [problem] = report.problems
    assert session(report).session in problem
    assert "43 2 times in executions and feedback" in problem


def test_a_planted_gap_is_named_with_its_ranges(place):
    """Rows deleted behind the back of the store: each range, and how many."""
    write(
        place,
        "DELETE FROM executions WHERE seq BETWEEN 12 AND 15 OR seq = 80",
        "DELETE FROM execution_hours",
        "DELETE FROM messages WHERE seq = 1 OR seq = 91",
    )
    report = check(place)
    assert report.gaps == 7
    [problem] = [text for text in report.problems if "missing" in text]
    assert "7 events missing" in problem
    assert " 1, 12-15, 80, 91." in problem


def test_the_last_rows_are_missed_too(place):
    """The watermark tells that they were there."""
    write(place, "DELETE FROM executions WHERE seq > 95", "DELETE FROM execution_hours")
    report = check(place)
    assert report.gaps == 5
    assert any(" 96-100." in text for text in report.problems)


def test_a_session_without_any_row_left_is_missed(place):
    """Its watermark alone remains."""
    write(place, *(f"DELETE FROM {name}" for name in TABLES), "DELETE FROM execution_hours")
    report = check(place)
    assert (report.gaps, report.events) == (100, 0)
    assert any(" 1-100." in text for text in report.problems)


def test_a_watermark_moved_back_is_named(place):
    """Rows that it says still wait are in the database: they may come again."""
    write(place, "UPDATE watermarks SET next_seq = 90")
    report = check(place)
    assert (report.beyond, report.gaps, report.duplicates) == (11, 0, 0)
    [problem] = report.problems
    assert "from 90 to 100" in problem
    assert "next_seq to 101" in problem


def test_a_lost_watermark_is_named(place):
    """Without one, everything may come again."""
    write(place, "DELETE FROM watermarks")
    report = check(place)
    assert report.beyond == 100
    assert "no watermark" in report.problems[0]


def test_a_watermark_moved_ahead_is_a_gap(place):
    """Rows that wait below it are never shown."""
    with Store(place, ingest=False) as store:
        first = store.record_execution(model="m", metrics={})
        write(place, f"INSERT INTO watermarks VALUES ('{first.session}', 6)")
        report = store.check()
    assert report.gaps == 5
    assert any(first.session in text and " 1-5." in text for text in report.problems)


def test_two_watermarks_of_a_session_are_named(place):
    """A session has one."""
    write(place, "INSERT INTO watermarks SELECT * FROM watermarks")
    assert any("more than one watermark" in text for text in check(place).problems)


def test_a_lost_segment_is_a_gap(tmp_path):
    """The first of two segments was deleted before it was ingested."""
    place = tmp_path / "store"
    with Store(place, ingest=False) as store:
        for _ in range(CAPACITY + 10):
            store.record_execution(model="m", metrics={})
    segments = sorted((place / "spool").glob("*.rec"), key=lambda path: len(path.name))
    segments[0].unlink()
    for report in (check(place), (Store(place, ingest=False).ingest_now(), check(place))[1]):
        assert report.gaps > CAPACITY - 10
        assert report.gaps + report.events == CAPACITY + 10
        assert any(f" 1-{report.gaps}." in text for text in report.problems)


def test_a_damaged_segment_is_named_until_it_is_ingested(tmp_path):
    """While it waits it can be restored; afterwards it is counted, and no gap."""
    place = tmp_path / "store"
    with Store(place, ingest=False) as store:
        for _ in range(10):
            store.record_execution(model="m", metrics={"latency": 1.0})
    [path] = (place / "spool").glob("*.rec")
    data = bytearray(path.read_bytes())
    data[HEADER_SIZE + 3 * SLOT_SIZE + 20] ^= 1
    path.write_bytes(data)
    report = check(place)
    assert (report.damaged, report.gaps, report.events) == (1, 0, 10)
    assert ":4 " in report.problems[0]
    with Store(place, ingest=False) as store:
        store.ingest_now()
    report = check(place)
    assert report.ok, report.problems
    assert (report.skipped, report.damaged, report.gaps) == (1, 0, 0)


def test_rows_without_a_name_are_named(place):
    """A row of nobody was not written by the store."""
    write(place, "INSERT INTO feedback (note) VALUES ('mine')")
    assert any("lack their session" in text for text in check(place).problems)


def test_removals_account_for_what_is_gone_and_for_no_more(place):
    """Rows removed on purpose are no gap; one row more is, and its number is named."""
    with Store(place, ingest=False) as store:
        store.export(place.parent / "old.parquet", remove=True)
    report = check(place)
    assert report.ok, report.problems
    assert (report.removed, report.events) == (90, 10)
    write(place, "DELETE FROM messages WHERE seq = 51")
    report = check(place)
    assert report.gaps == 1
    write(place, "INSERT INTO messages BY NAME SELECT ts, session, 51 AS seq FROM messages LIMIT 1")
    assert check(place).ok
    write(
        place,
        "INSERT INTO executions BY NAME SELECT ts, session, 52 AS seq FROM messages LIMIT 1",
    )
    report = check(place)
    assert any("have come back" in text for text in report.problems)


def test_a_removal_of_a_whole_range_leaves_the_exact_range_of_a_gap(tmp_path):
    """What a removal accounts for in full is not listed as missing."""
    place = tmp_path / "store"
    times = iter(range(10**18, 10**18 + 100 * 10**9, 10**9))
    with Store(place, ingest=False, clock=lambda: next(times, 2 * 10**18)) as store:
        for _ in range(50):
            store.record_execution(model="m", metrics={})
        store.ingest_now()
        # The first reading of the clock was for the segment.
        until = dt.datetime.fromtimestamp(10**9 + 11, tz=dt.UTC)
        assert store.export(tmp_path / "old.parquet", until=until, remove=True).rows == 10
    write(place, "DELETE FROM executions WHERE seq BETWEEN 20 AND 22")
    [problem] = [text for text in check(place).problems if "missing" in text]
    assert "numbers 20-22 (10 of these" in problem or "numbers 20-22" in problem


def test_a_rollup_that_disagrees_is_named_by_its_hour(place):
    """An hour that lost its sum, or has one too many."""
    with Store(place, ingest=False) as store:
        rows = store.sql("SELECT count(*) FROM ingested.execution_hours").fetchall()
    if rows == [(0,)]:
        pytest.fail("the ingest wrote no rollups")
    write(place, "UPDATE execution_hours SET runs = runs + 1")
    report = check(place)
    assert report.rollup_hours >= 1
    assert "execution_hours disagrees" in report.problems[0]


def test_a_file_that_cannot_be_read_is_a_problem_in_words(place):
    """Bytes overwritten in its middle, and garbage in its place."""
    path = place / "main.duckdb"
    path.write_bytes(b"garbage" * 10_000)
    report = check(place)
    assert not report.ok
    assert "main.duckdb" in report.problems[0]
    assert "Move it aside" in report.problems[0]


def test_a_flipped_block_is_a_problem_in_words(tmp_path):
    """DuckDB's own checksum tells, and the report says what to do."""
    place = tmp_path / "store"
    with Store(place, ingest=False) as store:
        for i in range(30_000):
            store.record_execution(model=f"m{i}", metrics={"latency": float(i)})
        store.ingest_now()
    path = place / "main.duckdb"
    data = bytearray(path.read_bytes())
    block = 262_144
    # The blocks begin after three headers of 4 KiB; in each of them a byte flips.
    for at in range(12_288 + 5000, len(data), block):
        data[at] ^= 255
    path.write_bytes(data)
    report = check(place)
    assert not report.ok
    assert "main.duckdb" in report.problems[0]


def test_a_newer_store_is_refused(place):
    """An audit of what this version does not know would prove nothing."""
    write(place, "INSERT INTO schema_version VALUES (99, 'future', NULL)")
    with pytest.raises(StoreVersionError):
        check(place)


def test_many_faulty_sessions_are_counted_when_not_all_are_named(tmp_path):
    """The report stays readable."""
    place = tmp_path / "store"
    for _ in range(60):
        with Store(place, ingest=False) as store:
            for _ in range(3):
                store.record_execution(model="m", metrics={})
    with Store(place, ingest=False) as store:
        store.ingest_now()
    write(place, "DELETE FROM executions WHERE seq = 2")
    report = check(place)
    assert report.gaps == 60
    assert any("10 more sessions" in text for text in report.problems)
    assert "problems in the store" in report._repr_mimebundle_()["text/html"]
