"""What may be recorded, and that what was recorded comes back."""

import gc
import json
import math
import signal
import threading
from enum import StrEnum

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ravenxterm_lab.exceptions import MetricError, StoreError
from ravenxterm_lab.store import ExecutionId, Store


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store", ingest=False) as store:
        yield store


def test_creating_a_store_and_asking_it_writes_nothing(tmp_path):
    """Neither the constructor nor a query creates the directory."""
    with Store(tmp_path / "home" / "store") as store:
        assert store.sql("FROM executions").rows == 0
        assert store.info().bytes == 0
        assert store.ingest_now() == 0
    assert not (tmp_path / "home").exists()


def test_files_and_directories_are_private(store):
    """Only their owner can read what was recorded."""
    store.record_execution(model="m", metrics={"latency": 1.0, "x": "text"})
    store.ingest_now()
    for path in [store.path, *store.path.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_all_known_metrics_reach_their_columns(store):
    """Each known metric has a column of its own, and the rest goes to num and extra."""
    metrics = {
        "latency": 0.5,
        "throughput": 20,
        "memory_efficiency": 1,
        "success": np.True_,
        "time_to_first_token": np.float32(0.25),
        "tokens_in": np.int64(7),
        "tokens_out": 3.0,
        "peak_memory": 2**63,
        "energy": 1.5,
        "quality": 0.25,
        "batch": 4,
        "note": ["a", {"b": None}],
        "flag": True,
        "nothing": None,
    }
    identity = store.record_execution(
        model="m",
        fingerprint="f",
        task="t",
        device="cpu",
        runtime="r",
        settings="s",
        hardware="h",
        selection="sel",
        metrics=metrics,
        external=True,
    )
    [row] = store.sql("SELECT * EXCLUDE (ts) FROM executions")
    assert row == (
        *(identity.session, 1, "m", "f", "t", "cpu", "r", "s", "h", "sel", True, 0.5, 20.0, 1.0),
        *(True, 0.25, 7, 3, 2**63, 1.5, 0.25, None, {"batch": 4.0}),
        '{"note": ["a", {"b": null}], "flag": true, "nothing": null}',
    )


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [({}, True), ({"error": "boom"}, False), ({"error": "boom", "success": True}, True)],
)
def test_success_follows_from_the_error(store, metrics, expected):
    """Success is True by default, and False by default when an error is given."""
    store.record_execution(model="m", metrics=metrics)
    assert store.sql("SELECT success FROM executions").fetchall() == [(expected,)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("latency", -1e-9),
        ("latency", math.nan),
        ("latency", math.inf),
        ("latency", "0.1"),
        ("latency", True),
        ("latency", np.bool_(True)),
        ("throughput", -1),
        ("throughput", [1.0]),
        ("memory_efficiency", 1.01),
        ("memory_efficiency", -0.01),
        ("success", 1),
        ("success", "yes"),
        ("time_to_first_token", math.nan),
        ("tokens_in", 1.5),
        ("tokens_in", -1),
        ("tokens_out", 2**64),
        ("tokens_out", False),
        ("peak_memory", "1 GB"),
        ("energy", -math.inf),
        ("quality", 2),
        ("error", 5),
        ("other", math.nan),
        ("other", 10**400),
        ("other", {"deep": math.inf}),
        ("other", object()),
        ("other", b"bytes"),
        ("other", "\ud800"),
        ("other", 1j),
    ],
)
def test_a_bad_metric_is_refused_and_nothing_is_written(store, key, value):
    """The error names the key, the value and what is allowed; no file appears."""
    good = {"latency": 0.1, "throughput": 1.0, "memory_efficiency": 0.5, "success": True}
    with pytest.raises(MetricError) as caught:
        store.record_execution(model="m", metrics={**good, key: value})
    if value != "\ud800":
        assert repr(key) in str(caught.value)
        assert "must be" in str(caught.value)
    assert not store.path.exists()


@pytest.mark.parametrize(
    "fields",
    [{"model": 5}, {"model": ""}, {"task": ["t"]}, {"device": b"cpu"}, {"external": "no"}],
)
def test_a_bad_context_is_refused_and_no_row_appears(store, fields):
    """What describes an execution has to be text, and the model has to have a name."""
    with pytest.raises(MetricError):
        store.record_execution(**{"model": "m", "metrics": {}, **fields})
    assert store.sql("FROM executions").rows == 0


