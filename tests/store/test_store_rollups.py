"""The rollups against plain SQL over the executions: the same numbers, however they came in."""

import datetime as dt
import math
import random
import shutil
from importlib import resources

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.store import Store, merging
from ravenxterm_lab.store.arrow import dictionary, fixed, scattered
from ravenxterm_lab.store.decoding import select_list
from ravenxterm_lab.store.rollups import FEW, GAMMA, ZERO_BUCKET, summarise, tally
from ravenxterm_lab.store.schema import INTERRUPTED, ROLLUPS, TABLES

HOUR = 3_600 * 10**9
NOON = 1_700_049_600 * 10**9
MIGRATIONS = resources.files("ravenxterm_lab.store").joinpath("migrations")
INITIAL, BACKFILL, LISTS = (
    MIGRATIONS.joinpath(name).read_text()
    for name in ("0001_initial.sql", "0002_rollups.sql", "0004_histogram_lists.sql")
)

#: What model_stats says, in the plainest words; an interrupted run is only a run.
PLAIN = f"""
WITH judged AS (
    SELECT execution, arg_max(quality, ts) AS quality
    FROM feedback WHERE quality IS NOT NULL GROUP BY execution
), runs AS (
    SELECT e.* REPLACE (
        e.success AND NOT stopped AS success,
        CASE WHEN NOT stopped THEN coalesce(j.quality, e.quality) END AS quality,
        CASE WHEN NOT stopped THEN e.peak_memory END AS peak_memory
    )
    FROM (
        SELECT *, coalesce(extra->>'failure', '') = '{INTERRUPTED}' AS stopped FROM executions
    ) AS e
    LEFT JOIN judged AS j ON j.execution = e.session || ':' || e.seq
)
SELECT
    model, task, count(*) AS runs, avg(success::INTEGER) AS success_rate,
    quantile_cont(latency, 0.5) FILTER (WHERE success) AS latency_p50,
    quantile_cont(latency, 0.95) FILTER (WHERE success) AS latency_p95,
    avg(throughput) FILTER (WHERE success) AS throughput_mean,
    quantile_cont(throughput, 0.5) FILTER (WHERE success) AS throughput_p50,
    avg(quality) AS quality_mean, max(peak_memory) AS peak_memory_max, max(ts) AS last_run
FROM runs GROUP BY model, task ORDER BY model, task
"""
STATS = "FROM model_stats ORDER BY model, task"
QUANTILES = {4, 5, 7}


class Clock:
    """Nanoseconds that a test sets."""

    def __init__(self, now=NOON):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    with Store(tmp_path / "store", clock=clock, ingest=False) as store:
        yield store


def assert_same(found, expected, within=1e-9, of=None):
    """Compare rows; numbers may differ by the relative error ``within`` in the columns ``of``."""
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        for place, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            if isinstance(b, float) and a is not None:
                error = within if of is None or place in of else 1e-9
                assert a == pytest.approx(b, rel=error, abs=1e-12), (place, mine, theirs)
            else:
                assert a == b, (place, mine, theirs)


def random_metrics(rng):
    """Return the metrics of one run of any kind."""
    metrics = {"latency": rng.choice([0.0, 1.0, 2.5, rng.lognormvariate(0, 0.7)])}
    if rng.random() < 0.7:
        metrics["throughput"] = rng.choice([0.0, rng.lognormvariate(3, 0.5)])
    if rng.random() < 0.3:
        metrics |= {"tokens_out": rng.randrange(100), "tokens_in": rng.randrange(9)}
    if rng.random() < 0.3:
        metrics |= {"quality": rng.random(), "peak_memory": rng.randrange(1, 1000)}
    if rng.random() < 0.2:
        metrics |= {"time_to_first_token": rng.random(), "energy": rng.random() * 50}
    if rng.random() < 0.2:
        metrics |= {"success": False, "note": f"about {INTERRUPTED} runs"}
    elif rng.random() < 0.1:
        metrics |= {"success": rng.random() < 0.3, "failure": INTERRUPTED}
    return metrics


