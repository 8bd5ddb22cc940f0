"""Decisions beside the least that they could cost: milliseconds of wall and CPU time.

Usage: ``python tests/benchmarks/bench_selection_speed.py [--rows N] [--candidates N] [--used N]
[--repeat N] [--store PATH] [--directory PATH]``.

Three questions:

1. A decision over 30 models and 12 tasks, each pair of which was run before: `decide` and the
   recommendations of all 30, with the evidence in hand.
2. The first ten recommendations among ``--candidates`` real files over a history of ``--rows``
   executions, of which ``--used`` candidates have some (rows of ``history_rows.py``): asked again
   and again in one process; after each new execution of this process, without a forecast and with
   those that `ModelManager.run` records, from which all speeds are estimated anew; after each of
   another process.
3. The same cold, as the first thing that a new process asks once it has scanned the files: beside
   a process that opens the database with DuckDB alone and asks one bare SELECT for the same
   statistics, of the hourly sums and of the executions themselves.

Prints p50 and p95. A store that ``--store`` names is made there once, and used again later.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from history_loading import StoreLoading
from history_rows import chunks

from ravenxterm_lab.estimation import estimate_memory
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.models.predicting import record_forecast
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.selection import Arm, CellEvidence, Evidence, decide, recommend

MODELS, TASKS = 30, 12
CHUNK = 500_000

# The statistics of `selection.reading` by model, task and engine, without changes, judgements
# and latest runs: the least that any selector would have to ask for.
_STATISTICS = """
SELECT {key} AS model_key, task, runtime, device, settings, {columns}
FROM {table} WHERE task IS NOT NULL AND hardware = '{hardware}'
GROUP BY ALL
"""
_OF_HOURS = """
    sum(runs), sum(succeeded), sum(quality_count), sum(quality_sum),
    sum(ln_throughput_count), sum(ln_throughput_sum),
    sum(ln_throughput_count * pow(2, -date_diff('second', hour, TIMESTAMP '2026-01-01') / 1209600)),
    sum(ln_throughput_sum * pow(2, -date_diff('second', hour, TIMESTAMP '2026-01-01') / 1209600)),
    sum(ln_work_count), sum(ln_work_sum),
    sum(time_to_first_token_count), sum(time_to_first_token_sum)"""
_OF_EXECUTIONS = """
    count(*), count(*) FILTER (success), count(quality), sum(quality),
    count(throughput), sum(ln(throughput)),
    sum(pow(2, -date_diff('second', ts, TIMESTAMP '2026-01-01') / 1209600)),
    sum(ln(throughput) * pow(2, -date_diff('second', ts, TIMESTAMP '2026-01-01') / 1209600)),
    count(tokens_out), sum(ln(tokens_out)),
    count(time_to_first_token), sum(time_to_first_token)"""
_BARE = """
import sys, time
import duckdb
start, busy = time.perf_counter(), time.process_time()
connection = duckdb.connect(sys.argv[1], read_only=True)
rows = connection.execute(sys.argv[2]).fetchall()
print((time.perf_counter() - start) * 1e3, (time.process_time() - busy) * 1e3)
"""
_COLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from bench_selection_speed import manager_on
manager = manager_on(sys.argv[2], sys.argv[3])
start, busy = time.perf_counter(), time.process_time()
list(manager.get_model_recommendations("text_generation")[:10])
print((time.perf_counter() - start) * 1e3, (time.process_time() - busy) * 1e3)
"""
_OTHER = """
import json, sys
from pathlib import Path
from ravenxterm_lab.store import Store
store = Store(Path(sys.argv[1]), ingest=False)
for line in sys.stdin:
    store.record_execution(**json.loads(line))
    print(flush=True)
store.close()
"""


def write_models(folder: Path, count: int) -> None:
    """Write small GGUF files that are told apart by their content."""
    from bench_scan import write_gguf

    folder.mkdir(parents=True)
    for number in range(count):
        write_gguf(folder / f"model-{number:04}.Q8_0.gguf", number)


def manager_on(home: str | Path, models: str | Path) -> ModelManager:
    """Return a manager on a home and a folder of models."""
    bench = Workbench(home)
    manager = ModelManager(models, workbench=bench, preferences=UserPreferences.get_defaults())
    manager.scan()
    return manager