@pytest.mark.parametrize("metrics", [None, 5, [("latency", 1)], {1: 2}])
def test_metrics_have_to_be_a_mapping_of_names(store, metrics):
    """Anything else is an error that shows an example or the name."""
    with pytest.raises(MetricError):
        store.record_execution(model="m", metrics=metrics)


def test_an_event_that_is_too_large_is_refused(store):
    """Large values belong in a file."""
    with pytest.raises(MetricError, match="at most"):
        store.record_execution(model="m", metrics={"text": "x" * (17 * 1024 * 1024)})
    assert not store.path.exists()


def test_large_payloads_make_the_sidecar_grow(store):
    """Payloads far above the first size of the sidecar come back whole."""
    texts = [str(i) * 300_000 for i in range(20)]
    for text in texts:
        store.record_execution(model="m", metrics={"text": text})
    got = store.sql("SELECT extra->>'text' FROM executions ORDER BY seq").fetchall()
    assert [text for (text,) in got] == texts


def test_every_other_table_takes_its_columns(store):
    """Each table gives back what was recorded into it."""
    execution = store.record_execution(model="m", metrics={})

    class Device(StrEnum):
        CPU = "cpu"

    events = {
        "selections": {"selection": "s", "probability": 0.5, "requirements": {"a": [1]}},
        "candidates": {"selection": "s", "rank": 1, "feasible": True, "parts": {"speed": 0.5}},
        "loads": {"model": "m", "device": Device.CPU, "seconds": 2, "memory_bytes": 5},
        "predictions": {"execution": execution, "quantity": "latency", "low": -1.0},
        "hardware_samples": {"gpu": 0, "gpu_power": 12.5, "memory_used": 2**40},
        "preference_changes": {"field": "f", "old": 1, "new": "x"},
        "messages": {"level": "warning", "subject": "s", "text": "t"},
        "feedback": {"execution": execution, "quality": 1},
        "models": {"name": "m", "task_types": ("a", "b"), "event": "added", "path": store.path},
    }
    for table, fields in events.items():
        store.record(table, **fields)
    for _ in range(2):
        for table, fields in events.items():
            [row] = store.sql(f"SELECT {', '.join(fields)} FROM {table}")
            expected = [
                '{"a": [1]}'
                if value == {"a": [1]}
                else '{"speed": 0.5}'
                if value == {"speed": 0.5}
                else str(value)
                if isinstance(value, ExecutionId) or value is store.path
                else list(value)
                if isinstance(value, tuple)
                else value
                for value in fields.values()
            ]
            if table == "preference_changes":
                expected = ["f", "1", '"x"']
            assert list(row) == expected, table
        store.ingest_now()


@pytest.mark.parametrize(
    ("table", "fields", "kind", "says"),
    [
        ("selection", {}, StoreError, "Did you mean 'selections'"),
        ("executions", {}, StoreError, "record_execution"),
        ("loads", {"secnds": 1}, MetricError, "Did you mean 'seconds'"),
        ("loads", {"ts": 1}, MetricError, "itself"),
        ("loads", {"seconds": "1"}, MetricError, "loads.seconds"),
        ("loads", {"memory_bytes": -1}, MetricError, "loads.memory_bytes"),
        ("candidates", {"rank": 2**32}, MetricError, "candidates.rank"),
        ("hardware_samples", {"gpu": 0.5}, MetricError, "32 bits"),
        ("models", {"event": "deleted"}, MetricError, "removed"),
        ("models", {"task_types": "text"}, MetricError, "list of strings"),
        ("feedback", {"execution": "nonsense"}, MetricError, "session:seq"),
        ("feedback", {"quality": 1.5}, MetricError, "0 to 1"),
        ("preference_changes", {"old": math.nan}, MetricError, "JSON"),
    ],
)
def test_a_bad_event_is_refused_and_nothing_is_written(store, table, fields, kind, says):
    """The error names the table and column, suggests, and no file appears."""
    with pytest.raises(kind, match=says):
        store.record(table, **fields)
    assert not store.path.exists()