def record_history(store, clock, rng, count):
    """Record runs of a few models over two days, and judgements of some."""
    weights = [rng.random() ** 3 for _ in range(4)]
    for model in rng.choices("abcd", weights, k=count):
        clock.now = NOON + rng.randrange(48) * HOUR + rng.randrange(HOUR)
        run = store.record_execution(
            model=model,
            fingerprint=rng.choice([None, f"f{model}"]),
            task=rng.choice([None, "chat"]),
            hardware=rng.choice([None, "here"]),
            settings=rng.choice([None, "ctx=512"]),
            metrics=random_metrics(rng),
        )
        if rng.random() < 0.05:
            clock.now += 1000
            store.record("feedback", execution=str(run), quality=rng.choice([None, rng.random()]))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.sampled_from([0, 1, 40, 400, 3500]), data=st.data())
def test_model_stats_equals_plain_sql_over_any_history(tmp_path_factory, seed, count, data):
    """Counts and means agree, quantiles too up to 999 runs and within a bucket above.

    Part of the rows was ingested in several passes, part waits.
    """
    rng, clock = random.Random(seed), Clock()
    with Store(tmp_path_factory.mktemp("s") / "store", clock=clock, ingest=False) as store:
        for _ in range(data.draw(st.integers(0, 3))):
            record_history(store, clock, rng, count // 3)
            store.ingest_now()
        record_history(store, clock, rng, count // 3)
        found, expected = store.sql(STATS).fetchall(), store.sql(PLAIN).fetchall()
        many = {(row[0], row[1]) for row in expected if row[2] >= FEW}
        for choose, within in (
            (lambda key: key in many, GAMMA - 1),
            (lambda key: key not in many, 1e-9),
        ):
            assert_same(
                [row for row in found if choose(row[:2])],
                [row for row in expected if choose(row[:2])],
                within,
                QUANTILES,
            )
        counted = "SELECT sum(runs)::BIGINT, (SELECT count(*) FROM executions) FROM hourly"
        runs, rows = store.sql(counted).fetchall()[0]
        assert (runs or 0) == rows


TEXT = st.sampled_from([None, "", "a", "ä", "b'c"])
NUMBER = st.one_of(
    st.none(),
    st.sampled_from([0.0, 1.0, 1e-300, 1e300]),
    st.integers(1, 99_999).map(lambda i: i / 1000),
)
COUNT = st.one_of(st.none(), st.integers(0, 2**63 - 1))
ROW = st.fixed_dictionaries(
    {
        "ts": st.integers(-1, 60).map(lambda i: i * 25 * 60_000_000 + 1),
        "model": st.sampled_from(["a", "b", "c"]),
        **dict.fromkeys(("fingerprint", "task", "device", "runtime", "settings", "hardware"), TEXT),
        "external": st.booleans(),
        "success": st.booleans(),
        **dict.fromkeys(
            ("latency", "throughput", "time_to_first_token", "energy", "quality"), NUMBER
        ),
        **dict.fromkeys(("tokens_in", "tokens_out", "peak_memory"), COUNT),
        "extra": st.sampled_from(
            [
                None,
                {"failure": INTERRUPTED},
                {"failure": "other", "why": INTERRUPTED},
                {"nested": {"failure": INTERRUPTED}},
                {INTERRUPTED: "ä"},
            ]
        ),
    }
)


def executions_of(rows):
    """Build the Arrow table of some executions, as decoding does."""
    count = len(rows)
    columns = {}
    for name, sql in TABLES["executions"].all_columns.items():
        values = [row.get(name) for row in rows]
        there = [i for i, value in enumerate(values) if value is not None]
        if name in (
            "session",
            "model",
            "fingerprint",
            "task",
            "device",
            "runtime",
            "settings",
            "hardware",
        ):
            columns[name] = dictionary(values, np.arange(count))
        elif sql == "TIMESTAMP":
            columns[name] = fixed(np.array(values, dtype="i8"), sql)
        elif sql.startswith("MAP"):
            columns[name] = scattered([], [], sql, count)
        else:
            columns[name] = scattered([values[i] for i in there], there, sql, count)
    return pa.table(columns)


def backfilled(executions):
    """Return the rollups that the migration makes of the same executions."""
    with duckdb.connect() as connection:
        connection.execute(INITIAL)
        connection.register("given", executions)
        connection.execute(
            f"INSERT INTO executions BY NAME SELECT {select_list('executions')} FROM given"
        )
        connection.execute(BACKFILL)
        connection.execute(LISTS)
        return {name: rows_of(connection, name) for name in ROLLUPS}


def rows_of(connection, name, source=None):
    columns = [column for column in ROLLUPS[name] if column != "merged"]
    return connection.execute(
        f"SELECT {', '.join(columns)} FROM {source or name} ORDER BY ALL"
    ).fetchall()


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.lists(ROW, min_size=1, max_size=25), min_size=1, max_size=3))
def test_code_and_migration_sum_up_alike(parts):
    """The partial rows of one table of executions are those that the migration would make."""
    executions = pa.concat_tables([executions_of(rows) for rows in parts])
    expected = backfilled(executions)
    with duckdb.connect() as connection:
        for name, table in summarise(executions).items():
            connection.register(name, table)
            found = rows_of(connection, name, f"(SELECT {select_list(name)} FROM {name})")
            assert_same(found, expected[name])