def fill(place: Path, rows: int, fingerprints: list[str], hardware: str) -> None:
    """Fill a store with a year of executions of these models on this machine."""
    loading = StoreLoading(place)
    names = [f"model-{number:04}" for number in range(len(fingerprints))]
    tasks = ["text_generation", *(f"task_{number}" for number in range(1, TASKS))]
    for number, chunk in enumerate(chunks(rows, 1, CHUNK)):
        random = np.random.default_rng([2, number])
        count = len(chunk.ts)
        model = chunk.model.astype(np.int64) + 20 * random.integers(0, 1 << 20, count)
        model %= len(names)
        task = random.integers(0, TASKS, count)
        replaced = {
            "model": _named(names, model),
            "fingerprint": _named(fingerprints, model),
            "task": _named(tasks, task),
            "device": _named(["cpu"], np.zeros(count, np.int64)),
            "runtime": _named(["llama_cpp"], np.zeros(count, np.int64)),
            "settings": _named(["ctx=2048 kv=f16"], np.zeros(count, np.int64)),
            "hardware": _named([hardware], np.zeros(count, np.int64)),
        }
        table = chunk.table
        for name, column in replaced.items():
            table = table.set_column(table.column_names.index(name), name, column)
        loading.take(replace(chunk, table=table))
    loading.finish()


def _named(values: list[str], index: np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), pa.array(values))


def measure(action: Callable[[], object], repeat: int) -> tuple[list[float], list[float]]:
    """Return wall and CPU milliseconds of each of some calls, after one that is not counted."""
    wall, cpu = [], []
    for number in range(repeat + 1):
        start, busy = time.perf_counter(), time.process_time()
        action()
        if number:
            wall.append((time.perf_counter() - start) * 1e3)
            cpu.append((time.process_time() - busy) * 1e3)
    return wall, cpu


def show(label: str, wall: list[float], cpu: list[float] | None = None) -> None:
    """Print one line."""
    columns = [wall] if cpu is None else [wall, cpu]
    text = "".join(
        f"{statistics.median(column):12,.1f}{np.percentile(column, 95):10,.1f}"
        for column in columns
    )
    print(f"{label:58}{text}", flush=True)


def decision_of_thirty() -> Callable[[], object]:
    """Return a decision over 30 models and 12 tasks, all pairs of which were measured."""
    rng = np.random.default_rng(0)
    arms = [
        Arm(
            ModelMetadata(
                f"m{number}", ModelType.GGUF, Path(f"m{number}.gguf"), 10**9,
                fingerprint=f"f{number}", parameter_count=10**9 * (number + 1),
            ),
            memory_bytes=10**9, decode_rate=20.0, first_token_seconds=0.2, load_seconds=1.0,
        )
        for number in range(MODELS)
    ]  # fmt: skip
    tasks = ["text_generation", *(f"task_{number}" for number in range(1, TASKS))]
    cells = {
        (f"f{number}", task): CellEvidence(
            runs=9, succeeded=9, quality_n=5.0, quality_mean=float(rng.uniform(0, 1)),
            speed_n=9.0, speed_mean=float(rng.normal(3, 0.3)), work_n=9.0,
            work_mean=float(rng.normal(5, 0.5)), first_token_mean=0.2,
        )
        for number in range(MODELS)
        for task in tasks
    }  # fmt: skip
    evidence, preferences = Evidence(cells), UserPreferences.get_defaults()
    memory = estimate_memory(arms[0].model)

    def choose() -> object:
        decision = decide(
            arms, "text_generation", evidence, preferences, budget_bytes=10**10, explore=True,
            rng=np.random.default_rng(0),
        )  # fmt: skip
        return list(recommend(decision, [memory] * len(arms), 10**10))

    return choose