def test_an_execution_id_reads_what_it_wrote():
    """str() and parse() are inverse, and nonsense is refused."""
    identity = ExecutionId("19a0c1", 7)
    assert ExecutionId.parse(str(identity)) == identity
    assert hash(ExecutionId.parse(str(identity))) == hash(identity)
    with pytest.raises(AttributeError):
        identity.seq = 8
    for text in ("", "a", "a:", ":1", "a:-1", "a:1.0", "a:²"):
        with pytest.raises(ValueError, match="session:seq"):
            ExecutionId.parse(text)


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_json = st.recursive(
    st.none() | st.booleans() | _text | st.lists(_text, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)
_finite = st.floats(allow_nan=False, allow_infinity=False)
_positive = st.floats(0, allow_infinity=False, exclude_max=False)
_known = st.fixed_dictionaries(
    {},
    optional={
        "latency": _positive,
        "throughput": _positive | st.integers(0, 2**70),
        "memory_efficiency": st.floats(0, 1),
        "success": st.booleans(),
        "time_to_first_token": _positive,
        "tokens_in": st.integers(0, 2**64 - 1),
        "peak_memory": st.integers(0, 2**64 - 1),
        "energy": _positive,
        "quality": st.floats(0, 1),
        "error": _text,
    },
)
_names = _text.map(lambda text: f"x{text}")


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    events=st.lists(
        st.tuples(
            _text.map(lambda text: f"m{text}"), _known, st.dictionaries(_names, _finite | _json)
        ),
        min_size=1,
        max_size=8,
    ),
    ingested=st.integers(0, 8),
)
def test_whatever_is_recorded_comes_back_the_same(tmp_path_factory, events, ingested):
    """Rows from sql equal the events recorded, ingested or not."""
    with Store(tmp_path_factory.mktemp("s") / "store", ingest=False) as store:
        for index, (model, known, other) in enumerate(events):
            store.record_execution(model=model, metrics={**known, **other})
            if index == ingested:
                store.ingest_now()
        result = store.sql("SELECT * FROM executions ORDER BY seq")
        assert result.rows == len(events)
        for row, (model, known, other) in zip(result, events, strict=True):
            got = dict(zip(result.columns, row, strict=True))
            assert got["model"] == model
            assert got["success"] == known.get("success", "error" not in known)
            for key, value in known.items():
                # A DOUBLE holds whole numbers beyond 2**53 only nearly.
                assert got[key] == (float(value) if key == "throughput" else value)
            num = {k: v for k, v in other.items() if type(v) is float}
            extra = {k: v for k, v in other.items() if type(v) is not float}
            assert (got["num"] or {}) == num
            assert (json.loads(got["extra"]) if got["extra"] else {}) == extra
        assert store.problems == []


def test_the_order_of_a_session_survives_a_clock_that_jumps_back(tmp_path):
    """Seq keeps the order, whatever the clock says; nothing is lost."""
    times = iter([10**18, 5 * 10**17, 9 * 10**17, -(10**15)])
    with Store(tmp_path / "store", clock=lambda: next(times, 0), ingest=False) as store:
        for latency in (1.0, 2.0, 3.0):
            store.record_execution(model="m", metrics={"latency": latency})
        store.ingest_now()
        store.record_execution(model="m", metrics={"latency": 4.0})
        rows = store.sql("SELECT seq, latency, epoch_us(ts) FROM executions ORDER BY seq")
        assert rows.fetchall() == [
            (1, 1.0, 5 * 10**14),
            (2, 2.0, 9 * 10**14),
            (3, 3.0, -(10**12)),
            (4, 4.0, 0),
        ]