def test_of_many_runs_code_and_migration_keep_buckets_alone():
    """From 1,000 runs of model and task on both drop the values, and count the same buckets."""
    rng = random.Random(5)
    rows = [
        {
            "ts": i * 10**8,
            "model": "ab"[i % 3 == 0],
            "success": True,
            "latency": rng.lognormvariate(0, 1),
        }
        for i in range(2400)
    ]
    executions = executions_of(rows)
    table = summarise(executions)["execution_histograms"]
    with duckdb.connect() as connection:
        connection.register("found", table)
        assert_same(
            rows_of(connection, "execution_histograms", "found"),
            backfilled(executions)["execution_histograms"],
        )
        kept = (
            "SELECT model, sum(len(exact))::BIGINT, sum(len(counts))::BIGINT "
            "FROM found GROUP BY 1 ORDER BY 1"
        )
        (_, of_a, rows_a), (_, of_b, rows_b) = connection.execute(kept).fetchall()
    assert of_a is None
    assert rows_a < 800
    assert of_b == rows_b == 800


def test_of_runs_that_are_known_to_be_many_only_buckets_are_kept():
    """What is already in the store decides, too."""
    executions = executions_of(
        [
            {"ts": i, "model": "a", "task": "t", "success": True, "latency": 1.0 + i}
            for i in range(5)
        ]
    )
    seen = tally(summarise(executions)["execution_hours"])
    assert seen == {("a", "t"): 5}
    seen["a", "t"] += FEW
    values = summarise(executions, seen)["execution_histograms"].column("exact")
    assert values.null_count == len(values) > 0


def test_no_executions_have_no_rollups():
    """An empty table gives nothing."""
    assert summarise(executions_of([{"ts": 0, "model": "a"}]).slice(0, 0)) == {}


def test_schema_and_migration_agree(store):
    """Names and types of the columns in code are those in the file."""
    store.record_execution(model="m", metrics={})
    store.ingest_now()
    for name, columns in ROLLUPS.items():
        result = store.sql(f"FROM {name}")
        assert dict(zip(result.columns, result.types, strict=True)) == dict(columns)


def test_quantiles_of_many_runs_lie_within_a_bucket(store):
    """Of 20,000 skewed latencies each quantile is less than 2 % off; equal ones are exact."""
    rng = random.Random(9)
    for _ in range(20_000):
        latency = rng.lognormvariate(-2, 1.5)
        store.record_execution(model="m", metrics={"latency": latency, "throughput": 1 / latency})
    for _ in range(FEW):
        store.record_execution(model="same", metrics={"latency": 0.123})
    for _ in range(2):
        found, expected = store.sql(STATS).fetchall(), store.sql(PLAIN).fetchall()
        assert_same(found, expected, GAMMA - 1, QUANTILES)
        assert found[0][4:6] != expected[0][4:6]
        assert found[1][4:6] == (0.123, 0.123)
        store.ingest_now()


