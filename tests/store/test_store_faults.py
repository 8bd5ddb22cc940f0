"""Faults: a clear error or message, the good rows kept, the process alive."""

import json
import os
import random
import shutil
import signal
import time

import pytest
from store_scenes import leftovers, nothing
from store_zygote import Tracer, parse_said, record_rows

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store import Store
from ravenxterm_lab.store.locks import FileLock

TOTALS = "SELECT count(*), count(DISTINCT (session, seq)) FROM executions"


@pytest.fixture
def place(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def said(tmp_path):
    return tmp_path / "said"


def record(place, said, values, **options):
    """Record values, and note what was acknowledged."""
    fd = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with Store(place, ingest=False, **options) as store:
        record_rows(store, fd, values)
    os.close(fd)


def totals(store):
    [row] = store.sql(TOTALS)
    return row


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


# -- errors of the operating system --------------------------------------------------------

FAILING = "mkdir,rename,unlink,ftruncate,fallocate,pwrite64,fsync,fdatasync"


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("prepare", [nothing, leftovers])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_an_error_of_any_call_is_a_store_error_and_costs_no_row(scene, error, prepare, lasting):
    """Recording, ingest and queries go on after it; what was acknowledged is there in the end."""
    prepare(scene)
    counts = scene.points("persist", (101, 4), FAILING)
    points = [(call, n + 1) for call in sorted(counts) for n in range(counts[call])]
    rng = random.Random(f"{error} {prepare.__name__} {lasting}")
    wrong = {}
    for call, number in rng.sample(points, 5):
        when = f"{number}+" if lasting else str(number)
        options = ("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}")
        # An end with anything but an error of our own fails within.
        scene.run("persist", (101, 4), "-o", os.devnull, *options)
        complaints = scene.complaints(0)
        if complaints:
            wrong[call, when] = complaints
    assert wrong == {}


def test_a_segment_that_cannot_be_read_does_not_stop_the_others(scene, zygote, place, said):
    """EIO on one segment: it is named and waits; those of other sessions are ingested."""
    record(place, said, range(10))
    record(place, said, range(10, 20))
    bad, _ = sorted((place / "spool").glob("*.rec"))
    child = zygote.start("ingest_and_tell", place, fifo=scene.fifo)
    inject = ("-P", str(bad), "-e", "trace=pread64", "-e", "inject=pread64:error=EIO")
    tracer = Tracer(child, scene.fifo, "-o", os.devnull, *inject)
    assert child.wait() == 0, child.said()
    tracer.finish()
    moved, visible, problems = json.loads(child.said())
    assert (moved, visible) == (10, 10)
    assert any(bad.name in text for text in problems)
    assert bad.exists()
    with Store(place, ingest=False) as store:
        assert totals(store) == (20, 20)
        assert store.ingest_now() == 10
        assert totals(store) == (20, 20)
        assert store.problems == []


def test_a_failing_sync_at_close_still_seals_the_segment(scene, zygote, place, said):
    """The disk refuses the last sync: that is an error, and the segment is no longer in use."""
    program = """
from ravenxterm_lab.exceptions import StoreError
store, out = _store(arguments[0]), _open_said(arguments[1])
record_rows(store, out, range(5))
hold()
try:
    store.close()
except StoreError as error:
    print(error)
[segment] = Path(arguments[0], "spool").glob("*.rec")
from ravenxterm_lab.store.locks import is_locked
print(is_locked(segment))
"""
    child = zygote.start("program", program, place, said, fifo=scene.fifo)
    inject = ("-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO")
    tracer = Tracer(child, scene.fifo, "-o", os.devnull, *inject)
    assert child.wait() == 0, child.said()
    tracer.finish()
    assert child.said().splitlines()[-1] == "False"
    assert zygote.verify(place, [said], 0) == []


# -- descriptors ---------------------------------------------------------------------------


def test_300_segments_are_read_and_ingested_with_64_descriptors(zygote, place, said, tmp_path):
    """However many segments lie there, one is open at a time."""
    for i in range(300):
        record(place, said, [i])
    out = tmp_path / "wrong"
    limits = {"RLIMIT_NOFILE": 64}
    query = zygote.run("query", place, limits=limits)
    assert json.loads(query.said()) == [300, 300, []]
    zygote.run("verify", place, [str(said)], 0, out, limits=limits)
    assert json.loads(out.read_text()) == []


EXHAUSTED = """
from ravenxterm_lab.exceptions import RavenXTermError
place, said, begun = arguments
store, out = _store(place), _open_said(said)
if begun:
    record_rows(store, out, range(5))
    store.ingest_now()
    store.sql("FROM executions")
hoard = []
try:
    while True:
        hoard.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
def attempt(action):
    try:
        action()
    except RavenXTermError as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print("done")
for spare in range(12):
    attempt(lambda: record_rows(store, out, [spare]))
    attempt(lambda: record_rows(store, out, [spare + 21]))
    attempt(store.ingest_now)
    attempt(lambda: store.sql("FROM executions").fetchall())
    os.close(hoard.pop())
for fd in hoard:
    os.close(fd)
record_rows(store, out, range(50, 60))
store.close()
"""


@pytest.mark.parametrize("begun", [False, True])
def test_no_descriptor_left_is_an_error_that_says_so_and_passes(zygote, place, said, begun):
    """With none, one, two … left, each call works or is an error of ours; then all is well."""
    child = zygote.run("program", EXHAUSTED, place, said, begun, limits={"RLIMIT_NOFILE": 80})
    lines = child.said().splitlines()
    assert len(lines) == 48
    assert lines[-4:] == ["done"] * 4
    # A segment in use needs no more descriptors for its slots.
    assert (lines[0] == "done") == begun
    failures = [line for line in lines if line != "done"]
    assert failures
    assert all("open files" in line for line in failures), failures
    assert zygote.verify(place, [said], 0) == []


# -- directories that cannot be written, or vanish -----------------------------------------

READ_ONLY = """
from ravenxterm_lab.exceptions import StoreError
place, said = arguments
drop_capabilities()
store, out = _store(place), _open_said(said)
for action in (lambda: record_rows(store, out, [1]), store.ingest_now):
    try:
        action()
    except StoreError as error:
        print(error)
    else:
        print("done")
print(store.sql("FROM executions").rows)
"""


def test_a_read_only_directory_is_an_error_that_names_it_and_can_be_read(zygote, place, said):
    """Neither recording nor ingest works, and each says why; queries do work."""
    record(place, said, range(10))
    with Store(place, ingest=False) as store:
        store.ingest_now()
    record(place, said, range(10, 20))
    # Who may not write the directory may not write the files in it either.
    for path in (*place.rglob("*"), place):
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        recorded, ingested, rows = zygote.run("program", READ_ONLY, place, said).said().splitlines()
    finally:
        for path in (place, *place.rglob("*")):
            path.chmod(0o700 if path.is_dir() else 0o600)
    for line in (recorded, ingested):
        assert str(place) in line
        assert "Permission denied" in line
        assert "RAVENXTERM_HOME" in line
    assert rows == "20"
    assert zygote.verify(place, [said], 0) == []


@pytest.mark.parametrize("what", ["store", "spool", "database", "locks"])
def test_whatever_is_deleted_under_everybody_recording_goes_on(zygote, place, tmp_path, what):
    """Two processes record and ingest while somebody deletes: no other error, no duplicate."""
    saids = [tmp_path / f"said-{i}" for i in range(2)]
    children = [zygote.start("write_through", place, said, 1.5) for said in saids]
    wait_for((place / "main.duckdb").exists)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        if what == "store":
            shutil.rmtree(place, ignore_errors=True)
        elif what == "spool":
            shutil.rmtree(place / "spool", ignore_errors=True)
        elif what == "database":
            (place / "main.duckdb").unlink(missing_ok=True)
        else:
            for path in place.glob("*.lock"):
                path.unlink(missing_ok=True)
        time.sleep(0.2)
    for child in children:
        assert child.wait() == 0, child.said()
    after = tmp_path / "after"
    record(place, after, range(10))
    with Store(place, ingest=False) as store:
        for _ in range(2):
            count, distinct = totals(store)
            assert count == distinct
            assert count >= 10
            if what == "locks":
                assert count == 10 + sum(len(parse_said(said)) for said in saids)
            store.ingest_now()


# -- the database file replaced ------------------------------------------------------------


@pytest.fixture
def three_ingests(place, said):
    """A store ingested into three times, and its database as it was after the first."""
    older = place.parent / "older.duckdb"
    for i in range(3):
        record(place, said, range(10 * i, 10 * i + 10))
        with Store(place, ingest=False) as store:
            store.ingest_now()
        if i == 0:
            shutil.copy(place / "main.duckdb", older)
    return older


@pytest.mark.parametrize("how", ["renamed over", "written in place"])
def test_an_older_copy_of_the_database_brings_no_row_in_twice(place, three_ingests, how):
    """What only the newer file held is gone with it; what waits arrives once."""
    with Store(place, ingest=False) as store:
        for i in range(5):
            store.record_execution(model="live", metrics={"latency": float(i)})
        store.ingest_now()
        if how == "renamed over":
            three_ingests.rename(place / "main.duckdb")
        else:
            (place / "main.duckdb").write_bytes(three_ingests.read_bytes())
        for i in range(5):
            store.record_execution(model="live", metrics={"latency": float(i)})
        # The live segment still holds all of its rows, so that they come back.
        assert totals(store) == (20, 20)
        assert store.ingest_now() == 10
        assert totals(store) == (20, 20)
        assert store.ingest_now() == 0
    with Store(place, ingest=False) as store:
        assert store.ingest_now() == 0
        assert totals(store) == (20, 20)


def test_a_session_whose_rows_went_with_a_newer_file_goes_on_with_a_gap(place, tmp_path):
    """The watermark of the older file lies before the segment: no row twice, none held back."""
    from ravenxterm_lab.store.segments import CAPACITY

    with Store(place, ingest=False) as store:
        store.record_execution(model="m", metrics={})
        store.ingest_now()
        shutil.copy(place / "main.duckdb", tmp_path / "older")
        for _ in range(CAPACITY):
            store.record_execution(model="m", metrics={})
        store.ingest_now()
        assert len(list((place / "spool").glob("*.rec"))) == 1
        (tmp_path / "older").rename(place / "main.duckdb")
        store.record_execution(model="m", metrics={})
        count, distinct = totals(store)
        assert count == distinct < 10
        store.ingest_now()
        assert totals(store) == (count, count)


def test_the_database_of_another_store_takes_the_rows_that_wait(place, tmp_path, said):
    """Its own rows stay, and those of the spool join them, once."""
    other = tmp_path / "other"
    for directory, values in ((other, range(7)), (place, range(10))):
        record(directory, tmp_path / f"said-{directory.name}", values)
        with Store(directory, ingest=False) as store:
            store.ingest_now()
    with Store(place, ingest=False) as store:
        store.record_execution(model="m", metrics={})
        store.ingest_now()
        (other / "main.duckdb").rename(place / "main.duckdb")
        store.record_execution(model="m", metrics={})
        assert totals(store) == (9, 9)
        assert store.ingest_now() == 2
        assert totals(store) == (9, 9)


def killed_in_commit(scene):
    """Leave a store whose last commit stands in the log alone; return what to check with."""
    leftovers(scene)
    counts = scene.points("ingest", (101, 4), "unlink,pwrite64,write,fdatasync")
    for number in range(counts["pwrite64"], 0, -1):
        scene.kill_at("ingest", (101, 4), "pwrite64", number, check=False)
        log = scene.place / "main.duckdb.wal"
        if log.exists() and log.stat().st_size:
            return log
    pytest.fail("no kill leaves a log")


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "garbage"])
def test_a_damaged_log_is_an_error_or_costs_only_what_is_in_it(scene, damage):
    """Rows in the file and in the spool are kept; recording goes on; nothing is there twice."""
    log = killed_in_commit(scene)
    data = bytearray(log.read_bytes())
    if damage == "gone":
        log.unlink()
    elif damage == "cut":
        log.write_bytes(data[: len(data) * 2 // 3])
    elif damage == "flipped":
        data[len(data) // 2] ^= 4
        log.write_bytes(data)
    else:
        log.write_bytes(random.Random(1).randbytes(len(data)))
    text = "main.duckdb"
    with Store(scene.place, ingest=False) as store:
        store.record_execution(model="m0", metrics={"latency": 0.0})
        try:
            totals(store)
            store.ingest_now()
        except StoreError as error:
            text = str(error)
            # As the message says: move it aside.
            for path in scene.place.glob("main.duckdb*"):
                path.rename(scene.directory / path.name)
        store.ingest_now()
        count, distinct = totals(store)
        assert count == distinct
        assert store.sql("FROM executions WHERE latency = 0").rows == 1
    assert "main.duckdb" in text


def test_a_database_moved_aside_without_its_log_leaves_nothing_behind(scene):
    """The message says to move the file; a log that stays is not replayed into the new one."""
    killed_in_commit(scene)
    (scene.place / "main.duckdb").rename(scene.directory / "aside")
    with Store(scene.place, ingest=False) as store:
        waiting, distinct = totals(store)
        assert waiting == distinct
        store.record_execution(model="m0", metrics={"latency": 0.0})
        store.ingest_now()
        assert totals(store) == (waiting + 1, waiting + 1)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_in_the_database_are_an_error_and_not_a_crash(zygote, place, said, seed):
    """Queries and ingest work or say that the file is damaged; recording goes on."""
    record(place, said, range(2000))
    with Store(place, ingest=False) as store:
        store.ingest_now()
    record(place, said, range(2000, 2010))
    rng = random.Random(seed)
    data = bytearray((place / "main.duckdb").read_bytes())
    for _ in range(20):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    (place / "main.duckdb").write_bytes(data)
    program = """
from ravenxterm_lab.exceptions import QueryError, StoreError
store, out = _store(arguments[0]), _open_said(arguments[1])
for action in (
    lambda: record_rows(store, out, range(5000, 5005)),
    lambda: store.sql("SELECT sum(latency), count(num) FROM executions").fetchall(),
    store.ingest_now,
    store.info,
    lambda: record_rows(store, out, range(6000, 6005)),
    store.close,
):
    try:
        action()
    except (StoreError, QueryError) as error:
        print(error)
"""
    child = zygote.start("program", program, place, said)
    assert child.wait() == 0, child.said()
    for line in child.said().splitlines():
        assert "main.duckdb" in line or "damaged" in line, line
    # Moved aside, as the message says, everything that was not in the file is there.
    for path in place.glob("main.duckdb*"):
        path.unlink()
    with Store(place, ingest=False) as store:
        assert store.sql("FROM executions WHERE latency >= 6000").rows == 5


# -- processes that stop, and moments that are missed --------------------------------------


def stopped_in_commit(scene, zygote, place):
    """Start an ingest that stops within its commit, the gate in its hands."""
    child = zygote.start("ingest_only", place, fifo=scene.fifo)
    trace = scene.directory / "trace"
    options = ("-e", "trace=pwrite64", "-e", "inject=pwrite64:signal=SIGSTOP:when=2")
    tracer = Tracer(child, scene.fifo, "-o", str(trace), *options)
    wait_for(lambda: trace.exists() and "stopped by SIGSTOP" in trace.read_text())
    return child, tracer


def test_an_ingester_that_is_stopped_blocks_no_recording_and_no_close(scene, zygote, place, said):
    """Others record, and end, at once; queries wait for it, and are answered when it goes on."""
    record(place, said, range(10))
    with Store(place, ingest=False) as store:
        store.ingest_now()
    record(place, said, range(10, 20))
    child, tracer = stopped_in_commit(scene, zygote, place)
    asking = zygote.start("query", place)
    # Its thread finds the ingest taken; neither it nor the end of the store waits.
    zygote.run("write_through", place, scene.said, 0.3)
    with FileLock(place / "db.lock", create=False) as gate:
        assert not gate.acquire(shared=True, patience=0.0)
    assert asking.said() == ""
    child.signal(signal.SIGCONT)
    assert (child.wait(), asking.wait()) == (0, 0), (child.said(), asking.said())
    tracer.finish()
    assert zygote.verify(place, [said, scene.said], 0) == []


def test_a_reader_meets_no_gap_while_the_first_ingest_removes_the_segments(
    scene, zygote, place, said
):
    """It has opened a segment before there was a database; the sidecars vanish under it."""
    record(place, said, range(10))
    for suffix in (".str", ".ext"):
        [sidecar] = (place / "spool").glob(f"*{suffix}")
        copy = place.parent / f"store{suffix}"
        shutil.copytree(place, copy)
        child = zygote.start("query", copy, fifo=scene.fifo)
        delay = ("-e", "trace=openat", "-e", "inject=openat:delay_enter=1000000")
        sidecar = copy / "spool" / sidecar.name
        tracer = Tracer(child, scene.fifo, "-o", os.devnull, "-P", str(sidecar), *delay)
        time.sleep(0.2)
        with Store(copy, ingest=False) as store:
            store.ingest_now()
        assert child.wait() == 0, child.said()
        tracer.finish()
        assert json.loads(child.said()) == [10, 10, []]


# -- clocks --------------------------------------------------------------------------------

YEAR = 365 * 86_400 * 10**9


def test_a_clock_that_jumps_by_a_year_moves_no_row_out_of_sight(place):
    """Back and forward: every row is there in the order of its session, ingested or not."""
    now = time.time_ns()
    times = [now, now - YEAR, now + 1, now + YEAR, now + 2, now - YEAR + 1]
    clock = iter(range(10**6))
    store = Store(place, ingest=False, clock=lambda: times[next(clock) % len(times)])
    for i in range(60):
        store.record_execution(model="m", metrics={"latency": float(i)})
        if i % 7 == 0:
            store.ingest_now()
    for _ in range(2):
        rows = store.sql("SELECT seq, latency FROM executions ORDER BY session, seq").fetchall()
        assert rows == [(i + 1, float(i)) for i in range(60)]
        assert store.sql("SELECT sum(runs)::INT FROM model_stats").fetchall() == [(60,)]
        store.ingest_now()
    store.close()
    assert store.problems == []


# -- threads, tasks, forks and spawns at once ----------------------------------------------

MIXED = """
import asyncio, threading
from concurrent.futures import ThreadPoolExecutor

place, said = arguments
store, out = _store(place, ingest=True, ingest_interval=0.005), _open_said(said)

async def task(number):
    for i in range(20):
        record_rows(store, out, [number])
        await asyncio.sleep(0)

async def everything():
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(4) as pool:
        calls = [loop.run_in_executor(pool, record_rows, store, out, range(50)) for _ in range(20)]
        asked = loop.run_in_executor(pool, lambda: store.sql("FROM executions").rows)
        await asyncio.gather(*(task(number) for number in range(200)), *calls, asked)

stop = threading.Event()
def busy():
    while not stop.is_set():
        record_rows(store, out, range(5))
        stop.wait(0.001)

threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads:
    thread.start()
children, spawns = [], []
for number in range(6):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            record_rows(store, out, range(100))
            if number % 2:
                grandchild = os.fork()
                if grandchild == 0:
                    record_rows(store, out, range(50))
                    os._exit(0)
                assert os.waitpid(grandchild, 0)[1] == 0
            store.ingest_now()
            store.close()
            code = 0
        finally:
            os._exit(code)
    children.append(pid)
    spawned = [sys.executable, "-c", SPAWNED, place, said, str(number)]
    spawns.append(subprocess.Popen(spawned, cwd=Path(__file__).parent))
asyncio.run(everything())
codes = [os.waitpid(pid, 0)[1] for pid in children] + [spawn.wait() for spawn in spawns]
stop.set()
for thread in threads:
    thread.join()
store.close()
assert codes == [0] * 12, codes
assert store.problems == [], store.problems
"""

SPAWNED = """
import sys
from store_zygote import _open_said, _store, record_rows
store = _store(sys.argv[1], ingest=True, ingest_interval=0.01)
record_rows(store, _open_said(sys.argv[2]), range(100))
store.close()
assert store.problems == [], store.problems
"""


def test_threads_tasks_forks_and_spawned_processes_record_at_once(zygote, place, said):
    """Each event is there once, whoever recorded it, and nobody meets an error."""
    source = f"SPAWNED = {SPAWNED!r}\n{MIXED}"
    child = zygote.start("program", source, place, said)
    assert child.wait() == 0, child.said()
    assert child.said() == ""
    events = parse_said(said)
    assert len(events) > 200 * 20 + 20 * 50 + 6 * 100 + 3 * 50 + 6 * 100
    assert zygote.verify(place, [said], 0) == []


def test_closing_in_the_middle_of_a_pass_loses_nothing(zygote, place, said):
    """Stores opened and closed as fast as they can, each with its thread at work."""
    program = """
import random, time
place, said = arguments
out, rng = _open_said(said), random.Random(7)
for _ in range(40):
    store = _store(place, ingest=True, ingest_interval=0.001)
    for _ in range(rng.randrange(1, 4)):
        record_rows(store, out, range(50))
        time.sleep(rng.random() * 0.02)
    store.close()
    assert store.problems == [], store.problems
"""
    child = zygote.start("program", program, place, said)
    assert child.wait() == 0, child.said()
    assert zygote.verify(place, [said], 0) == []


def test_what_a_signal_handler_recorded_is_synced_though_nothing_else_is(scene, zygote, place):
    """Rows within rows have a segment of their own; the thread's sync does not forget it."""
    program = """
place = arguments[0]
store = _store(place)
for i in range(10):
    store.record_execution(model="m", metrics={"latency": 1.0})
recorder = store._recorder
recorder.sync()
before = set(Path(place, "spool").glob("*.rec"))
recorder._append_beside(1, 2.0, 0.0, 0.0, None, None)
[new] = set(Path(place, "spool").glob("*.rec")) - before
print(new.name, flush=True)
hold()
recorder.sync()
"""
    child = zygote.start("program", program, place, fifo=scene.fifo)
    trace = scene.directory / "trace"
    tracer = Tracer(child, scene.fifo, "-y", "-o", str(trace), "-e", "trace=fdatasync,fsync")
    assert child.wait() == 0, child.said()
    tracer.finish()
    assert child.said().strip() in trace.read_text()
