"""The mark of some tables: it changes with their rows and with nothing else, whoever wrote."""

import contextlib
import datetime as dt
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.store import Store, database

ASKED = ("executions", "feedback")


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store", ingest=False) as made:
        yield made


def run(store, count=1):
    for number in range(count):
        store.record_execution(model="m", metrics={"latency": number / 8})


@contextlib.contextmanager
def nothing_attached(monkeypatch):
    """Fail where the database is opened."""

    def refuse(*_, **__):
        raise AssertionError("the database was opened")

    with monkeypatch.context() as patched:
        patched.setattr(database, "attach", refuse)
        yield


def test_rows_of_these_tables_change_the_mark_and_those_of_others_do_not(store):
    """A message is nothing to who asks about executions."""
    before = store.mark(ASKED)
    store.record("messages", level="info", text="hello")
    assert store.mark(ASKED) == before
    run(store)
    with_run = store.mark(ASKED)
    assert with_run != before
    store.record("feedback", execution="s:1", quality=0.5)
    assert store.mark(ASKED) not in {before, with_run}


def test_moving_rows_into_the_database_changes_no_mark(store):
    """Neither the first ingest, which makes the file, nor one with later rows."""
    run(store, 3)
    before = store.mark(ASKED)
    store.ingest_now()
    assert store.mark(ASKED) == before
    run(store)
    after = store.mark(ASKED)
    assert after != before
    store.ingest_now()
    assert store.mark(ASKED) == after
    store.compact()
    assert store.mark(ASKED) == after


def test_an_unchanged_database_is_not_opened_for_a_mark(store, monkeypatch):
    """Only the spool is looked at, and what is new there is seen."""
    run(store, 3)
    store.ingest_now()
    before = store.mark(ASKED)
    with nothing_attached(monkeypatch):
        assert store.mark(ASKED) == before
        run(store)
        assert store.mark(ASKED) != before


def test_the_mark_is_that_of_the_rows_that_a_snapshot_shows(store):
    """In one opening of the store, queries and mark agree."""
    run(store, 2)
    store.ingest_now()
    run(store, 3)
    with store.snapshot() as snapshot:
        run(store)
        assert snapshot.mark(ASKED) == (5, 0, 0)
        assert snapshot.rows("SELECT count(*) FROM executions", {}) == [(5,)]
        assert snapshot.rows("SELECT sum(runs) FROM execution_hours", {}) == [(5,)]
    assert store.mark(ASKED) == (6, 0, 0)


def test_removed_rows_change_the_mark_even_if_as_many_come(store, tmp_path):
    """As many rows as before are not the same rows."""
    run(store, 3)
    store.ingest_now()
    before = store.mark(ASKED)
    store.export(tmp_path / "old.parquet", until=dt.date(9999, 1, 1), remove=True)
    run(store, 3)
    assert store.mark(ASKED)[:1] == before[:1]
    assert store.mark(ASKED) != before


def test_another_process_is_seen(store):
    """What a child records is in the mark, waiting and ingested."""
    run(store)
    marks = {store.mark(ASKED)}
    for ingest in (False, True):
        child = os.fork()
        if not child:
            run(store)
            if ingest:
                store.ingest_now()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        marks.add(store.mark(ASKED))
    assert marks == {(1, 0, 0), (2, 0, 0), (3, 0, 0)}


STEP = st.sampled_from(["run", "other run", "message", "ingest", "other ingest", "compact"])


@settings(max_examples=25, deadline=None)
@given(st.lists(STEP, max_size=12))
def test_marks_are_equal_exactly_while_nothing_was_recorded(steps):
    """Whatever two stores of one directory do, and in whatever order."""
    with (
        tempfile.TemporaryDirectory() as name,
        Store(Path(name) / "store", ingest=False) as store,
        Store(Path(name) / "store", ingest=False) as other,
    ):
        runs = 0
        for step in steps:
            if step.endswith("run"):
                run(other if step.startswith("other") else store)
                runs += 1
            elif step == "message":
                other.record("messages", level="info", text="hello")
            elif step == "compact":
                store.compact()
            else:
                (other if step.startswith("other") else store).ingest_now()
            assert store.mark(ASKED) == (runs, 0, 0)
        assert other.mark(ASKED) == (runs, 0, 0)