def test_zero_has_a_bucket_of_its_own(store):
    """Runs that took no time at all are counted, and their quantile is zero."""
    for i in range(2 * FEW):
        store.record_execution(model="m", metrics={"latency": 0.0 if i % 4 else 1.0})
    store.ingest_now()
    query = (
        "SELECT bucket, sum(n)::BIGINT FROM "
        "(SELECT unnest(buckets) AS bucket, unnest(counts) AS n FROM execution_histograms) "
        "GROUP BY 1 ORDER BY 1"
    )
    assert store.sql(query).fetchall() == [(ZERO_BUCKET, 3 * FEW // 2), (0, FEW // 2)]
    found = store.sql("SELECT latency_p50, latency_p95 FROM model_stats").fetchall()
    assert found == [(0.0, pytest.approx(1.0, rel=GAMMA - 1))]


def test_an_interrupted_run_is_a_run_and_nothing_else(store):
    """It says nothing of the model: no success, no latency, no quality, no memory."""
    store.record_execution(
        model="m",
        metrics={
            "success": True, "failure": INTERRUPTED, "latency": 9.0, "throughput": 9.0,
            "quality": 0.0, "peak_memory": 9, "energy": 9.0, "tokens_in": 9,
        },
    )  # fmt: skip
    store.record_execution(model="m", metrics={"latency": 1.0, "quality": 1.0})
    query = (
        "SELECT runs, succeeded, interrupted, latency_max, quality_mean, peak_memory_max, energy, "
        "tokens_in FROM hourly"
    )
    for _ in range(2):
        assert store.sql(query).fetchall() == [(2, 1, 1, 1.0, 1.0, None, None, None)]
        store.ingest_now()


def test_counts_that_no_column_could_hold_do_not_stop_the_ingest(store):
    """Token counts near 2^64 and latencies near the largest number add up to something."""
    for _ in range(3):
        store.record_execution(model="m", metrics={"tokens_in": 2**64 - 1, "latency": 1.7e308})
        assert store.ingest_now() == 1
    tokens, mean = store.sql("SELECT tokens_in, latency_mean FROM hourly").fetchall()[0]
    assert float(tokens) == pytest.approx(3 * 2.0**64)
    assert math.isinf(mean)


def partial(store, table):
    query = f"SELECT count(*) FILTER (NOT merged), count(*) FROM {table}"
    return store.sql(query).fetchall()[0]


def test_closed_hours_are_merged_and_their_sums_stay(store, clock):
    """Once the next hour has begun, one row per key is left of all the passes before."""
    rng = random.Random(3)
    for _ in range(12):
        for model in "ab":
            store.record_execution(
                model=model, task="t", metrics={"latency": rng.choice([1.0, 2.0, 3.0])}
            )
        clock.now += HOUR // 100
        store.ingest_now()
    before = store.sql("FROM hourly ORDER BY ALL").fetchall()
    assert partial(store, "execution_hours") == (24, 24)
    clock.now += HOUR
    store.record_execution(model="c", metrics={})
    store.ingest_now()
    assert partial(store, "execution_hours") == (1, 3)
    after = store.sql("FROM hourly WHERE model <> 'c' ORDER BY ALL").fetchall()
    assert after == before
    clock.now += 24 * HOUR
    store.record_execution(model="c", metrics={"latency": 5.0})
    store.ingest_now()
    assert partial(store, "execution_histograms") == (1, 3)
    assert_same(store.sql(STATS).fetchall(), store.sql(PLAIN).fetchall())


def test_merging_drops_the_values_of_what_has_become_many(store, clock):
    """Values are kept for model and task with few runs, buckets alone for the rest."""
    for _ in range(3):
        for i in range(FEW // 2):
            store.record_execution(model="many", metrics={"latency": 1.0 + i / FEW})
        store.record_execution(model="few", metrics={"latency": 4.0})
        # Another store object knows nothing of the runs that this one moved.
        with Store(store.path, clock=clock, ingest=False) as other:
            other.ingest_now()
        clock.now += 24 * HOUR
    kept = "SELECT sum(len(exact))::BIGINT FROM execution_histograms WHERE model = "
    assert store.sql(kept + "'few'").fetchall() == [(3,)]
    assert store.sql(kept + "'many'").fetchall()[0][0] < 3 * FEW // 2
    assert_same(store.sql(STATS).fetchall(), store.sql(PLAIN).fetchall(), GAMMA - 1, QUANTILES)


def test_merging_everything_changes_no_statistic(store, clock):
    """Maintenance may merge all at once: fewer rows, the same answers."""
    record_history(store, clock, random.Random(1), 600)
    store.ingest_now()
    record_history(store, clock, random.Random(2), 600)
    store.ingest_now()
    stats, hours = store.sql(STATS).fetchall(), store.sql("FROM hourly ORDER BY ALL").fetchall()
    rows = partial(store, "execution_hours")[1]
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{store.database}' AS file")
        connection.execute("BEGIN")
        merging.merge_all(connection, "file")
        connection.execute("COMMIT")
    assert partial(store, "execution_hours") == (0, len(hours))
    assert len(hours) < rows
    assert_same(store.sql("FROM hourly ORDER BY ALL").fetchall(), hours)
    assert_same(store.sql(STATS).fetchall(), stats)


def test_what_is_due_is_what_pays():
    """Closed periods, and an open one whose new rows outnumber the rest; never too much at once."""
    one, two, three = (dt.datetime(2026, 1, day) for day in (1, 2, 3))  # noqa: DTZ001 - as DuckDB gives them
    assert merging.due([]) == []
    assert merging.due([(one, 1, 1)]) == []
    assert merging.due([(one, 1, 1), (two, 5, 5)]) == [one]
    assert merging.due([(one, 9, 9)], many=9) == [one]
    assert merging.due([(one, 9, 19)], many=9) == []
    assert merging.due([(one, 9, 18)], many=9) == [one]
    assert merging.due([(one, 9, 60), (two, 9, 60), (three, 1, 1)], limit=100) == [one]
    assert merging.due([(one, 9, 101), (two, 9, 60), (three, 1, 1)], limit=100) == [two]


@pytest.mark.parametrize(
    "source",
    [
        "model_stats",
        '"Model_Stats"',
        "hourly",
        "execution_hours",
        "query_table('model_' || 'stats')",
        "query('FROM hour' || 'ly')",
        "(SELECT sum(runs) AS runs FROM execution_histograms)",
    ],
)
def test_what_waits_is_in_the_rollups_however_they_are_named(store, source):
    """Ingested or not, a run counts in whatever the query reads."""
    store.record_execution(model="m", metrics={"latency": 1.0})
    store.ingest_now()
    store.record_execution(model="m", metrics={"latency": 1.0})
    assert store.sql(f"SELECT sum(runs)::BIGINT FROM {source}").fetchall() == [(2,)]


def test_the_file_alone_answers_the_same(store, clock, tmp_path):
    """Opened by DuckDB itself, under any name, its views are those of the store."""
    record_history(store, clock, random.Random(4), 300)
    store.ingest_now()
    copy = tmp_path / "elsewhere.duckdb"
    shutil.copy(store.database, copy)
    with duckdb.connect(str(copy), read_only=True) as connection:
        for query in (STATS, "FROM hourly ORDER BY ALL"):
            assert_same(connection.execute(query).fetchall(), store.sql(query).fetchall())


def test_a_store_of_the_first_version_gets_the_rollups_of_what_it_holds(store):
    """The migration sums up what was there, and the ingest goes on from it."""
    store.path.mkdir()
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{store.database}' AS old (STORAGE_VERSION 'v1.5.0')")
        connection.execute("USE old")
        connection.execute(INITIAL)
        connection.execute("INSERT INTO schema_version VALUES (1, 'initial', '2026-01-01')")
        connection.execute(
            "INSERT INTO executions BY NAME SELECT '2026-01-01'::TIMESTAMP + to_minutes(i) AS ts, "
            "'old' AS session, i AS seq, 'm' || i % 2 AS model, i / 7 AS latency, true AS success, "
            "i % 10 / 10 AS quality FROM range(1, 3000) t(i)"
        )
        connection.execute("INSERT INTO watermarks VALUES ('old', 3000)")
    store.record_execution(model="m0", metrics={"latency": 1.0})
    store.record("feedback", execution="old:7", quality=0.0)
    store.ingest_now()
    assert_same(store.sql(STATS).fetchall(), store.sql(PLAIN).fetchall(), GAMMA - 1, QUANTILES)
    assert store.sql("SELECT sum(runs)::BIGINT FROM hourly").fetchall() == [(3000,)]
