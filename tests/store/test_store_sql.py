"""Queries: what they see, what they may do, and how their results show themselves."""

import datetime as dt
import subprocess
import sys

import numpy as np
import pytest

from ravenxterm_lab.exceptions import QueryError, StoreError
from ravenxterm_lab.store import Store
from ravenxterm_lab.store.queries import VIEWS
from ravenxterm_lab.store.schema import ROLLUPS, TABLES


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store", ingest=False) as store:
        yield store


@pytest.fixture
def filled(store):
    for i in range(3):
        store.record_execution(model="a", task="t", metrics={"latency": float(i), "n": i})
    store.ingest_now()
    store.record_execution(model="b", task="t", metrics={"latency": 9.0, "tokens_in": 5})
    return store


def test_a_query_unites_the_database_and_the_spool(filled):
    """Ingested and waiting rows are one table, of this process and of others."""
    with Store(filled.path, ingest=False) as other:
        other.record_execution(model="c", metrics={})
        for each in (filled, other):
            rows = each.sql("SELECT model, count(*) FROM executions GROUP BY 1 ORDER BY 1")
            assert rows.fetchall() == [("a", 3), ("b", 1), ("c", 1)]


@pytest.mark.parametrize("name", [*TABLES, *ROLLUPS, *VIEWS])
def test_an_absent_store_has_every_table_with_the_right_columns(store, name):
    """Tables and views of an empty store have the columns and types of a filled one."""
    empty = store.sql(f"FROM {name}")
    store.record_execution(model="m", metrics={})
    store.ingest_now()
    full = store.sql(f"FROM {name}")
    assert empty.rows == 0
    assert (empty.columns, empty.types) == (full.columns, full.types)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM executions",
        "FROM executions LIMIT 1",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "VALUES (1)",
        "DESCRIBE executions",
        "SHOW TABLES",
        "SUMMARIZE executions",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT count(*) FROM executions",
        "PIVOT executions ON model USING count(*) GROUP BY task",
        "-- a comment\nSELECT 1;",
        "SELECT extra->>'x', num['n'] FROM executions",
    ],
)
def test_statements_that_read_are_allowed(filled, query):
    """Everything that only reads gives a result."""
    assert filled.sql(query).rows >= 1


