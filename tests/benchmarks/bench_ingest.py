"""Ingest of what waits in the spool, beside DuckDB's own bulk insert of the same rows.

Usage: ``python tests/benchmarks/bench_ingest.py [--rows N] [--rounds N] [--directory PATH]``.

Ours decodes the segments of one process, writes rows, rollups and watermarks in passes that
open and close the file, and removes the segments. Theirs gets the very same rows as an Arrow
table made beforehand, all columns, into the same schema in a file on the same disk: one
connection held open, one transaction per 100,000 rows, a checkpoint at the end. The table is
given once with its strings plain and once as dictionaries. DuckDB works on several threads only
where the table comes in pieces ("row groups": of so many rows as it compresses together; ours
does that too, with two threads). The last way does what ours does: it writes the rollups too,
once at the end, by the SQL of their migrations. The file with its schema is there beforehand in
all ways, and the connection is open. The ways take turns; the times are medians over the
rounds. CPU time is that of the process, its threads included.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from backfill import write_rollups

from ravenxterm_lab.store import Store, database
from ravenxterm_lab.store.ingest import Ingester

TRANSACTION = 100_000
MODELS = [f"model-{number:02}-instruct-q4_k_m" for number in range(20)]
TASKS = ["text_generation", "chat", "summarization", "embedding"]
FINGERPRINT = "SELECT count(*), sum(hash(COLUMNS(*))) FROM {}"


@dataclass(frozen=True, slots=True)
class Result:
    """One run: seconds, and how long each pass kept others out (s, empty if it does not say)."""

    wall: float
    cpu: float
    held: tuple[float, ...] = ()


def record(place: Path, rows: int, *, extras: bool) -> None:
    """Let ``rows`` executions wait in the spool of a store; two more numbers with ``extras``."""
    random = np.random.default_rng(20)
    latency = random.lognormal(-1.0, 0.7, rows).tolist()
    throughput = random.lognormal(3.5, 0.5, rows).tolist()
    efficiency = random.uniform(0.3, 0.95, rows).tolist()
    cells = random.integers(0, len(MODELS) * len(TASKS), rows).tolist()
    with Store(place, ingest=False) as store:
        for number, cell in enumerate(cells):
            metrics = {
                "latency": latency[number],
                "throughput": throughput[number],
                "memory_efficiency": efficiency[number],
                "success": number % 50 != 0,
            }
            if extras:
                metrics["temperature"] = cell / 100
                metrics["batch"] = float(number % 8)
            store.record_execution(
                model=MODELS[cell // len(TASKS)],
                fingerprint=f"sha256:{cell // len(TASKS):064x}",
                task=TASKS[cell % len(TASKS)],
                device="cpu",
                runtime="llama_cpp",
                settings="ctx=4096",
                hardware="hw:0123456789abcdef",
                metrics=metrics,
            )


def ingest(place: Path) -> Result:
    """Move everything into the database, as `Store.ingest_now` does in a running process."""
    notes: list[str] = []
    ingester = Ingester(place, notes.append)
    held = []
    waiting = (place / "spool").rename(place / "recorded")
    (place / "spool").mkdir()
    ingester.run_pass(patience=60.0)
    (place / "spool").rmdir()
    waiting.rename(place / "spool")
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    more = True
    while more:
        done = ingester.run_pass(patience=60.0)
        assert done is not None
        more = done.more
        held.append(done.held)
    result = Result(
        time.perf_counter() - wall,
        time.process_time() - cpu,
        tuple(seconds for seconds in held if seconds),
    )
    assert not notes, notes
    return result


def bulk(
    place: Path,
    table: pa.Table,
    threads: int | None = None,
    *,
    pieces: bool = False,
    rollups: bool = False,
) -> Result:
    """Insert ``table`` into the same schema, the way that DuckDB recommends."""
    place.mkdir()
    database.create(place)
    connection = database.connect(threads=threads)
    database.attach(connection, place, read_only=False)
    connection.execute(f"USE {database.CATALOGUE}")
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, table.num_rows, TRANSACTION):
        connection.execute("BEGIN")
        part = table.slice(start, TRANSACTION)
        if pieces:
            part = pa.Table.from_batches(part.to_batches(database.ROW_GROUP))
        connection.register("arrow_table", part)
        connection.execute("INSERT INTO executions SELECT * FROM arrow_table")
        connection.execute("COMMIT")
    if rollups:
        write_rollups(connection)
    connection.execute("CHECKPOINT")
    result = Result(time.perf_counter() - wall, time.process_time() - cpu)
    connection.execute("USE memory")
    connection.execute(f"DETACH {database.CATALOGUE}")
    connection.close()
    return result


def content(place: Path) -> list[tuple[object, ...]]:
    """Return the number of executions and a hash of each column, whatever their order."""
    connection = database.connect()
    try:
        database.attach(connection, place, read_only=True)
        table = f"{database.CATALOGUE}.executions"
        return connection.execute(FINGERPRINT.format(table)).fetchall()
    finally:
        connection.close()


def arrow_of(place: Path) -> pa.Table:
    """Return the executions of a store, in the order of the table, as Arrow with plain strings."""
    connection = database.connect()
    try:
        database.attach(connection, place, read_only=True)
        rows = connection.sql(f"FROM {database.CATALOGUE}.executions")
        return rows.to_arrow_table().combine_chunks()
    finally:
        connection.close()


def with_dictionaries(table: pa.Table) -> pa.Table:
    """Return ``table`` with its columns of strings as dictionaries."""
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            table = table.set_column(index, field.name, table.column(index).dictionary_encode())
    return table


def compare(place: Path, rows: int, rounds: int, *, extras: bool) -> None:
    """Measure and print one table."""
    origin = place / "recorded"
    record(origin, rows, extras=extras)
    first = place / "first"
    shutil.copytree(origin, first)
    ingest(first)
    expected = content(first)
    assert expected[0][0] == rows, expected
    plain = arrow_of(first)
    encoded = with_dictionaries(plain)
    ours = "ingest from the spool"
    ways: dict[str, Callable[[Path], Result]] = {
        ours: ingest,
        "bulk, dictionaries, 1 thread": lambda path: bulk(path, encoded, 1),
        "bulk, plain strings, 1 thread": lambda path: bulk(path, plain, 1),
        "bulk, plain strings, all threads": lambda path: bulk(path, plain),
        "the same, in row groups": lambda path: bulk(path, plain, pieces=True),
        "the same, and the rollups": lambda path: bulk(path, plain, pieces=True, rollups=True),
    }
    found: dict[str, list[Result]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, action in ways.items():
            target = place / "target"
            if way == ours:
                shutil.copytree(origin, target)
                database.create(target)
            found[way].append(action(target))
            assert content(target) == expected, f"{way} wrote other rows"
            shutil.rmtree(target)
    report(rows, found, ours, extras=extras)
    for path in (origin, first):
        shutil.rmtree(path)


def report(rows: int, found: dict[str, list[Result]], ours: str, *, extras: bool) -> None:
    """Print one line for each way, and how long the gate was held."""
    print(f"{rows:,} rows, {'two numbers more' if extras else 'core metrics only'}")
    print(f"{'':34}{'wall s':>8}{'CPU s':>8}{'rows/s':>12}{'ours/bulk, wall':>18}{'CPU':>7}")
    for way, results in found.items():
        wall = statistics.median(result.wall for result in results)
        cpu = statistics.median(result.cpu for result in results)
        pairs = list(zip(results, found[ours], strict=True))
        by_wall = statistics.median(one.wall / our.wall for one, our in pairs)
        by_cpu = statistics.median(one.cpu / our.cpu for one, our in pairs)
        ratios = "" if way == ours else f"{by_wall:18.2f}{by_cpu:7.2f}"
        print(f"{way:34}{wall:8.2f}{cpu:8.2f}{rows / wall:12,.0f}{ratios}")
    held = [seconds * 1e3 for result in found[ours] for seconds in result.held]
    if held:
        print(
            f"the gate was held {statistics.median(held):.0f} ms a pass (median), "
            f"{max(held):.0f} ms at most, in {len(held)} passes"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="on the disk that counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        for extras in (False, True):
            compare(Path(name), options.rows, options.rounds, extras=extras)


if __name__ == "__main__":
    main()
