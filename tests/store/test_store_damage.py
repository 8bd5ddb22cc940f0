"""Damage: what is broken is skipped and reported, what is good is kept."""

import random
import struct
import zlib

import pytest

from ravenxterm_lab.store import Store
from ravenxterm_lab.store.segments import CAPACITY, ENTRY, HEADER, HEADER_SIZE, SLOT_SIZE

COUNT = 40


@pytest.fixture
def place(tmp_path):
    """A store whose only rows wait in a sealed segment; every second one has a payload."""
    with Store(tmp_path / "store", ingest=False) as store:
        for i in range(COUNT):
            metrics = {"latency": float(i)}
            if i % 2:
                metrics["text"] = f"number {i}"
            store.record_execution(model=f"m{i // 20}", metrics=metrics)
    return tmp_path / "store"


def file(place, suffix):
    [path] = (place / "spool").glob(f"*{suffix}")
    return path


def flip(path, offset, bit=0):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def check(place, lost):
    """Compare before and after ingest: good rows kept, lost ones reported and counted."""
    expected = [(i + 1, float(i)) for i in range(COUNT) if i + 1 not in lost]
    with Store(place, ingest=False) as store:
        query = "SELECT seq, latency FROM executions ORDER BY seq"
        assert store.sql(query).fetchall() == expected
        assert len(store.info().problems) == len(lost)
        assert all(any(f":{seq} " in text for text in store.problems) for seq in lost)
        assert store.ingest_now() == len(expected)
        assert store.sql(query).fetchall() == expected
        noted = store.sql("SELECT seq FROM messages WHERE subject = 'store' ORDER BY seq")
        assert [seq for (seq,) in noted] == sorted(lost)
        assert list((place / "spool").iterdir()) == []


@pytest.mark.parametrize("field", [0, 8, 16, 24, 32, 40, 48, 52, 56, 57, 58, 60])
def test_a_flipped_bit_in_a_slot_costs_that_row_alone(place, field):
    """Whatever field it hits, the checksum or the place tells."""
    flip(file(place, ".rec"), HEADER_SIZE + 7 * SLOT_SIZE + field, bit=1)
    check(place, {8})


def test_a_flipped_bit_in_the_last_number_is_reported_too(place):
    """The last slot is no unwritten one."""
    flip(file(place, ".rec"), HEADER_SIZE + (COUNT - 1) * SLOT_SIZE, bit=7)
    check(place, {COUNT})


def test_a_flipped_bit_in_a_payload_costs_that_row_alone(place):
    """The payload is covered by the checksum of its slot."""
    flip(file(place, ".ext"), 3)
    check(place, {2})


def test_a_truncated_payload_sidecar_costs_the_rows_beyond(place):
    """Rows without a payload, and those before the cut, are kept."""
    path = file(place, ".ext")
    data = path.read_bytes()
    cut = data.index(b"number 21")
    path.write_bytes(data[:cut])
    check(place, {i + 1 for i in range(21, COUNT, 2)})


def test_a_missing_payload_sidecar_costs_the_rows_with_payloads(place):
    """Rows without a payload are kept."""
    file(place, ".ext").unlink()
    check(place, {i + 1 for i in range(1, COUNT, 2)})


@pytest.mark.parametrize("offset", [0, 4, 12])
def test_a_damaged_context_costs_the_rows_that_refer_to_it(place, offset):
    """The rows of the other context are kept."""
    flip(file(place, ".str"), offset, bit=2)
    check(place, set(range(1, 21)))


def test_a_truncated_context_sidecar_costs_the_rows_beyond(place):
    """The first context is still whole."""
    path = file(place, ".str")
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    check(place, set(range(21, COUNT + 1)))


def test_a_damaged_header_costs_nothing(place):
    """The name of the file says what is needed."""
    path = file(place, ".rec")
    data = path.read_bytes()
    path.write_bytes(b"\xff" * 64 + data[64:])
    check(place, set())


def test_a_segment_cut_within_a_slot_costs_the_rows_beyond(place):
    """What was cut off cannot be known; the rest is kept."""
    path = file(place, ".rec")
    path.write_bytes(path.read_bytes()[: HEADER_SIZE + 10 * SLOT_SIZE + 20])
    with Store(place, ingest=False) as store:
        assert store.sql("SELECT count(*) FROM executions").fetchall() == [(10,)]
        assert store.ingest_now() == 10


def test_an_empty_segment_file_is_removed(place):
    """A file of no bytes holds no rows and blocks nothing."""
    file(place, ".rec").write_bytes(b"")
    with Store(place, ingest=False) as store:
        assert store.ingest_now() == 0
        assert list((place / "spool").iterdir()) == []


def test_a_segment_of_a_newer_format_is_left_untouched(place):
    """It waits for the version that can read it, and is reported."""
    path = file(place, ".rec")
    data = bytearray(path.read_bytes())
    struct.pack_into("=H", data, 8, 99)
    header = bytes(data[: HEADER.size])
    data[HEADER.size : HEADER.size + ENTRY.size] = ENTRY.pack(len(header), zlib.crc32(header))
    path.write_bytes(data)
    with Store(place, ingest=False) as store:
        assert store.sql("FROM executions").rows == 0
        assert store.ingest_now() == 0
        assert "another version" in store.problems[0]
    assert path.read_bytes() == bytes(data)


def test_a_segment_that_must_wait_keeps_the_later_ones_of_its_session_waiting(tmp_path):
    """The watermark never passes rows that were not ingested: nothing is lost once it is read."""
    place, count = tmp_path / "store", CAPACITY + 10
    with Store(place, ingest=False) as store:
        for i in range(count):
            store.record_execution(model="m", metrics={"latency": float(i)})
    first, second = sorted(
        (place / "spool").glob("*.rec"), key=lambda p: int(p.stem.split("-")[-1])
    )
    before = first.read_bytes()
    data = bytearray(before)
    struct.pack_into("=H", data, 8, 99)
    header = bytes(data[: HEADER.size])
    data[HEADER.size : HEADER.size + ENTRY.size] = ENTRY.pack(len(header), zlib.crc32(header))
    first.write_bytes(data)
    with Store(place, ingest=False) as store:
        assert store.ingest_now() == 0
    assert second.exists()
    first.write_bytes(before)
    with Store(place, ingest=False) as store:
        store.ingest_now()
        query = "SELECT count(*), count(DISTINCT seq), sum(latency) FROM executions"
        assert store.sql(query).fetchall() == [(count, count, count * (count - 1) / 2)]


@pytest.mark.parametrize("seed", range(12))
def test_random_damage_never_stops_the_store(place, seed):
    """Any bytes overwritten anywhere: no error, no invented row, later rows arrive."""
    rng = random.Random(seed)
    for path in (place / "spool").iterdir():
        data = bytearray(path.read_bytes())
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(1, 9))
        path.write_bytes(data)
    good = {(i + 1, float(i)) for i in range(COUNT)}
    with Store(place, ingest=False) as store:
        query = "SELECT seq, latency FROM executions WHERE session = ?"
        session = file(place, ".rec").stem.rpartition("-")[0]
        before = store.sql(query, [session]).fetchall()
        assert len(before) == len(set(before))
        assert set(before) <= good
        store.record_execution(model="later", metrics={"latency": 1.0})
        store.ingest_now()
        assert store.sql(query, [session]).fetchall() == before
        later = store.sql("SELECT count(*) FROM executions WHERE model = 'later'")
        assert later.fetchall() == [(1,)]
