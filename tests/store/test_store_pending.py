"""What waits: read and decoded a little at a time, as it would be in one go."""

import contextlib
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.store import Store
from ravenxterm_lab.store.checksums import adler32
from ravenxterm_lab.store.decoding import decode
from ravenxterm_lab.store.pending import Pending
from ravenxterm_lab.store.segments import HEADER_SIZE, SLOT_SIZE
from ravenxterm_lab.store.snapshot import SegmentFile, list_segments

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
NUMBER = st.floats(0, 1e6)
METRICS = st.fixed_dictionaries(
    {},
    optional={
        "latency": NUMBER,
        "success": st.booleans(),
        "tokens_in": st.integers(0, 1000),
        "quality": st.floats(0, 1),
        "own": NUMBER,
        "other": NUMBER,
        "error": TEXT,
        "words": TEXT,
    },
)
EXECUTION = st.fixed_dictionaries(
    {"model": st.sampled_from(["a", "b", "ü"]), "metrics": METRICS},
    optional={"task": TEXT, "device": st.sampled_from(["cpu", "cuda"])},
)
MESSAGE = st.fixed_dictionaries({"level": TEXT, "text": TEXT})
FEEDBACK = st.fixed_dictionaries({"execution": st.just("s:1"), "quality": st.floats(0, 1)})
EVENT = st.one_of(
    EXECUTION,
    st.tuples(st.just("messages"), MESSAGE),
    st.tuples(st.just("feedback"), FEEDBACK),
)


def put(store, event):
    if isinstance(event, dict):
        store.record_execution(**event)
    else:
        store.record(event[0], **event[1])


def run(store, count):
    for number in range(count):
        store.record_execution(model=f"m{number % 3}", metrics={"latency": number / 8})


def segments(place):
    return list_segments(place / "spool")


def read(segment, *arguments, **options):
    with segment:
        return segment.read(*arguments, **options)


def plain(tables):
    return {name: table.to_pylist() for name, table in tables.items()}


