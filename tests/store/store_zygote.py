"""Children by the dozen: a process that has loaded everything forks one for each request.

Tests of crashes need hundreds of processes, and to start an interpreter with DuckDB costs
half a second; to fork one that has loaded it, but never used it, costs a hundredth. A child
is a process like any other: it can be killed, stopped, traced and limited.
"""

import contextlib
import errno
import faulthandler
import importlib
import itertools
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

#: Seconds after which a child is taken to hang.
PATIENCE = 120

# -- the jobs of the children --------------------------------------------------------------


def _store(place, **options):
    from ravenxterm_lab.store import Store

    return Store(Path(place), **({"ingest": False} | options))


def _open_said(said):
    return os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def record_rows(store, said, values):
    """Record a row for each value, and say so after record() returned."""
    for value in values:
        metrics = {"latency": float(value)}
        if value % 2:
            metrics |= {"n": value, "text": "x" * (value % 50)}
        identity = store.record_execution(model=f"m{value % 5}", metrics=metrics)
        os.write(said, f"{identity} {value}\n".encode())


def parse_said(path):
    """Return what was acknowledged, by (session, seq); a torn last line is left out."""
    text = Path(path).read_text() if Path(path).exists() else ""
    events = {}
    for line in text[: text.rfind("\n") + 1].splitlines():
        identity, value = line.split()
        session, _, seq = identity.rpartition(":")
        assert (session, int(seq)) not in events, f"{identity} was given out twice"
        events[session, int(seq)] = float(value)
    return events


def exported(place):
    """Return the file that `job_export` writes."""
    return Path(place).with_suffix(".parquet")


def _exported_rows(place):
    """Return the rows that were exported; the file is whole if it is there at all."""
    import duckdb

    if not exported(place).exists():
        return []
    with duckdb.connect() as connection:
        return connection.sql(_QUERY.replace("executions", f"'{exported(place)}'")).fetchall()


_QUERY = "SELECT session, seq, latency, model, num['n'], len(extra->>'text') FROM executions"


def _complaints_of(store, expected, surplus):
    """Compare what can be queried with what was acknowledged; an empty list is good."""
    rows = store.sql(_QUERY).fetchall()
    found = {(session, seq): rest for session, seq, *rest in rows}
    known = len(found)
    # What was exported may be in the store still, or not any more.
    found |= {(session, seq): rest for session, seq, *rest in _exported_rows(store.path)}
    complaints = []
    if known != len(rows):
        complaints.append(f"{len(rows) - known} duplicates")
    lost = [key for key, value in expected.items() if found.get(key, [None])[0] != value]
    if lost:
        complaints.append(f"{len(lost)} of {len(expected)} lost, such as {lost[:3]}")
    if not 0 <= len(found) - len(expected) <= surplus:
        complaints.append(f"{len(found)} rows for {len(expected)} acknowledged ones")
    for key, (latency, model, n, text) in found.items():
        value = int(latency)
        payload = (float(value), value % 50) if value % 2 else (None, None)
        if (model, n, text) != (f"m{value % 5}", *payload):
            complaints.append(f"{key} reads {(latency, model, n, text)}")
    return complaints


def verify(place, saids, surplus, out):
    """Look at a store as the next process would, and write what is wrong with it as JSON."""
    expected = {}
    for said in saids:
        expected |= parse_said(said)
    complaints = []
    try:
        with _store(place) as store:
            complaints += [f"at first: {text}" for text in _complaints_of(store, expected, surplus)]
            store.ingest_now()
            complaints += [f"ingested: {text}" for text in _complaints_of(store, expected, surplus)]
            complaints += [f"left: {path.name}" for path in Path(place, "spool").glob("*.rec")]
            complaints += store.problems
            # Nothing is wedged: the next row arrives like any other.
            store.record("messages", text="the next process")
            if store.ingest_now() != 1 or store.sql("FROM messages").rows < 1:
                complaints.append("the next row does not arrive")
            report = store.check()
            if not report.ok:
                complaints.append(f"check: {report}")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a complaint
        complaints.append(f"{type(error).__name__}: {error}")
    Path(out).write_text(json.dumps(complaints))


def job_record(hold, place, said, first, count):
    """Record and close."""
    store, out = _store(place), _open_said(said)
    hold()
    record_rows(store, out, range(first, first + count))
    store.close()


def job_record_unsealed(hold, place, said, first, count):
    """Record, and end without closing anything, as a process that was killed."""
    store, out = _store(place), _open_said(said)
    hold()
    record_rows(store, out, range(first, first + count))


def job_ingest(hold, place, said, first, count):
    """Record and ingest, twice; the segment is still in use at the first and gone at the second."""
    store, out = _store(place), _open_said(said)
    hold()
    record_rows(store, out, range(first, first + count))
    store.ingest_now()
    record_rows(store, out, range(first + count, first + count + 2))
    store.close()
    _store(place).ingest_now()