def test_however_many_threads_record_a_few_segments_serve_them(store):
    """Thirty threads take turns on eight segments at most, and lose nothing."""
    start = threading.Barrier(30)

    def work() -> None:
        start.wait()
        for _ in range(300):
            store.record_execution(model="m", metrics={"latency": 1.0})

    workers = [threading.Thread(target=work) for _ in range(30)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    [(rows, sessions)] = store.sql(
        "SELECT count(*), count(DISTINCT session) FROM executions"
    ).fetchall()
    assert rows == 9000
    assert sessions <= 8


def test_many_threads_record_without_loss(store):
    """Every thread's events are there once, and the numbers of each session have no gap."""
    count, threads = 4000, 6
    start = threading.Barrier(threads)
    seen: list[list[ExecutionId]] = [[] for _ in range(threads)]

    def work(number: int) -> None:
        start.wait()
        for i in range(count):
            metrics = {"latency": float(i)} if i % 3 else {"latency": float(i), "thread": number}
            seen[number].append(store.record_execution(model=f"m{number}-{i % 7}", metrics=metrics))

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    ids = [identity for part in seen for identity in part]
    assert len(set(ids)) == count * threads
    rows = store.sql("SELECT session, seq, model, latency FROM executions").fetchall()
    by_id = {ExecutionId(session, seq): rest for session, seq, *rest in rows}
    assert len(rows) == count * threads
    numbers: dict[str, list[int]] = {}
    for session, seq in sorted(by_id):
        numbers.setdefault(session, []).append(seq)
    assert len(numbers) <= threads
    for sequence in numbers.values():
        assert sequence == list(range(1, len(sequence) + 1))
    for number, part in enumerate(seen):
        for i, identity in enumerate(part):
            assert by_id[identity] == [f"m{number}-{i % 7}", float(i)]


def test_a_signal_handler_may_record(store):
    """A record that interrupts a record neither blocks nor damages it."""
    calls = []

    def handler(*_):
        calls.append(store.record("messages", text=f"signal {len(calls)}"))
        signal.setitimer(signal.ITIMER_REAL, 0.0005)

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        n = 0
        while len(calls) < 300:
            store.record_execution(model="m", metrics={"latency": float(n), "n": n})
            n += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0, 0)
        signal.signal(signal.SIGALRM, previous)
    assert store.sql("SELECT count(*) FROM executions").fetchall() == [(n,)]
    assert store.sql("SELECT count(DISTINCT text) FROM messages").fetchall() == [(len(calls),)]
    assert store.problems == []


def test_creating_a_segment_can_be_broken_off_and_tried_again(tmp_path):
    """An exception at any moment of the first record leaves a store that still works."""

    class BrokenError(Exception):
        pass

    def handler(*_):
        raise BrokenError

    gc.disable()
    previous = signal.signal(signal.SIGALRM, handler)
    broken = 0
    try:
        for i in range(60):
            with Store(tmp_path / str(i), ingest=False) as store:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.00005 + i * 0.00001)
                    for _ in range(200):
                        store.record_execution(model="m", metrics={"x": "text"})
                except BrokenError:
                    broken += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                identity = store.record_execution(model="last", metrics={})
                rows = store.sql("SELECT seq FROM executions WHERE model = 'last'").fetchall()
                assert rows == [(identity.seq,)]
    finally:
        signal.signal(signal.SIGALRM, previous)
        gc.enable()
    assert broken > 0


def test_an_exception_out_of_a_signal_handler_loses_no_returned_record(store):
    """What was returned is there once, however often a record is broken off."""

    class BrokenError(Exception):
        pass

    def handler(*_):
        raise BrokenError

    returned = []
    # An exception that falls into a callback of the collector is swallowed with a warning.
    gc.disable()
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        for i in range(400):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + (i % 17) * 0.00001)
                for _ in range(500):
                    identity = store.record_execution(model="m", metrics={"i": 1.0})
                    returned.append(identity)
            except BrokenError:
                continue
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0, 0)
        signal.signal(signal.SIGALRM, previous)
        gc.enable()
    rows = store.sql("SELECT session, seq FROM executions").fetchall()
    assert len(rows) == len(set(rows))
    assert {(r.session, r.seq) for r in returned} <= set(rows)


def test_recording_after_close_is_an_error_and_closing_twice_is_not(tmp_path):
    """A closed store says so; queries still work."""
    store = Store(tmp_path / "store", ingest=False)
    store.record_execution(model="m", metrics={})
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.record_execution(model="m", metrics={})
    assert store.sql("FROM executions").rows == 1


def test_a_store_that_is_dropped_seals_its_segment(tmp_path):
    """Without close(), the garbage collector ends the sign of life."""
    store = Store(tmp_path / "store", ingest=True, ingest_interval=0.05)
    store.record_execution(model="m", metrics={})
    del store
    other = Store(tmp_path / "store", ingest=False)
    other.ingest_now()
    assert list((tmp_path / "store" / "spool").iterdir()) == []
    assert other.sql("FROM executions").rows == 1