@contextlib.contextmanager
def place_of_its_own():
    """Return a directory for one example."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "store"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(EVENT, max_size=8), min_size=1, max_size=4))
def test_segments_decoded_together_give_what_they_give_apart(sessions):
    """Contexts, numbers and documents keep to their rows when batches are put together."""
    with place_of_its_own() as place, contextlib.ExitStack() as stack:
        for events in sessions:
            store = stack.enter_context(Store(place, ingest=False))
            for event in events:
                put(store, event)
        batches = [read(segment, 1) for segment in segments(place)]
        apart = {}
        for rows in batches:
            for name, found in plain(decode([rows])).items():
                apart.setdefault(name, []).extend(found)
        together = decode(batches)
        assert plain(together) == apart
        assert all(table.column(0).num_chunks == 1 for table in together.values())
        assert sum(len(found) for found in apart.values()) == sum(map(len, sessions))


def test_large_batches_are_decoded_by_themselves(tmp_path):
    """They come in the same order as the small ones around them."""
    with contextlib.ExitStack() as stack:
        for count in (5, 9000, 7, 3):
            run(stack.enter_context(Store(tmp_path, ingest=False)), count)
        batches = [read(segment, 1) for segment in segments(tmp_path)]
        table = decode(batches)["executions"]
        apart = [row for rows in batches for row in decode([rows])["executions"].to_pylist()]
    assert table.to_pylist() == apart
    assert 1 < table.column(0).num_chunks < 4


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 2), st.integers(0, 40)), st.sampled_from(["ask", "ingest"])
        ),
        min_size=1,
        max_size=30,
    )
)
def test_pieces_change_no_answer(steps):
    """However often it is asked and ingested between, each row is there once."""
    totals = (
        "SELECT session, count(*), count(DISTINCT seq), min(seq), max(seq), sum(latency), "
        "max(model) FROM executions GROUP BY session ORDER BY session"
    )
    with place_of_its_own() as place, contextlib.ExitStack() as stack:
        stores = [stack.enter_context(Store(place, ingest=False)) for _ in range(3)]
        asked = stack.enter_context(Store(place, ingest=False))
        counts = [0, 0, 0]
        for step in [*steps, "ask"]:
            if step == "ask":
                found = asked.sql(totals).fetchall()
                assert sorted(row[1] for row in found) == sorted(filter(None, counts))
                assert all(count == numbers == last for _, count, numbers, _, last, *_ in found)
                with Store(place, ingest=False) as fresh:
                    assert fresh.sql(totals).fetchall() == found
            elif step == "ingest":
                asked.ingest_now()
            else:
                run(stores[step[0]], step[1])
                counts[step[0]] += step[1]


def test_many_small_readings_end_in_few_chunks(tmp_path):
    """What DuckDB has to scan does not grow with the number of queries before."""
    pending = Pending()
    with Store(tmp_path, ingest=False) as store:
        for number in range(200):
            run(store, 3)
            if number % 50 == 0:
                store.record("messages", level="info", subject="test", text="here")
            waiting = pending.collect(segments(tmp_path), {})
    table = waiting.tables["executions"]
    assert waiting.events == 604
    assert table.num_rows == 600
    assert waiting.tables["messages"].num_rows == 4
    assert sorted(table["seq"].to_pylist()) == sorted(set(table["seq"].to_pylist()))
    assert table.column(0).num_chunks <= 18


def test_what_is_kept_from_one_query_to_the_next_is_bounded(tmp_path):
    """Beyond half a million events they are decoded anew, and all are there again."""
    pending = Pending()
    with Store(tmp_path, ingest=False) as store:
        run(store, 1000)
        first = pending.collect(segments(tmp_path), {})
        assert pending.collect(segments(tmp_path), {}).tables is first.tables
        run(store, 500_000)
        many = pending.collect(segments(tmp_path), {})
        again = pending.collect(segments(tmp_path), {})
    assert many.events == again.events == 501_000
    assert many.tables is not again.tables
    assert again.tables["executions"].num_rows == 501_000


@pytest.mark.parametrize("count", [1, 63, 64, 65, 127, 128, 129, 575, 576, 577, 5000, 10_000])
def test_any_number_of_new_events_is_read_at_once(tmp_path, count):
    """The glance at a segment goes on for as long as there is something."""
    pending = Pending()
    with Store(tmp_path, ingest=False) as store:
        run(store, 10)
        assert pending.collect(segments(tmp_path), {}).events == 10
        run(store, count)
        waiting = pending.collect(segments(tmp_path), {})
        assert waiting.events == 10 + count
        assert pending.collect(segments(tmp_path), {}).tables is waiting.tables
    assert waiting.tables["executions"]["seq"].to_pylist() == list(range(1, 11 + count))


def test_a_model_that_is_new_since_the_last_query_has_its_name(tmp_path):
    """Contexts that were read are kept, and later ones are read."""
    with Store(tmp_path, ingest=False) as store:
        for number in range(30):
            store.record_execution(model=f"model-{number}", metrics={"latency": 1.0})
            store.record_execution(model="model-0", metrics={"latency": 1.0})
            [(names,)] = store.sql("SELECT count(DISTINCT model) FROM executions").fetchall()
            assert names == number + 1


def test_a_gap_among_new_events_is_no_end(tmp_path):
    """Slots that are damaged after the first query are skipped and reported by the second."""
    with Store(tmp_path, ingest=False) as store:
        run(store, 10)
        assert store.info().pending == 10
        run(store, 200)
        [segment] = segments(tmp_path)
        with segment.path.open("r+b") as file:
            file.seek(HEADER_SIZE + 30 * SLOT_SIZE)
            file.write(bytes(60 * SLOT_SIZE))
        [(rows, last)] = store.sql("SELECT count(*), max(seq) FROM executions").fetchall()
        assert (rows, last) == (150, 210)
        assert store.ingest_now() == 150


def test_rows_of_a_segment_that_is_gone_are_no_longer_shown(tmp_path):
    """Those of the other segments stay, and none of them is shown twice."""
    with contextlib.ExitStack() as stack:
        one, two, asked = (stack.enter_context(Store(tmp_path, ingest=False)) for _ in range(3))
        run(one, 5)
        run(two, 7)
        query = "SELECT count(*), count(DISTINCT (session, seq)) FROM executions"
        assert asked.sql(query).fetchall() == [(12, 12)]
        gone, left = segments(tmp_path)
        count = len(read(left, 1).slots)
        for path in (tmp_path / "spool").glob(f"{gone.path.stem}.*"):
            path.unlink()
        assert asked.sql(query).fetchall() == [(count, count)]


class Interrupted(SegmentFile):
    """A segment at which the person presses Ctrl-C."""

    def read(self, *arguments, **options):
        raise KeyboardInterrupt


def test_a_reading_that_was_broken_off_loses_and_doubles_nothing(tmp_path):
    """What was read before Ctrl-C is read again."""
    pending = Pending()
    with Store(tmp_path, ingest=False) as one, Store(tmp_path, ingest=False) as two:
        run(one, 5)
        run(two, 5)
        assert pending.collect(segments(tmp_path), {}).events == 10
        run(one, 6)
        run(two, 6)
        first, second = segments(tmp_path)
        stop = Interrupted(second.path, second.session, second.first_seq)
        with pytest.raises(KeyboardInterrupt):
            pending.collect([first, stop], {})
        waiting = pending.collect([first, second], {})
    rows = waiting.tables["executions"].select(["session", "seq"]).to_pylist()
    assert len(rows) == len({(row["session"], row["seq"]) for row in rows}) == 22


def test_a_damaged_event_beside_a_message_stops_nothing(tmp_path):
    """The message that reports it has the columns of any other."""
    with Store(tmp_path, ingest=False) as store:
        run(store, 3)
        store.record("messages", level="info", subject="mine", text="hello")
        [segment] = segments(tmp_path)
        with segment.path.open("r+b") as file:
            file.seek(HEADER_SIZE + SLOT_SIZE + 16)
            file.write(b"\xff")
        query = "SELECT seq, level, subject FROM messages ORDER BY seq"
        expected = [(2, "warning", "store"), (4, "info", "mine")]
        assert store.sql(query).fetchall() == expected
        assert store.ingest_now() == 3
        assert store.sql(query).fetchall() == expected


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 130),
    st.sampled_from([1, 8, 60, 257]),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.booleans(),
)
def test_checksums_of_many_rows_are_those_of_zlib(count, length, seed, full, follows):
    """Whether few or many, of any bytes, alone or after something else."""
    random = np.random.default_rng(seed)
    data = random.integers(255 if full else 0, 256, (count, length), dtype=np.uint8)
    before = None
    seeds = [1] * count
    if follows:
        seeds = [zlib.adler32(random.bytes(9)) for _ in range(count)]
        before = np.array(seeds, dtype=np.uint32)
    expected = [zlib.adler32(row.tobytes(), one) for row, one in zip(data, seeds, strict=True)]
    assert adler32(data, before).tolist() == expected


def test_the_types_of_a_table_do_not_depend_on_its_rows(tmp_path):
    """A view over what waits is made once, and serves for all that comes."""
    with Store(tmp_path, ingest=False) as store:
        schemas = set()
        for metrics in ({"latency": 1.0}, {"tokens_in": 3, "own": 2.0}, {"error": "e", "x": "y"}):
            store.record_execution(model="m", metrics=metrics)
            [segment] = segments(tmp_path)
            table = decode([read(segment, store.info().pending)])["executions"]
            assert isinstance(table, pa.Table)
            assert table.num_rows == 1
            schemas.add(table.schema.to_string())
    assert len(schemas) == 1
