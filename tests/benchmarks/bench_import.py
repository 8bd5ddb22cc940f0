"""Import time beside DuckDB's own: medians of fresh interpreters, side by side in one run.

Run: ``python tests/benchmarks/bench_import.py [--rounds N]``
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

STATEMENTS = (
    "import ravenxterm_lab",
    "import duckdb",
    "from ravenxterm_lab import ModelManager",
    "import pandas",
)
MEASURE = (
    "import time; start = time.perf_counter(); {}; print((time.perf_counter() - start) * 1000)"
)


def main() -> None:
    """Print the medians in ms, and the ratio to ``import duckdb``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    times: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for _ in range(options.rounds + 1):
        for statement in STATEMENTS:
            done = subprocess.run(
                [sys.executable, "-c", MEASURE.format(statement)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            times[statement].append(float(done.stdout))
    # The first round fills the file cache.
    medians = {statement: statistics.median(values[1:]) for statement, values in times.items()}
    for statement, median in medians.items():
        print(
            f"{statement:<42} {median:8.1f} ms   {median / medians['import duckdb']:5.2f} × duckdb"
        )


if __name__ == "__main__":
    main()