def process(code: str, *arguments: object) -> tuple[float, float]:
    """Return what a new Python process prints: wall and CPU milliseconds."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, cpu = done.stdout.split()[-2:]
    return float(wall), float(cpu)


def warm(manager: ModelManager, repeat: int) -> None:
    """Print what recommendations cost in a process that asked before."""

    def ask() -> None:
        list(manager.get_model_recommendations("text_generation")[:10])

    show("again", *measure(ask, repeat))
    model = next(iter(manager.registry.available_models.values()))
    run = {
        "model": model.name, "fingerprint": model.fingerprint, "task": "text_generation",
        "device": "cpu", "runtime": "llama_cpp", "settings": "ctx=2048 kv=f16",
        "hardware": manager._bench.hardware.fingerprint,
        "metrics": {"latency": 1.0, "throughput": 20.0, "tokens_out": 20, "quality": 0.7},
    }  # fmt: skip

    def after_own() -> None:
        manager._bench.record_execution(**run)
        ask()

    show("after an execution of this process", *measure(after_own, repeat))

    def after_run() -> None:
        bench, options = manager._bench, LoadOptions(context_length=2048)
        speed = bench.estimator.speed(model, options, engine="llama_cpp")
        recorded = bench.record_execution(**run)
        for quantity, forecast, actual in (
            ("throughput", speed.decode, 20.0),
            ("time_to_first_token", speed.first_token, 0.2),
        ):
            record_forecast(
                bench, quantity, forecast, actual, model, "llama_cpp", options,
                task="text_generation", execution=recorded,
            )  # fmt: skip
        ask()

    show("after one with forecasts, as a run records them", *measure(after_run, repeat))
    other = subprocess.Popen(
        [sys.executable, "-c", _OTHER, manager.store.path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdin is not None
    assert other.stdout is not None
    wall, cpu = [], []
    for _ in range(repeat):
        other.stdin.write(json.dumps(run) + "\n")
        other.stdin.flush()
        other.stdout.readline()
        start, busy = time.perf_counter(), time.process_time()
        ask()
        wall.append((time.perf_counter() - start) * 1e3)
        cpu.append((time.process_time() - busy) * 1e3)
    other.stdin.close()
    other.wait()
    other.stdout.close()
    show("after an execution of another process", wall, cpu)


def cold(home: Path, folder: Path, database: Path, hardware: str, repeat: int) -> None:
    """Print what the first recommendations of a process cost, and the bare SELECTs beside."""
    here = Path(__file__).parent
    key = "coalesce(fingerprint, model)"
    selects = {
        "of hourly sums": _STATISTICS.format(
            key=key, columns=_OF_HOURS, table="execution_hours", hardware=hardware
        ),
        "of executions": _STATISTICS.format(
            key=key, columns=_OF_EXECUTIONS, table="executions", hardware=hardware
        ),
    }
    ways = {"recommendations": (_COLD, here, home, folder)}
    ways |= {f"bare SELECT {name}": (_BARE, database, sql) for name, sql in selects.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(max(repeat // 4, 1)):
        for name, way in ways.items():
            found[name].append(process(*way))
    middle = {}
    for name, times in found.items():
        wall, cpu = ([one[place] for one in times] for place in (0, 1))
        show(f"cold: {name}", wall, cpu)
        middle[name] = statistics.median(wall), statistics.median(cpu)
    for name in list(ways)[1:]:
        wall, cpu = (middle["recommendations"][at] / middle[name][at] for at in (0, 1))
        print(f"{f'  recommendations / {name}':58}{wall:12.2f}{'':10}{cpu:12.2f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--used", type=int, default=20, help="candidates with a history")
    parser.add_argument("--repeat", type=int, default=40)
    parser.add_argument("--store", type=Path, help="a home that is kept for the next time")
    parser.add_argument("--directory", type=Path, help="on the disk that counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        home = options.store or Path(name)
        run(home, options)


def run(home: Path, options: argparse.Namespace) -> None:
    """Fill the home where it is empty, and measure."""
    folder = home / "models"
    if not folder.exists():
        write_models(folder, options.candidates)
    manager = manager_on(home, folder)
    hardware = manager._bench.hardware.fingerprint
    database = manager.store.path / "main.duckdb"
    if not database.exists() or manager.sql("SELECT count(*) FROM executions").fetchall() == [(0,)]:
        manager.store.close()
        shutil.rmtree(manager.store.path)
        found = [m.fingerprint for m in manager.registry.available_models.values()]
        start = time.perf_counter()
        fill(manager.store.path, options.rows, [f for f in found if f][: options.used], hardware)
        print(f"{options.rows:,} rows in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        manager = manager_on(home, folder)
    [(rows, hours)] = manager.sql(
        "SELECT (SELECT count(*) FROM executions), (SELECT count(*) FROM execution_hours)"
    ).fetchall()
    print(
        f"{rows:,} executions in {hours:,} hourly sums, {len(manager.registry):,} candidates, "
        f"{options.used} of them used; {options.repeat} calls"
    )
    print(f"{'ms':58}{'wall p50':>12}{'p95':>10}{'CPU p50':>12}{'p95':>10}")
    show(
        f"decision over {MODELS} models × {TASKS} tasks",
        *measure(decision_of_thirty(), options.repeat),
    )
    warm(manager, options.repeat)
    manager.store.ingest_now()
    manager.store.close()
    cold(home, folder, database, hardware, options.repeat)


if __name__ == "__main__":
    main()