@pytest.mark.parametrize(
    "query",
    [
        "",
        "  -- nothing",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP VIEW executions",
        "SELEC 1",
        "INSERT INTO executions (model) VALUES ('x')",
        "WITH x AS (INSERT INTO ingested.feedback (note) VALUES ('x') RETURNING 1) FROM x",
        "UPDATE ingested.executions SET model = 'x'",
        "DELETE FROM ingested.executions",
        "CREATE TABLE t (i INTEGER)",
        "CREATE OR REPLACE VIEW executions AS SELECT 1",
        "DROP VIEW executions",
        "COPY executions TO 'out.csv'",
        "EXPORT DATABASE 'out'",
        "ATTACH 'other.duckdb'",
        "DETACH ingested",
        "INSTALL spatial",
        "LOAD json",
        "SET enable_external_access = true",
        "RESET enable_external_access",
        "PRAGMA database_size",
        "CALL pragma_version()",
        "/* hidden */ -- twice\n pragma database_size",
        "CREATE TABLE pivot (i INTEGER); SELECT 1",
        "FROM executions; CREATE TABLE pivot (i INTEGER)",
        "CHECKPOINT",
        "BEGIN",
        "USE ingested",
        "PREPARE p AS SELECT 1",
        "EXPLAIN ANALYZE DELETE FROM ingested.executions",
        "EXPLAIN ANALYZE CREATE TABLE t (i INTEGER)",
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_blob('{file}')",
        "SELECT * FROM glob('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM read_parquet('https://localhost/x.parquet')",
        "SELECT getenv('HOME')",
    ],
)
def test_everything_else_is_refused_in_one_line(filled, tmp_path, query):
    """A statement that writes, configures or reaches a file is an error of one line."""
    file = tmp_path / "secret.csv"
    file.write_text("a\n1\n")
    with pytest.raises(QueryError) as caught:
        filled.sql(query.replace("{file}", str(file)))
    assert "\n" not in str(caught.value)
    assert filled.sql("SELECT count(*) FROM executions").fetchall() == [(4,)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.csv", "store"]


def test_a_python_variable_is_not_a_table(filled):
    """A data frame in scope is not picked up."""
    import pandas as pd

    frame = pd.DataFrame({"a": [1]})
    with pytest.raises(QueryError, match="no table 'frame'"):
        filled.sql("SELECT * FROM frame")
    assert len(frame) == 1


def test_a_misspelt_table_or_column_gets_a_suggestion(filled):
    """The message names the nearest."""
    with pytest.raises(QueryError, match="Did you mean 'executions'"):
        filled.sql("FROM executons")
    for query in ("SELECT latncy FROM executions", "SELECT e.latncy FROM executions AS e"):
        with pytest.raises(QueryError, match=r"no column 'latncy'\. Did you mean 'latency'\?"):
            filled.sql(query)


def test_no_column_is_suggested_that_the_view_does_not_have(filled):
    """That another table has a column of that name is no help."""
    query = "SELECT j.quality FROM executions AS e JOIN judgements AS j USING (session, seq)"
    with pytest.raises(QueryError, match=r"'j' has no column 'quality'\. DESCRIBE lists"):
        filled.sql(query)
    names = [row[0] for row in filled.sql("DESCRIBE judgements").fetchall()]
    assert "judged" in names


def test_an_error_stays_one_short_line(filled):
    """The many signatures of a function that does not fit are left out."""
    with pytest.raises(QueryError, match="VARCHAR, INTEGER") as caught:
        filled.sql("SELECT model + 1 FROM executions")
    assert len(str(caught.value)) < 200


def test_parameters_are_bound_by_place_and_by_name(filled):
    """Values never become part of the query's text."""
    query = "SELECT count(*) FROM executions WHERE model = "
    assert filled.sql(query + "?", ["a"]).fetchall() == [(3,)]
    assert filled.sql(query + "$model", {"model": "b"}).fetchall() == [(1,)]
    assert filled.sql(query + "?", ["' OR 1=1 --"]).fetchall() == [(0,)]
    assert filled.sql(query + "?", [np.str_("a")]).fetchall() == [(3,)]
    latest = "SELECT count(*) FROM executions WHERE latency >= $least"
    for number in (np.int64(2), np.float32(2.0), np.uint8(2)):
        assert filled.sql(latest, {"least": number}).fetchall() == [(2,)]
    for bad in ([], ["a", "b"], {"other": 1}, "a", b"a", 5, [object()]):
        with pytest.raises(QueryError):
            filled.sql(query + "?", bad)


def test_rows_are_those_of_the_same_query(filled):
    """Our own queries see the database, the spool and the rollups as a person's do."""
    for query in (
        "SELECT model, latency, ts, session, seq FROM executions WHERE $one = 1 ORDER BY ALL",
        "SELECT model, sum(runs)::BIGINT FROM execution_hours WHERE $one = 1 GROUP BY 1 ORDER BY 1",
    ):
        rows = filled.rows(query, {"one": 1})
        assert rows == filled.sql(query, {"one": 1}).fetchall()
        assert rows
    with pytest.raises(QueryError):
        filled.rows("SELECT nothing FROM executions", {})


def test_a_query_has_to_be_text(filled):
    """None is not a query."""
    with pytest.raises(QueryError, match="must be a string"):
        filled.sql(None)


def test_every_table_view_and_column_is_documented(filled):
    """Comments can be read in SQL for all that people see, with units where there are any."""
    views = dict(
        filled.sql(
            "SELECT view_name, comment FROM duckdb_views() "
            "WHERE database_name = 'memory' AND NOT internal"
        ).fetchall()
    )
    assert set(views) == {*TABLES, *ROLLUPS, *VIEWS}
    assert all(views.values())
    columns = filled.sql(
        "SELECT table_name, column_name, comment FROM duckdb_columns() "
        "WHERE database_name = 'memory' AND NOT internal"
    ).fetchall()
    assert [(t, c) for t, c, text in columns if not text] == []
    units = {(t, c): text for t, c, text in columns}
    assert "(s)" in units["executions", "latency"]
    assert "(bytes)" in units["loads", "memory_bytes"]
    assert "(W)" in units["hardware_samples", "gpu_power"]


def test_the_comments_stay_whether_rows_wait_or_not(store):
    """The views are made anew when rows begin to wait, and when none do any more."""
    query = (
        "SELECT count(*) FROM duckdb_columns() "
        "WHERE database_name = 'memory' AND table_name = 'executions' AND comment <> ''"
    )
    columns = len(TABLES["executions"].all_columns)
    for _ in range(2):
        assert store.sql(query).fetchall() == [(columns,)]
        store.record_execution(model="m", metrics={})
        assert store.sql(query).fetchall() == [(columns,)]
        [(rows,)] = store.sql("SELECT count(*) FROM executions").fetchall()
        store.ingest_now()
        assert store.sql("SELECT count(*) FROM executions").fetchall() == [(rows,)]


def test_model_stats_sums_up_runs_and_prefers_feedback(store):
    """Statistics are per model and task; the latest feedback replaces a measured quality."""
    first = store.record_execution(
        model="m", task="t", metrics={"latency": 1.0, "quality": 0.0, "peak_memory": 5}
    )
    store.record_execution(model="m", task="t", metrics={"latency": 3.0, "quality": 0.5})
    store.record_execution(model="m", task="t", metrics={"latency": 99.0, "error": "x"})
    store.record_execution(model="m", task="u", metrics={"throughput": 7.0})
    store.record("feedback", execution=first, quality=0.2)
    store.record("feedback", execution=first, quality=1.0)
    rows = store.sql(
        "SELECT task, runs, round(success_rate, 3), latency_p50, throughput_mean, quality_mean, "
        "peak_memory_max FROM model_stats ORDER BY task"
    ).fetchall()
    assert rows == [("t", 3, 0.667, 2.0, None, 0.75, 5), ("u", 1, 1.0, None, 7.0, None, None)]


def test_the_catalogue_shows_the_latest_state_of_what_is_there(store):
    """A change replaces, a removal removes, a return brings back."""
    for fingerprint, name, event in [
        ("f1", "a", "added"),
        ("f2", "b", "added"),
        ("f1", "a2", "moved"),
        ("f2", "b", "removed"),
        ("f3", "c", "added"),
        ("f3", "c", "removed"),
        ("f3", "c", "added"),
    ]:
        store.record("models", fingerprint=fingerprint, name=name, event=event)
    rows = store.sql("SELECT fingerprint, name FROM catalogue ORDER BY ALL").fetchall()
    assert rows == [("f1", "a2"), ("f3", "c")]


def test_last_24h_leaves_older_executions_out(tmp_path):
    """The view looks back one day from now, in UTC."""
    import time

    now = time.time_ns()
    times = iter([now, now - 90_000 * 10**9, now, now - 80_000 * 10**9])
    with Store(tmp_path / "store", clock=lambda: next(times), ingest=False) as store:
        for latency in (1.0, 2.0, 3.0):
            store.record_execution(model="m", metrics={"latency": latency})
        rows = store.sql("SELECT latency FROM last_24h ORDER BY 1").fetchall()
    assert rows == [(2.0,), (3.0,)]


def test_a_result_converts_to_every_frame(filled):
    """polars, pandas and Arrow hold the same rows; counts stay whole numbers."""
    result = filled.sql("SELECT * FROM executions ORDER BY seq")
    assert len(result) == result.rows == 4
    assert result.to_arrow() is result.to_arrow_table()
    assert result.to_arrow_table().num_rows == 4
    assert result.pl()["latency"].to_list() == [0.0, 1.0, 2.0, 9.0]
    frame = result.df()
    assert str(frame["tokens_in"].dtype) == "UInt64"
    assert str(frame["seq"].dtype) == "uint64"
    assert frame["success"].dtype == bool
    assert "pyarrow" in repr(frame["model"].dtype) or frame["model"].dtype.storage == "pyarrow"
    assert isinstance(result.fetchall()[0][0], dt.datetime)
    assert [row[3] for row in result] == ["a", "a", "a", "b"]
    assert result.sql.startswith("SELECT")
    assert result.elapsed > 0


def test_a_result_outlives_the_store(filled):
    """It holds no connection."""
    result = filled.sql("FROM executions")
    filled.close()
    for path in sorted(filled.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert len(result.fetchall()) == 4


def test_sums_of_counts_are_whole_numbers_and_names_are_unique(filled):
    """A HUGEINT that fits is a 64-bit integer, and repeated names are numbered."""
    result = filled.sql("SELECT sum(tokens_in) AS s, 1 AS s, 2 AS s_1 FROM executions")
    assert result.columns == ["s", "s_1", "s_1_1"]
    assert result.fetchall() == [(5, 1, 2)]
    huge = filled.sql("SELECT sum(x) FROM (VALUES (18446744073709551615::UBIGINT)) t(x)")
    assert huge.fetchall() == [(2**64 - 1,)]
    assert result.pl()["s"].dtype.is_integer()
    assert result.df()["s"].tolist() == [5]


def test_a_result_shows_itself_as_text_and_escaped_html(store):
    """At most 20 rows show, the total is said, and values cannot inject markup."""
    for i in range(30):
        store.record_execution(model="<script>alert(1)</script>", metrics={"latency": float(i)})
    result = store.sql('SELECT model AS "<b>", latency FROM executions')
    bundle = result._repr_mimebundle_()
    assert "30 rows, the first 20 shown" in bundle["text/plain"]
    assert len(bundle["text/plain"].splitlines()) == 22
    assert "<script>" not in bundle["text/html"]
    assert "<b>" not in bundle["text/html"]
    assert bundle["text/html"].count("<tr>") == 21
    empty = store.sql("SELECT latency FROM executions WHERE false")
    assert "No rows" in repr(empty)
    assert "No rows" in empty._repr_mimebundle_()["text/html"]


def test_a_directory_that_is_a_file_is_an_error_that_names_it(tmp_path):
    """Recording, asking and ingesting say what is in the way; nothing is written."""
    place = tmp_path / "store"
    place.write_text("in the way")
    with Store(place, ingest=False) as store:
        for action in (
            lambda: store.record_execution(model="m", metrics={}),
            lambda: store.sql("FROM executions"),
            store.info,
        ):
            with pytest.raises(StoreError, match=r"(?s)store.*RAVENXTERM_HOME"):
                action()
    assert place.read_text() == "in the way"


def test_the_tables_listed_are_those_for_people(filled):
    """SHOW TABLES lists tables and views, and nothing that only serves to unite them."""
    assert {name for (name,) in filled.sql("SHOW TABLES")} == {
        *TABLES,
        *ROLLUPS,
        *VIEWS,
    }


def test_no_query_prints_how_far_it_is():
    """DuckDB shows a bar wherever there is no script, as in a kernel; not for our connections."""
    code = """
import duckdb
from ravenxterm_lab.store import database
for connection in (duckdb.connect(), database.connect()):
    print(connection.execute("SELECT current_setting('enable_progress_bar')").fetchall())
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["[(True,)]", "[(False,)]"]
