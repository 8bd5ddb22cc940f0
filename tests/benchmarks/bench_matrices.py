"""Solves and products of some hundred rows: in pieces, and as numpy has them, idle and busy.

    python tests/benchmarks/bench_matrices.py [--rows 50 100 200 300] [--repeat 20]

Each is done with the cores idle, and with a process on each core that counts. Wall and CPU time,
median; threads as OpenBLAS takes them by itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from ravenxterm_lab.estimation.matrices import product, solve_covariance


def count() -> None:
    """Keep one core busy until it is ended."""
    number = 0
    while True:
        number += 1


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many cores busy meanwhile."""
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=count, daemon=True) for _ in range(processes)]
    for child in children:
        child.start()
    try:
        time.sleep(1.0 if children else 0.0)
        yield
    finally:
        for child in children:
            child.kill()
            child.join()


def measure(work: Callable[[], object], repeat: int) -> str:
    """Return median wall and CPU time in milliseconds."""
    work()
    walls, cpus = [], []
    for _ in range(repeat):
        # Threads that spin go to sleep meanwhile, as they do between two choices.
        time.sleep(0.02)
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    wall, cpu = 1e3 * statistics.median(walls), 1e3 * statistics.median(cpus)
    return f"{wall:9.2f} ms wall {cpu:9.2f} ms CPU"


def main() -> None:
    """Measure each size, idle and busy, and print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[50, 100, 200, 300])
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    for processes in (0, os.cpu_count() or 1):
        with busy(processes):
            for n in options.rows:
                shared, draws = rng.standard_normal((n, 5)), rng.standard_normal((257, n))
                matrix = 0.09 * (shared @ shared.T) + np.diag(0.05 / rng.integers(1, 30, n))
                one = np.eye(n)
                ways: dict[str, Callable[[], object]] = {
                    "numpy.linalg.inv": lambda m=matrix: np.linalg.inv(m),
                    "solve_covariance": lambda m=matrix, e=one: solve_covariance(m, e),
                    "draws @ matrix": lambda m=matrix, d=draws: d @ m,
                    "product": lambda m=matrix, d=draws: product(d, m),
                }
                for name, work in ways.items():
                    print(
                        f"{processes} busy cores, {n:4} rows, {name:<17}"
                        f"{measure(work, options.repeat)}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
