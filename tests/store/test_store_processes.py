"""Several processes: forked, spawned, at once, and killed at any moment."""

import multiprocessing
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ravenxterm_lab.store import ExecutionId, Store
from ravenxterm_lab.store.locks import FileLock, is_locked

WORKER = Path(__file__).with_name("store_worker.py")


@pytest.fixture
def place(tmp_path):
    return tmp_path / "store"


def run_program(program, *arguments):
    # Python 3.12 warns of every fork in a process with threads; here that is the point.
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


FORKS = """
import os, sys, threading, time
from pathlib import Path
from ravenxterm_lab.store import Store

store = Store(Path(sys.argv[1]), ingest_interval=0.1)
for i in range(100):
    store.record_execution(model="before", metrics={"latency": 1.0, "text": "t"})
# The libraries are loaded, with whatever threads they have, as in a notebook.
assert store.sql("FROM executions").rows == 100
stop = threading.Event()
def busy():
    while not stop.is_set():
        store.record_execution(model="thread", metrics={"latency": 1.0, "n": 1})
        time.sleep(0.002)
threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads:
    thread.start()
children = []
for child in range(8):
    pid = os.fork()
    if pid == 0:
        for i in range(200):
            store.record_execution(model=f"child{child}", metrics={"latency": 1.0, "text": "c"})
        n = store.sql("SELECT count(*) FROM executions WHERE model = ?", [f"child{child}"])
        os._exit(0 if n.fetchall() == [(200,)] else 1)
    children.append(pid)
    store.record_execution(model="between", metrics={"latency": 1.0})
codes = [os.waitpid(pid, 0)[1] for pid in children]
stop.set()
for thread in threads:
    thread.join()
for i in range(100):
    store.record_execution(model="after", metrics={"latency": 1.0})
print(codes)
"""


def test_forked_children_record_into_sessions_of_their_own(place):
    """Parent, its threads and eight children record through one Store object; all rows arrive."""
    assert run_program(FORKS, place).strip() == str([0] * 8)
    with Store(place, ingest=False) as store:
        for _ in range(2):
            counts = dict(
                store.sql(
                    "SELECT model, count(*) FROM executions WHERE model <> 'thread' GROUP BY 1"
                ).fetchall()
            )
            expected = {f"child{child}": 200 for child in range(8)}
            assert counts == {**expected, "before": 100, "between": 8, "after": 100}
            shared = store.sql(
                "SELECT count(DISTINCT CASE WHEN starts_with(model, 'child') THEN model "
                "ELSE 'parent' END) AS who FROM executions GROUP BY session"
            ).fetchall()
            assert set(shared) == {(1,)}
            # Threads of one process may have a session each, too.
            assert 9 <= len(shared) <= 8 + 3
            rows = store.sql("SELECT count(*), count(DISTINCT (session, seq)) FROM executions")
            [(count, distinct)] = rows.fetchall()
            assert count == distinct
            store.ingest_now()
        assert list((place / "spool").iterdir()) == []
        assert store.problems == []


ORPHAN = """
import os, sys, time
from pathlib import Path
from ravenxterm_lab.store import Store

store = Store(Path(sys.argv[1]), ingest=False)
store.record_execution(model="parent", metrics={"latency": 1.0})
if os.fork() == 0:
    os.close(1)
    os.close(2)
    time.sleep(60)
    os._exit(0)
os._exit(0)
"""


def test_a_child_that_outlives_its_parent_does_not_keep_the_segment_alive(place):
    """The sign of life dies with the parent, though the child inherited the descriptors."""
    run_program(ORPHAN, place)
    with Store(place, ingest=False) as store:
        assert store.ingest_now() == 1
        assert list((place / "spool").iterdir()) == []


def record_spawned(place, number):
    with Store(place, ingest=False) as store:
        for _ in range(100):
            store.record_execution(model=f"spawned{number}", metrics={"latency": 1.0})


