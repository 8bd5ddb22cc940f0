"""Several processes record while others ask: what is lost, what waits, how long queries take.

Usage: ``python tests/benchmarks/bench_soak.py [--rate N] [--seconds S] [--writers N] …``.

First the readers ask a store that nobody writes to, then the same readers ask it while the
writers record at ``--rate`` rows/s each, with the threads that ingest, and at last they ask it
again when all is ingested and nobody writes. The table grows under load, and a query takes
longer over more rows: the median under load is therefore compared with the one before, which
counts the growth as well, and with the mean of those before and after, which is what an idle
store of the size that it had on the way would take. Every writer counts what
`record_execution` returned from. The time of a query is that of the whole call, waits for the
gate included. The exit code is 1 if a row was lost or doubled, or any process met an error or a
problem. Without options: 10,000 rows/s on a store of 200,000; 100,000 rows/s:
``--rate 25000``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ravenxterm_lab.store import Store

QUERY = "SELECT model, count(*), avg(latency) FROM executions GROUP BY model"
CONTEXT = {"task": "text_generation", "device": "cpu", "runtime": "llama_cpp"}
TICK = 0.01
#: Seconds after which a process that died fails the run, instead of hanging it.
PATIENCE = 120.0


def record(store: Store, number: int) -> None:
    """Record one execution with the metrics that are measured most."""
    store.record_execution(
        model=f"model-{number % 7}",
        metrics={
            "latency": 0.05 + number % 1000 / 1000,
            "throughput": 20.0 + number % 300,
            "memory_efficiency": 0.8,
            "success": number % 50 != 0,
        },
        **CONTEXT,
    )


def cpu() -> float:
    """Return the CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def write(place: Path, rate: int, start: Any, seconds: float, results: Any) -> None:
    """Record ``rate`` rows a second in small batches, as a benchmark loop does."""
    held: list[float] = []
    problems: list[str] = []
    with Store(place) as store:
        ingester = store._ingester
        run_pass = ingester.run_pass

        def noted(**options: Any) -> Any:
            done = run_pass(**options)
            if done is not None:
                held.append(done.held)
            return done

        ingester.run_pass = noted  # type: ignore[method-assign]
        start.wait(PATIENCE)
        began, used, count = time.perf_counter(), cpu(), 0
        try:
            while (elapsed := time.perf_counter() - began) < seconds:
                for _ in range(int(elapsed * rate) - count):
                    record(store, count)
                    count += 1
                time.sleep(TICK)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
            problems.append(f"{type(error).__name__}: {error}")
        took = time.perf_counter() - began
        spent = cpu() - used
        store.close()
        problems += store.problems
    results.put(("writer", count, took, spent, held, problems))


def read(place: Path, start: Any, seconds: float, results: Any) -> None:
    """Ask the same question over and over."""
    times: list[float] = []
    problems: list[str] = []
    with Store(place, ingest=False) as store:
        for _ in range(3):
            store.sql(QUERY)
        start.wait(PATIENCE)
        began, used = time.perf_counter(), cpu()
        while (asked := time.perf_counter()) - began < seconds:
            try:
                store.sql(QUERY)
                times.append(time.perf_counter() - asked)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                problems.append(f"{type(error).__name__}: {error}")
        spent = cpu() - used
        problems += store.problems
    results.put(("reader", times, spent, problems))


def phase(place: Path, options: argparse.Namespace, writers: int, seconds: float) -> list[Any]:
    """Run the readers, and so many writers beside them; return what each found."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(writers + options.readers), context.Queue()
    jobs = [(write, (place, options.rate, start, seconds, results))] * writers
    jobs += [(read, (place, start, seconds, results))] * options.readers
    children = [context.Process(target=job, args=arguments) for job, arguments in jobs]
    for child in children:
        child.start()
    found = [results.get(timeout=seconds + PATIENCE) for _ in children]
    for child in children:
        child.join()
    return found


def show_queries(label: str, found: list[Any]) -> float:
    """Print how long queries took, and return the median (ms)."""
    readers = [result for result in found if result[0] == "reader"]
    times = sorted(1e3 * second for result in readers for second in result[1])
    median, late = statistics.median(times), times[int(0.95 * (len(times) - 1))]
    spent = sum(result[2] for result in readers)
    print(
        f"{label:12}{len(times):9,} queries, p50 {median:.1f} ms, p95 {late:.1f} ms, "
        f"{spent:.1f} CPU s"
    )
    return median


def main() -> int:
    """Print the figures of the phases, and what was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=2_500, help="rows/s of each writer")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=200_000, help="that are there from the start")
    parser.add_argument("--directory", type=Path, help="on the disk that counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        return run(Path(name) / "store", options)


def run(place: Path, options: argparse.Namespace) -> int:
    """Run the phases in ``place``."""
    with Store(place, ingest=False) as store:
        for number in range(options.rows):
            record(store, number)
        store.ingest_now()
    calm = min(options.seconds, 5.0)
    idle = phase(place, options, 0, calm)
    before = show_queries("idle before", idle)
    load = phase(place, options, options.writers, options.seconds)
    loaded = show_queries("loaded", load)
    with Store(place, ingest=False) as store:
        store.ingest_now()
    rest = phase(place, options, 0, calm)
    after = show_queries("idle after", rest)
    mean = (before + after) / 2
    print(f"p50 loaded / p50 idle before: {loaded / before:.2f} (interference and growth)")
    print(f"p50 loaded / mean of idle before and after: {loaded / mean:.2f} (interference)")
    writers = [result for result in load if result[0] == "writer"]
    recorded = options.rows + sum(result[1] for result in writers)
    rate = sum(result[1] / result[2] for result in writers)
    passes = [1e3 * second for result in writers for second in result[4]]
    held = sorted(millisecond for millisecond in passes if millisecond)
    print(f"recorded {recorded:,} rows at {rate:,.0f} rows/s")
    print(f"writers and ingest: {sum(result[3] for result in writers):.1f} CPU s")
    if held:
        print(
            f"the database was held {statistics.median(held):.0f} ms a pass (p50), "
            f"{held[int(0.95 * (len(held) - 1))]:.0f} ms (p95), {held[-1]:.0f} ms at most, "
            f"in {len(held)} passes ({len(passes) - len(held)} more had nothing to write)"
        )
    with Store(place, ingest=False) as store:
        [(rows, distinct)] = store.sql(
            "SELECT count(*), count(DISTINCT (session, seq)) FROM executions"
        ).fetchall()
        whole = store.check()
    problems = [text for result in idle + load + rest for text in result[-1]]
    print(f"{recorded - distinct} lost, {rows - distinct} twice, {len(problems)} errors")
    print("the audit finds the store " + ("whole" if whole.ok else f"damaged: {whole}"))
    for text in problems[:10]:
        print(text)
    return int(recorded != rows or rows != distinct or bool(problems) or not whole.ok)


if __name__ == "__main__":
    sys.exit(main())