def job_compact(hold, place, said, first, count):
    """Record, and compact what is in the database."""
    store, out = _store(place), _open_said(said)
    hold()
    record_rows(store, out, range(first, first + count))
    store.compact()
    store.close()


def job_export(hold, place, said, first, count):
    """Record, then move all executions into a file beside the store."""
    store, out = _store(place), _open_said(said)
    hold()
    record_rows(store, out, range(first, first + count))
    store.export(exported(place), remove=True)
    store.close()


def job_trim(hold, place, said, first, count):
    """Record; the ingest then turns the samples of long ago into rows per minute."""
    store, out = _store(place), _open_said(said)
    hold()
    record_rows(store, out, range(first, first + count))
    store.ingest_now()
    store.close()


def job_sample(hold, place, count):
    """Record and ingest samples of the hardware of 15 to 20 days ago."""
    times = (time.time_ns() - (20 * 86_400 - 60 * n) * 1_000_000_000 for n in itertools.count())
    store = _store(place, clock=lambda: next(times))
    hold()
    for n in range(count):
        store.record("hardware_samples", cpu_percent=float(n % 100))
    store.ingest_now()
    store.close()


def job_roll(hold, place, said, first, count):
    """Fill a segment but for some rows, then go on into the next one."""
    from ravenxterm_lab.store.segments import CAPACITY

    store, out = _store(place), _open_said(said)
    bulk = []
    for value in range(CAPACITY - count):
        identity = store.record_execution(model="m0", metrics={"latency": float(10 * value)})
        bulk.append(f"{identity} {10 * value}\n")
    os.write(out, "".join(bulk).encode())
    hold()
    record_rows(store, out, range(first, first + 2 * count))
    store.ingest_now()


def job_persist(hold, place, said, first, count):
    """Record and ingest through errors: each has to be a StoreError, and goes to stderr."""
    from ravenxterm_lab.exceptions import StoreError

    store, out = _store(place), _open_said(said)

    def attempt(action, *arguments):
        try:
            action(*arguments)
        except StoreError as error:
            print(error, file=sys.stderr)

    hold()
    for value in range(first, first + count):
        attempt(record_rows, store, out, [value])
    attempt(store.ingest_now)
    for value in range(first + count, first + 2 * count):
        attempt(record_rows, store, out, [value])
    attempt(lambda: store.sql("FROM executions").fetchall())
    attempt(store.ingest_now)
    attempt(store.close)
    attempt(_store(place).ingest_now)


def job_query(hold, place):
    """Ask once; write the number of rows and the problems."""
    store = _store(place)
    hold()
    [(count, distinct)] = store.sql(
        "SELECT count(*), count(DISTINCT (session, seq)) FROM executions"
    ).fetchall()
    print(json.dumps([count, distinct, store.problems]), flush=True)


def job_program(hold, source, *arguments):
    """Run a program, which finds `hold`, `arguments` and everything of this module."""
    exec(compile(source, "<program>", "exec"), {**globals(), "hold": hold, "arguments": arguments})


def job_ingest_only(hold, place):
    """Ingest once."""
    hold()
    _store(place).ingest_now()


def job_verify(hold, place, saids, surplus, out):
    """See `verify`."""
    hold()
    verify(place, saids, surplus, out)


def job_write_on(hold, place, said, interval, pause):
    """Record until killed, with the thread that ingests."""
    store, out = _store(place, ingest=True, ingest_interval=interval), _open_said(said)
    hold()
    value = 0
    while True:
        record_rows(store, out, range(value, value + 20))
        value += 20
        assert not store.problems, store.problems
        time.sleep(pause)


def job_ingest_on(hold, place):
    """Ingest until killed."""
    store = _store(place)
    hold()
    while True:
        store.ingest_now()


def job_ingest_and_tell(hold, place):
    """Ingest once; write what was moved, what can be queried, and the problems."""
    store = _store(place)
    hold()
    moved = store.ingest_now()
    print(json.dumps([moved, store.sql("FROM executions").rows, store.problems]), flush=True)


def job_write_through(hold, place, said, seconds):
    """Record for a time, with the thread that ingests, through errors of the store; then close."""
    from ravenxterm_lab.exceptions import StoreError

    store, out = _store(place, ingest=True, ingest_interval=0.01), _open_said(said)
    hold()
    deadline, value = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        with contextlib.suppress(StoreError):
            record_rows(store, out, range(value, value + 20))
        value += 20
        time.sleep(0.002)
    store.close()


def job_read_on(hold, place):
    """Query until killed: the count only grows, and nothing is there twice."""
    store, last = _store(place), 0
    hold()
    while True:
        [(count, distinct)] = store.sql(
            "SELECT count(*), count(DISTINCT (session, seq)) FROM executions"
        ).fetchall()
        assert last <= count == distinct, (last, count, distinct)
        assert not store.problems, store.problems
        last = count