def test_spawned_children_record_too(place):
    """A spawned process opens its own Store on the same directory."""
    context = multiprocessing.get_context("spawn")
    with Store(place, ingest=False) as store:
        store.record_execution(model="parent", metrics={})
        program = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
            "from test_store_processes import record_spawned\n"
            "record_spawned(Path(sys.argv[1]), 0)\n"
        )
        assert context.get_start_method() == "spawn"
        run_program(program, place, Path(__file__).parent)
        assert store.sql("SELECT count(*) FROM executions").fetchall() == [(101,)]


READER = """
import sys, time
from pathlib import Path
from ravenxterm_lab.store import Store

store = Store(Path(sys.argv[1]), ingest=False)
last = reads = 0
while not Path(sys.argv[2]).exists():
    [(count, distinct)] = store.sql(
        "SELECT count(*), count(DISTINCT (session, seq)) FROM executions"
    ).fetchall()
    assert count == distinct, (count, distinct)
    assert count >= last, (count, last)
    last = count
    reads += 1
assert not store.problems, store.problems
print(reads)
"""


def start(*arguments, **options):
    return subprocess.Popen([sys.executable, *map(str, arguments)], **options)


def test_writers_and_readers_at_once_lose_nothing_and_meet_no_error(place, tmp_path):
    """Four processes record and ingest while two ask: counts only grow, and end complete."""
    count, done = 3000, tmp_path / "done"
    writers = [
        start(WORKER, place, 0.05, count, 0.005, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    readers = [
        start("-c", READER, place, done, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for writer in writers:
        assert (writer.communicate(timeout=100)[1], writer.returncode) == (b"", 0)
    done.touch()
    for reader in readers:
        out, err = reader.communicate(timeout=100)
        assert (err, reader.returncode) == (b"", 0)
        assert int(out) > 0
    with Store(place, ingest=False) as store:
        for _ in range(2):
            rows = store.sql("SELECT count(*), count(DISTINCT (session, seq)) FROM executions")
            assert rows.fetchall() == [(4 * count, 4 * count)]
            store.ingest_now()


class Victim:
    """A worker that will be killed, and what it said before."""

    def __init__(self, place, directory, number):
        self.said = directory / f"said-{number}"
        self.complaints = directory / f"complaints-{number}"
        with self.said.open("wb") as out, self.complaints.open("wb") as err:
            self.process = start(WORKER, place, 0.01, 10**9, 0.02, stdout=out, stderr=err)

    def acknowledged(self):
        """Return the events that record() returned from, a torn last line left out."""
        text = self.said.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [(ExecutionId.parse(line.split()[0]), float(line.split()[1])) for line in lines]

    def wait_until_recording(self):
        deadline = time.monotonic() + 60
        while not self.said.stat().st_size:
            assert self.process.poll() is None, self.complaints.read_text()
            assert time.monotonic() < deadline, "the worker records nothing"
            time.sleep(0.005)

    def kill(self):
        self.process.kill()
        self.process.wait()


def wait_for_commit(database):
    """Wait until an ingest has changed the database; the next one then has begun, or will soon."""
    before, deadline = database.stat(), time.monotonic() + 60
    while (database.stat().st_mtime_ns, database.stat().st_size) == (
        before.st_mtime_ns,
        before.st_size,
    ):
        assert time.monotonic() < deadline, "nobody ingests"
        time.sleep(0.002)


def check_victims(store, victims):
    """Every acknowledged event is there, once, with its value; nothing is there twice."""
    acknowledged = [victim.acknowledged() for victim in victims]
    sessions = [events[0][0].session for events in acknowledged]
    rows = store.sql(
        "SELECT session, seq, latency, (SELECT count(*) - count(DISTINCT (session, seq)) "
        "FROM executions) FROM executions WHERE session IN (SELECT unnest($sessions))",
        {"sessions": sessions},
    ).fetchall()
    assert {repeated for *_, repeated in rows} == {0}
    values = {(session, seq): value for session, seq, value, _ in rows}
    for events in acknowledged:
        for identity, value in events:
            assert values.get((identity.session, identity.seq)) == value, (identity, value)
    # Beyond them, at most the one event of each whose acknowledgement was cut off.
    assert len(rows) - sum(len(events) for events in acknowledged) <= len(victims)


def test_kill_9_of_recorders_and_ingesters_loses_nothing_acknowledged(place, tmp_path):
    """60 kills at random moments, ingest all the while: 0 lost, 0 twice, readable after each."""
    rng = random.Random(20260101)
    trials, alive, dead = 60, [], []
    number = 0
    with Store(place, ingest=False) as store:
        # The first ingest creates the file, which takes longer than these processes live.
        store.record("messages", text="first")
        store.ingest_now()
    try:
        while len(dead) < trials:
            while len(alive) < 4:
                alive.append(Victim(place, tmp_path, number))
                number += 1
            # The older half records and ingests by now, while the younger half starts.
            victims = [alive.pop(0), alive.pop(0)]
            for victim in victims:
                victim.wait_until_recording()
            wait_for_commit(place / "main.duckdb")
            rng.shuffle(victims)
            for victim in victims:
                time.sleep(rng.random() * 0.1)
                victim.kill()
                assert victim.complaints.read_text() == ""
            dead.extend(victims)
            with Store(place, ingest=False) as store:
                check_victims(store, victims)
                assert store.problems == []
    finally:
        for victim in alive:
            victim.kill()
    survivors = [victim for victim in alive if victim.said.stat().st_size]
    with Store(place, ingest=False) as store:
        [(ingested,)] = store.sql(
            "SELECT count(DISTINCT session) FROM ingested.executions"
        ).fetchall()
        assert ingested > trials / 4, "too little was ingested while processes were killed"
        check_victims(store, [*dead, *survivors])
        store.ingest_now()
        check_victims(store, [*dead, *survivors])
        assert list((place / "spool").glob("*.rec")) == []
        assert store.problems == []


WAKING = """
import faulthandler, signal, sys
from pathlib import Path
from ravenxterm_lab.store import Store

faulthandler.dump_traceback_later(60, exit=True)
store = Store(Path(sys.argv[1]), ingest_interval=1000)
signal.signal(signal.SIGUSR1, lambda *_: store.record("messages", text="signal"))
fired = []
def trace(frame, event, argument):
    names = []
    while frame and len(names) < 3:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    if not fired and names == ["notify_all", "set", "wake"]:
        fired.append(True)
        signal.raise_signal(signal.SIGUSR1)
for _ in range(65536):
    store.record_execution(model="m", metrics={})
sys.settrace(trace)
store.record_execution(model="m", metrics={})
sys.settrace(None)
print(fired, store.sql("FROM messages").rows)
store.close()
"""


def test_a_signal_handler_may_record_while_the_ingest_thread_is_woken(place):
    """The handler falls between two lines that hold the lock of the thread's event."""
    assert run_program(WAKING, place).strip() == "[True] 1"


CROWD = """
import os, sys, threading
from pathlib import Path
from ravenxterm_lab.store import Store

sys.setswitchinterval(1e-5)
place = Path(sys.argv[1])
stores = [Store(place, ingest=False) for _ in range(20)]
stop = threading.Event()
def create():
    while not stop.is_set():
        Store(place, ingest=False)
thread = threading.Thread(target=create)
thread.start()
for _ in range(100):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
stop.set()
thread.join()
"""


def test_a_fork_while_another_thread_creates_stores_brings_every_store_to_rest(place):
    """No hook fails, which would print what went wrong and leave a child with our segment."""
    assert run_program(CROWD, place) == ""


def test_closing_a_lock_twice_leaves_the_lock_of_another_alone(tmp_path):
    """The second call does nothing, though the descriptor's number is in use again."""
    first = FileLock(tmp_path / "first.lock", create=True)
    first.close()
    with FileLock(tmp_path / "second.lock", create=True) as second:
        assert second.acquire(shared=False, patience=0.0)
        first.close()
        assert is_locked(tmp_path / "second.lock")
