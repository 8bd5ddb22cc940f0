"""What one record_execution() costs, beside what people would write instead.

Usage: ``python tests/benchmarks/bench_record.py [--mlflow-python PATH] [--directory PATH]``.
MLflow's pins do not fit ours (it wants an older pyarrow), so it is measured in a process of its
own; name an interpreter that has it. The ways take turns, so that a noisy moment of the machine
hits them all: the times are medians over the rounds, the factors medians of the factors of one
round. CPU time is that of the process, its threads included; no thread ingests meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import mmap
import os
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb

from ravenxterm_lab.store import Store

COLUMNS = (
    "ts BIGINT, model TEXT, task TEXT, device TEXT, "
    "latency DOUBLE, throughput DOUBLE, memory_efficiency DOUBLE, success BOOLEAN"
)
INSERT = "INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
CORE = (
    '"latency": latency, "throughput": throughput, '
    '"memory_efficiency": memory_efficiency, "success": True'
)
MORE = {
    "": "",
    " + 2 extras": ', "temperature": 0.7, "batch": 4.0',
    " + 3 counters": ', "tokens_in": 12, "tokens_out": 256, "time_to_first_token": 0.05',
    " + a string": ', "prompt": "summary"',
}
WHERE = "model=model, task=task, device=device"
#: Where every factor comes from.
BASE = "list.append of a dict"
NAMES: dict[str, Any] = {
    "time_ns": time.time_ns,
    "model": "llama-3.2-1b-instruct-q4_k_m",
    "task": "text_generation",
    "device": "cpu",
    "latency": 0.1234,
    "throughput": 103.7,
    "memory_efficiency": 0.81,
}
#: Measured in the interpreter of MLflow; it answers each line "what count" with two times.
MLFLOW = """
import os, sys, time
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
import mlflow
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
mlflow.set_tracking_uri("sqlite:///" + sys.argv[1])
client, batch = MlflowClient(), int(sys.argv[2])
values = {"latency": 0.1234, "throughput": 103.7, "memory_efficiency": 0.81, "success": 1.0}
with mlflow.start_run() as run:
    print("ready", mlflow.__version__, flush=True)
    step = 0
    for line in sys.stdin:
        what, count = line.split()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(count)):
            if what == "log_metrics":
                mlflow.log_metrics(values, step=step)
                step += 1
            else:
                now = time.time_ns() // 1_000_000
                client.log_batch(run.info.run_id, metrics=[
                    Metric(name, value, now, step + i)
                    for i in range(batch) for name, value in values.items()
                ])
                step += batch
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
"""
#: MLflow takes at most 1,000 metrics at once, which are 250 events.
BATCH = 250

Measured = tuple[float, float]
#: By name, a measurement, and how many calls of it make a round.
Ways = dict[str, tuple[Callable[[int], Measured], int]]


class ListRecorder:
    """The floor of a Python call: the signature of `Store.record_execution`, and one append."""

    def __init__(self) -> None:
        self.rows: list[tuple[object, ...]] = []

    def record_execution(
        self,
        *,
        model: str,
        fingerprint: str | None = None,
        task: str | None = None,
        device: str | None = None,
        runtime: str | None = None,
        settings: str | None = None,
        hardware: str | None = None,
        selection: str | None = None,
        metrics: Mapping[str, Any],
        external: bool = False,
    ) -> None:
        """Keep what was given, unchecked."""
        context = (model, fingerprint, task, device, runtime, settings, hardware, external)
        self.rows.append((time.time_ns(), context, selection, metrics))


class MapAppender:
    """The same 64 bytes into a file mapped into memory: no lock, no checksum, no names."""

    def __init__(self, path: Path, rows: int) -> None:
        self._pack_into = struct.Struct("=QqdddQIIBBHI").pack_into
        self._end = rows * 64
        self._file = path.open("w+b")
        self._file.write(bytes(self._end))
        self._file.flush()
        self._map = mmap.mmap(self._file.fileno(), self._end)
        self._at = 0

    def append(self, latency: float, throughput: float, memory_efficiency: float) -> None:
        """Write one row; begin again at the end of the file."""
        at = self._at
        self._pack_into(
            self._map, at, at, time.time_ns(), latency, throughput, memory_efficiency,
            0, 0, 0, 1, 1, 0, 0,
        )  # fmt: skip
        self._at = (at + 64) % self._end


class MlflowProcess:
    """MLflow in an interpreter of its own, one run open on a local SQLite store."""

    def __init__(self, python: Path, place: Path) -> None:
        self._log = (place / "mlflow.log").open("w+")
        self._process = subprocess.Popen(
            [python, "-c", MLFLOW, place / "mlflow.db", str(BATCH)],
            cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        self.version = self._line().removeprefix("ready ")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def why_not(self) -> str:
        """Return the last line that it wrote before it ended."""
        self._process.wait()
        lines = Path(self._log.name).read_text().splitlines()
        return lines[-1] if lines else "no reason given"

    def measure(self, what: str, count: int) -> Measured:
        """Return wall and CPU seconds of ``count`` calls."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {count}\n")
        self._process.stdin.flush()
        wall, cpu = map(float, self._line().split())
        return wall, cpu

    def close(self) -> None:
        """End it."""
        self._process.communicate()
        self._log.close()