JOBS = {name[4:]: job for name, job in list(globals().items()) if name.startswith("job_")}


# -- the process that forks ----------------------------------------------------------------


def drop_capabilities():
    """Make even root obey the permissions of files and directories."""
    import ctypes

    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


def _child(job, arguments, fifo, output, limits):
    def hold():
        if fifo is not None:
            with Path(fifo).open("rb", buffering=0) as gate:
                gate.read(1)

    code = 1
    try:
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for old in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDONLY) if old == 0 else fd, old)
        # A child that hangs says where, and ends.
        faulthandler.register(signal.SIGALRM, file=2, all_threads=True, chain=True)
        signal.alarm(PATIENCE)
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))
        JOBS[job](hold, *arguments)
        code = 0
    except BaseException:  # noqa: BLE001 - the child ends here, and says why
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def serve():
    """Fork and reap as the lines on stdin say, one JSON list each, until it is closed."""
    import duckdb
    import numpy.ma as ma  # noqa: F401 - numpy imports it at the first use of some functions

    from ravenxterm_lab import store

    for module in pkgutil.iter_modules(store.__path__, f"{store.__name__}."):
        importlib.import_module(module.name)
    if duckdb.__version__.startswith("1."):
        # It would import it itself, at the first ingest.
        import pandas as pd  # noqa: F401 - see above
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in iter(sys.stdin.readline, ""):
        action, *arguments = json.loads(line)
        if action == "fork":
            answer = os.fork()
            if answer == 0:
                _child(*arguments)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(arguments[0], 0)[1])
        print(json.dumps(answer), flush=True)


# -- the side of the tests -----------------------------------------------------------------


class Child:
    """A forked child: its process number, and what it wrote to stdout and stderr."""

    def __init__(self, zygote, pid, output):
        self._zygote = zygote
        self.tracers = zygote.tracers
        self.pid = pid
        self.output = output
        self.code = None

    def wait(self):
        """Return the exit code, negative for a signal."""
        if self.code is None:
            self.code = self._zygote.ask("wait", self.pid)
            self._zygote.alive.discard(self)
        return self.code

    def signal(self, number):
        """Send a signal."""
        assert self.code is None
        os.kill(self.pid, number)

    def kill(self):
        """Kill it, at whatever moment this is, and reap it."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def said(self):
        """Return what it wrote to stdout and stderr; it may be killed before it opens the file."""
        return self.output.read_text() if self.output.exists() else ""


class Zygote:
    """The process that forks; children write to files in ``directory``."""

    def __init__(self, directory):
        self._directory = directory
        self._count = 0
        self.alive = set()
        self.tracers = []
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Threads of a library would not survive the fork.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )

    def ask(self, *request):
        """Send a request and return the answer."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, job, *arguments, fifo=None, limits=None):
        """Fork a child; with ``fifo`` it waits there before the part of its job that counts."""
        self._count += 1
        output = self._directory / f"child-{self._count}"
        plain = [str(item) if isinstance(item, Path) else item for item in arguments]
        pid = self.ask("fork", job, plain, fifo and str(fifo), str(output), limits or {})
        child = Child(self, pid, output)
        self.alive.add(child)
        return child

    def run(self, job, *arguments, **options):
        """Start a child and wait for its end; it has to end well."""
        child = self.start(job, *arguments, **options)
        assert child.wait() == 0, child.said()
        return child

    def verify(self, place, saids, surplus):
        """Return what the next process finds wrong with a store."""
        out = self._directory / "verified"
        out.unlink(missing_ok=True)
        self.run("verify", place, [str(said) for said in saids], surplus, out)
        return json.loads(out.read_text())

    def rest(self):
        """Kill what lives."""
        for child in list(self.alive):
            child.kill()
        while self.tracers:
            self.tracers[-1].finish()

    def close(self):
        """End the process, and whatever it forked."""
        self.rest()
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _open_gate(child, fifo):
    """Open the FIFO, which works once the child has come to it."""
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        state = Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2][0]
        assert state != "Z", child.said()
        time.sleep(0.001)


class Tracer:
    """strace, attached to a child that waits at a FIFO; its filters then count from there."""

    def __init__(self, child, fifo, *options):
        self._tracers = child.tracers
        with os.fdopen(_open_gate(child, fifo), "wb", buffering=0) as gate:
            self.process = subprocess.Popen(
                ["strace", "-f", "-p", str(child.pid), *options],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            self._tracers.append(self)
            self.said = self.process.stderr.readline()
            assert "attached" in self.said, self.said
            with contextlib.suppress(BrokenPipeError):
                gate.write(b"x")

    def finish(self):
        """Wait until strace has ended, which it does with the child."""
        self.said += self.process.communicate(timeout=60)[1]
        self._tracers.remove(self)


if __name__ == "__main__":
    serve()