def statement(code: str, names: Mapping[str, Any]) -> Callable[[int], Measured]:
    """Return a measurement of ``code``, compiled into a loop that calls nothing else."""
    timer = timeit.Timer(
        code,
        # People record with the collector on, so it is on here.
        setup="gc.enable()",
        timer=lambda: complex(time.perf_counter(), time.process_time()),
        globals={**NAMES, **names, "gc": gc},
    )

    def measure(count: int) -> Measured:
        both = timer.timeit(count)
        return both.real, both.imag

    return measure


def insertion(execute: Callable[..., object]) -> Callable[[int], Measured]:
    """Return a measurement of one INSERT of the same columns."""
    values = "(time_ns(), model, task, device, latency, throughput, memory_efficiency, True)"
    return statement(f"execute(INSERT, {values})", {"execute": execute, "INSERT": INSERT})


@contextlib.contextmanager
def ways(place: Path, events: int) -> Iterator[tuple[Store, Ways]]:
    """Yield a store, and every way but MLflow's; at the end, check what the store has."""
    rows: list[object] = []
    listed = ListRecorder()
    mapped = MapAppender(place / "mapped", events)
    row = f'{{"ts": time_ns(), "model": model, "task": task, "device": device, {CORE}}}'
    found = {
        BASE: (statement(f"rows.append({row})", {"rows": rows}), events),
        "list behind our signature": (
            statement(f"record({WHERE}, metrics={{{CORE}}})", {"record": listed.record_execution}),
            events,
        ),
        "mmap append, 64 bytes": (
            statement("append(latency, throughput, memory_efficiency)", {"append": mapped.append}),
            events,
        ),
    }
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store(place / "store", ingest=False))
        ready = dict.fromkeys(("latency", "throughput", "memory_efficiency"), 0.5)
        found["record() of a ready dict"] = (
            statement(
                f"record({WHERE}, metrics=ready)",
                {"record": store.record_execution, "ready": {**ready, "success": True}},
            ),
            events,
        )
        for name, more in MORE.items():
            code = f"record({WHERE}, metrics={{{CORE}{more}}})"
            found[f"record(){name}"] = (
                statement(code, {"record": store.record_execution}),
                events,
            )
        for safety, share in (("NORMAL", 20), ("FULL", 500)):
            lite = sqlite3.connect(place / f"{safety}.sqlite", isolation_level=None)
            stack.callback(lite.close)
            lite.execute("PRAGMA journal_mode = WAL")
            lite.execute(f"PRAGMA synchronous = {safety}")
            lite.execute(f"CREATE TABLE t ({COLUMNS})")
            found[f"SQLite WAL, {safety}"] = (insertion(lite.execute), max(events // share, 1))
        duck = stack.enter_context(contextlib.closing(duckdb.connect(place / "auto.duckdb")))
        duck.execute(f"CREATE TABLE t ({COLUMNS})")
        found["DuckDB autocommit"] = (insertion(duck.execute), max(events // 200, 1))
        yield store, found
        check_all_there(store)


def single_calls(store: Store, count: int) -> str:
    """Return quantiles of single calls, in which a new segment shows; the clock's cost included."""
    clock = time.perf_counter_ns
    record = store.record_execution
    single, nothing = [], []
    for _ in range(count):
        begin = clock()
        record(
            model=NAMES["model"],
            task=NAMES["task"],
            device=NAMES["device"],
            metrics={
                "latency": 0.1234,
                "throughput": 103.7,
                "memory_efficiency": 0.81,
                "success": True,
            },
        )
        single.append(clock() - begin)
    for _ in range(count):
        begin = clock()
        nothing.append(clock() - begin)
    single.sort()
    p50, p99, p9999 = (single[int(share * (count - 1))] / 1e3 for share in (0.5, 0.99, 0.9999))
    return (
        f"single calls of record(), µs: p50 {p50:.2f}, p99 {p99:.2f}, p99.99 {p9999:.0f}, "
        f"max {single[-1] / 1e3:.0f} (of these the clock {statistics.median(nothing) / 1e3:.2f})"
    )


def check_all_there(store: Store) -> None:
    """Fail if the store refused or lost anything: its times would mean nothing."""
    [(rows, different, last)] = store.sql(
        "SELECT count(*), count(DISTINCT (session, seq)), max(seq) FROM executions"
    )
    assert rows == different == last, (rows, different, last)
    assert not store.problems, store.problems


def run(place: Path, events: int, rounds: int, python: Path) -> None:
    """Measure every way in ``place`` and print one line for each."""
    mlflow = MlflowProcess(python, place)
    with ways(place, events) as (store, found):
        if mlflow.version:
            for what in ("log_metrics", "log_batch"):
                calls = max(events // (1000 if what == "log_metrics" else 20_000), 1)
                found[f"MLflow {what}"] = (
                    lambda count, what=what: mlflow.measure(what, count),  # type: ignore[misc]
                    calls,
                )
        times: dict[str, list[Measured]] = {way: [] for way in found}
        for measure, _ in found.values():
            measure(1)
        for _ in range(rounds):
            for way, (measure, count) in found.items():
                gc.collect()
                events_each = count * (BATCH if way == "MLflow log_batch" else 1)
                wall, cpu = measure(count)
                times[way].append((wall / events_each * 1e6, cpu / events_each * 1e6))
        singles = single_calls(store, events)
    note = f"MLflow {mlflow.version}" if mlflow.version else "MLflow: not installed"
    print(f"Python {sys.version.split()[0]}, DuckDB {duckdb.__version__}, {note}")
    print(f"{events:,} calls a round at most, {rounds} rounds; per event:")
    report(times)
    print(singles)
    if mlflow.version:
        for other in ("MLflow log_metrics", "MLflow log_batch"):
            wall, cpu = factors(times[other], times["record()"])
            print(f"{other} / record(): {wall:,.0f} in wall time, {cpu:,.0f} in CPU time")
    else:
        print(f"{'MLflow log_metrics':28}not installed ({mlflow.why_not()})")
    mlflow.close()


def factors(ours: list[Measured], base: list[Measured]) -> Measured:
    """Return the medians of the factors of each round, wall and CPU."""
    pairs = list(zip(ours, base, strict=True))
    return (
        statistics.median(one[0] / other[0] for one, other in pairs),
        statistics.median(one[1] / other[1] for one, other in pairs),
    )


def report(times: dict[str, list[Measured]]) -> None:
    """Print the table."""
    print(f"{'':28}{'wall µs':>10}{'CPU µs':>10}{'× list.append':>16}{'in CPU time':>14}")
    for way, pairs in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        by_wall, by_cpu = factors(pairs, times[BASE])
        print(f"{way:28}{wall:10.2f}{cpu:10.2f}{by_wall:16.1f}{by_cpu:14.1f}")


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=100_000, help="calls of record() a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--directory", type=Path, help="on the disk that counts")
    parser.add_argument(
        "--mlflow-python",
        type=Path,
        default=Path(sys.executable),
        help="an interpreter that has MLflow (default: this one)",
    )
    options = parser.parse_args()
    if not options.mlflow_python.is_file():
        parser.error(f"{options.mlflow_python} is no interpreter")
    # The interpreter of an environment is a link that must not be resolved.
    python = Path(os.path.abspath(options.mlflow_python))  # noqa: PTH100 - as above
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        run(Path(name), options.events, options.rounds, python)


if __name__ == "__main__":
    main()
